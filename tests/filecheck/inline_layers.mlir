// pipeline: inline-layers
module @test attributes {g4.level = "graph"} {
  "g4.weight"() {sym_name = "layers.0.up.weight", type = tensor<4x4xf32>} : () -> ()
  "g4.weight"() {sym_name = "layers.1.up.weight", type = tensor<4x4xf32>} : () -> ()

  // CHECK-LABEL: func.func @main
  // CHECK-NEXT: %[[W0:.*]] = "g4.load_weight"() {weight = @layers.0.up.weight}
  // CHECK-NEXT: %[[X0:.*]] = "g4.linear"(%a, %[[W0]]) {{.*}} loc("model.layers.0.up"
  // CHECK-NEXT: %[[Y0:.*]] = "g4.exp"(%[[X0]]) {{.*}} loc("model.layers.0"
  // CHECK-NEXT: %[[W1:.*]] = "g4.load_weight"() {weight = @layers.1.up.weight}
  // CHECK-NEXT: %[[X1:.*]] = "g4.linear"(%[[X0]], %[[W1]]) {{.*}} loc("model.layers.1.up"
  // CHECK-NEXT: %[[Y1:.*]] = "g4.exp"(%[[X1]])
  // CHECK-NEXT: return %[[Y1]]
  // CHECK-NOT: @main.layer
  func.func @main(%a: tensor<2x4xf32>) -> (tensor<2x4xf32> {g4.name = "y"}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @layers.0.up.weight} : () -> tensor<4x4xf32>
    %1:2 = "g4.call"(%a, %0) {callee = @main.layer} : (tensor<2x4xf32>, tensor<4x4xf32>) -> (tensor<2x4xf32>, tensor<2x4xf32>) loc("model.layers.0"(unknown))
    %2 = "g4.load_weight"() {weight = @layers.1.up.weight} : () -> tensor<4x4xf32>
    %3:2 = "g4.call"(%1#1, %2) {callee = @main.layer} : (tensor<2x4xf32>, tensor<4x4xf32>) -> (tensor<2x4xf32>, tensor<2x4xf32>) loc("model.layers.1"(unknown))
    return %3#0 : tensor<2x4xf32>
  }

  func.func @main.layer(%hidden: tensor<2x4xf32>, %w: tensor<4x4xf32>) -> (tensor<2x4xf32> {g4.name = "y"}, tensor<2x4xf32> {g4.name = "x"}) attributes {g4.role = "layer"} {
    %0 = "g4.linear"(%hidden, %w) : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.*.up"(unknown))
    %1 = "g4.exp"(%0) : (tensor<2x4xf32>) -> tensor<2x4xf32> loc("model.layers.*"(unknown))
    return %1, %0 : tensor<2x4xf32>, tensor<2x4xf32>
  }
}
