// pipeline: rebuild-keys
// K = RoPE(V * k_norm) in layer 0, whose ring has 4 slots and whose tables have 8 rows: they are gathered at what the
// slots hold. The weight of k_norm goes into a product; the norm and the rotation of new rows go with the cache of K.
module @test attributes {g4.level = "graph"} {
  "g4.weight"() {sym_name = "wk", type = tensor<4x4xf32>} : () -> ()
  "g4.weight"() {sym_name = "k_norm", type = tensor<4xf32>} : () -> ()
  "g4.weight"() {sym_name = "cos", type = tensor<8x2xf32>} : () -> ()
  "g4.weight"() {sym_name = "sin", type = tensor<8x2xf32>} : () -> ()
  // CHECK-NOT: sym_name = "k"
  // CHECK: "g4.cache"() {sym_name = "v", type = tensor<1x4x1x4xf32>}
  "g4.cache"() {sym_name = "k", type = tensor<1x4x1x4xf32>} : () -> ()
  "g4.cache"() {sym_name = "v", type = tensor<1x4x1x4xf32>} : () -> ()

  // CHECK-LABEL: func.func @decode(%x: tensor<1x1x4xf32>, %positions: tensor<1x1xi32>, %v: tensor<1x4x1x4xf32> {g4.cache = @v})
  // CHECK-SAME: -> (tensor<1x1x1x4xf32> {g4.name = "y"}, tensor<1x4x1x4xf32> {g4.name = "v", g4.cache = @v})
  // CHECK: %[[ZERO:.*]] = "g4.constant"
  // CHECK: %[[HELD:.*]] = "g4.held_positions"(%positions)
  // CHECK-NEXT: %[[COS:.*]] = "g4.load_weight"() {weight = @cos}
  // CHECK: %[[SIN:.*]] = "g4.load_weight"() {weight = @sin}
  // CHECK: %[[PROJECTED:.*]] = "g4.linear"
  // CHECK-NEXT: %[[P:.*]] = "g4.reshape"(%[[PROJECTED]])
  // CHECK-NEXT: %[[W:.*]] = "g4.load_weight"() {weight = @k_norm}
  // CHECK-NEXT: %[[ROWS:.*]] = "g4.rms_norm"(%[[P]])
  // CHECK-NEXT: %[[V:.*]] = "g4.kv_update"(%v, %[[ROWS]], %positions)
  // CHECK-NEXT: %[[I:.*]] = "g4.max"(%[[HELD]], %[[ZERO]])
  // CHECK-NEXT: %[[C:.*]] = "g4.gather"(%[[COS]], %[[I]])
  // CHECK-NEXT: %[[J:.*]] = "g4.max"(%[[HELD]], %[[ZERO]])
  // CHECK-NEXT: %[[S:.*]] = "g4.gather"(%[[SIN]], %[[J]])
  // CHECK-NEXT: %[[SCALED:.*]] = "g4.mul"(%[[V]], %[[W]])
  // CHECK-NEXT: %[[K:.*]] = "g4.rope"(%[[SCALED]], %[[C]], %[[S]])
  // CHECK-NEXT: %[[Y:.*]] = "g4.attention"(%[[Q:.*]], %[[K]], %[[V]], %positions, %[[HELD]])
  // CHECK-NEXT: return %[[Y]], %[[V]]
  func.func @decode(%x: tensor<1x1x4xf32>, %positions: tensor<1x1xi32>, %k: tensor<1x4x1x4xf32> {g4.cache = @k}, %v: tensor<1x4x1x4xf32> {g4.cache = @v}) -> (tensor<1x1x1x4xf32> {g4.name = "y"}, tensor<1x4x1x4xf32> {g4.name = "k", g4.cache = @k}, tensor<1x4x1x4xf32> {g4.name = "v", g4.cache = @v}) attributes {g4.role = "program"} {
    %0 = "g4.constant"() {value = dense<0> : tensor<i32>} : () -> tensor<i32>
    %1 = "g4.max"(%positions, %0) : (tensor<1x1xi32>, tensor<i32>) -> tensor<1x1xi32>
    %2 = "g4.held_positions"(%positions) {slots = 4 : i64, updated = true} : (tensor<1x1xi32>) -> tensor<1x4xi32>
    %3 = "g4.load_weight"() {weight = @cos} : () -> tensor<8x2xf32>
    %4 = "g4.gather"(%3, %1) : (tensor<8x2xf32>, tensor<1x1xi32>) -> tensor<1x1x2xf32>
    %5 = "g4.load_weight"() {weight = @sin} : () -> tensor<8x2xf32>
    %6 = "g4.gather"(%5, %1) : (tensor<8x2xf32>, tensor<1x1xi32>) -> tensor<1x1x2xf32>
    %7 = "g4.reshape"(%x) : (tensor<1x1x4xf32>) -> tensor<1x1x1x4xf32>
    %8 = "g4.rope"(%7, %4, %6) : (tensor<1x1x1x4xf32>, tensor<1x1x2xf32>, tensor<1x1x2xf32>) -> tensor<1x1x1x4xf32>
    %9 = "g4.load_weight"() {weight = @wk} : () -> tensor<4x4xf32>
    %10 = "g4.linear"(%x, %9) : (tensor<1x1x4xf32>, tensor<4x4xf32>) -> tensor<1x1x4xf32>
    %11 = "g4.reshape"(%10) : (tensor<1x1x4xf32>) -> tensor<1x1x1x4xf32>
    %12 = "g4.load_weight"() {weight = @k_norm} : () -> tensor<4xf32>
    %13 = "g4.rms_norm"(%11, %12) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 1>} : (tensor<1x1x1x4xf32>, tensor<4xf32>) -> tensor<1x1x1x4xf32>
    %14 = "g4.rope"(%13, %4, %6) : (tensor<1x1x1x4xf32>, tensor<1x1x2xf32>, tensor<1x1x2xf32>) -> tensor<1x1x1x4xf32>
    %15 = "g4.rms_norm"(%11) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 0>} : (tensor<1x1x1x4xf32>) -> tensor<1x1x1x4xf32>
    %16 = "g4.kv_update"(%k, %14, %positions) : (tensor<1x4x1x4xf32>, tensor<1x1x1x4xf32>, tensor<1x1xi32>) -> tensor<1x4x1x4xf32>
    %17 = "g4.kv_update"(%v, %15, %positions) : (tensor<1x4x1x4xf32>, tensor<1x1x1x4xf32>, tensor<1x1xi32>) -> tensor<1x4x1x4xf32>
    %18 = "g4.attention"(%8, %16, %17, %positions, %2) {scale = 1.0 : f64, window = 4 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>} : (tensor<1x1x1x4xf32>, tensor<1x4x1x4xf32>, tensor<1x4x1x4xf32>, tensor<1x1xi32>, tensor<1x4xi32>) -> tensor<1x1x1x4xf32>
    return %18, %16, %17 : tensor<1x1x1x4xf32>, tensor<1x4x1x4xf32>, tensor<1x4x1x4xf32>
  }
}
