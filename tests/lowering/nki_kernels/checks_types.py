"""Checks of data types and of layouts."""

from __future__ import annotations

from check_case import one

TYPES = [
    one("G4C-K010", *rest)
    for rest in (
        (
            "no NKI data type",
            "is no NKI data type",
            "nl.ndarray((1, 1), dtype='float64', buffer=nl.sbuf)",
            "nl.ndarray((1, 1), dtype='float32', buffer=nl.sbuf)",
        ),
        (
            "a matmul of integers",
            "stationary is int32",
            "nisa.nc_matmul(dst=p[:64, :], stationary=i, moving=i, accumulate=False)",
            "nisa.nc_matmul(dst=p[:64, :], stationary=h, moving=h, accumulate=False)",
        ),
        (
            "a matmul of fp32 and bf16",
            "fp32 and tf32 go only with fp32 and tf32",
            "nisa.nc_matmul(dst=p[:64, :], stationary=a, moving=h, accumulate=False)",
            "nisa.nc_matmul(dst=p[:64, :], stationary=a, moving=b, accumulate=False)",
        ),
        (
            "a matmul into bf16 on trn2",
            "dst is float32 on NeuronCore-v3",
            "nisa.nc_matmul(dst=q, stationary=h, moving=h, accumulate=False)",
            "nisa.nc_matmul(dst=p[:64, :], stationary=h, moving=h, accumulate=False)",
            "trn2",
            "q = nl.ndarray((64, 64), dtype=nl.bfloat16, buffer=nl.psum)",
        ),
        (
            "a transpose that casts",
            "a transpose keeps the type",
            "nisa.nc_transpose(dst=p[:64, :64], data=h[:64, :])",
            "nisa.nc_transpose(dst=q, data=h[:64, :])",
            "trn2",
            "q = nl.ndarray((64, 64), dtype=nl.bfloat16, buffer=nl.psum)",
        ),
        (
            "a matmul as transpose that casts",
            "a transpose keeps the type",
            "nisa.nc_matmul(dst=p[:64, :64], stationary=h[:64, :], moving=eye, is_transpose=True)",
            "nisa.nc_matmul(dst=q, stationary=h[:64, :], moving=eye, is_transpose=True)",
            "trn2",
            "q, eye = nl.ndarray((64, 64), nl.bfloat16, buffer=nl.psum), nl.shared_identity_matrix(64, nl.bfloat16)",
        ),
        (
            "double_row of bf16",
            "double_row takes fp8",
            "nisa.nc_matmul(q, h.reshape((128, 2, 32)), h.reshape((128, 2, 32)), accumulate=False, perf_mode=double)",
            "nisa.nc_matmul(q, e.reshape((128, 2, 32)), e.reshape((128, 2, 32)), accumulate=False, perf_mode=double)",
            "trn2",
            "double, q, e = nisa.matmul_perf_mode.double_row, p[:32, :32], filled((128, 64), nl.float8_e4m3)",
        ),
        (
            "an OCP fp8 operand on trn2",
            "stationary is float8_e4m3fn",
            "nisa.nc_matmul(dst=p[:64, :], stationary=filled((128, 64), nl.float8_e4m3fn), moving=h, accumulate=False)",
            "nisa.nc_matmul(dst=p[:64, :], stationary=filled((128, 64), nl.float8_e4m3), moving=h, accumulate=False)",
        ),
        (
            "a packed tile that is set to 1",
            "packed types can only be set to 0",
            "nisa.memset(dst=i.view(nl.float8_e5m2_x4), value=1)",
            "nisa.memset(dst=i.view(nl.float8_e5m2_x4), value=0)",
        ),
        (
            "a float for an integer tile",
            "integer tiles are set to integers",
            "nisa.memset(dst=i, value=1.0)",
            "nisa.memset(dst=i, value=1)",
        ),
        (
            "a value beyond the type",
            "the value must be representable",
            "nisa.memset(dst=u, value=256)",
            "nisa.memset(dst=u, value=255)",
        ),
        (
            "hwdge that casts",
            "hwdge moves bytes",
            "nisa.dma_copy(dst=h, src=x, dge_mode=nisa.dge_mode.hwdge)",
            "nisa.dma_copy(dst=a, src=x, dge_mode=nisa.dge_mode.hwdge)",
        ),
        (
            "hwdge that transposes 4 bytes",
            "hwdge transposes 2-byte types",
            "nisa.dma_transpose(dst=a[:64, :16], src=b[:16, :], dge_mode=nisa.dge_mode.hwdge)",
            "nisa.dma_transpose(dst=a[:64, :16], src=b[:16, :])",
        ),
        (
            "dma_transpose that casts",
            "a transpose does not cast",
            "nisa.dma_transpose(dst=h[:64, :16], src=x[:16, :])",
            "nisa.dma_transpose(dst=a[:64, :16], src=x[:16, :])",
        ),
        (
            "bitvec operators on floats",
            "bitvec operators take and give integer types",
            "nisa.tensor_tensor(dst=a, data1=a, data2=b, op=nl.bitwise_and)",
            "nisa.tensor_tensor(dst=i, data1=i, data2=i, op=nl.bitwise_and)",
        ),
        (
            "a column that is bf16",
            "operand0 is bfloat16; allowed: float32",
            "nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=h[:, 0:1])",
            "nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=s)",
        ),
        (
            "a scale that is bf16",
            "scale is bfloat16; allowed: float32",
            "nisa.activation(dst=a, op=nl.exp, data=a, scale=h[:, 0:1])",
            "nisa.activation(dst=a, op=nl.exp, data=a, scale=s, bias=h[:, 0:1])",
        ),
        (
            "a predicate that is fp32",
            "predicate is float32",
            "nisa.tensor_copy_predicated(dst=a, src=b, predicate=c)",
            "nisa.tensor_copy_predicated(dst=a, src=b, predicate=u)",
        ),
        (
            "a predicated copy that casts",
            "src and dst have the same type",
            "nisa.tensor_copy_predicated(dst=a, src=h, predicate=u)",
            "nisa.tensor_copy_predicated(dst=a, src=b, predicate=u)",
        ),
        (
            "a shuffle that casts",
            "the shuffle does not cast",
            "nisa.nc_stream_shuffle(dst=a, src=h, shuffle_mask=[0] * 32)",
            "nisa.nc_stream_shuffle(dst=a, src=b, shuffle_mask=[0] * 32)",
        ),
        (
            "indices of a gather that are int32",
            "indices is int32; allowed: uint32",
            "nisa.nc_n_gather(dst=a, data=b, indices=i)",
            "nisa.nc_n_gather(dst=a, data=b, indices=i.view(nl.uint32))",
        ),
        (
            "indices that are float",
            "dst is float32; allowed: uint16, uint32",
            "nisa.nc_find_index8(dst=a[:, :8], data=b, vals=c[:, :8])",
            "nisa.nc_find_index8(dst=i.view(nl.uint32)[:, :8], data=b, vals=c[:, :8])",
        ),
        (
            "a running sum of int32",
            "no 32-bit integers",
            "nisa.tensor_scalar_cumulative(dst=i, src=i, op0=nl.add, op1=nl.add, imm0=1.0)",
            "nisa.tensor_scalar_cumulative(dst=u, src=u, op0=nl.add, op1=nl.add, imm0=1.0)",
        ),
        (
            "a range_select of integers",
            "on_true_tile is int32",
            "nisa.range_select(a, i, nl.less, nl.less, s, s)",
            "nisa.range_select(a, h, nl.less, nl.less, s, s)",
        ),
    )
]

LAYOUTS = [
    one("G4C-K017", *rest)
    for rest in (
        (
            "tiles of different partitions",
            "the same number of partitions",
            "nisa.tensor_tensor(dst=a, data1=a, data2=b[:64, :], op=nl.add)",
            "nisa.tensor_tensor(dst=a, data1=a, data2=b, op=nl.add)",
        ),
        (
            "tiles of different sizes",
            "elements per partition",
            "nisa.tensor_copy(dst=a, src=b[:, :32])",
            "nisa.tensor_copy(dst=a, src=b.reshape((128, 8, 8)))",
        ),
        (
            "a column as a tile",
            "elements per partition",
            "nisa.tensor_tensor(dst=a, data1=a, data2=s, op=nl.add)",
            "nisa.tensor_tensor(dst=a, data1=a, data2=s.broadcast(1, 64), op=nl.add)",
        ),
        (
            "a tile as a column",
            "one element for each of 128 partitions",
            "nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=b)",
            "nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=s)",
        ),
        (
            "a column of fewer partitions",
            "one element for each of 128 partitions",
            "nisa.activation(dst=a, op=nl.exp, data=a, bias=s[:64, :])",
            "nisa.activation(dst=a, op=nl.exp, data=a, bias=s)",
        ),
        (
            "a contraction of different sizes",
            "the contraction is over the partitions of both",
            "nisa.nc_matmul(dst=p[:64, :], stationary=a[:64, :], moving=b, accumulate=False)",
            "nisa.nc_matmul(dst=p[:64, :], stationary=a[:64, :], moving=b[:64, :], accumulate=False)",
        ),
        (
            "a product of another shape",
            "the product is [64, 64], dst is [128, 64]",
            "nisa.nc_matmul(dst=p, stationary=a, moving=b, accumulate=False)",
            "nisa.nc_matmul(dst=p[:64, :], stationary=a, moving=b, accumulate=False)",
        ),
        (
            "a transpose into another shape",
            "dst is [F, P]",
            "nisa.nc_transpose(dst=p, data=a[:64, :32])",
            "nisa.nc_transpose(dst=p[:32, :], data=a[:64, :32])",
        ),
        (
            "a DMA of different sizes",
            "equal numbers of elements",
            "nisa.dma_copy(dst=a, src=x[:64, :])",
            "nisa.dma_copy(dst=a[:64, :], src=x[:64, :])",
        ),
        (
            "dma_transpose into another rank",
            "dst has exactly the permuted shape [64, 16]",
            "nisa.dma_transpose(dst=a.reshape((128, 8, 8))[:64, :2, :], src=x[:16, :])",
            "nisa.dma_transpose(dst=a[:64, :16], src=x[:16, :])",
        ),
        (
            "a reduction into too many elements",
            "1 elements for each of 128 partitions",
            "nisa.tensor_reduce(dst=b[:, :2], op=nl.add, data=a, axis=1)",
            "nisa.tensor_reduce(dst=b[:, :1], op=nl.add, data=a, axis=1)",
        ),
        (
            "a pattern of other counts",
            "the counts multiply to them",
            "nisa.iota(dst=a, pattern=[[1, 32]])",
            "nisa.iota(dst=a, pattern=[[0, 2], [1, 32]])",
        ),
        (
            "seven statistics",
            "6 elements per partition",
            "nisa.bn_stats(dst=a[:, :7], data=b)",
            "nisa.bn_stats(dst=a[:, :6], data=b)",
        ),
        (
            "statistics in fours",
            "a multiple of 3",
            "nisa.bn_aggr(dst=a[:, :2], data=filled((128, 4), value=1))",
            "nisa.bn_aggr(dst=a[:, :2], data=filled((128, 6), value=1))",
        ),
    )
]

CASES = TYPES + LAYOUTS
