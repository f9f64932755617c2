// pipeline: dce
module @test attributes {g4.level = "graph"} {
  // CHECK-NOT: sym_name = "unused"
  // CHECK: sym_name = "used"
  "g4.weight"() {sym_name = "unused", type = tensor<4x4xf32>} : () -> ()
  "g4.weight"() {sym_name = "used", type = tensor<4x4xf32>} : () -> ()
  // CHECK: "g4.cache"() {sym_name = "idle"
  "g4.cache"() {sym_name = "idle", type = tensor<1x8x1x4xf32>} : () -> ()

  // CHECK-LABEL: func.func @main(%a: tensor<2x4xf32>, %idle: tensor<1x8x1x4xf32>
  // CHECK-NEXT: %[[W:.*]] = "g4.load_weight"() {weight = @used}
  // CHECK-NEXT: %[[Y:.*]] = "g4.linear"(%a, %[[W]])
  // CHECK-NEXT: return %[[Y]], %idle
  func.func @main(%a: tensor<2x4xf32>, %idle: tensor<1x8x1x4xf32> {g4.cache = @idle}) -> (tensor<2x4xf32> {g4.name = "y"}, tensor<1x8x1x4xf32> {g4.name = "idle", g4.cache = @idle}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @unused} : () -> tensor<4x4xf32>
    %1 = "g4.linear"(%a, %0) : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32>
    %2 = "g4.exp"(%1) : (tensor<2x4xf32>) -> tensor<2x4xf32>
    %3 = "g4.load_weight"() {weight = @used} : () -> tensor<4x4xf32>
    %4 = "g4.linear"(%a, %3) : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32>
    return %4, %idle : tensor<2x4xf32>, tensor<1x8x1x4xf32>
  }

  // CHECK-NOT: @nobody_calls
  func.func @nobody_calls(%a: tensor<4xf32>) -> (tensor<4xf32> {g4.name = "y"}) attributes {g4.role = "layer"} {
    %0 = "g4.exp"(%a) : (tensor<4xf32>) -> tensor<4xf32>
    return %0 : tensor<4xf32>
  }
}
