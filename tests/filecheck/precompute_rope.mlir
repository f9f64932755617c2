// pipeline: precompute-rope
module @test attributes {g4.level = "graph", g4.max_context = 2048 : i64} {
  // CHECK-NOT: "rope.inv_freq", type
  // CHECK: "g4.weight"() {sym_name = "rope.cos", type = tensor<2048x2xbf16>, value = dense<"0x0000803FCDCC4C3D"> : tensor<2xf32>, transforms = ["rope_table{function=cos,length=2048}", "cast{dtype=bf16}"]}
  // CHECK: "g4.weight"() {sym_name = "rope.sin", type = tensor<2048x2xbf16>
  "g4.weight"() {sym_name = "rope.inv_freq", type = tensor<2xf32>, value = dense<"0x0000803FCDCC4C3D"> : tensor<2xf32>} : () -> ()

  // CHECK-LABEL: func.func @main
  // CHECK-NEXT: %[[C:.*]] = "g4.load_weight"() {weight = @rope.cos}
  // CHECK-NEXT: %[[COS:.*]] = "g4.gather"(%[[C]], %positions) : (tensor<2048x2xbf16>, tensor<1x3xi32>) -> tensor<1x3x2xbf16>
  // CHECK-NEXT: %[[S:.*]] = "g4.load_weight"() {weight = @rope.sin}
  // CHECK-NEXT: %[[SIN:.*]] = "g4.gather"(%[[S]], %positions)
  // CHECK-NEXT: %[[Y:.*]] = "g4.rope"(%x, %[[COS]], %[[SIN]])
  // CHECK-NEXT: return %[[Y]]
  func.func @main(%x: tensor<1x3x1x4xbf16>, %positions: tensor<1x3xi32>) -> (tensor<1x3x1x4xbf16> {g4.name = "y"}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @rope.inv_freq} : () -> tensor<2xf32>
    %1 = "g4.convert"(%positions) : (tensor<1x3xi32>) -> tensor<1x3xf32>
    %2 = "g4.reshape"(%1) : (tensor<1x3xf32>) -> tensor<1x3x1xf32>
    %3 = "g4.mul"(%0, %2) : (tensor<2xf32>, tensor<1x3x1xf32>) -> tensor<1x3x2xf32>
    %4 = "g4.concat"(%3, %3) {axis = 2 : i64} : (tensor<1x3x2xf32>, tensor<1x3x2xf32>) -> tensor<1x3x4xf32>
    %5 = "g4.cos"(%4) : (tensor<1x3x4xf32>) -> tensor<1x3x4xf32>
    %6 = "g4.convert"(%5) : (tensor<1x3x4xf32>) -> tensor<1x3x4xbf16>
    %7 = "g4.slice"(%6) {starts = array<i64: 0, 0, 0>, limits = array<i64: 1, 3, 2>} : (tensor<1x3x4xbf16>) -> tensor<1x3x2xbf16>
    %8 = "g4.sin"(%4) : (tensor<1x3x4xf32>) -> tensor<1x3x4xf32>
    %9 = "g4.convert"(%8) : (tensor<1x3x4xf32>) -> tensor<1x3x4xbf16>
    %10 = "g4.slice"(%9) {starts = array<i64: 0, 0, 0>, limits = array<i64: 1, 3, 2>} : (tensor<1x3x4xbf16>) -> tensor<1x3x2xbf16>
    %11 = "g4.rope"(%x, %7, %10) : (tensor<1x3x1x4xbf16>, tensor<1x3x2xbf16>, tensor<1x3x2xbf16>) -> tensor<1x3x1x4xbf16>
    return %11 : tensor<1x3x1x4xbf16>
  }
}
