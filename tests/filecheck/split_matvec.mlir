// pipeline: split-matvec
module @test attributes {g4.level = "graph"} {
  "g4.weight"() {sym_name = "up.weight", type = tensor<40x192xbf16>} : () -> ()

  // CHECK-LABEL: func.func @decode
  // CHECK-NEXT: %[[W:.*]] = "g4.load_weight"() {weight = @up.weight}
  // CHECK-NEXT: %[[X:.*]] = "g4.reshape"(%x) : (tensor<1x1x192xbf16>) -> tensor<12x16xbf16> loc("model.up"
  // CHECK-NEXT: %[[XF:.*]] = "g4.convert"(%[[X]]) : (tensor<12x16xbf16>) -> tensor<12x16xf32>
  // CHECK-NEXT: %[[ONES:.*]] = "g4.constant"()
  // CHECK-NEXT: %[[W3:.*]] = "g4.reshape"(%[[W]]) : (tensor<40x192xbf16>) -> tensor<40x12x16xbf16>
  // CHECK-NEXT: %[[WF:.*]] = "g4.convert"(%[[W3]])
  // CHECK-NEXT: %[[P:.*]] = "g4.mul"(%[[WF]], %[[XF]])
  // CHECK-NEXT: %[[S:.*]] = "g4.reduce"(%[[P]]) {kind = "sum", axes = array<i64: 1>
  // CHECK-NEXT: %[[Y:.*]] = "g4.linear"(%[[ONES]], %[[S]]) : (tensor<1x16xf32>, tensor<40x16xf32>) -> tensor<1x40xf32>
  // CHECK-NEXT: %[[YB:.*]] = "g4.convert"(%[[Y]]) : (tensor<1x40xf32>) -> tensor<1x40xbf16>
  // CHECK-NEXT: %[[R:.*]] = "g4.reshape"(%[[YB]]) : (tensor<1x40xbf16>) -> tensor<1x1x40xbf16>
  // CHECK-NEXT: return %[[R]]
  func.func @decode(%x: tensor<1x1x192xbf16>) -> (tensor<1x1x40xbf16> {g4.name = "y"}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @up.weight} : () -> tensor<40x192xbf16>
    %1 = "g4.linear"(%x, %0) : (tensor<1x1x192xbf16>, tensor<40x192xbf16>) -> tensor<1x1x40xbf16> loc("model.up"(unknown))
    return %1 : tensor<1x1x40xbf16>
  }
}
