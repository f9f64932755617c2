// pipeline: fuse-projections
// Decode computes q, k and v of %x, prefill only k and v of all rows: these two are joined, q stays alone in both. "tied"
// is a projection of %x, too, but is also read as a table.
module @test attributes {g4.level = "graph"} {
  // CHECK: "g4.weight"() {sym_name = "layers.0.q_proj.weight", type = tensor<8x4xf32>}
  // CHECK-NEXT: "g4.weight"() {sym_name = "layers.0.kv_proj.weight", type = tensor<4x4xf32>, sources = ["layers.0.k_proj.weight", "layers.0.v_proj.weight"], source_types = [tensor<2x4xf32>, tensor<2x4xf32>], transforms = ["take{axis=0,block=2,ranges=1:2+0:1}", "concat{axis=0}"]}
  // CHECK-NEXT: "g4.weight"() {sym_name = "tied"
  // CHECK-NOT: "g4.weight"
  "g4.weight"() {sym_name = "layers.0.q_proj.weight", type = tensor<8x4xf32>} : () -> ()
  "g4.weight"() {sym_name = "layers.0.k_proj.weight", type = tensor<2x4xf32>, transforms = ["take{axis=0,block=2,ranges=1:2+0:1}"]} : () -> ()
  "g4.weight"() {sym_name = "layers.0.v_proj.weight", type = tensor<2x4xf32>} : () -> ()
  "g4.weight"() {sym_name = "tied", type = tensor<9x4xf32>} : () -> ()

  // CHECK-LABEL: func.func @prefill
  // CHECK-NEXT: %[[FEW:.*]] = "g4.select_rows"(%x, %rows)
  // CHECK-NEXT: %[[WQ:.*]] = "g4.load_weight"() {weight = @layers.0.q_proj.weight}
  // CHECK-NEXT: %[[Q:.*]] = "g4.linear"(%[[FEW]], %[[WQ]])
  // CHECK-NEXT: %[[W:.*]] = "g4.load_weight"() {weight = @layers.0.kv_proj.weight} : () -> tensor<4x4xf32> loc("model.layers.0"("m.py":2:0))
  // CHECK-NEXT: %[[KV:.*]] = "g4.linear"(%x, %[[W]]) : (tensor<1x5x4xf32>, tensor<4x4xf32>) -> tensor<1x5x4xf32> loc("model.layers.0"("m.py":2:0))
  // CHECK-NEXT: %[[K:.*]] = "g4.slice"(%[[KV]]) {starts = array<i64: 0, 0, 0>, limits = array<i64: 1, 5, 2>} : {{.*}} loc("model.layers.0.k_proj"
  // CHECK-NEXT: %[[V:.*]] = "g4.slice"(%[[KV]]) {starts = array<i64: 0, 0, 2>, limits = array<i64: 1, 5, 4>} : {{.*}} loc("model.layers.0.v_proj"
  // CHECK-NEXT: return %[[Q]], %[[K]], %[[V]]
  func.func @prefill(%x: tensor<1x5x4xf32>, %rows: tensor<1x1xi32>) -> (tensor<1x1x8xf32> {g4.name = "q"}, tensor<1x5x2xf32> {g4.name = "k"}, tensor<1x5x2xf32> {g4.name = "v"}) attributes {g4.role = "program"} {
    %0 = "g4.select_rows"(%x, %rows) : (tensor<1x5x4xf32>, tensor<1x1xi32>) -> tensor<1x1x4xf32>
    %1 = "g4.load_weight"() {weight = @layers.0.q_proj.weight} : () -> tensor<8x4xf32>
    %2 = "g4.linear"(%0, %1) : (tensor<1x1x4xf32>, tensor<8x4xf32>) -> tensor<1x1x8xf32> loc("model.layers.0.q_proj"("m.py":1:0))
    %3 = "g4.load_weight"() {weight = @layers.0.k_proj.weight} : () -> tensor<2x4xf32>
    %4 = "g4.linear"(%x, %3) : (tensor<1x5x4xf32>, tensor<2x4xf32>) -> tensor<1x5x2xf32> loc("model.layers.0.k_proj"("m.py":2:0))
    %5 = "g4.load_weight"() {weight = @layers.0.v_proj.weight} : () -> tensor<2x4xf32>
    %6 = "g4.linear"(%x, %5) : (tensor<1x5x4xf32>, tensor<2x4xf32>) -> tensor<1x5x2xf32> loc("model.layers.0.v_proj"("m.py":3:0))
    return %2, %4, %6 : tensor<1x1x8xf32>, tensor<1x5x2xf32>, tensor<1x5x2xf32>
  }

  // CHECK-LABEL: func.func @decode
  // CHECK: %[[WQ:.*]] = "g4.load_weight"() {weight = @layers.0.q_proj.weight}
  // CHECK-NEXT: %[[Q:.*]] = "g4.linear"(%x, %[[WQ]])
  // CHECK-NEXT: %[[W:.*]] = "g4.load_weight"() {weight = @layers.0.kv_proj.weight}
  // CHECK-NEXT: %[[KV:.*]] = "g4.linear"(%x, %[[W]])
  // CHECK-NEXT: %[[K:.*]] = "g4.slice"(%[[KV]]) {starts = array<i64: 0, 0>, limits = array<i64: 1, 2>}
  // CHECK-NEXT: %[[V:.*]] = "g4.slice"(%[[KV]]) {starts = array<i64: 0, 2>, limits = array<i64: 1, 4>}
  // CHECK-NEXT: %[[T:.*]] = "g4.load_weight"() {weight = @tied}
  // CHECK-NEXT: %[[Y:.*]] = "g4.linear"(%x, %[[T]])
  // CHECK-NEXT: return %[[Q]], %[[K]], %[[V]], %[[Y]]
  func.func @decode(%x: tensor<1x4xf32>, %ids: tensor<1xi32>) -> (tensor<1x8xf32> {g4.name = "q"}, tensor<1x2xf32> {g4.name = "k"}, tensor<1x2xf32> {g4.name = "v"}, tensor<1x9xf32> {g4.name = "y"}, tensor<1x4xf32> {g4.name = "e"}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @tied} : () -> tensor<9x4xf32>
    %1 = "g4.embedding"(%ids, %0) {scale = 1.0 : f64} : (tensor<1xi32>, tensor<9x4xf32>) -> tensor<1x4xf32>
    %2 = "g4.load_weight"() {weight = @layers.0.q_proj.weight} : () -> tensor<8x4xf32>
    %3 = "g4.linear"(%x, %2) : (tensor<1x4xf32>, tensor<8x4xf32>) -> tensor<1x8xf32>
    %4 = "g4.load_weight"() {weight = @layers.0.k_proj.weight} : () -> tensor<2x4xf32>
    %5 = "g4.linear"(%x, %4) : (tensor<1x4xf32>, tensor<2x4xf32>) -> tensor<1x2xf32>
    %6 = "g4.load_weight"() {weight = @layers.0.v_proj.weight} : () -> tensor<2x4xf32>
    %7 = "g4.linear"(%x, %6) : (tensor<1x4xf32>, tensor<2x4xf32>) -> tensor<1x2xf32>
    %8 = "g4.load_weight"() {weight = @tied} : () -> tensor<9x4xf32>
    %9 = "g4.linear"(%x, %8) : (tensor<1x4xf32>, tensor<9x4xf32>) -> tensor<1x9xf32>
    return %3, %5, %7, %9, %1 : tensor<1x8xf32>, tensor<1x2xf32>, tensor<1x2xf32>, tensor<1x9xf32>, tensor<1x4xf32>
  }
}
