"""Checks of views, and of integers that fp32 does not hold."""

from __future__ import annotations

from check_case import one

VIEWS = [
    one("G4C-K023", *rest)
    for rest in (
        (
            "five free dimensions",
            "at most 4 free dimensions",
            "nisa.memset(dst=a.ap([[64, 128], [1, 2], [2, 2], [4, 2], [8, 2], [16, 2]]), value=0.0)",
            "nisa.memset(dst=a.reshape((128, 4, 2, 2, 2, 2)), value=0.0)",
        ),
        ("an index too many", "3 indices for a tensor of rank 2", "a[0, 0, 0]", "a[0, 0]"),
        ("a negative step", "steps are positive", "a[:, ::-1]", "a[:, ::2]"),
        ("an index that is a float", "cannot index a tensor", "a[:, 1.0]", "a[:, 1]"),
        ("the partitions permuted", "partitions cannot be rearranged", "a.permute((1, 0))", "x.permute((1, 0))"),
        (
            "the partitions broadcast",
            "broadcast of the partition dimension",
            "a[0:1, :].broadcast(0, 128)",
            "x[0:1, :].broadcast(0, 128)",
        ),
        ("a dimension of 64 broadcast", "only size 1", "a.broadcast(1, 128)", "s.broadcast(1, 128)"),
        ("the partitions split", "must stay", "a.reshape((64, 128))", "x.reshape((64, 128))"),
        ("other elements", "the number of elements must stay", "a.reshape((128, 63))", "a.reshape((128, 8, 8))"),
        (
            "dimensions merged across a gap",
            "not contiguous",
            "a.reshape((128, 8, 8))[:, :, :4].flatten_dims(1, 2)",
            "a.reshape((128, 8, 8))[:, :4, :].flatten_dims(1, 2)",
        ),
        (
            "a size that does not divide",
            "the product is the size",
            "a.reshape_dim(1, (5, -1))",
            "a.reshape_dim(1, (4, -1))",
        ),
        ("squeeze of 64", "only size 1", "a.squeeze_dim(1)", "a.expand_dim(1).squeeze_dim(1)"),
        (
            "a type over every second element",
            "the last dimension is contiguous",
            "h[:, ::2].view(nl.float32)",
            "h.view(nl.float32)",
        ),
        (
            "a type that does not divide",
            "multiples of 4 bytes",
            "h[:, :3].view(nl.float32)",
            "h[:, :4].view(nl.float32)",
        ),
        (
            "an access pattern that starts with a free dimension",
            "the first pair is the partition",
            "nisa.memset(dst=a.ap([[1, 64], [64, 128]]), value=0.0)",
            "nisa.memset(dst=a.ap([[64, 128], [1, 64]]), value=0.0)",
        ),
        (
            "two run-time indices",
            "at most one index known at run time",
            "a.reshape((128, 8, 8))[:, i[0:1, 0:1], i[0:1, 0:1]]",
            "a.reshape((128, 8, 8))[:, i[0:1, 0:1], 0]",
        ),
        (
            "two offsets in an access pattern",
            "at most one offset is dynamic",
            "x.ap([[64, 16], [1, 64]], scalar_offset=i[0:1, 0:1], vector_offset=i[:16, 0:1])",
            "x.ap([[64, 16], [1, 64]], vector_offset=i[:16, 0:1])",
        ),
        (
            "a vector of indices on chip",
            "only dimension 0 of HBM tensors",
            "a.vector_select(0, i[:16, 0:1])",
            "x.vector_select(0, i[:16, 0:1])",
        ),
        (
            "the partitions indexed at run time",
            "select along a free dimension",
            "a[i[0:1, 0:1], :]",
            "x[i[0:1, 0:1], :]",
        ),
    )
]

EXACT = [
    one(
        "G4C-K026",
        "an integer beyond 2^24 by the Vector Engine",
        "exact up to 2^24",
        "nisa.tensor_scalar(dst=i, data=n, op0=nl.add, operand0=0.0)",
        "nisa.tensor_tensor(dst=i, data1=n, data2=i, op=nl.add, engine=GPSIMD)",
        before="n = filled((128, 64), nl.int32, value=2**24 + 1)",
    ),
    one(
        "G4C-K026",
        "a sum beyond 2^24 by the Vector Engine",
        "the result 16777216 of 32-bit integers is rounded",
        "nisa.tensor_scalar(dst=i, data=n, op0=nl.add, operand0=2.0**23 + 1)",
        "nisa.tensor_scalar(dst=i, data=n, op0=nl.add, operand0=2.0**23 + 2)",
        before="n = filled((128, 64), nl.int32, value=2**23)",
    ),
    one(
        "G4C-K026",
        "a product beyond 2^24 by the Vector Engine",
        "of 32-bit integers is rounded",
        "nisa.tensor_tensor(dst=i, data1=n, data2=n, op=nl.multiply, engine=VECTOR)",
        "nisa.tensor_tensor(dst=i, data1=n, data2=n, op=nl.multiply)",
        before="n = filled((128, 64), nl.int32, value=4097)",
    ),
    one(
        "G4C-K026",
        "cast to fp32",
        "holds 16777217",
        "nisa.tensor_copy(dst=a, src=n)",
        "nisa.tensor_copy(dst=i, src=n)",
        before="n = filled((128, 64), nl.int32, value=2**24 + 1)",
    ),
    one(
        "G4C-K026",
        "an index of range_select beyond 2^24",
        "indices are fp32",
        "nisa.range_select(a, b, nl.less, nl.less, s, s, range_start=2**24 - 63)",
        "nisa.range_select(a, b, nl.less, nl.less, s, s, range_start=2**24 - 64)",
    ),
]

CASES = VIEWS + EXACT
