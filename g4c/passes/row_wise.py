"""Which operands an op reads row by row, and the op on fewer rows.

In: an op whose result has axes [b, s, ...]; a row is a pair of indices of those two. Out: the names of the operand
fields of which a row of the result needs the same row alone; any other operand it may need whole. Invariant: with the
rows of these operands chosen by any [b, r] indices, `on_rows` gives the same rows of the result. Every op of the GRAPH
level has its entry in `ROW_WISE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from g4c.ir import ops
from g4c.ir.op import Op, Value, layout
from g4c.ir.types import TensorType

Fields: TypeAlias = tuple[str, ...]
Rule: TypeAlias = Callable[[Op], Fields | None]


def row_wise_fields(op: Op) -> Fields | None:
    """Names of the operand fields that `op` reads row by row; None where it does not work by rows."""
    return ROW_WISE.get(type(op), _never)(op)


def on_rows(op: Op, count: int, chosen: Mapping[Value, Value]) -> Op:
    """`op` for `count` rows of each sequence: what it reads row by row are those of `chosen`, the rest is as it was."""
    names = row_wise_fields(op)
    assert names is not None, op
    spec = layout(type(op))
    fields: dict[str, object] = {"loc": op.loc}
    for name in (*spec.operands, *spec.attributes, *spec.signature):
        entry = getattr(op, name)
        if name in names:
            entry = tuple(chosen[value] for value in entry) if isinstance(entry, tuple) else chosen[entry]
        elif isinstance(entry, TensorType):
            entry = entry.with_shape((entry.shape[0], count, *entry.shape[2:]))
        elif isinstance(op, ops.SliceOp) and name == "limits":
            entry = (entry[0], count, *entry[2:])
        fields[name] = entry
    build: Callable[..., Op] = type(op)
    return build(**fields)


# -- rules -------------------------------------------------------------------------------------------------------------
def _never(op: Op) -> Fields | None:
    """Rows meet each other, or the result has none."""
    return None


def _rows_of(*names: str, rank: int = 2) -> Rule:
    """The operands `names` have the rows of the result as their first two axes; the op works on the others.

    `rank`: from which rank of the results on. The last axis of an op that sums over it must not be that of the rows.
    """

    def rule(op: Op) -> Fields | None:
        rows = op.results[0].shape[:2]
        values = [value for name, value in op.named_operands() if name in names]
        fits = all(result.type.rank >= rank for result in op.results) and all(v.shape[:2] == rows for v in values)
        return names if fits else None

    return rule


def _broadcast(op: Op) -> Fields | None:
    """An operand has the rows if its first two axes are those of the result; else it must be the same for all rows."""
    rank, rows = op.result.type.rank, op.result.shape[:2]
    names = []
    for name, value in op.named_operands():
        missing = rank - value.type.rank
        if missing == 0 and value.shape[:2] == rows:
            names.append(name)
        elif rank < 2 or (missing < 2 and value.shape[1 - missing] != 1):
            return None
    return tuple(names) if rank >= 2 else None


def _matmul(op: Op) -> Fields | None:
    assert isinstance(op, ops.MatmulOp)
    rank = op.result.type.rank
    return None if rank < 3 else ("x",) if rank == 3 else ("x", "y")


def _transpose(op: Op) -> Fields | None:
    assert isinstance(op, ops.TransposeOp)
    return ("x",) if op.permutation[:2] == (0, 1) else None


def _slice(op: Op) -> Fields | None:
    assert isinstance(op, ops.SliceOp)
    return ("x",) if op.x.type.rank >= 2 and op.result.shape[:2] == op.x.shape[:2] else None


def _concat(op: Op) -> Fields | None:
    assert isinstance(op, ops.ConcatOp)
    return ("xs",) if op.axis >= 2 else None


def _reduce(op: Op) -> Fields | None:
    assert isinstance(op, ops.ReduceOp)
    return ("x",) if op.x.type.rank >= 2 and all(axis >= 2 for axis in op.axes) else None


def _iota(op: Op) -> Fields | None:
    assert isinstance(op, ops.IotaOp)
    return () if op.axis != 1 and op.type.rank >= 2 else None


ROW_WISE: dict[type[Op], Rule] = {
    # bring values in
    ops.LoadWeightOp: _never,
    ops.ConstantOp: _never,
    ops.CallOp: _never,
    ops.IotaOp: _iota,
    # rows meet: every slot of a cache may hold every row
    ops.KvUpdateOp: _never,
    ops.HeldPositionsOp: _never,
    ops.AttentionOp: _rows_of("q", "positions"),
    # one row at a time, over its last axis or through weights
    ops.LinearOp: _rows_of("x", rank=3),
    ops.RmsNormOp: _rows_of("x", rank=3),
    ops.RopeOp: _rows_of("x", "cos", "sin"),
    ops.TopKOp: _rows_of("x", rank=3),
    ops.ExpertsOp: _rows_of("x", "indices", "weights", rank=3),
    ops.MatmulOp: _matmul,
    # lookups: the rows are those of the indices
    ops.EmbeddingOp: _rows_of("ids"),
    ops.GatherOp: _rows_of("indices"),
    ops.SelectRowsOp: _rows_of("rows"),
    # one element at a time
    ops.GatedGeluOp: _rows_of("gate", "up"),
    ops.SoftcapOp: _rows_of("x"),
    ops.PerLayerInputOp: _rows_of("context", "token"),
    **dict.fromkeys(
        (
            ops.AddOp,
            ops.AndOp,
            ops.CompareOp,
            ops.ConvertOp,
            ops.CosOp,
            ops.DivOp,
            ops.ExpOp,
            ops.GeluOp,
            ops.LogOp,
            ops.MaxOp,
            ops.MinOp,
            ops.MulOp,
            ops.NegOp,
            ops.PowOp,
            ops.RsqrtOp,
            ops.SelectOp,
            ops.SinOp,
            ops.SubOp,
            ops.TanhOp,
            ops.BroadcastOp,
        ),
        _broadcast,
    ),
    # moves within a row
    ops.ReshapeOp: _rows_of("x"),
    ops.TransposeOp: _transpose,
    ops.SliceOp: _slice,
    ops.ConcatOp: _concat,
    ops.ReduceOp: _reduce,
}
