// pipeline: prune-prefill
// Layer 0 writes a cache, from all rows of %x. What follows it needs one row: its queries, layer 1, the head.
module @test attributes {g4.level = "graph"} {
  "g4.weight"() {sym_name = "wk", type = tensor<4x4xf32>} : () -> ()
  "g4.weight"() {sym_name = "wq", type = tensor<4x4xf32>} : () -> ()
  "g4.weight"() {sym_name = "up", type = tensor<4x4xf32>} : () -> ()
  "g4.cache"() {sym_name = "k", type = tensor<2x8x1x4xf32>} : () -> ()

  // CHECK-LABEL: func.func @prefill_4
  // CHECK: %[[K:.*]] = "g4.linear"(%x, %{{.*}}) : (tensor<2x4x4xf32>, tensor<4x4xf32>) -> tensor<2x4x4xf32>
  // CHECK: "g4.kv_update"(%k, %{{.*}}, %positions)
  // CHECK-NEXT: %[[HELD:.*]] = "g4.held_positions"(%positions)
  // CHECK: %[[X:.*]] = "g4.select_rows"(%x, %rows) : (tensor<2x4x4xf32>, tensor<2x1xi32>) -> tensor<2x1x4xf32> loc("model.layers.0"
  // CHECK-NEXT: %[[Q:.*]] = "g4.linear"(%[[X]], %{{.*}}) : (tensor<2x1x4xf32>, tensor<4x4xf32>) -> tensor<2x1x4xf32>
  // CHECK-NEXT: %[[HEADS:.*]] = "g4.reshape"(%[[Q]]) : (tensor<2x1x4xf32>) -> tensor<2x1x1x4xf32>
  // CHECK-NEXT: %[[POSITIONS:.*]] = "g4.select_rows"(%positions, %rows) : (tensor<2x4xi32>, tensor<2x1xi32>) -> tensor<2x1xi32> loc("model.layers.0.self_attn"
  // CHECK-NEXT: %[[Y:.*]] = "g4.attention"(%[[HEADS]], %{{.*}}, %{{.*}}, %[[POSITIONS]], %[[HELD]])
  // CHECK-SAME: -> tensor<2x1x1x4xf32>
  // CHECK-NEXT: %[[FLAT:.*]] = "g4.reshape"(%[[Y]])
  // CHECK-NEXT: %[[ADDED:.*]] = "g4.add"(%[[X]], %[[FLAT]]) : (tensor<2x1x4xf32>, tensor<2x1x4xf32>) -> tensor<2x1x4xf32>
  // CHECK-NEXT: "g4.load_weight"() {weight = @up}
  // CHECK-NEXT: %[[UP:.*]] = "g4.linear"(%[[ADDED]], %{{.*}}) : (tensor<2x1x4xf32>, tensor<4x4xf32>) -> tensor<2x1x4xf32>
  // CHECK-NOT: "g4.select_rows"
  // CHECK: return %[[UP]], %{{.*}} : tensor<2x1x4xf32>, tensor<2x8x1x4xf32>
  func.func @prefill_4(%x: tensor<2x4x4xf32>, %positions: tensor<2x4xi32>, %rows: tensor<2x1xi32>, %k: tensor<2x8x1x4xf32> {g4.cache = @k}) -> (tensor<2x1x4xf32> {g4.name = "y"}, tensor<2x8x1x4xf32> {g4.name = "k", g4.cache = @k}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @wk} : () -> tensor<4x4xf32>
    %1 = "g4.linear"(%x, %0) : (tensor<2x4x4xf32>, tensor<4x4xf32>) -> tensor<2x4x4xf32> loc("model.layers.0.self_attn.k_proj"("m.py":1:0))
    %2 = "g4.reshape"(%1) : (tensor<2x4x4xf32>) -> tensor<2x4x1x4xf32>
    %3 = "g4.kv_update"(%k, %2, %positions) : (tensor<2x8x1x4xf32>, tensor<2x4x1x4xf32>, tensor<2x4xi32>) -> tensor<2x8x1x4xf32>
    %4 = "g4.held_positions"(%positions) {slots = 8 : i64, updated = true} : (tensor<2x4xi32>) -> tensor<2x8xi32>
    %5 = "g4.load_weight"() {weight = @wq} : () -> tensor<4x4xf32>
    %6 = "g4.linear"(%x, %5) : (tensor<2x4x4xf32>, tensor<4x4xf32>) -> tensor<2x4x4xf32> loc("model.layers.0.self_attn.q_proj"("m.py":2:0))
    %7 = "g4.reshape"(%6) : (tensor<2x4x4xf32>) -> tensor<2x4x1x4xf32> loc("model.layers.0.self_attn"("m.py":3:0))
    %8 = "g4.attention"(%7, %3, %3, %positions, %4) {scale = 1.0 : f64, window = 0 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>} : (tensor<2x4x1x4xf32>, tensor<2x8x1x4xf32>, tensor<2x8x1x4xf32>, tensor<2x4xi32>, tensor<2x8xi32>) -> tensor<2x4x1x4xf32> loc("model.layers.0.self_attn"("m.py":4:0))
    %9 = "g4.reshape"(%8) : (tensor<2x4x1x4xf32>) -> tensor<2x4x4xf32> loc("model.layers.0.self_attn"("m.py":5:0))
    %10 = "g4.add"(%x, %9) : (tensor<2x4x4xf32>, tensor<2x4x4xf32>) -> tensor<2x4x4xf32> loc("model.layers.0"("m.py":6:0))
    %11 = "g4.load_weight"() {weight = @up} : () -> tensor<4x4xf32>
    %12 = "g4.linear"(%10, %11) : (tensor<2x4x4xf32>, tensor<4x4xf32>) -> tensor<2x4x4xf32> loc("model.layers.1.mlp"("m.py":7:0))
    %13 = "g4.select_rows"(%12, %rows) : (tensor<2x4x4xf32>, tensor<2x1xi32>) -> tensor<2x1x4xf32> loc("lm_head"("m.py":9:0))
    return %13, %3 : tensor<2x1x4xf32>, tensor<2x8x1x4xf32>
  }
}
