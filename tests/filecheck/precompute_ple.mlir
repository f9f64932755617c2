// pipeline: precompute-ple
// Layer 0 needs its input at both rows, layers 1 and 2 at one: two products, of two parts of the projection, which the
// other program joins. The table stays whole.
module @test attributes {g4.level = "graph"} {
  // CHECK: "g4.weight"() {sym_name = "table", type = tensor<9x6xf32>}
  "g4.weight"() {sym_name = "table", type = tensor<9x6xf32>} : () -> ()
  // CHECK-NEXT: "g4.weight"() {sym_name = "ple.rows_0_2.weight", type = tensor<2x4xf32>, sources = ["ple.weight"], source_types = [tensor<6x4xf32>], transforms = ["slice{axis=0,start=0,limit=2}"]}
  // CHECK-NEXT: "g4.weight"() {sym_name = "ple.rows_2_6.weight", type = tensor<4x4xf32>, sources = ["ple.weight"], source_types = [tensor<6x4xf32>], transforms = ["slice{axis=0,start=2,limit=6}"]}
  // CHECK-NOT: sym_name = "ple.weight"
  "g4.weight"() {sym_name = "ple.weight", type = tensor<6x4xf32>} : () -> ()

  // CHECK-LABEL: func.func @prefill_2
  // CHECK: %[[TOKEN:.*]] = "g4.embedding"(%ids, %{{.*}}) {scale = 16.0 : f64}
  // CHECK-NEXT: %[[W0:.*]] = "g4.load_weight"() {weight = @ple.rows_0_2.weight}
  // CHECK-NEXT: %[[C0:.*]] = "g4.linear"(%x, %[[W0]]) : (tensor<1x2x4xf32>, tensor<2x4xf32>) -> tensor<1x2x2xf32>
  // CHECK-NEXT: %[[C1:.*]] = "g4.reshape"(%[[C0]]) : (tensor<1x2x2xf32>) -> tensor<1x2x1x2xf32>
  // CHECK-NEXT: %[[T0:.*]] = "g4.slice"(%[[TOKEN]]) {starts = array<i64: 0, 0, 0>, limits = array<i64: 1, 2, 2>}
  // CHECK-NEXT: %[[T1:.*]] = "g4.reshape"(%[[T0]])
  // CHECK-NEXT: %[[LAYER0:.*]] = "g4.per_layer_input"(%[[C1]], %[[T1]])
  // CHECK-NEXT: %[[X:.*]] = "g4.select_rows"(%x, %rows) : (tensor<1x2x4xf32>, tensor<1x1xi32>) -> tensor<1x1x4xf32>
  // CHECK-NEXT: %[[W1:.*]] = "g4.load_weight"() {weight = @ple.rows_2_6.weight}
  // CHECK-NEXT: %[[D0:.*]] = "g4.linear"(%[[X]], %[[W1]]) : (tensor<1x1x4xf32>, tensor<4x4xf32>) -> tensor<1x1x4xf32>
  // CHECK-NEXT: %[[D1:.*]] = "g4.reshape"(%[[D0]]) : (tensor<1x1x4xf32>) -> tensor<1x1x2x2xf32>
  // CHECK-NEXT: %[[ROW:.*]] = "g4.select_rows"(%[[TOKEN]], %rows)
  // CHECK-NEXT: %[[U0:.*]] = "g4.slice"(%[[ROW]]) {starts = array<i64: 0, 0, 2>, limits = array<i64: 1, 1, 6>}
  // CHECK-NEXT: %[[U1:.*]] = "g4.reshape"(%[[U0]])
  // CHECK-NEXT: %[[OTHERS:.*]] = "g4.per_layer_input"(%[[D1]], %[[U1]])
  // CHECK-NEXT: %[[LAYER1:.*]] = "g4.slice"(%[[OTHERS]]) {starts = array<i64: 0, 0, 0, 0>
  // CHECK-NEXT: %[[LAYER2:.*]] = "g4.slice"(%[[OTHERS]]) {starts = array<i64: 0, 0, 1, 0>
  // CHECK-NEXT: return %[[LAYER0]], %[[LAYER1]], %[[LAYER2]]
  func.func @prefill_2(%ids: tensor<1x2xi32>, %x: tensor<1x2x4xf32>, %rows: tensor<1x1xi32>) -> (tensor<1x2x1x2xf32> {g4.name = "a"}, tensor<1x1x1x2xf32> {g4.name = "b"}, tensor<1x1x1x2xf32> {g4.name = "c"}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @table} : () -> tensor<9x6xf32>
    %1 = "g4.embedding"(%ids, %0) {scale = 16.0 : f64} : (tensor<1x2xi32>, tensor<9x6xf32>) -> tensor<1x2x6xf32>
    %2 = "g4.reshape"(%1) : (tensor<1x2x6xf32>) -> tensor<1x2x3x2xf32>
    %3 = "g4.load_weight"() {weight = @ple.weight} : () -> tensor<6x4xf32>
    %4 = "g4.linear"(%x, %3) : (tensor<1x2x4xf32>, tensor<6x4xf32>) -> tensor<1x2x6xf32>
    %5 = "g4.reshape"(%4) : (tensor<1x2x6xf32>) -> tensor<1x2x3x2xf32>
    %6 = "g4.per_layer_input"(%5, %2) {scale = 0.5 : f64} : (tensor<1x2x3x2xf32>, tensor<1x2x3x2xf32>) -> tensor<1x2x3x2xf32>
    %7 = "g4.slice"(%6) {starts = array<i64: 0, 0, 0, 0>, limits = array<i64: 1, 2, 1, 2>} : (tensor<1x2x3x2xf32>) -> tensor<1x2x1x2xf32>
    %8 = "g4.select_rows"(%6, %rows) : (tensor<1x2x3x2xf32>, tensor<1x1xi32>) -> tensor<1x1x3x2xf32>
    %9 = "g4.slice"(%8) {starts = array<i64: 0, 0, 1, 0>, limits = array<i64: 1, 1, 2, 2>} : (tensor<1x1x3x2xf32>) -> tensor<1x1x1x2xf32>
    %10 = "g4.slice"(%8) {starts = array<i64: 0, 0, 2, 0>, limits = array<i64: 1, 1, 3, 2>} : (tensor<1x1x3x2xf32>) -> tensor<1x1x1x2xf32>
    return %7, %9, %10 : tensor<1x2x1x2xf32>, tensor<1x1x1x2xf32>, tensor<1x1x1x2xf32>
  }

  // CHECK-LABEL: func.func @decode
  // CHECK-NEXT: %[[V0:.*]] = "g4.load_weight"() {weight = @ple.rows_0_2.weight}
  // CHECK-NEXT: %[[P0:.*]] = "g4.linear"(%x, %[[V0]])
  // CHECK-NEXT: %[[V1:.*]] = "g4.load_weight"() {weight = @ple.rows_2_6.weight}
  // CHECK-NEXT: %[[P1:.*]] = "g4.linear"(%x, %[[V1]])
  // CHECK-NEXT: %[[P:.*]] = "g4.concat"(%[[P0]], %[[P1]]) {axis = 2 : i64}
  // CHECK-NEXT: return %[[P]] : tensor<1x1x6xf32>
  func.func @decode(%x: tensor<1x1x4xf32>) -> (tensor<1x1x6xf32> {g4.name = "y"}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @ple.weight} : () -> tensor<6x4xf32>
    %1 = "g4.linear"(%x, %0) : (tensor<1x1x4xf32>, tensor<6x4xf32>) -> tensor<1x1x6xf32>
    return %1 : tensor<1x1x6xf32>
  }
}
