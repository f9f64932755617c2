"""The rules of canonicalize, one small function each, listed in `RULES`.

In: an op whose operands are already in canonical form. Out: None (does not apply), the value that the op's result
equals, or the ops to put in its place, the last of which gives the result. Invariant: exact; same result type; nothing
is computed twice that was computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from g4c.ir.op import Dense, Op, Value, defining
from g4c.ir.ops import (
    AddOp,
    AndOp,
    BroadcastOp,
    ConcatOp,
    ConstantOp,
    ConvertOp,
    DivOp,
    ElementwiseOp,
    MaxOp,
    MinOp,
    MulOp,
    NegOp,
    PowOp,
    ReshapeOp,
    SliceOp,
    SubOp,
    TransposeOp,
)
from g4c.ir.types import Array, DType, broadcast_shapes

Outcome: TypeAlias = "Value | tuple[Op, ...] | None"


@dataclass(frozen=True)
class Rule:
    """A rewrite of ops of `kinds`; `text` is how people read it."""

    name: str
    text: str
    kinds: tuple[type[Op], ...]
    apply: Callable[[Op], Outcome]


RULES: list[Rule] = []


def rule(text: str, *kinds: type[Op]) -> Callable[[Callable[[Op], Outcome]], Callable[[Op], Outcome]]:
    """Enter a function into `RULES` under its own name with hyphens."""

    def enter(function: Callable[[Op], Outcome]) -> Callable[[Op], Outcome]:
        RULES.append(Rule(function.__name__.replace("_", "-"), text, kinds, function))
        return function

    return enter


# -- constants ---------------------------------------------------------------------------------------------------------
def scalar(value: Value) -> float | None:
    """The number that `value` holds everywhere, if it is a constant of one element, moved or not."""
    owner = value.owner
    while isinstance(owner, (BroadcastOp, ReshapeOp)) and owner.x.type.size == 1:
        owner = owner.x.owner
    if isinstance(owner, ConstantOp) and owner.value.type.size == 1:
        return float(owner.value.array().reshape(()).item())
    return None


@rule("op(constant, x) -> op(x, constant) for commutative ops", AddOp, MulOp, MaxOp, MinOp, AndOp)
def constant_right(op: Op) -> Outcome:
    assert isinstance(op, (AddOp, MulOp, MaxOp, MinOp, AndOp))
    if scalar(op.x) is None or scalar(op.y) is not None:
        return None
    return (type(op)(op.y, op.x, loc=op.loc),)


@rule("op(constants) of one element -> constant", ElementwiseOp, ReshapeOp, TransposeOp, BroadcastOp)
def fold_scalar(op: Op) -> Outcome:
    if op.result.type.size != 1:
        return None
    arrays: list[Array] = []
    for value in op.operands:
        constant = defining(value, ConstantOp)
        if constant is None:
            return None
        arrays.append(constant.value.array())
    folded = op.reference(*arrays)
    assert not isinstance(folded, tuple)
    return (ConstantOp(Dense.of(folded), loc=op.loc),)


_NEUTRAL: dict[type[Op], float] = {AddOp: 0, SubOp: 0, MulOp: 1, DivOp: 1, PowOp: 1, AndOp: 1}


@rule("x + 0, x - 0, x * 1, x / 1, x ** 1, x and true -> x", *_NEUTRAL)
def neutral_element(op: Op) -> Outcome:
    x, y = op.operands
    return x if scalar(y) == _NEUTRAL[type(op)] and x.type == op.result.type else None


@rule("-(-x) -> x", NegOp)
def double_negation(op: Op) -> Outcome:
    assert isinstance(op, NegOp)
    inner = defining(op.x, NegOp)
    return inner.x if inner else None


# -- element types -----------------------------------------------------------------------------------------------------
_EXACT: dict[DType, frozenset[DType]] = {
    DType.PRED: frozenset({DType.S8, DType.S32, DType.F32, DType.BF16, DType.F16}),
    DType.S8: frozenset({DType.S32, DType.F32, DType.BF16, DType.F16}),
    DType.BF16: frozenset({DType.F32}),
    DType.F16: frozenset({DType.F32}),
    DType.F8E4M3FN: frozenset({DType.F32, DType.BF16, DType.F16}),
    DType.F8E5M2: frozenset({DType.F32, DType.BF16, DType.F16}),
}


@rule("convert to the same type -> x", ConvertOp)
def identity_convert(op: Op) -> Outcome:
    assert isinstance(op, ConvertOp)
    return op.x if op.x.type == op.type else None


@rule("convert(convert(x)) -> convert(x) where the inner one is exact", ConvertOp)
def double_convert(op: Op) -> Outcome:
    assert isinstance(op, ConvertOp)
    inner = defining(op.x, ConvertOp)
    if inner is None or inner.type.dtype not in _EXACT.get(inner.x.dtype, frozenset()):
        return None
    return (ConvertOp(inner.x, op.type, loc=op.loc),)


# -- shapes ------------------------------------------------------------------------------------------------------------
@rule("reshape to the same shape -> x", ReshapeOp)
def identity_reshape(op: Op) -> Outcome:
    assert isinstance(op, ReshapeOp)
    return op.x if op.x.type == op.type else None


@rule("reshape(reshape(x)) -> reshape(x)", ReshapeOp)
def double_reshape(op: Op) -> Outcome:
    assert isinstance(op, ReshapeOp)
    inner = defining(op.x, ReshapeOp)
    return (ReshapeOp(inner.x, op.type, loc=op.loc),) if inner else None


@rule("transpose that keeps every axis -> x", TransposeOp)
def identity_transpose(op: Op) -> Outcome:
    assert isinstance(op, TransposeOp)
    return op.x if op.permutation == tuple(range(len(op.permutation))) else None


@rule("transpose(transpose(x)) -> transpose(x)", TransposeOp)
def double_transpose(op: Op) -> Outcome:
    assert isinstance(op, TransposeOp)
    inner = defining(op.x, TransposeOp)
    if inner is None:
        return None
    return (TransposeOp(inner.x, tuple(inner.permutation[i] for i in op.permutation), loc=op.loc),)


@rule("transpose that only moves axes of extent 1 -> reshape", TransposeOp)
def transpose_of_unit_axes(op: Op) -> Outcome:
    assert isinstance(op, TransposeOp)
    moved = [axis for axis in op.permutation if op.x.shape[axis] != 1]
    return (ReshapeOp(op.x, op.result.type, loc=op.loc),) if moved == sorted(moved) else None


@rule("broadcast to the same shape -> x", BroadcastOp)
def identity_broadcast(op: Op) -> Outcome:
    assert isinstance(op, BroadcastOp)
    return op.x if op.x.type == op.type else None


@rule("broadcast(broadcast(x)) -> broadcast(x)", BroadcastOp)
def double_broadcast(op: Op) -> Outcome:
    assert isinstance(op, BroadcastOp)
    inner = defining(op.x, BroadcastOp)
    return (BroadcastOp(inner.x, op.type, loc=op.loc),) if inner else None


@rule("elementwise(broadcast(x), y) -> elementwise(x, y) where y gives the shape anyway", ElementwiseOp)
def implied_broadcast(op: Op) -> Outcome:
    operands = op.operands
    for i, value in enumerate(operands):
        inner = defining(value, BroadcastOp)
        if inner is None or len(operands) < 2:
            continue
        others = [other.shape for j, other in enumerate(operands) if j != i]
        if broadcast_shapes(inner.x.shape, *others) == op.result.shape:
            return (op.copy({value: inner.x}),) if operands.count(value) == 1 else None
    return None


# -- slices and concatenations -----------------------------------------------------------------------------------------
@rule("slice of everything -> x", SliceOp)
def full_slice(op: Op) -> Outcome:
    assert isinstance(op, SliceOp)
    return op.x if op.result.type == op.x.type else None


@rule("slice(slice(x)) -> slice(x)", SliceOp)
def double_slice(op: Op) -> Outcome:
    assert isinstance(op, SliceOp)
    inner = defining(op.x, SliceOp)
    if inner is None:
        return None
    starts = tuple(a + b for a, b in zip(inner.starts, op.starts, strict=True))
    limits = tuple(a + b for a, b in zip(inner.starts, op.limits, strict=True))
    return (SliceOp(inner.x, starts, limits, loc=op.loc),)


@rule("slice(concat(x, y)) -> slice(x) where it stays within x", SliceOp)
def slice_of_concat(op: Op) -> Outcome:
    assert isinstance(op, SliceOp)
    joined = defining(op.x, ConcatOp)
    if joined is None:
        return None
    axis, offset = joined.axis, 0
    for part in joined.xs:
        end = offset + part.shape[axis]
        if offset <= op.starts[axis] and op.limits[axis] <= end:
            starts, limits = list(op.starts), list(op.limits)
            starts[axis], limits[axis] = starts[axis] - offset, limits[axis] - offset
            return (SliceOp(part, tuple(starts), tuple(limits), loc=op.loc),)
        offset = end
    return None


@rule("concat of one -> x", ConcatOp)
def single_concat(op: Op) -> Outcome:
    assert isinstance(op, ConcatOp)
    return op.xs[0] if len(op.xs) == 1 else None


@rule("concat(x[:, :n], x[:, n:]) -> x[:, :]", ConcatOp)
def concat_of_neighbors(op: Op) -> Outcome:
    """The first two neighboring slices of the same value are joined; the next round joins the next."""
    assert isinstance(op, ConcatOp)
    for i in range(len(op.xs) - 1):
        a, b = defining(op.xs[i], SliceOp), defining(op.xs[i + 1], SliceOp)
        if a is None or b is None or a.x is not b.x or a.limits[op.axis] != b.starts[op.axis]:
            continue
        others = [axis for axis in range(len(a.starts)) if axis != op.axis]
        if all(a.starts[axis] == b.starts[axis] and a.limits[axis] == b.limits[axis] for axis in others):
            joined = SliceOp(a.x, a.starts, b.limits, loc=op.loc)
            return joined, ConcatOp((*op.xs[:i], joined.result, *op.xs[i + 2 :]), op.axis, loc=op.loc)
    return None


@rule("concat(concat(x, y), z) -> concat(x, y, z)", ConcatOp)
def nested_concat(op: Op) -> Outcome:
    assert isinstance(op, ConcatOp)
    flat: list[Value] = []
    for x in op.xs:
        inner = defining(x, ConcatOp)
        flat.extend(inner.xs if inner is not None and inner.axis == op.axis else (x,))
    return (ConcatOp(tuple(flat), op.axis, loc=op.loc),) if len(flat) > len(op.xs) else None


def rule_table() -> str:
    """The rules as a Markdown table."""
    rows = [f"| {entry.name} | {entry.text} |" for entry in RULES]
    return "\n".join(["| rule | rewrite |", "|---|---|", *rows])
