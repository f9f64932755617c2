// pipeline: specialize-layers
module @test attributes {g4.level = "graph"} {
  "g4.weight"() {sym_name = "layers.0.up.weight", type = tensor<4x4xf32>} : () -> ()
  "g4.weight"() {sym_name = "layers.1.up.weight", type = tensor<4x4xf32>} : () -> ()
  "g4.weight"() {sym_name = "layers.2.up.weight", type = tensor<4x4xf32>} : () -> ()

  // The part of %b that belongs to a layer is cut out in front of the call; the shared constant goes into each function.
  // CHECK-LABEL: func.func @main
  // CHECK-NEXT: %[[S0:.*]] = "g4.slice"(%b) {starts = array<i64: 0, 0>
  // CHECK-NEXT: %[[W0:.*]] = "g4.load_weight"() {weight = @layers.0.up.weight}
  // CHECK-NEXT: %[[X0:.*]] = "g4.call"(%a, %[[S0]], %[[W0]]) {callee = @main.layer} {{.*}} loc("model.layers.0"
  // CHECK-NEXT: %[[S1:.*]] = "g4.slice"(%b) {starts = array<i64: 0, 4>
  // CHECK-NEXT: %[[W1:.*]] = "g4.load_weight"() {weight = @layers.1.up.weight}
  // CHECK-NEXT: %[[X1:.*]] = "g4.call"(%[[X0]], %[[S1]], %[[W1]]) {callee = @main.layer} {{.*}} loc("model.layers.1"
  // CHECK-NEXT: %[[W2:.*]] = "g4.load_weight"() {weight = @layers.2.up.weight}
  // CHECK-NEXT: %[[X2:.*]] = "g4.call"(%[[X1]], %[[W2]]) {callee = @main.layer_2} {{.*}} loc("model.layers.2"
  // CHECK-NEXT: %[[Y:.*]] = "g4.exp"(%[[X2]])
  // CHECK-NEXT: return %[[Y]]
  func.func @main(%a: tensor<2x4xf32>, %b: tensor<2x8xf32>) -> (tensor<2x4xf32> {g4.name = "y"}) attributes {g4.role = "program"} {
    %0 = "g4.constant"() {value = dense<2.0> : tensor<f32>} : () -> tensor<f32> loc("model.layers.0"(unknown))
    %1 = "g4.load_weight"() {weight = @layers.0.up.weight} : () -> tensor<4x4xf32> loc("model.layers.0.up"(unknown))
    %2 = "g4.linear"(%a, %1) : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.0.up"(unknown))
    %3 = "g4.slice"(%b) {starts = array<i64: 0, 0>, limits = array<i64: 2, 4>} : (tensor<2x8xf32>) -> tensor<2x4xf32> loc("model.layers.0"(unknown))
    %4 = "g4.add"(%2, %3) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32> loc("model.layers.0"(unknown))
    %5 = "g4.mul"(%4, %0) : (tensor<2x4xf32>, tensor<f32>) -> tensor<2x4xf32> loc("model.layers.0"(unknown))
    %6 = "g4.load_weight"() {weight = @layers.1.up.weight} : () -> tensor<4x4xf32> loc("model.layers.1.up"(unknown))
    %7 = "g4.linear"(%5, %6) : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.1.up"(unknown))
    %8 = "g4.slice"(%b) {starts = array<i64: 0, 4>, limits = array<i64: 2, 8>} : (tensor<2x8xf32>) -> tensor<2x4xf32> loc("model.layers.1"(unknown))
    %9 = "g4.add"(%7, %8) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32> loc("model.layers.1"(unknown))
    %10 = "g4.mul"(%9, %0) : (tensor<2x4xf32>, tensor<f32>) -> tensor<2x4xf32> loc("model.layers.1"(unknown))
    %11 = "g4.load_weight"() {weight = @layers.2.up.weight} : () -> tensor<4x4xf32> loc("model.layers.2.up"(unknown))
    %12 = "g4.linear"(%10, %11) : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.2.up"(unknown))
    %13 = "g4.exp"(%12) : (tensor<2x4xf32>) -> tensor<2x4xf32> loc("model.norm"(unknown))
    return %13 : tensor<2x4xf32>
  }

  // CHECK-LABEL: func.func @main.layer(%hidden: tensor<2x4xf32>, %hidden_2: tensor<2x4xf32>, %up.weight: tensor<4x4xf32>)
  // CHECK-NEXT: %[[X:.*]] = "g4.linear"(%hidden, %up.weight) {{.*}} loc("model.layers.*.up"
  // CHECK-NEXT: %[[Z:.*]] = "g4.add"(%[[X]], %hidden_2)
  // CHECK-NEXT: %[[C:.*]] = "g4.constant"()
  // CHECK-NEXT: %[[Y:.*]] = "g4.mul"(%[[Z]], %[[C]])
  // CHECK-NEXT: return %[[Y]]
  // CHECK-LABEL: func.func @main.layer_2(%hidden: tensor<2x4xf32>, %up.weight: tensor<4x4xf32>)
}
