"""Checks of engines, generations, operators, and of the ranges of activation functions."""

from __future__ import annotations

from check_case import Case, one

ENGINES = [
    one("G4C-K018", *rest)
    for rest in (
        (
            "a copy by the Scalar Engine of trn1",
            "it runs on vector, gpsimd on NeuronCore-v2",
            "nisa.tensor_copy(dst=a, src=b, engine=SCALAR)",
            "nisa.tensor_copy(dst=a, src=b, engine=GPSIMD)",
            "trn1",
        ),
        (
            "a memset by the Scalar Engine",
            "it runs on vector, gpsimd",
            "nisa.memset(dst=a, value=0.0, engine=SCALAR)",
            "nisa.memset(dst=a, value=0.0, engine=GPSIMD)",
        ),
        (
            "tensor_tensor by the Scalar Engine",
            "it runs on vector, gpsimd",
            "nisa.tensor_tensor(dst=a, data1=a, data2=b, op=nl.add, engine=SCALAR)",
            "nisa.tensor_tensor(dst=a, data1=a, data2=b, op=nl.add, engine=GPSIMD)",
        ),
        (
            "subtract by the Scalar Engine of trn2",
            "it runs on vector on NeuronCore-v3",
            "nisa.tensor_scalar(dst=a, data=a, op0=nl.subtract, operand0=1.0, engine=SCALAR)",
            "nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=-1.0, engine=SCALAR)",
        ),
        (
            "any tensor_scalar by the Scalar Engine of trn1",
            "it runs on vector on NeuronCore-v2",
            "nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=1.0, engine=SCALAR)",
            "nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=1.0, engine=VECTOR)",
            "trn1",
        ),
        (
            "tensor_scalar by GpSimd",
            "it runs on vector",
            "nisa.tensor_scalar(dst=a, data=a, op0=nl.multiply, operand0=2.0, engine=GPSIMD)",
            "nisa.tensor_scalar(dst=a, data=filled((128, 64), value=2), op0=nl.rsqrt, operand0=0.0, engine=GPSIMD)",
        ),
        (
            "rsqrt by the Vector Engine",
            "it runs on gpsimd",
            "nisa.tensor_scalar(dst=a, data=one, op0=nl.rsqrt, operand0=0.0, engine=VECTOR)",
            "nisa.tensor_scalar(dst=a, data=one, op0=nl.rsqrt, operand0=0.0, engine=GPSIMD)",
            "trn2",
            "one = filled((128, 64), value=1)",
        ),
        (
            "a power of tiles by the Vector Engine",
            "it runs on gpsimd",
            "nisa.tensor_tensor(dst=a, data1=one, data2=b, op=nl.power, engine=VECTOR)",
            "nisa.tensor_tensor(dst=a, data1=one, data2=b, op=nl.power, engine=GPSIMD)",
            "trn2",
            "one = filled((128, 64), value=1)",
        ),
        (
            "a transpose by the Scalar Engine",
            "it runs on tensor, vector",
            "nisa.nc_transpose(dst=p[:64, :64], data=a[:64, :], engine=SCALAR)",
            "nisa.nc_transpose(dst=p[:64, :64], data=a[:64, :], engine=TENSOR)",
        ),
        (
            "a DMA triggered by the Vector Engine",
            "the engines that trigger",
            "nisa.dma_copy(dst=a, src=x, engine=VECTOR)",
            "nisa.dma_copy(dst=a, src=x, engine=SYNC)",
        ),
    )
]

GENERATIONS = [
    one("G4C-K019", f"{what} on {target}", f"available from NeuronCore-v{since} on", broken, correct, target, before)
    for what, target, since, broken, correct, before in (
        (
            "range_select",
            "trn1",
            3,
            "nisa.range_select(a, b, nl.less, nl.less, s, s)",
            "nisa.affine_select(a, [[1, 64]], 0, b, 0.0, nl.less)",
            "",
        ),
        (
            "a number as bias",
            "trn1",
            3,
            "nisa.activation(dst=a, op=nl.exp, data=b, bias=1.0)",
            "nisa.activation(dst=a, op=nl.exp, data=b, bias=s)",
            "",
        ),
        (
            "hwdge",
            "inf2",
            3,
            "nisa.dma_copy(dst=a, src=x, dge_mode=nisa.dge_mode.hwdge)",
            "nisa.dma_copy(dst=a, src=x, dge_mode=nisa.dge_mode.swdge)",
            "",
        ),
        (
            "nonzero_with_count",
            "trn1",
            3,
            "nisa.nonzero_with_count(dst=k, src=i)",
            "nisa.sequence_bounds(dst=k[0:1, :].ap([[65, 1], [1, 64]]), segment_ids=i[0:1, :32])",
            "k = filled((128, 65), nl.int32)",
        ),
        (
            "double_row",
            "trn1",
            3,
            "nisa.nc_matmul(q, e, e, accumulate=False, perf_mode=nisa.matmul_perf_mode.double_row)",
            "nisa.nc_matmul(p[:64, :], h, h, accumulate=False, perf_mode=nisa.matmul_perf_mode.none)",
            "q, e = p[:32, :32], filled((128, 2, 32), nl.float8_e4m3)",
        ),
        (
            "activate2",
            "trn2",
            4,
            "nisa.activate2(a, nl.exp, b, 2.0, 0.0, nl.multiply, nl.add)",
            "nisa.activation(a, nl.exp, b, scale=2.0, bias=0.0)",
            "",
        ),
        (
            "exponential",
            "trn2",
            4,
            "nisa.exponential(dst=a, src=b)",
            "nisa.activation(dst=a, op=nl.exp, data=b)",
            "",
        ),
        (
            "square in the ALU",
            "trn2",
            4,
            "nisa.tensor_scalar(dst=a, data=b, op0=nl.square, operand0=None)",
            "nisa.tensor_scalar(dst=a, data=b, op0=nl.abs, operand0=None)",
            "",
        ),
        (
            "abs_max",
            "trn2",
            4,
            "nisa.tensor_tensor(dst=a, data1=b, data2=c, op=nl.abs_max)",
            "nisa.tensor_tensor(dst=a, data1=b, data2=c, op=nl.maximum)",
            "",
        ),
        (
            "a priority",
            "trn2",
            4,
            "nisa.dma_copy(dst=a, src=x, priority=0)",
            "nisa.dma_copy(dst=a, src=x, priority=None)",
            "",
        ),
    )
]

OPERATORS = [
    one("G4C-K021", *rest)
    for rest in (
        (
            "a product over rows by activation",
            "allowed: add",
            "nisa.activation_reduce(a, nl.exp, b, nl.maximum, s)",
            "nisa.activation_reduce(a, nl.exp, b, nl.add, s)",
        ),
        (
            "an ALU operator as activation",
            "is no activation function",
            "nisa.activation(dst=a, op=nl.add, data=b)",
            "nisa.activation(dst=a, op=nl.copy, data=b)",
        ),
        (
            "an activation as ALU operator",
            "is no ALU operator",
            "nisa.tensor_scalar(dst=a, data=b, op0=nl.exp, operand0=0.0)",
            "nisa.tensor_scalar(dst=a, data=b, op0=nl.abs, operand0=0.0)",
        ),
        (
            "division",
            "is no ALU operator",
            "nisa.tensor_tensor(dst=a, data1=b, data2=c, op=nl.divide)",
            "nisa.tensor_tensor(dst=a, data1=b, data2=c, op=nl.multiply)",
        ),
        (
            "a reduction with a comparison",
            "allowed: add",
            "nisa.tensor_reduce(dst=s, op=nl.greater, data=a, axis=1)",
            "nisa.tensor_reduce(dst=s, op=nl.maximum, data=a, axis=1)",
        ),
        (
            "bitvec with arithmetic",
            "both bitvec or both arithmetic",
            "nisa.tensor_scalar(i, i, nl.bitwise_and, 1, op1=nl.add, operand1=1)",
            "nisa.tensor_scalar(i, i, nl.bitwise_and, 1, op1=nl.left_shift, operand1=1)",
        ),
        (
            "affine_select with an arithmetic operator",
            "allowed: equal",
            "nisa.affine_select(a, [[1, 64]], 0, b, 0.0, nl.add)",
            "nisa.affine_select(a, [[1, 64]], 0, b, 0.0, nl.not_equal)",
        ),
        (
            "range_select with not_equal",
            "allowed: equal",
            "nisa.range_select(a, b, nl.not_equal, nl.less, s, s)",
            "nisa.range_select(a, b, nl.greater_equal, nl.less, s, s)",
        ),
        (
            "dma_compute with maximum",
            "only nl.add",
            "nisa.dma_compute(dst=a, srcs=[b, c], reduce_op=nl.maximum)",
            "nisa.dma_compute(dst=a, srcs=[b, c], reduce_op=nl.add)",
        ),
        (
            "a partition reduction with minimum",
            "one of: add, average",
            "nisa.tensor_partition_reduce(dst=a[0:1, :], op=nl.minimum, data=b)",
            "nisa.tensor_partition_reduce(dst=a[0:1, :], op=nl.maximum, data=b)",
        ),
    )
]

RANGES = [
    Case(
        "G4C-K013",
        f"{function} of {broken:g}",
        "the Scalar Engine's",
        f"""
          a, b = filled((128, 64)), filled((128, 64))
        - nisa.memset(dst=a[64:128, 8:9], value={broken!r})
        + nisa.memset(dst=a, value={correct!r})
        - nisa.activation(dst=b[64:128, 8:9], op=nl.{function}, data=a[64:128, 8:9])  # !
        + nisa.activation(dst=b, op=nl.{function}, data=a)
        """,
    )
    for function, broken, correct in (
        ("log", 0.0, 2.0**-64),
        ("log", -1.0, 1.0),
        ("log", 2.0**65, 2.0**64),
        ("sin", 3.2, 3.14159),
        ("sin", -9.0, -3.14159),
        ("arctan", 1.6, 1.57),
        ("sqrt", -1e-3, 1e-3),
        ("sqrt", 2.0**119, 2.0**118),
        ("sqrt", 2.0**-120, 2.0**-116),
        ("rsqrt", 0.0, 2.0**-87),
        ("rsqrt", 2.0**98, 2.0**97),
        ("reciprocal", 2.0**-43, -(2.0**-42)),
        ("reciprocal", -(2.0**43), 2.0**42),
    )
] + [
    one(
        "G4C-K013",
        "the bias moves it out of the range",
        "nl.sin of 4",
        "nisa.activation(dst=a, op=nl.sin, data=b, bias=4.0)",
        "nisa.activation(dst=a, op=nl.sin, data=b, bias=3.0)",
    )
]

CASES = ENGINES + GENERATIONS + OPERATORS + RANGES
