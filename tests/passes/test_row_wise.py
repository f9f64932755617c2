"""Which operands an op reads row by row: every op says it, and the numbers prove it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from g4c.ir import ops
from g4c.ir.attribute_parser import parse_type
from g4c.ir.op import REGISTRY, Dense, Level, Op, SymbolRef, Value
from g4c.ir.types import Array, DType, TensorType
from g4c.passes.row_wise import ROW_WISE, on_rows, row_wise_fields

# In every case b = 3 sequences of s = 5 rows. The operands' types, the op, the fields that it reads row by row.
Case = tuple[tuple[str, ...], Callable[..., Op], tuple[str, ...] | None]


def tensor(text: str) -> TensorType:
    return parse_type(f"tensor<{text}>")


def reshaped(shape: str) -> Callable[[Value], Op]:
    return lambda x: ops.ReshapeOp(x, tensor(f"{shape}xf32"))


def broadcast(shape: str) -> Callable[[Value], Op]:
    return lambda x: ops.BroadcastOp(x, tensor(f"{shape}xf32"))


def attention(q: Value, k: Value, v: Value, positions: Value, held: Value) -> Op:
    return ops.AttentionOp(q, (k,), (v,), positions, (held,), 0.5, 4)


def two_segments(*values: Value) -> Op:
    return ops.AttentionOp(values[0], values[1:3], values[3:5], values[5], values[6:], 0.5, 0)


BINARY_OPERANDS: list[tuple[tuple[str, str], tuple[str, ...] | None]] = [
    (("3x5x4xf32", "3x5x4xf32"), ("x", "y")),
    (("3x5x4xf32", "3x5x1xf32"), ("x", "y")),
    (("3x5x4xf32", "4xf32"), ("x",)),
    (("3x5x4xf32", "f32"), ("x",)),
    (("3x1x4xf32", "3x5x4xf32"), ("y",)),
    (("1x1x4xf32", "3x5x4xf32"), ("y",)),
    (("1x4xf32", "3x5x4xf32"), ("y",)),
    (("3x5xf32", "3x5xf32"), ("x", "y")),
    (("3x5xf32", "3x1xf32"), ("x",)),
    (("1x5x4xf32", "3x5x4xf32"), None),  # a row of x belongs to every sequence
    (("5x4xf32", "3x5x4xf32"), None),
    (("3x1x4xf32", "1x5x4xf32"), None),
    (("5xf32", "3x5xf32"), None),
    (("4xf32", "4xf32"), None),
    (("4xf32", "f32"), None),
]


def unary(make: Callable[[Value], Op]) -> list[Case]:
    return [(("3x5x4xf32",), make, ("x",)), (("3x5xf32",), make, ("x",)), (("4xf32",), make, None)]


def binary(make: Callable[[Value, Value], Op]) -> list[Case]:
    return [(operands, make, fields) for operands, fields in BINARY_OPERANDS]


def on_predicates(cases: list[Case]) -> list[Case]:
    return [(tuple(text.replace("f32", "i1") for text in operands), make, fields) for operands, make, fields in cases]


CASES: dict[type[Op], list[Case]] = {
    ops.LoadWeightOp: [((), lambda: ops.LoadWeightOp(SymbolRef("w"), tensor("3x5x4xf32")), None)],
    ops.ConstantOp: [((), lambda: ops.ConstantOp(Dense.of(np.zeros((3, 5), np.float32))), None)],
    ops.CallOp: [(("3x5x4xf32",), lambda x: ops.CallOp((x,), SymbolRef("f"), (x.type,)), None)],
    ops.IotaOp: [
        ((), lambda: ops.IotaOp(2, tensor("3x5x4xf32"), 7), ()),
        ((), lambda: ops.IotaOp(0, tensor("3x5xi32")), ()),
        ((), lambda: ops.IotaOp(1, tensor("3x5xi32")), None),
        ((), lambda: ops.IotaOp(0, tensor("3xi32")), None),
    ],
    ops.KvUpdateOp: [(("3x9x1x4xf32", "3x5x1x4xf32", "3x5xi32"), ops.KvUpdateOp, None)],
    ops.HeldPositionsOp: [(("3x5xi32",), lambda p: ops.HeldPositionsOp(p, 9, True), None)],
    ops.AttentionOp: [
        (("3x5x2x4xf32", "3x9x1x4xf32", "3x9x1x4xf32", "3x5xi32", "3x9xi32"), attention, ("q", "positions")),
        # as many keys as queries: which of them a query sees is no matter of rows
        (("3x5x2x4xf32", "3x5x1x4xf32", "3x5x1x4xf32", "3x5xi32", "3x5xi32"), attention, ("q", "positions")),
        (
            ("3x5x2x4xf32", *("3x9x1x4xf32", "3x5x1x4xf32") * 2, "3x5xi32", "3x9xi32", "3x5xi32"),
            two_segments,
            ("q", "positions"),
        ),
    ],
    ops.LinearOp: [
        (("3x5x4xf32", "6x4xf32"), ops.LinearOp, ("x",)),
        (("3x5x2x4xf32", "6x4xf32"), ops.LinearOp, ("x",)),
        (("3x5xf32", "6x5xf32"), ops.LinearOp, None),  # the rows are summed over
    ],
    ops.MatmulOp: [
        (("3x5x4xf32", "3x4x6xf32"), ops.MatmulOp, ("x",)),
        (("3x5x4x2xf32", "3x5x2x6xf32"), ops.MatmulOp, ("x", "y")),
        (("3x5xf32", "5x6xf32"), ops.MatmulOp, None),
    ],
    ops.RmsNormOp: [
        (("3x5x4xf32", "4xf32"), lambda x, w: ops.RmsNormOp(x, w, 1e-6), ("x",)),
        (("3x5x2x4xf32",), lambda x: ops.RmsNormOp(x, None, 1e-6), ("x",)),
        (("3x5xf32", "5xf32"), lambda x, w: ops.RmsNormOp(x, w, 1e-6), None),
    ],
    ops.RopeOp: [(("3x5x2x4xf32", "3x5x2xf32", "3x5x2xf32"), ops.RopeOp, ("x", "cos", "sin"))],
    ops.TopKOp: [
        (("3x5x4xf32",), lambda x: ops.TopKOp(x, 2), ("x",)),
        (("3x5xf32",), lambda x: ops.TopKOp(x, 2), None),
    ],
    ops.ExpertsOp: [
        (
            ("3x5x4xf32", "3x5x2xi32", "3x5x2xf32", "6x4x4xf32", "6x4x2xf32"),
            ops.ExpertsOp,
            ("x", "indices", "weights"),
        ),
        (("15x4xf32", "15x2xi32", "15x2xf32", "6x4x4xf32", "6x4x2xf32"), ops.ExpertsOp, None),
    ],
    ops.EmbeddingOp: [
        (("3x5xi32", "9x4xf32"), lambda ids, table: ops.EmbeddingOp(ids, table, 2.0), ("ids",)),
        (("5xi32", "9x4xf32"), lambda ids, table: ops.EmbeddingOp(ids, table, 2.0), None),
    ],
    ops.GatherOp: [
        (("9x4xf32", "3x5xi32"), ops.GatherOp, ("indices",)),
        (("9xf32", "3x5x2xi32"), ops.GatherOp, ("indices",)),
        (("9x4xf32", "5xi32"), ops.GatherOp, None),
    ],
    ops.SelectRowsOp: [(("3x9x4xf32", "3x5xi32"), ops.SelectRowsOp, ("rows",))],
    ops.GatedGeluOp: [
        (("3x5x4xf32", "3x5x4xf32"), ops.GatedGeluOp, ("gate", "up")),
        (("4xf32", "4xf32"), ops.GatedGeluOp, None),
    ],
    ops.SoftcapOp: unary(lambda x: ops.SoftcapOp(x, 30.0)),
    ops.PerLayerInputOp: [
        (("3x5x2x4xf32", "3x5x2x4xf32"), lambda x, y: ops.PerLayerInputOp(x, y, 0.5), ("context", "token")),
    ],
    ops.SelectOp: [
        (("3x5x1xi1", "3x5x4xf32", "4xf32"), ops.SelectOp, ("predicate", "x")),
        (("3x1x4xi1", "3x5x4xf32", "f32"), ops.SelectOp, ("x",)),
        (("5x4xi1", "3x5x4xf32", "f32"), ops.SelectOp, None),
    ],
    ops.CompareOp: binary(lambda x, y: ops.CompareOp(x, y, "le")),
    ops.ConvertOp: unary(lambda x: ops.ConvertOp(x, x.type.with_dtype(DType.BF16))),
    ops.AndOp: on_predicates(binary(ops.AndOp)),
    **{kind: binary(kind) for kind in (ops.AddOp, ops.SubOp, ops.MulOp, ops.DivOp, ops.MaxOp, ops.MinOp, ops.PowOp)},
    **{
        kind: unary(kind)
        for kind in (ops.NegOp, ops.ExpOp, ops.LogOp, ops.TanhOp, ops.CosOp, ops.SinOp, ops.RsqrtOp, ops.GeluOp)
    },
    ops.BroadcastOp: [
        (("3x5x1xf32",), broadcast("3x5x4"), ("x",)),
        (("4xf32",), broadcast("3x5x4"), ()),
        (("3x1x4xf32",), broadcast("3x5x4"), ()),
        (("f32",), broadcast("3x5"), ()),
        (("5x4xf32",), broadcast("3x5x4"), None),
        (("1x5x4xf32",), broadcast("3x5x4"), None),
        (("f32",), broadcast("3"), None),
    ],
    ops.ReshapeOp: [
        (("3x5x8xf32",), reshaped("3x5x2x4"), ("x",)),
        (("3x5x2x4xf32",), reshaped("3x5x8"), ("x",)),
        (("3x5x1xf32",), reshaped("3x5"), ("x",)),
        (("3x5x8xf32",), reshaped("15x8"), None),
        (("15x8xf32",), reshaped("3x5x8"), None),
        (("3x5x8xf32",), reshaped("3x10x4"), None),
        (("5x3x8xf32",), reshaped("3x5x8"), None),
    ],
    ops.TransposeOp: [
        (("3x5x2x4xf32",), lambda x: ops.TransposeOp(x, (0, 1, 3, 2)), ("x",)),
        (("3x5x2x4xf32",), lambda x: ops.TransposeOp(x, (0, 2, 1, 3)), None),
        (("5x3xf32",), lambda x: ops.TransposeOp(x, (1, 0)), None),
    ],
    ops.SliceOp: [
        (("3x5x8xf32",), lambda x: ops.SliceOp(x, (0, 0, 2), (3, 5, 6)), ("x",)),
        (("3x5xf32",), lambda x: ops.SliceOp(x, (0, 0), (3, 5)), ("x",)),
        (("3x6x8xf32",), lambda x: ops.SliceOp(x, (0, 1, 0), (3, 6, 8)), None),
        (("4x5x8xf32",), lambda x: ops.SliceOp(x, (1, 0, 0), (4, 5, 8)), None),
        (("5xf32",), lambda x: ops.SliceOp(x, (0,), (3,)), None),
    ],
    ops.ConcatOp: [
        (("3x5x4xf32", "3x5x2xf32"), lambda *xs: ops.ConcatOp(xs, 2), ("xs",)),
        (("3x2x4xf32", "3x3x4xf32"), lambda *xs: ops.ConcatOp(xs, 1), None),
        (("2x5xf32", "1x5xf32"), lambda *xs: ops.ConcatOp(xs, 0), None),
    ],
    ops.ReduceOp: [
        (("3x5x4xf32",), lambda x: ops.ReduceOp(x, "sum", (2,)), ("x",)),
        (("3x5x4x2xf32",), lambda x: ops.ReduceOp(x, "mean", (2, 3), True), ("x",)),
        (("3x5x4xf32",), lambda x: ops.ReduceOp(x, "sum", (1, 2), True), None),
        (("3x5xf32",), lambda x: ops.ReduceOp(x, "max", (1,)), None),
        (("9xf32",), lambda x: ops.ReduceOp(x, "max", (0,)), None),
    ],
}  # fmt: skip
ALL = [pytest.param(*case, id=f"{kind.mnemonic}-{i}") for kind, cases in CASES.items() for i, case in enumerate(cases)]


def test_no_op_says_nothing() -> None:
    graph = {op for op in REGISTRY.values() if op.level is Level.GRAPH and op.__module__.startswith("g4c.")}
    assert set(ROW_WISE) == graph
    assert set(CASES) == graph


def arrays(types: tuple[str, ...], seed: int = 0) -> list[Array]:
    """Positive floats; integers below 5, which are good as indices, positions and rows."""
    random = np.random.default_rng(seed)
    found = []
    for type in map(tensor, types):
        data = random.uniform(0.5, 2.0, type.shape) if type.dtype.is_float else random.integers(0, 5, type.shape)
        found.append(np.asarray(data % 2 if type.dtype == DType.PRED else data).astype(type.dtype.numpy))
    return found


@pytest.mark.parametrize(("types", "make", "fields"), ALL)
def test_fields(types: tuple[str, ...], make: Callable[..., Op], fields: tuple[str, ...] | None) -> None:
    assert row_wise_fields(make(*(Value(tensor(text)) for text in types))) == fields


@pytest.mark.parametrize(("types", "make", "fields"), [case for case in ALL if case.values[2] is not None])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_rows_of_the_result_are_the_result_on_rows(
    types: tuple[str, ...], make: Callable[..., Op], fields: tuple[str, ...], count: int
) -> None:
    """The op on chosen rows of what it reads row by row, and all of the rest: the same rows of its result."""
    op = make(*(Value(tensor(text)) for text in types))
    rows = np.random.default_rng(count).integers(0, 5, (3, count))
    sequences = np.arange(3)[:, None]
    data = arrays(types)
    by_row = [name in fields for name, _ in op.named_operands()]
    chosen = {
        value: Value(value.type.with_shape((3, count, *value.shape[2:])))
        for value, is_by_row in zip(op.operands, by_row, strict=True)
        if is_by_row
    }
    narrow = on_rows(op, count, chosen)
    narrow.verify()
    given = [x[sequences, rows] if is_by_row else x for x, is_by_row in zip(data, by_row, strict=True)]
    whole, part = op.reference(*data), narrow.reference(*given)
    for value, x, y in zip(
        narrow.results, *(found if isinstance(found, tuple) else (found,) for found in (whole, part)), strict=True
    ):
        assert y.shape == value.shape
        assert y.dtype == value.dtype.numpy
        np.testing.assert_allclose(y.astype(np.float64), x[sequences, rows].astype(np.float64), rtol=2e-6)
