// pipeline: canonicalize
module @test attributes {g4.level = "graph"} {
  // CHECK-LABEL: func.func @inverse_moves
  // CHECK-NEXT: return %a : tensor<2x3x4xf32>
  func.func @inverse_moves(%a: tensor<2x3x4xf32>) -> (tensor<2x3x4xf32> {g4.name = "y"}) attributes {g4.role = "program"} {
    %0 = "g4.transpose"(%a) {permutation = array<i64: 0, 2, 1>} : (tensor<2x3x4xf32>) -> tensor<2x4x3xf32>
    %1 = "g4.reshape"(%0) : (tensor<2x4x3xf32>) -> tensor<8x3xf32>
    %2 = "g4.reshape"(%1) : (tensor<8x3xf32>) -> tensor<2x4x3xf32>
    %3 = "g4.transpose"(%2) {permutation = array<i64: 0, 2, 1>} : (tensor<2x4x3xf32>) -> tensor<2x3x4xf32>
    return %3 : tensor<2x3x4xf32>
  }

  // CHECK-LABEL: func.func @constants
  // CHECK-NEXT: %[[C:.*]] = "g4.constant"() {value = dense<6.0> : tensor<f32>}
  // CHECK-NEXT: %[[Y:.*]] = "g4.add"(%a, %[[C]])
  // CHECK-NEXT: return %[[Y]]
  func.func @constants(%a: tensor<2x3xf32>) -> (tensor<2x3xf32> {g4.name = "y"}) attributes {g4.role = "program"} {
    %0 = "g4.constant"() {value = dense<2.0> : tensor<f32>} : () -> tensor<f32>
    %1 = "g4.constant"() {value = dense<3.0> : tensor<f32>} : () -> tensor<f32>
    %2 = "g4.mul"(%0, %1) : (tensor<f32>, tensor<f32>) -> tensor<f32>
    %3 = "g4.broadcast"(%2) : (tensor<f32>) -> tensor<2x3xf32>
    %4 = "g4.add"(%3, %a) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
    %5 = "g4.constant"() {value = dense<1.0> : tensor<f32>} : () -> tensor<f32>
    %6 = "g4.mul"(%5, %4) : (tensor<f32>, tensor<2x3xf32>) -> tensor<2x3xf32>
    return %6 : tensor<2x3xf32>
  }

  // A rounding must stay: bf16 -> f32 -> bf16 is the identity, f32 -> bf16 -> f32 is not.
  // CHECK-LABEL: func.func @roundings
  // CHECK-NEXT: %[[LOW:.*]] = "g4.convert"(%a) : (tensor<4xf32>) -> tensor<4xbf16>
  // CHECK-NEXT: %[[BACK:.*]] = "g4.convert"(%[[LOW]]) : (tensor<4xbf16>) -> tensor<4xf32>
  // CHECK-NEXT: return %[[BACK]], %b
  func.func @roundings(%a: tensor<4xf32>, %b: tensor<4xbf16>) -> (tensor<4xf32> {g4.name = "y"}, tensor<4xbf16> {g4.name = "z"}) attributes {g4.role = "program"} {
    %0 = "g4.convert"(%a) : (tensor<4xf32>) -> tensor<4xbf16>
    %1 = "g4.convert"(%0) : (tensor<4xbf16>) -> tensor<4xf32>
    %2 = "g4.convert"(%b) : (tensor<4xbf16>) -> tensor<4xf32>
    %3 = "g4.convert"(%2) : (tensor<4xf32>) -> tensor<4xbf16>
    return %1, %3 : tensor<4xf32>, tensor<4xbf16>
  }

  // CHECK-LABEL: func.func @slices
  // CHECK-NEXT: %[[S:.*]] = "g4.slice"(%b) {starts = array<i64: 0, 1>, limits = array<i64: 2, 3>}
  // CHECK-NEXT: return %[[S]], %a
  func.func @slices(%a: tensor<2x4xf32>, %b: tensor<2x4xf32>) -> (tensor<2x2xf32> {g4.name = "y"}, tensor<2x4xf32> {g4.name = "z"}) attributes {g4.role = "program"} {
    %0 = "g4.concat"(%a, %b) {axis = 1 : i64} : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x8xf32>
    %1 = "g4.slice"(%0) {starts = array<i64: 0, 5>, limits = array<i64: 2, 7>} : (tensor<2x8xf32>) -> tensor<2x2xf32>
    %2 = "g4.slice"(%a) {starts = array<i64: 0, 0>, limits = array<i64: 2, 1>} : (tensor<2x4xf32>) -> tensor<2x1xf32>
    %3 = "g4.slice"(%a) {starts = array<i64: 0, 1>, limits = array<i64: 2, 4>} : (tensor<2x4xf32>) -> tensor<2x3xf32>
    %4 = "g4.concat"(%2, %3) {axis = 1 : i64} : (tensor<2x1xf32>, tensor<2x3xf32>) -> tensor<2x4xf32>
    return %1, %4 : tensor<2x2xf32>, tensor<2x4xf32>
  }

  // What was dead from the start stays for the passes that report on it.
  // CHECK-LABEL: func.func @dead_code
  // CHECK-NEXT: "g4.exp"(%a)
  // CHECK-NEXT: return %a
  func.func @dead_code(%a: tensor<4xf32>) -> (tensor<4xf32> {g4.name = "y"}) attributes {g4.role = "program"} {
    %0 = "g4.exp"(%a) : (tensor<4xf32>) -> tensor<4xf32>
    %1 = "g4.reshape"(%0) : (tensor<4xf32>) -> tensor<4xf32>
    return %a : tensor<4xf32>
  }
}
