// pipeline: tile-contractions
// A full-attention layer: a head of 512 dims, of which RoPE rotates 64 pairs; a chunk of 256 rows after a linear cache.

module @test attributes {g4.level = "graph", g4.max_context = 256 : i64} {
  // The rotated dims come first in what makes q and k; tables keep the columns that rotate. V and what follows it stay.
  // CHECK: sym_name = "q_proj", {{.*}}transforms = ["take{axis=0,block=512,ranges=0:64+256:320+64:256+320:512}"]
  // CHECK-NEXT: sym_name = "q_norm", {{.*}}transforms = ["take{axis=0,block=512,ranges=0:64+256:320+64:256+320:512}"]
  // CHECK-NEXT: sym_name = "k_proj", {{.*}}transforms = ["take{axis=0,block=512,ranges=0:64+256:320+64:256+320:512}"]
  // CHECK-NEXT: sym_name = "k_norm", {{.*}}transforms = ["take{axis=0,block=512,ranges=0:64+256:320+64:256+320:512}"]
  // CHECK-NEXT: "g4.weight"() {sym_name = "v_proj", type = tensor<512x200xf32>} : () -> ()
  // CHECK-NEXT: "g4.weight"() {sym_name = "o_proj", type = tensor<8x1024xf32>} : () -> ()
  // CHECK-NEXT: sym_name = "cos", type = tensor<256x64xf32>, {{.*}}"slice{axis=1,start=0,limit=64}"]
  // CHECK-NEXT: sym_name = "sin", type = tensor<256x64xf32>, {{.*}}"slice{axis=1,start=0,limit=64}"]
  "g4.weight"() {sym_name = "q_proj", type = tensor<1024x200xf32>} : () -> ()
  "g4.weight"() {sym_name = "q_norm", type = tensor<512xf32>} : () -> ()
  "g4.weight"() {sym_name = "k_proj", type = tensor<512x200xf32>} : () -> ()
  "g4.weight"() {sym_name = "k_norm", type = tensor<512xf32>} : () -> ()
  "g4.weight"() {sym_name = "v_proj", type = tensor<512x200xf32>} : () -> ()
  "g4.weight"() {sym_name = "o_proj", type = tensor<8x1024xf32>} : () -> ()
  "g4.weight"() {sym_name = "cos", type = tensor<256x256xf32>, value = dense<"0x0000803FF88C723FD3CE653F0FBC593FAC4B4E3F2275433F5C30393FB1752F3FE03D263F09821D3FA83B153F92640D3FEEF6053F64DAFD3E3C84F03E73E1E33E9BE8D73EC790CC3E81D1C13EC7A2B73EFFFCAD3EF8D8A43EE12F9C3E44FB933E04358C3E52D7843E65B97B3EDF7F6E3E36F8613E1219563E98D94A3E6531403E8718363E76872C3E0F77233E8FE01A3E91BD123E01080B3E20BA033EF79CF93DD57FEC3D1313E03D6C4DD43D1826C93DC794BE3D9691B43D0E15AB3D1D18A23D0E94993D8782913D84DD893D529F823D1285773D18846A3D02325E3DA185523D3F76473D9EFB3C3DEC0D333DC2A5293D1DBC203D564A183D214A103D88B5083D000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"> : tensor<256xf32>, transforms = ["rope_table{function=cos,length=256}"]} : () -> ()
  "g4.weight"() {sym_name = "sin", type = tensor<256x256xf32>, value = dense<"0x0000803FF88C723FD3CE653F0FBC593FAC4B4E3F2275433F5C30393FB1752F3FE03D263F09821D3FA83B153F92640D3FEEF6053F64DAFD3E3C84F03E73E1E33E9BE8D73EC790CC3E81D1C13EC7A2B73EFFFCAD3EF8D8A43EE12F9C3E44FB933E04358C3E52D7843E65B97B3EDF7F6E3E36F8613E1219563E98D94A3E6531403E8718363E76872C3E0F77233E8FE01A3E91BD123E01080B3E20BA033EF79CF93DD57FEC3D1313E03D6C4DD43D1826C93DC794BE3D9691B43D0E15AB3D1D18A23D0E94993D8782913D84DD893D529F823D1285773D18846A3D02325E3DA185523D3F76473D9EFB3C3DEC0D333DC2A5293D1DBC203D564A183D214A103D88B5083D000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"> : tensor<256xf32>, transforms = ["rope_table{function=sin,length=256}"]} : () -> ()
  "g4.cache"() {sym_name = "k", type = tensor<1x256x1x512xf32>} : () -> ()
  "g4.cache"() {sym_name = "v", type = tensor<1x256x1x512xf32>} : () -> ()

  // Four tiles of a head, one of them rotated, for q and for k; nothing else is.
  // CHECK-LABEL: func.func @prefill
  // CHECK-NEXT: %[[HELD:.*]] = "g4.held_positions"(%positions) {slots = 256 : i64, updated = false}
  // CHECK: %[[COS:.*]] = "g4.gather"({{.*}} -> tensor<1x256x64xf32>
  // CHECK: %[[SIN:.*]] = "g4.gather"({{.*}} -> tensor<1x256x64xf32>
  // CHECK: "g4.tiled_linear"(%x, {{.*}}) {tiles = ["k 200 = 1*128 + 72", "n 1024 = 2*512 moving", "m 256 = 2*128 stationary"], why = "a norm is next: rows on the partitions; the last k tile fills 72 partitions, no padding"}
  // CHECK: %[[Q:.*]] = "g4.rms_norm"
  // CHECK-NEXT: %[[QT:[0-9]+]]:4 = "g4.split_tiles"(%[[Q]]) {width = 128 : i64, why = "the rotated dims are tile 0"}
  // CHECK-NEXT: %[[Q0:.*]] = "g4.rope"(%[[QT]]#0, %[[COS]], %[[SIN]]) : (tensor<1x256x2x128xf32>, tensor<1x256x64xf32>
  // CHECK: %[[KT:[0-9]+]]:4 = "g4.split_tiles"
  // CHECK-NEXT: %[[K0:.*]] = "g4.rope"(%[[KT]]#0, %[[COS]], %[[SIN]])
  // CHECK-NOT: "g4.rope"
  // CHECK: %[[V:.*]] = "g4.rms_norm"
  // CHECK-NEXT: %[[K:.*]] = "g4.concat"(%[[K0]], %[[KT]]#1, %[[KT]]#2, %[[KT]]#3) {axis = 3 : i64}

  // The old cache beside the new rows; the first tile of queries skips the second tile of rows, which is ahead of it.
  // CHECK-NEXT: %[[Y:.*]] = "g4.tiled_attention"(%[[Q0]], %[[QT]]#1, %[[QT]]#2, %[[QT]]#3, %k, %[[K]], %v, %[[V]], %positions, %[[HELD]], %positions)
  // CHECK-SAME: segments = ["past 256 = 2*128", "chunk 256 = 2*128"]
  // CHECK-SAME: schedule = ["q 0:128 | past * | chunk 0~ (1 ahead)", "q 128:256 | past * | chunk 0 1~"]
  // CHECK-NEXT: %[[K1:.*]] = "g4.kv_update"(%k, %[[K]], %positions)
  // CHECK-NEXT: %[[V1:.*]] = "g4.kv_update"(%v, %[[V]], %positions)
  // CHECK-NOT: "g4.linear"
  // CHECK: return %{{.*}}, %[[K1]], %[[V1]]
  func.func @prefill(%x: tensor<1x256x200xf32>, %positions: tensor<1x256xi32>, %k: tensor<1x256x1x512xf32> {g4.cache = @k}, %v: tensor<1x256x1x512xf32> {g4.cache = @v}) -> (tensor<1x256x8xf32> {g4.name = "y"}, tensor<1x256x1x512xf32> {g4.name = "k", g4.cache = @k}, tensor<1x256x1x512xf32> {g4.name = "v", g4.cache = @v}) attributes {g4.role = "program"} {
    %0 = "g4.held_positions"(%positions) {slots = 256 : i64, updated = true} : (tensor<1x256xi32>) -> tensor<1x256xi32>
    %1 = "g4.constant"() {value = dense<0> : tensor<i32>} : () -> tensor<i32>
    %2 = "g4.max"(%positions, %1) : (tensor<1x256xi32>, tensor<i32>) -> tensor<1x256xi32>
    %3 = "g4.load_weight"() {weight = @cos} : () -> tensor<256x256xf32>
    %4 = "g4.gather"(%3, %2) : (tensor<256x256xf32>, tensor<1x256xi32>) -> tensor<1x256x256xf32>
    %5 = "g4.load_weight"() {weight = @sin} : () -> tensor<256x256xf32>
    %6 = "g4.gather"(%5, %2) : (tensor<256x256xf32>, tensor<1x256xi32>) -> tensor<1x256x256xf32>
    %7 = "g4.load_weight"() {weight = @q_proj} : () -> tensor<1024x200xf32>
    %8 = "g4.linear"(%x, %7) : (tensor<1x256x200xf32>, tensor<1024x200xf32>) -> tensor<1x256x1024xf32>
    %9 = "g4.reshape"(%8) : (tensor<1x256x1024xf32>) -> tensor<1x256x2x512xf32>
    %10 = "g4.load_weight"() {weight = @q_norm} : () -> tensor<512xf32>
    %11 = "g4.rms_norm"(%9, %10) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 1>} : (tensor<1x256x2x512xf32>, tensor<512xf32>) -> tensor<1x256x2x512xf32>
    %12 = "g4.rope"(%11, %4, %6) : (tensor<1x256x2x512xf32>, tensor<1x256x256xf32>, tensor<1x256x256xf32>) -> tensor<1x256x2x512xf32>
    %13 = "g4.load_weight"() {weight = @k_proj} : () -> tensor<512x200xf32>
    %14 = "g4.linear"(%x, %13) : (tensor<1x256x200xf32>, tensor<512x200xf32>) -> tensor<1x256x512xf32>
    %15 = "g4.reshape"(%14) : (tensor<1x256x512xf32>) -> tensor<1x256x1x512xf32>
    %16 = "g4.load_weight"() {weight = @k_norm} : () -> tensor<512xf32>
    %17 = "g4.rms_norm"(%15, %16) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 1>} : (tensor<1x256x1x512xf32>, tensor<512xf32>) -> tensor<1x256x1x512xf32>
    %18 = "g4.rope"(%17, %4, %6) : (tensor<1x256x1x512xf32>, tensor<1x256x256xf32>, tensor<1x256x256xf32>) -> tensor<1x256x1x512xf32>
    %19 = "g4.load_weight"() {weight = @v_proj} : () -> tensor<512x200xf32>
    %20 = "g4.linear"(%x, %19) : (tensor<1x256x200xf32>, tensor<512x200xf32>) -> tensor<1x256x512xf32>
    %21 = "g4.reshape"(%20) : (tensor<1x256x512xf32>) -> tensor<1x256x1x512xf32>
    %22 = "g4.rms_norm"(%21) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 0>} : (tensor<1x256x1x512xf32>) -> tensor<1x256x1x512xf32>
    %23 = "g4.kv_update"(%k, %18, %positions) : (tensor<1x256x1x512xf32>, tensor<1x256x1x512xf32>, tensor<1x256xi32>) -> tensor<1x256x1x512xf32>
    %24 = "g4.kv_update"(%v, %22, %positions) : (tensor<1x256x1x512xf32>, tensor<1x256x1x512xf32>, tensor<1x256xi32>) -> tensor<1x256x1x512xf32>
    %25 = "g4.attention"(%12, %23, %24, %positions, %0) {scale = 0.05 : f64, window = 0 : i64, operandSegmentSizes = array<i32: 1, 1, 1, 1, 1>} : (tensor<1x256x2x512xf32>, tensor<1x256x1x512xf32>, tensor<1x256x1x512xf32>, tensor<1x256xi32>, tensor<1x256xi32>) -> tensor<1x256x2x512xf32>
    %26 = "g4.reshape"(%25) : (tensor<1x256x2x512xf32>) -> tensor<1x256x1024xf32>
    %27 = "g4.load_weight"() {weight = @o_proj} : () -> tensor<8x1024xf32>
    %28 = "g4.linear"(%26, %27) : (tensor<1x256x1024xf32>, tensor<8x1024xf32>) -> tensor<1x256x8xf32>
    return %28, %23, %24 : tensor<1x256x8xf32>, tensor<1x256x1x512xf32>, tensor<1x256x1x512xf32>
  }
}
