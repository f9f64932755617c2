// pipeline: fold-norms
// "input" goes into q and, through the rows that are asked for, into k; "final" stays: "head" is a table, too.
module @test attributes {g4.level = "graph"} {
  // CHECK-NOT: "g4.weight"() {sym_name = "input"
  // CHECK: "g4.weight"() {sym_name = "q", type = tensor<8x4xf32>, sources = ["q", "input"], source_types = [tensor<8x4xf32>, tensor<4xf32>], transforms = ["scale{axis=1}"]}
  // CHECK-NEXT: "g4.weight"() {sym_name = "k", type = tensor<4x4xf32>, sources = ["stored.k", "input"], source_types = [tensor<4x4xf32>, tensor<4xf32>], transforms = ["take{axis=0,block=4,ranges=2:4+0:2}", "scale{axis=1}"]}
  // CHECK-NEXT: "g4.weight"() {sym_name = "final", type = tensor<4xf32>}
  "g4.weight"() {sym_name = "input", type = tensor<4xf32>} : () -> ()
  "g4.weight"() {sym_name = "q", type = tensor<8x4xf32>} : () -> ()
  "g4.weight"() {sym_name = "k", type = tensor<4x4xf32>, sources = ["stored.k"], source_types = [tensor<4x4xf32>], transforms = ["take{axis=0,block=4,ranges=2:4+0:2}"]} : () -> ()
  "g4.weight"() {sym_name = "final", type = tensor<4xf32>} : () -> ()
  "g4.weight"() {sym_name = "head", type = tensor<9x4xf32>} : () -> ()

  // CHECK-LABEL: func.func @main
  // CHECK-NEXT: %[[T:.*]] = "g4.load_weight"() {weight = @head}
  // CHECK-NEXT: %[[E:.*]] = "g4.embedding"(%ids, %[[T]])
  // CHECK-NEXT: %[[N:.*]] = "g4.rms_norm"(%[[E]]) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 0>} : (tensor<1x5x4xf32>) -> tensor<1x5x4xf32>
  // CHECK-NEXT: %[[WQ:.*]] = "g4.load_weight"() {weight = @q}
  // CHECK-NEXT: %[[Q:.*]] = "g4.linear"(%[[N]], %[[WQ]])
  // CHECK-NEXT: %[[FEW:.*]] = "g4.select_rows"(%[[N]], %rows)
  // CHECK-NEXT: %[[WK:.*]] = "g4.load_weight"() {weight = @k}
  // CHECK-NEXT: %[[K:.*]] = "g4.linear"(%[[FEW]], %[[WK]])
  // CHECK-NEXT: %[[WF:.*]] = "g4.load_weight"() {weight = @final}
  // CHECK-NEXT: %[[F:.*]] = "g4.rms_norm"(%[[K]], %[[WF]])
  // CHECK: "g4.linear"(%[[F]]
  func.func @main(%ids: tensor<1x5xi32>, %rows: tensor<1x2xi32>) -> (tensor<1x5x8xf32> {g4.name = "q"}, tensor<1x2x9xf32> {g4.name = "y"}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @head} : () -> tensor<9x4xf32>
    %1 = "g4.embedding"(%ids, %0) {scale = 1.0 : f64} : (tensor<1x5xi32>, tensor<9x4xf32>) -> tensor<1x5x4xf32>
    %2 = "g4.load_weight"() {weight = @input} : () -> tensor<4xf32>
    %3 = "g4.rms_norm"(%1, %2) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 1>} : (tensor<1x5x4xf32>, tensor<4xf32>) -> tensor<1x5x4xf32>
    %4 = "g4.load_weight"() {weight = @q} : () -> tensor<8x4xf32>
    %5 = "g4.linear"(%3, %4) : (tensor<1x5x4xf32>, tensor<8x4xf32>) -> tensor<1x5x8xf32>
    %6 = "g4.select_rows"(%3, %rows) : (tensor<1x5x4xf32>, tensor<1x2xi32>) -> tensor<1x2x4xf32>
    %7 = "g4.load_weight"() {weight = @k} : () -> tensor<4x4xf32>
    %8 = "g4.linear"(%6, %7) : (tensor<1x2x4xf32>, tensor<4x4xf32>) -> tensor<1x2x4xf32>
    %9 = "g4.load_weight"() {weight = @final} : () -> tensor<4xf32>
    %10 = "g4.rms_norm"(%8, %9) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 1>} : (tensor<1x2x4xf32>, tensor<4xf32>) -> tensor<1x2x4xf32>
    %11 = "g4.linear"(%10, %0) : (tensor<1x2x4xf32>, tensor<9x4xf32>) -> tensor<1x2x9xf32>
    return %5, %11 : tensor<1x5x8xf32>, tensor<1x2x9xf32>
  }
}
