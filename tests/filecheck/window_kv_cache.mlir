// pipeline: window-kv-cache{pad=2}
// A window of 3 asks for a ring of 4 slots. decode writes, then reads. prefill_4 would need 3 + 4 - 1 slots to do so: it
// reads what the cache held before, beside its own rows. The cache that an attention without a window reads stays long.
module @test attributes {g4.level = "graph"} {
  // CHECK: module @test attributes {g4.level = "graph", g4.max_context = 8 : i64}
  // CHECK: "g4.cache"() {sym_name = "full", type = tensor<1x8x1x4xf32>}
  // CHECK: "g4.cache"() {sym_name = "sliding", type = tensor<1x4x1x4xf32>}
  "g4.cache"() {sym_name = "full", type = tensor<1x8x1x4xf32>} : () -> ()
  "g4.cache"() {sym_name = "sliding", type = tensor<1x8x1x4xf32>} : () -> ()

  // CHECK-LABEL: func.func @prefill_4
  // CHECK-NEXT: %[[FULL:.*]] = "g4.held_positions"(%positions) {slots = 8 : i64, updated = true}
  // CHECK-NEXT: %[[BEFORE:.*]] = "g4.held_positions"(%positions) {slots = 4 : i64, updated = false}
  // CHECK-NEXT: %[[K:.*]] = "g4.kv_update"(%full, %x, %positions)
  // CHECK-NEXT: %[[X:.*]] = "g4.attention"(%x, %[[K]], %[[K]], %positions, %[[FULL]])
  // CHECK-NEXT: %[[RING:.*]] = "g4.kv_update"(%sliding, %[[X]], %positions)
  // CHECK-NEXT: %[[Y:.*]] = "g4.attention"(%[[X]], %sliding, %[[X]], %sliding, %[[X]], %positions, %[[BEFORE]], %positions)
  // CHECK-SAME: operandSegmentSizes = array<i32: 1, 2, 2, 1, 2>
  // CHECK-NEXT: return %[[Y]], %[[K]], %[[RING]]
  func.func @prefill_4(%x: tensor<1x4x1x4xf32>, %positions: tensor<1x4xi32>, %full: tensor<1x8x1x4xf32> {g4.cache = @full}, %sliding: tensor<1x8x1x4xf32> {g4.cache = @sliding}) -> (tensor<1x4x1x4xf32> {g4.name = "y"}, tensor<1x8x1x4xf32> {g4.name = "full", g4.cache = @full}, tensor<1x8x1x4xf32> {g4.name = "sliding", g4.cache = @sliding}) attributes {g4.role = "program"} {
    %0 = "g4.held_positions"(%positions) {slots = 8 : i64, updated = true} : (tensor<1x4xi32>) -> tensor<1x8xi32>
    %1 = "g4.kv_update"(%full, %x, %positions) : (tensor<1x8x1x4xf32>, tensor<1x4x1x4xf32>, tensor<1x4xi32>) -> tensor<1x8x1x4xf32>
    %2 = "g4.attention"(%x, %1, %1, %positions, %0) {scale = 1.0 : f64, window = 0 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>} : (tensor<1x4x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x4xi32>, tensor<1x8xi32>) -> tensor<1x4x1x4xf32>
    %3 = "g4.kv_update"(%sliding, %2, %positions) : (tensor<1x8x1x4xf32>, tensor<1x4x1x4xf32>, tensor<1x4xi32>) -> tensor<1x8x1x4xf32>
    %4 = "g4.attention"(%2, %3, %3, %positions, %0) {scale = 1.0 : f64, window = 3 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>} : (tensor<1x4x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x4xi32>, tensor<1x8xi32>) -> tensor<1x4x1x4xf32>
    return %4, %1, %3 : tensor<1x4x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x8x1x4xf32>
  }

  // CHECK-LABEL: func.func @decode
  // CHECK-NEXT: "g4.held_positions"(%positions) {slots = 8 : i64, updated = true}
  // CHECK-NEXT: %[[HELD:.*]] = "g4.held_positions"(%positions) {slots = 4 : i64, updated = true}
  // CHECK: %[[RING:.*]] = "g4.kv_update"(%sliding, %[[X:.*]], %positions)
  // CHECK-NEXT: "g4.attention"(%[[X]], %[[RING]], %[[RING]], %positions, %[[HELD]])
  func.func @decode(%x: tensor<1x1x1x4xf32>, %positions: tensor<1x1xi32>, %full: tensor<1x8x1x4xf32> {g4.cache = @full}, %sliding: tensor<1x8x1x4xf32> {g4.cache = @sliding}) -> (tensor<1x1x1x4xf32> {g4.name = "y"}, tensor<1x8x1x4xf32> {g4.name = "full", g4.cache = @full}, tensor<1x8x1x4xf32> {g4.name = "sliding", g4.cache = @sliding}) attributes {g4.role = "program"} {
    %0 = "g4.held_positions"(%positions) {slots = 8 : i64, updated = true} : (tensor<1x1xi32>) -> tensor<1x8xi32>
    %1 = "g4.kv_update"(%full, %x, %positions) : (tensor<1x8x1x4xf32>, tensor<1x1x1x4xf32>, tensor<1x1xi32>) -> tensor<1x8x1x4xf32>
    %2 = "g4.attention"(%x, %1, %1, %positions, %0) {scale = 1.0 : f64, window = 0 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>} : (tensor<1x1x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x1xi32>, tensor<1x8xi32>) -> tensor<1x1x1x4xf32>
    %3 = "g4.kv_update"(%sliding, %2, %positions) : (tensor<1x8x1x4xf32>, tensor<1x1x1x4xf32>, tensor<1x1xi32>) -> tensor<1x8x1x4xf32>
    %4 = "g4.attention"(%2, %3, %3, %positions, %0) {scale = 1.0 : f64, window = 3 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>} : (tensor<1x1x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x1xi32>, tensor<1x8xi32>) -> tensor<1x1x1x4xf32>
    return %4, %1, %3 : tensor<1x1x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x8x1x4xf32>
  }
}
