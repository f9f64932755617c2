"""Checks of operands: partitions, sizes, memories, engines, data types, operators, views, exactness."""

from __future__ import annotations

from check_case import one

ARGUMENTS = [
    one(
        "G4C-K002",
        "an operand that is no tensor",
        "a tensor is needed",
        "nisa.tensor_tensor(dst=a, data1=a, data2=1.0, op=nl.add)",
        "nisa.tensor_tensor(dst=a, data1=a, data2=b, op=nl.add)",
    ),
    one(
        "G4C-K002",
        "a parameter of an older dialect",
        "got an unexpected keyword argument 'mask'",
        "nisa.tensor_copy(dst=a, src=b, mask=c)",
        "nisa.tensor_copy(dst=a, src=b)",
    ),
    one(
        "G4C-K002",
        "a parameter that is missing",
        "missing a required argument: 'op'",
        "nisa.tensor_tensor(dst=a, data1=a, data2=b)",
        "nisa.tensor_tensor(dst=a, data1=a, data2=b, op=nl.add)",
    ),
    one(
        "G4C-K002",
        "a shape with an empty dimension",
        "every dimension has at least one element",
        "nl.ndarray((128, 0), dtype=nl.float32, buffer=nl.sbuf)",
        "nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)",
    ),
    one(
        "G4C-K002",
        "a reduction of the partitions",
        "the partition axis cannot be reduced",
        "nisa.tensor_reduce(dst=s, op=nl.add, data=a, axis=0)",
        "nisa.tensor_reduce(dst=s, op=nl.add, data=a, axis=1)",
    ),
    one(
        "G4C-K002",
        "a reduction of axes that are not the last",
        "the last free dimensions, contiguous",
        "nisa.tensor_reduce(dst=a[:, :8], op=nl.add, data=a.reshape((128, 8, 8)), axis=1)",
        "nisa.tensor_reduce(dst=a[:, :8], op=nl.add, data=a.reshape((128, 8, 8)), axis=2)",
    ),
    one(
        "G4C-K002",
        "a fill of range_select",
        "the only legal value",
        "nisa.range_select(a, b, nl.less, nl.greater_equal, s, s, on_false_value=-1e4)",
        "nisa.range_select(a, b, nl.less, nl.greater_equal, s, s)",
    ),
    one(
        "G4C-K002",
        "dge_mode none with a run-time address",
        "made before the run",
        "nisa.dma_copy(dst=a[:1, :], src=row, dge_mode=nisa.dge_mode.none)",
        "nisa.dma_copy(dst=a[:1, :], src=row, dge_mode=nisa.dge_mode.swdge)",
        before="row = x.ap([[64, 1], [1, 64]], scalar_offset=i[0:1, 0:1])",
    ),
    one(
        "G4C-K002",
        "hwdge with a vector of indices",
        "only swdge gathers",
        "nisa.dma_copy(dst=a[:16, :], src=rows, dge_mode=nisa.dge_mode.hwdge)",
        "nisa.dma_copy(dst=a[:16, :], src=rows, dge_mode=nisa.dge_mode.swdge)",
        before="rows = x.ap([[64, 16], [1, 64]], vector_offset=i[:16, 0:1])",
    ),
    one(
        "G4C-K002",
        "axes of a transpose",
        "the only permutation is (1, 0)",
        "nisa.dma_transpose(dst=h[:16, :16], src=h[:16, 16:32], axes=(0, 1))",
        "nisa.dma_transpose(dst=h[:16, :16], src=h[:16, 16:32], axes=(1, 0))",
    ),
    one(
        "G4C-K002",
        "swdge of a transpose without indices",
        "hwdge without and swdge with a vector of indices",
        "nisa.dma_transpose(dst=h[:16, :16], src=h[:16, 16:32], dge_mode=nisa.dge_mode.swdge)",
        "nisa.dma_transpose(dst=h[:16, :16], src=h[:16, 16:32], dge_mode=nisa.dge_mode.none)",
    ),
    one(
        "G4C-K002",
        "is_transpose without an identity",
        "moving is the identity",
        "nisa.nc_matmul(dst=p[:64, :], stationary=a[:64, :], moving=b[:64, :], is_transpose=True)",
        "nisa.nc_matmul(dst=p[:64, :], stationary=a[:64, :64], moving=eye, is_transpose=True)",
        before="eye = nl.shared_identity_matrix(64, dtype=nl.float32)",
    ),
    one(
        "G4C-K002",
        "an index that is a float",
        "a 1x1 integer tile in SBUF",
        "a.ap([[64, 128], [1, 1]], scalar_offset=s[0:1, 0:1], indirect_dim=1)",
        "a.ap([[64, 128], [1, 1]], scalar_offset=i[0:1, 0:1], indirect_dim=1)",
    ),
]

PARTITIONS = [
    one(
        "G4C-K006",
        f"{count} partitions from {wrong}",
        "65 to 128 partitions start at 0",
        f"nisa.memset(dst=a[{wrong}:{wrong + count}, :], value=0.0)",
        f"nisa.memset(dst=a[{right}:{right + count}, :], value=0.0)",
    )
    for count, wrong, right in ((1, 1, 32), (32, 16, 96), (33, 32, 64), (64, 32, 64), (65, 32, 0), (96, 32, 0))
] + [
    one(
        "G4C-K006",
        f"{parameter} of tensor_tensor",
        f"{parameter} uses 16 partitions from partition 8",
        "nisa.tensor_tensor(dst={}[{}:{}, :], data1={}[{}:{}, :], data2={}[{}:{}, :], op=nl.add)".format(
            *(
                field
                for name, tile in (("dst", "a"), ("data1", "b"), ("data2", "c"))
                for field in (tile, *((8, 24) if name == parameter else (32, 48)))
            )
        ),
        "nisa.tensor_tensor(dst=a[:16, :], data1=b[32:48, :], data2=c[96:112, :], op=nl.add)",
    )
    for parameter in ("dst", "data1", "data2")
]
PARTITIONS += [
    one(
        "G4C-K006",
        "the column of an operand",
        "operand0 uses 16 partitions from partition 8",
        "nisa.tensor_scalar(dst=a[:16, :], data=a[:16, :], op0=nl.add, operand0=s[8:24, :])",
        "nisa.tensor_scalar(dst=a[:16, :], data=a[:16, :], op0=nl.add, operand0=s[32:48, :])",
    ),
    one(
        "G4C-K006",
        "a tile that is placed there",
        "from partition 16",
        "nisa.memset(dst=low, value=0.0)",
        "nisa.dma_copy(dst=low, src=x[:32, :])",
        before="low = nl.ndarray((32, 64), dtype=nl.float32, buffer=nl.sbuf, address=(16, 0))",
    ),
]

SIZES = [
    one(
        "G4C-K007",
        "a tile of 129 partitions",
        "at most 128 partitions",
        "nl.ndarray((129, 4), dtype=nl.float32, buffer=nl.sbuf)",
        "nl.ndarray((128, 4), dtype=nl.float32, buffer=nl.sbuf)",
    ),
    one(
        "G4C-K007",
        "129 stationary columns",
        "129 stationary columns; at most 128",
        "nisa.nc_matmul(dst=p, stationary=w[:, :129], moving=a, accumulate=False)",
        "nisa.nc_matmul(dst=p, stationary=w[:, :128], moving=a, accumulate=False)",
        before="w = filled((128, 512))",
    ),
    one(
        "G4C-K007",
        "4097 moving columns on trn3",
        "4097 moving columns; at most 4096",
        "nisa.nc_matmul(nl.ndarray((64, 4097), nl.float32, buffer=nl.psum), h, w, accumulate=False)",
        "nisa.nc_matmul(nl.ndarray((64, 4097), nl.bfloat16, buffer=nl.psum), h, w, accumulate=False)",
        "trn3",
        before="w = filled((128, 4097), nl.bfloat16)",
    ),
    one(
        "G4C-K007",
        "a transpose of 128 columns by the Vector Engine",
        "at most 32x32",
        "nisa.nc_transpose(dst=c[:64, :32], data=b[:32, :], engine=VECTOR)",
        "nisa.nc_transpose(dst=c[:32, :32], data=b[:32, :32], engine=VECTOR)",
    ),
    one(
        "G4C-K007",
        "a transpose of 129 columns",
        "at most 128x128",
        "nisa.nc_transpose(dst=t, data=wide[:64, :129])",
        "nisa.nc_transpose(dst=t, data=wide[:64, :128])",
        before="wide, t = filled((64, 256)), nl.ndarray((128, 64), dtype=nl.float32, buffer=nl.psum)",
    ),
    one(
        "G4C-K007",
        "a row tile of 32 on trn1",
        "tiles of [64, 128] on NeuronCore-v2",
        "nisa.nc_matmul(p[:64, :], a[:32, :], b[:32, :], accumulate=False, tile_position=(0, 0), tile_size=(32, 128))",
        "nisa.nc_matmul(p[:64, :], a[:64, :], b[:64, :], accumulate=False, tile_position=(0, 0), tile_size=(64, 128))",
        "trn1",
    ),
    one(
        "G4C-K007",
        "bn_stats of 513 elements",
        "at most 512",
        "nisa.bn_stats(dst=a[:, :6], data=w)",
        "nisa.bn_stats(dst=a[:, :6], data=w[:, :512])",
        before="w = filled((128, 513))",
    ),
    one(
        "G4C-K007",
        "max8 of 7 elements",
        "8 to 16384",
        "nisa.max8(dst=a[:, :8], src=b[:, :7])",
        "nisa.max8(dst=a[:, :8], src=b[:, :8])",
    ),
    one(
        "G4C-K007",
        "17 sources of dma_compute",
        "1 to 16 sources",
        "nisa.dma_compute(dst=a, srcs=[b] * 17, reduce_op=nl.add)",
        "nisa.dma_compute(dst=a, srcs=[b] * 16, reduce_op=nl.add)",
    ),
    one(
        "G4C-K007",
        "a transpose of 32 rows by hwdge",
        "dimension 0 of a 2-D source is 16",
        "nisa.dma_transpose(dst=h[:64, :32], src=h[:32, :], dge_mode=nisa.dge_mode.hwdge)",
        "nisa.dma_transpose(dst=h[:64, :16], src=h[:16, :], dge_mode=nisa.dge_mode.hwdge)",
    ),
    one(
        "G4C-K007",
        "a last dimension of 256 in a transpose by hwdge",
        "the last dimension is at most 128",
        "nisa.dma_transpose(dst=t, src=w, dge_mode=nisa.dge_mode.hwdge)",
        "nisa.dma_transpose(dst=t[:128, :], src=w[:, :128], dge_mode=nisa.dge_mode.hwdge)",
        before="w, t = filled((16, 256), nl.bfloat16), output((256, 16), nl.bfloat16)",
    ),
]

MEMORIES = [
    one("G4C-K008", what, says, broken, correct, before=before)
    for what, says, broken, correct, before in (
        (
            "a matmul from PSUM",
            "reads its inputs from SBUF",
            "nisa.nc_matmul(dst=p[:64, :], stationary=a, moving=r, accumulate=False)",
            "nisa.nc_matmul(dst=p[:64, :], stationary=a, moving=b, accumulate=False)",
            "",
        ),
        (
            "a matmul into SBUF",
            "writes to PSUM",
            "nisa.nc_matmul(dst=c[:64, :], stationary=a, moving=b, accumulate=False)",
            "nisa.nc_matmul(dst=p[:64, :], stationary=a, moving=b, accumulate=False)",
            "",
        ),
        (
            "a transpose by the Tensor Engine into SBUF",
            "from SBUF to PSUM",
            "nisa.nc_transpose(dst=c[:64, :64], data=a[:64, :], engine=TENSOR)",
            "nisa.nc_transpose(dst=p[:64, :64], data=a[:64, :], engine=TENSOR)",
            "",
        ),
        (
            "GpSimd on PSUM",
            "GpSimd Engine cannot access PSUM",
            "nisa.tensor_copy(dst=a, src=p, engine=GPSIMD)",
            "nisa.tensor_copy(dst=a, src=p, engine=VECTOR)",
            "",
        ),
        (
            "iota in PSUM",
            "GpSimd Engine cannot access PSUM",
            "nisa.iota(dst=p, pattern=[[1, 64]])",
            "nisa.iota(dst=a, pattern=[[1, 64]])",
            "",
        ),
        (
            "affine_select from PSUM",
            "GpSimd Engine cannot access PSUM",
            "nisa.affine_select(a, [[1, 64]], 0, p, 0.0)",
            "nisa.affine_select(a, [[1, 64]], 0, b, 0.0)",
            "",
        ),
        (
            "a DMA from PSUM",
            "DMA cannot access PSUM",
            "nisa.dma_copy(dst=a, src=p)",
            "nisa.tensor_copy(dst=a, src=p)",
            "",
        ),
        (
            "a DMA to PSUM",
            "DMA cannot access PSUM",
            "nisa.dma_copy(dst=p, src=x)",
            "nisa.dma_copy(dst=a, src=x)",
            "",
        ),
        (
            "dma_transpose to PSUM",
            "DMA cannot access PSUM",
            "nisa.dma_transpose(dst=p[:64, :], src=x[:64, :])",
            "nisa.dma_transpose(dst=a[:64, :], src=x[:64, :])",
            "",
        ),
        (
            "dma_compute from PSUM",
            "DMA cannot access PSUM",
            "nisa.dma_compute(dst=a, srcs=[b, p], reduce_op=nl.add)",
            "nisa.dma_compute(dst=a, srcs=[b, c], reduce_op=nl.add)",
            "",
        ),
        (
            "a compute engine on HBM",
            "HBM is reached by DMA only",
            "nisa.tensor_copy(dst=a, src=x)",
            "nisa.dma_copy(dst=a, src=x)",
            "",
        ),
        (
            "a register from PSUM",
            "HBM and SBUF",
            "nisa.register_load(nisa.register_alloc(), p[0:1, 0:1])",
            "nisa.register_load(nisa.register_alloc(), i[0:1, 0:1])",
            "",
        ),
        (
            "device_print of PSUM",
            "tensors in SBUF or HBM",
            "nl.device_print('p', p)",
            "nl.device_print('s', s[0:1, :])",
            "",
        ),
    )
]

BOTH_IN_PSUM = [
    one("G4C-K009", what, "are both in PSUM", call.format("p", "r"), call.format("p", "b"))
    for what, call in (
        ("tensor_tensor", "nisa.tensor_tensor(dst=a, data1={}, data2={}, op=nl.add)"),
        ("scalar_tensor_tensor", "nisa.scalar_tensor_tensor(a, {}, nl.add, 1.0, nl.add, {})"),
        ("tensor_tensor_scan", "nisa.tensor_tensor_scan(a, {}, {}, 0.0, nl.multiply, nl.add)"),
    )
] + [
    one("G4C-K009", what, "are both in PSUM", call.format("k"), call.format("u"), before=before)
    for before in ("k = filled((128, 64), nl.uint8, nl.psum)",)
    for what, call in (
        ("tensor_copy_predicated", "nisa.tensor_copy_predicated(dst=a, src=p, predicate={})"),
        ("select_reduce", "nisa.select_reduce(dst=a, predicate={}, on_true=p, on_false=0.0)"),
    )
]

CASES = ARGUMENTS + PARTITIONS + SIZES + MEMORIES + BOTH_IN_PSUM
