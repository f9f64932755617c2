// pipeline: cse
module @test attributes {g4.level = "graph"} {
  "g4.weight"() {sym_name = "w", type = tensor<4xf32>} : () -> ()

  // CHECK-LABEL: func.func @main
  // CHECK-NEXT: %[[W:.*]] = "g4.load_weight"() {weight = @w} : () -> tensor<4xf32> loc("model.layers"
  // CHECK-NEXT: %[[X:.*]] = "g4.rms_norm"(%a, %[[W]])
  // CHECK-NEXT: %[[Y:.*]] = "g4.rms_norm"(%[[X]], %[[W]])
  // CHECK-NEXT: %[[Z:.*]] = "g4.rms_norm"(%a, %[[W]]) {epsilon = 0.5
  // CHECK-NEXT: return %[[X]], %[[Y]], %[[Z]]
  func.func @main(%a: tensor<2x4xf32>) -> (tensor<2x4xf32> {g4.name = "x"}, tensor<2x4xf32> {g4.name = "y"}, tensor<2x4xf32> {g4.name = "z"}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @w} : () -> tensor<4xf32> loc("model.layers.0.norm"(unknown))
    %1 = "g4.load_weight"() {weight = @w} : () -> tensor<4xf32> loc("model.layers.3.norm"(unknown))
    %2 = "g4.rms_norm"(%a, %0) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 1>} : (tensor<2x4xf32>, tensor<4xf32>) -> tensor<2x4xf32>
    %3 = "g4.rms_norm"(%a, %1) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 1>} : (tensor<2x4xf32>, tensor<4xf32>) -> tensor<2x4xf32>
    %4 = "g4.rms_norm"(%3, %1) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 1>} : (tensor<2x4xf32>, tensor<4xf32>) -> tensor<2x4xf32>
    %5 = "g4.rms_norm"(%a, %1) {epsilon = 0.5 : f64, operandSegmentSizes = array<i32: 1, 1>} : (tensor<2x4xf32>, tensor<4xf32>) -> tensor<2x4xf32>
    return %2, %4, %5 : tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x4xf32>
  }
}
