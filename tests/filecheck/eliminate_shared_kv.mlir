// pipeline: eliminate-shared-kv
// Layer 1 reads what layer 0 wrote; its own K projection, its weight and its cache go. The names do not matter: the
// cache that goes is called "a", the one that stays "b".
module @test attributes {g4.level = "graph"} {
  // CHECK-NOT: "wasted"
  // CHECK: sym_name = "wk"
  "g4.weight"() {sym_name = "wk", type = tensor<4x4xf32>} : () -> ()
  "g4.weight"() {sym_name = "wasted", type = tensor<4x4xf32>} : () -> ()
  // CHECK-NOT: sym_name = "a"
  // CHECK: sym_name = "b"
  "g4.cache"() {sym_name = "a", type = tensor<1x8x1x4xf32>} : () -> ()
  "g4.cache"() {sym_name = "b", type = tensor<1x8x1x4xf32>} : () -> ()

  // CHECK-LABEL: func.func @decode(%x: tensor<1x1x4xf32>, %positions: tensor<1x1xi32>, %b: tensor<1x8x1x4xf32> {g4.cache = @b})
  // CHECK-SAME: -> (tensor<1x1x1x4xf32> {g4.name = "y"}, tensor<1x8x1x4xf32> {g4.name = "b", g4.cache = @b})
  // CHECK-NEXT: %[[W:.*]] = "g4.load_weight"() {weight = @wk}
  // CHECK-NEXT: %[[X0:.*]]:2 = "g4.call"(%x, %positions, %b, %[[W]]) {callee = @decode.own}
  // CHECK-NEXT: %[[X1:.*]] = "g4.call"(%[[X0]]#0, %positions, %[[X0]]#1) {callee = @decode.shared}
  // CHECK-NEXT: return %[[X1]], %[[X0]]#1
  func.func @decode(%x: tensor<1x1x4xf32>, %positions: tensor<1x1xi32>, %a: tensor<1x8x1x4xf32> {g4.cache = @a}, %b: tensor<1x8x1x4xf32> {g4.cache = @b}) -> (tensor<1x1x1x4xf32> {g4.name = "y"}, tensor<1x8x1x4xf32> {g4.name = "a", g4.cache = @a}, tensor<1x8x1x4xf32> {g4.name = "b", g4.cache = @b}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @wk} : () -> tensor<4x4xf32>
    %1:2 = "g4.call"(%x, %positions, %b, %0) {callee = @decode.own} : (tensor<1x1x4xf32>, tensor<1x1xi32>, tensor<1x8x1x4xf32>, tensor<4x4xf32>) -> (tensor<1x1x1x4xf32>, tensor<1x8x1x4xf32>)
    %2 = "g4.load_weight"() {weight = @wasted} : () -> tensor<4x4xf32>
    %3 = "g4.call"(%1#0, %positions, %1#1, %2) {callee = @decode.shared} : (tensor<1x1x1x4xf32>, tensor<1x1xi32>, tensor<1x8x1x4xf32>, tensor<4x4xf32>) -> tensor<1x1x1x4xf32>
    return %3, %a, %1#1 : tensor<1x1x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x8x1x4xf32>
  }

  // CHECK-LABEL: func.func @decode.own
  // CHECK: "g4.kv_update"
  func.func @decode.own(%hidden: tensor<1x1x4xf32>, %positions: tensor<1x1xi32>, %cache: tensor<1x8x1x4xf32>, %w: tensor<4x4xf32>) -> (tensor<1x1x1x4xf32> {g4.name = "hidden"}, tensor<1x8x1x4xf32> {g4.name = "cache"}) attributes {g4.role = "layer"} {
    %0 = "g4.linear"(%hidden, %w) : (tensor<1x1x4xf32>, tensor<4x4xf32>) -> tensor<1x1x4xf32>
    %1 = "g4.reshape"(%0) : (tensor<1x1x4xf32>) -> tensor<1x1x1x4xf32>
    %2 = "g4.kv_update"(%cache, %1, %positions) : (tensor<1x8x1x4xf32>, tensor<1x1x1x4xf32>, tensor<1x1xi32>) -> tensor<1x8x1x4xf32>
    %h = "g4.held_positions"(%positions) {slots = 8 : i64, updated = true} : (tensor<1x1xi32>) -> tensor<1x8xi32>
    %3 = "g4.attention"(%1, %2, %2, %positions, %h) {scale = 1.0 : f64, window = 0 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>} : (tensor<1x1x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x1xi32>, tensor<1x8xi32>) -> tensor<1x1x1x4xf32>
    return %3, %2 : tensor<1x1x1x4xf32>, tensor<1x8x1x4xf32>
  }

  // CHECK-LABEL: func.func @decode.shared(%hidden: tensor<1x1x1x4xf32>, %positions: tensor<1x1xi32>, %cache: tensor<1x8x1x4xf32>)
  // CHECK-NEXT: %[[H:.*]] = "g4.held_positions"(%positions)
  // CHECK-NEXT: %[[Y:.*]] = "g4.attention"(%hidden, %cache, %cache, %positions, %[[H]])
  // CHECK-NEXT: return %[[Y]]
  func.func @decode.shared(%hidden: tensor<1x1x1x4xf32>, %positions: tensor<1x1xi32>, %cache: tensor<1x8x1x4xf32>, %w: tensor<4x4xf32>) -> (tensor<1x1x1x4xf32> {g4.name = "hidden"}) attributes {g4.role = "layer"} {
    %0 = "g4.linear"(%hidden, %w) : (tensor<1x1x1x4xf32>, tensor<4x4xf32>) -> tensor<1x1x1x4xf32>
    %1 = "g4.rms_norm"(%0) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 0>} : (tensor<1x1x1x4xf32>) -> tensor<1x1x1x4xf32>
    %h = "g4.held_positions"(%positions) {slots = 8 : i64, updated = true} : (tensor<1x1xi32>) -> tensor<1x8xi32>
    %2 = "g4.attention"(%hidden, %cache, %cache, %positions, %h) {scale = 1.0 : f64, window = 0 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>} : (tensor<1x1x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x1xi32>, tensor<1x8xi32>) -> tensor<1x1x1x4xf32>
    return %2 : tensor<1x1x1x4xf32>
  }
}
