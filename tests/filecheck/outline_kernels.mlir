// pipeline: outline-kernels
// A decode step of two layers with one kernel, caches of their own, and a third layer that reads the first one's cache;
// a prefill whose kernel does not update.

module @test attributes {g4.level = "tiled", g4.max_context = 16 : i64} {
  "g4.cache"() {sym_name = "k0", type = tensor<1x16x1x256xf32>} : () -> ()
  "g4.cache"() {sym_name = "v0", type = tensor<1x16x1x256xf32>} : () -> ()
  "g4.cache"() {sym_name = "k1", type = tensor<1x16x1x256xf32>} : () -> ()
  "g4.cache"() {sym_name = "v1", type = tensor<1x16x1x256xf32>} : () -> ()

  // What split q goes into the kernel; joined tiles stay outside. The updates go, in whatever order they stand.
  // CHECK: module @test attributes {g4.level = "nki"
  // CHECK-LABEL: func.func @decode
  // CHECK: %[[HELD:.*]] = "g4.held_positions"(%positions) {slots = 16 : i64, updated = false}
  // CHECK-NEXT: %[[L0:[0-9]+]]:3 = "g4.call"(%q, %k0, %v0, %[[HELD]], %k, %v, %positions) {callee = @decode_attention_d256_update} {{.*}} loc("model.layers.0.self_attn"(unknown))
  // CHECK-NEXT: %[[T:[0-9]+]]:2 = "g4.split_tiles"(%[[L0]]#0)
  // CHECK-NEXT: %[[NEG:.*]] = "g4.neg"(%[[T]]#0)
  // CHECK-NEXT: %[[Q1:.*]] = "g4.concat"(%[[NEG]], %[[T]]#1) {axis = 3 : i64}
  // CHECK-NEXT: %[[L1:[0-9]+]]:3 = "g4.call"(%[[Q1]], %k1, %v1, %[[HELD]], %k, %v, %positions) {callee = @decode_attention_d256_update}
  // CHECK: %[[AFTER:.*]] = "g4.held_positions"(%positions) {slots = 16 : i64, updated = true}
  // CHECK-NEXT: %[[L2:.*]] = "g4.call"(%[[L1]]#0, %[[L0]]#1, %[[L0]]#2, %[[AFTER]], %positions) {callee = @decode_attention_d256_w8}
  // CHECK-NEXT: return %[[L2]], %[[L0]]#1, %[[L0]]#2, %[[L1]]#1, %[[L1]]#2
  func.func @decode(%q: tensor<1x1x2x256xf32>, %k: tensor<1x1x1x256xf32>, %v: tensor<1x1x1x256xf32>, %positions: tensor<1x1xi32>, %k0: tensor<1x16x1x256xf32> {g4.cache = @k0}, %v0: tensor<1x16x1x256xf32> {g4.cache = @v0}, %k1: tensor<1x16x1x256xf32> {g4.cache = @k1}, %v1: tensor<1x16x1x256xf32> {g4.cache = @v1}) -> (tensor<1x1x2x256xf32> {g4.name = "y"}, tensor<1x16x1x256xf32> {g4.name = "k0", g4.cache = @k0}, tensor<1x16x1x256xf32> {g4.name = "v0", g4.cache = @v0}, tensor<1x16x1x256xf32> {g4.name = "k1", g4.cache = @k1}, tensor<1x16x1x256xf32> {g4.name = "v1", g4.cache = @v1}) attributes {g4.role = "program"} {
    %0:2 = "g4.split_tiles"(%q) {width = 128 : i64, why = "not rotated"} : (tensor<1x1x2x256xf32>) -> (tensor<1x1x2x128xf32>, tensor<1x1x2x128xf32>)
    %1 = "g4.held_positions"(%positions) {slots = 16 : i64, updated = false} : (tensor<1x1xi32>) -> tensor<1x16xi32>
    %2 = "g4.tiled_attention"(%0#0, %0#1, %k0, %k, %v0, %v, %positions, %1, %positions) {scale = 1.0 : f64, window = 0 : i64, segments = ["past 16 = 1*16", "chunk 1 = 1*1"], schedule = ["q 0:1 | past * | chunk 0"], operandSegmentSizes = array<i32: 2, 2, 2, 1, 2>} : (tensor<1x1x2x128xf32>, tensor<1x1x2x128xf32>, tensor<1x16x1x256xf32>, tensor<1x1x1x256xf32>, tensor<1x16x1x256xf32>, tensor<1x1x1x256xf32>, tensor<1x1xi32>, tensor<1x16xi32>, tensor<1x1xi32>) -> tensor<1x1x2x256xf32> loc("model.layers.0.self_attn"(unknown))
    %3 = "g4.kv_update"(%v0, %v, %positions) : (tensor<1x16x1x256xf32>, tensor<1x1x1x256xf32>, tensor<1x1xi32>) -> tensor<1x16x1x256xf32> loc("model.layers.0.self_attn"(unknown))
    %4:2 = "g4.split_tiles"(%2) {width = 128 : i64, why = "the rotated dims are tile 0"} : (tensor<1x1x2x256xf32>) -> (tensor<1x1x2x128xf32>, tensor<1x1x2x128xf32>)
    %5 = "g4.kv_update"(%k0, %k, %positions) : (tensor<1x16x1x256xf32>, tensor<1x1x1x256xf32>, tensor<1x1xi32>) -> tensor<1x16x1x256xf32> loc("model.layers.0.self_attn"(unknown))
    %6 = "g4.neg"(%4#0) : (tensor<1x1x2x128xf32>) -> tensor<1x1x2x128xf32>
    %7 = "g4.tiled_attention"(%6, %4#1, %k1, %k, %v1, %v, %positions, %1, %positions) {scale = 1.0 : f64, window = 0 : i64, segments = ["past 16 = 1*16", "chunk 1 = 1*1"], schedule = ["q 0:1 | past * | chunk 0"], operandSegmentSizes = array<i32: 2, 2, 2, 1, 2>} : (tensor<1x1x2x128xf32>, tensor<1x1x2x128xf32>, tensor<1x16x1x256xf32>, tensor<1x1x1x256xf32>, tensor<1x16x1x256xf32>, tensor<1x1x1x256xf32>, tensor<1x1xi32>, tensor<1x16xi32>, tensor<1x1xi32>) -> tensor<1x1x2x256xf32> loc("model.layers.1.self_attn"(unknown))
    %8 = "g4.kv_update"(%k1, %k, %positions) : (tensor<1x16x1x256xf32>, tensor<1x1x1x256xf32>, tensor<1x1xi32>) -> tensor<1x16x1x256xf32> loc("model.layers.1.self_attn"(unknown))
    %9 = "g4.kv_update"(%v1, %v, %positions) : (tensor<1x16x1x256xf32>, tensor<1x1x1x256xf32>, tensor<1x1xi32>) -> tensor<1x16x1x256xf32> loc("model.layers.1.self_attn"(unknown))
    %10:2 = "g4.split_tiles"(%7) {width = 128 : i64, why = "not rotated"} : (tensor<1x1x2x256xf32>) -> (tensor<1x1x2x128xf32>, tensor<1x1x2x128xf32>)
    %11 = "g4.held_positions"(%positions) {slots = 16 : i64, updated = true} : (tensor<1x1xi32>) -> tensor<1x16xi32>
    %12 = "g4.tiled_attention"(%10#0, %10#1, %5, %3, %positions, %11) {scale = 1.0 : f64, window = 8 : i64, segments = ["mixed 16 = 1*16"], schedule = ["q 0:1 | mixed *"], operandSegmentSizes = array<i32: 2, 1, 1, 1, 1>} : (tensor<1x1x2x128xf32>, tensor<1x1x2x128xf32>, tensor<1x16x1x256xf32>, tensor<1x16x1x256xf32>, tensor<1x1xi32>, tensor<1x16xi32>) -> tensor<1x1x2x256xf32> loc("model.layers.2.self_attn"(unknown))
    return %12, %5, %3, %8, %9 : tensor<1x1x2x256xf32>, tensor<1x16x1x256xf32>, tensor<1x16x1x256xf32>, tensor<1x16x1x256xf32>, tensor<1x16x1x256xf32>
  }

  // CHECK-LABEL: func.func @prefill
  // CHECK: %[[Y:.*]] = "g4.call"(%q, %k0, %v0, %{{[0-9]+}}, %k, %v, %positions) {callee = @prefill_attention_d256}
  // CHECK-NEXT: %[[K:.*]] = "g4.kv_update"(%k0, %k, %positions)
  // CHECK-NEXT: %[[V:.*]] = "g4.kv_update"(%v0, %v, %positions)
  // CHECK-NEXT: return %[[Y]], %[[K]], %[[V]]
  func.func @prefill(%q: tensor<1x9x2x256xf32>, %k: tensor<1x9x1x256xf32>, %v: tensor<1x9x1x256xf32>, %positions: tensor<1x9xi32>, %k0: tensor<1x16x1x256xf32> {g4.cache = @k0}, %v0: tensor<1x16x1x256xf32> {g4.cache = @v0}) -> (tensor<1x9x2x256xf32> {g4.name = "y"}, tensor<1x16x1x256xf32> {g4.name = "k0", g4.cache = @k0}, tensor<1x16x1x256xf32> {g4.name = "v0", g4.cache = @v0}) attributes {g4.role = "program"} {
    %0:2 = "g4.split_tiles"(%q) {width = 128 : i64, why = "not rotated"} : (tensor<1x9x2x256xf32>) -> (tensor<1x9x2x128xf32>, tensor<1x9x2x128xf32>)
    %1 = "g4.held_positions"(%positions) {slots = 16 : i64, updated = false} : (tensor<1x9xi32>) -> tensor<1x16xi32>
    %2 = "g4.tiled_attention"(%0#0, %0#1, %k0, %k, %v0, %v, %positions, %1, %positions) {scale = 1.0 : f64, window = 0 : i64, segments = ["past 16 = 1*16", "chunk 9 = 1*9"], schedule = ["q 0:9 | past * | chunk *"], operandSegmentSizes = array<i32: 2, 2, 2, 1, 2>} : (tensor<1x9x2x128xf32>, tensor<1x9x2x128xf32>, tensor<1x16x1x256xf32>, tensor<1x9x1x256xf32>, tensor<1x16x1x256xf32>, tensor<1x9x1x256xf32>, tensor<1x9xi32>, tensor<1x16xi32>, tensor<1x9xi32>) -> tensor<1x9x2x256xf32>
    %3 = "g4.kv_update"(%k0, %k, %positions) : (tensor<1x16x1x256xf32>, tensor<1x9x1x256xf32>, tensor<1x9xi32>) -> tensor<1x16x1x256xf32>
    %4 = "g4.kv_update"(%v0, %v, %positions) : (tensor<1x16x1x256xf32>, tensor<1x9x1x256xf32>, tensor<1x9xi32>) -> tensor<1x16x1x256xf32>
    return %2, %3, %4 : tensor<1x9x2x256xf32>, tensor<1x16x1x256xf32>, tensor<1x16x1x256xf32>
  }

  // CHECK-LABEL: func.func @decode_attention_d256_update(%q: {{.*}}, %past_keys: {{.*}}, %past_values: {{.*}}, %past_held: {{.*}}, %chunk_keys: {{.*}}, %chunk_values: {{.*}}, %positions: {{.*}}) -> ({{.*}} {g4.name = "y"}, {{.*}} {g4.name = "k_cache"}, {{.*}} {g4.name = "v_cache"}) attributes {g4.role = "kernel"}
  // CHECK-NEXT: %[[T:[0-9]+]]:2 = "g4.split_tiles"(%q) {width = 128 : i64, why = "as the array takes it"}
  // CHECK-NEXT: %[[Y:.*]] = "g4.tiled_attention"(%[[T]]#0, %[[T]]#1, %past_keys, %chunk_keys, %past_values, %chunk_values, %positions, %past_held, %positions) {{.*}} loc("model.layers.*.self_attn"(unknown))
  // CHECK-NEXT: %[[K:.*]] = "g4.kv_update"(%past_keys, %chunk_keys, %positions)
  // CHECK-NEXT: %[[V:.*]] = "g4.kv_update"(%past_values, %chunk_values, %positions)
  // CHECK-NEXT: return %[[Y]], %[[K]], %[[V]]
  // CHECK: func.func @decode_attention_d256_w8(%q: {{.*}}, %mixed_keys: {{.*}}, %mixed_values: {{.*}}, %mixed_held: {{.*}}, %positions: {{.*}})
  // CHECK: func.func @prefill_attention_d256(%q: {{.*}}, %past_keys: {{.*}}, %positions: tensor<1x9xi32>) -> (tensor<1x9x2x256xf32> {g4.name = "y"}) attributes {g4.role = "kernel"}
  // CHECK-NOT: func.func
}
