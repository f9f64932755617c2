// pipeline: split-logits{k=3}
// The logits of 12 tokens: the three best, and their log-probabilities, whose sum is over 3 x 4.
module @test attributes {g4.level = "graph"} {
  "g4.weight"() {sym_name = "table", type = tensor<12x4xbf16>} : () -> ()
  "g4.cache"() {sym_name = "layers.0.k", type = tensor<1x8x1x4xbf16>} : () -> ()

  // CHECK-LABEL: func.func @decode
  // CHECK-SAME: -> (tensor<1x2x3xi32> {g4.name = "tokens"}, tensor<1x2x3xf32> {g4.name = "logprobs"}, tensor<1x8x1x4xbf16> {g4.name = "layers.0.k", g4.cache = @layers.0.k})
  // CHECK: %[[L:.*]] = "g4.softcap"
  // CHECK-NEXT: %[[T:.*]]:2 = "g4.top_k"(%[[L]]) {k = 3 : i64} : (tensor<1x2x12xbf16>) -> (tensor<1x2x3xbf16>, tensor<1x2x3xi32>) loc("lm_head"
  // CHECK-NEXT: %[[V:.*]] = "g4.convert"(%[[T]]#0) : (tensor<1x2x3xbf16>) -> tensor<1x2x3xf32>
  // CHECK-NEXT: %[[M:.*]] = "g4.slice"(%[[V]]) {starts = array<i64: 0, 0, 0>, limits = array<i64: 1, 2, 1>}
  // CHECK-NEXT: %[[R:.*]] = "g4.reshape"(%[[L]]) : (tensor<1x2x12xbf16>) -> tensor<2x3x4xbf16>
  // CHECK-NEXT: %[[N:.*]] = "g4.reshape"(%[[M]]) : (tensor<1x2x1xf32>) -> tensor<2x1x1xf32>
  // CHECK-NEXT: %[[W:.*]] = "g4.convert"(%[[R]]) : (tensor<2x3x4xbf16>) -> tensor<2x3x4xf32>
  // CHECK-NEXT: %[[D:.*]] = "g4.sub"(%[[W]], %[[N]])
  // CHECK-NEXT: %[[E:.*]] = "g4.exp"(%[[D]])
  // CHECK-NEXT: %[[S:.*]] = "g4.reduce"(%[[E]]) {kind = "sum", axes = array<i64: 1>, keep = false} : (tensor<2x3x4xf32>) -> tensor<2x4xf32>
  // CHECK-NEXT: %[[Z:.*]] = "g4.reduce"(%[[S]]) {kind = "sum", axes = array<i64: 1>, keep = false} : (tensor<2x4xf32>) -> tensor<2xf32>
  // CHECK-NEXT: %[[G:.*]] = "g4.log"(%[[Z]])
  // CHECK-NEXT: %[[B:.*]] = "g4.reshape"(%[[G]]) : (tensor<2xf32>) -> tensor<1x2x1xf32>
  // CHECK-NEXT: %[[A:.*]] = "g4.sub"(%[[V]], %[[M]])
  // CHECK-NEXT: %[[P:.*]] = "g4.sub"(%[[A]], %[[B]])
  // CHECK-NEXT: return %[[T]]#1, %[[P]], %layers.0.k
  func.func @decode(%ids: tensor<1x2xi32>, %layers.0.k: tensor<1x8x1x4xbf16> {g4.cache = @layers.0.k}) -> (tensor<1x2x12xbf16> {g4.name = "logits"}, tensor<1x8x1x4xbf16> {g4.name = "layers.0.k", g4.cache = @layers.0.k}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @table} : () -> tensor<12x4xbf16>
    %1 = "g4.embedding"(%ids, %0) {scale = 2.0 : f64} : (tensor<1x2xi32>, tensor<12x4xbf16>) -> tensor<1x2x4xbf16>
    %2 = "g4.linear"(%1, %0) : (tensor<1x2x4xbf16>, tensor<12x4xbf16>) -> tensor<1x2x12xbf16> loc("lm_head"(unknown))
    %3 = "g4.softcap"(%2) {cap = 30.0 : f64} : (tensor<1x2x12xbf16>) -> tensor<1x2x12xbf16> loc("lm_head"(unknown))
    return %3, %layers.0.k : tensor<1x2x12xbf16>, tensor<1x8x1x4xbf16>
  }
}
