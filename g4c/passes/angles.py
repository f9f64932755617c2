"""Which values are positions * inv_freq, or cos or sin of it, in whatever shape and order a trace computes them.

In: a function. Out: `Angles` for the values understood. Each axis of such a value is labelled: "b" or "s" (follows
that axis of the positions), "f" (follows the frequencies) or "" (the value is constant along it). Steps that only move
data move labels; a product of positions and frequencies joins labels; cos, sin and a rounding after them are recorded.
Anything else ends the chain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from g4c.ir.module import Function, Module
from g4c.ir.op import UNKNOWN, Loc, Op, Value
from g4c.ir.ops import (
    BroadcastOp,
    ConcatOp,
    ConvertOp,
    CosOp,
    LoadWeightOp,
    MatmulOp,
    MulOp,
    ReshapeOp,
    SinOp,
    SliceOp,
    TransposeOp,
)
from g4c.ir.types import DType


@dataclass(frozen=True)
class _Known:
    """What is known of a value. `columns`: which frequency each index of the "f" axis means."""

    axes: tuple[str, ...]
    positions: Value | None = None
    frequencies: str = ""
    count: int = 0
    columns: tuple[int, ...] = ()
    function: str = ""
    casts: tuple[DType, ...] = ()
    loc: Loc = UNKNOWN


@dataclass(frozen=True)
class Angles:
    """A value that is fn(positions * inv_freq): rows of a table after `casts`, columns repeated, axes as in `axes`."""

    positions: Value
    frequencies: str
    function: str
    casts: tuple[DType, ...]
    axes: tuple[str, ...]
    count: int
    columns: tuple[int, ...]
    loc: Loc

    @property
    def repeats(self) -> int:
        """How often the row of frequencies is repeated along the "f" axis; 0 where the columns are something else."""
        times = len(self.columns) // self.count
        return times if self.columns == tuple(range(self.count)) * times else 0

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether gathered rows [b, s, f], reshaped, are a value of `shape` with these angles."""
        order = [axis for axis in self.axes if axis]
        wanted = [axis for axis, n in zip("bs", self.positions.shape, strict=True) if n > 1] + ["f"]
        repeated = any(n > 1 and not axis for axis, n in zip(self.axes, shape, strict=True))
        return order == wanted and not repeated and self.repeats > 0


def find_angles(module: Module, function: Function) -> dict[Value, Angles]:
    """Values of `function` that combine positions and frequencies. Those before cos or sin have `function` ""."""
    known: dict[Value, _Known] = {}
    for param in function.params:
        _enter_positions(param, known)
    for op in function.ops:
        outcome = _step(module, op, known)
        if outcome is not None:
            known[op.result] = outcome
        elif len(op.results) == 1:
            _enter_positions(op.result, known)
    return {
        value: Angles(k.positions, k.frequencies, k.function, k.casts, k.axes, k.count, k.columns, k.loc)
        for value, k in known.items()
        if k.positions is not None and k.frequencies
    }


def _enter_positions(value: Value, known: dict[Value, _Known]) -> None:
    """Any integers [b, s] may turn out to be the positions."""
    if value.dtype == DType.S32 and value.type.rank == 2:
        axes = tuple(axis if n > 1 else "" for axis, n in zip("bs", value.shape, strict=True))
        known[value] = _Known(axes, positions=value)


def _step(module: Module, op: Op, known: dict[Value, _Known]) -> _Known | None:
    if isinstance(op, LoadWeightOp):
        weight = module.weights[op.weight.name]
        if weight.value is None or weight.type.rank != 1 or weight.type.dtype != DType.F32 or weight.type.size < 2:
            return None
        count = weight.type.size
        return _Known(("f",), frequencies=weight.name, count=count, columns=tuple(range(count)))
    operands = [known[value] for value in op.operands if value in known]
    if not operands or len(operands) != len(op.operands):
        return None
    x = operands[0]
    match op:
        case ConvertOp():
            return _convert(op, x)
        case ReshapeOp():
            axes = _reshaped(x.axes, op.x.shape, op.result.shape)
            return replace(x, axes=axes) if axes is not None else None
        case TransposeOp():
            return replace(x, axes=tuple(x.axes[i] for i in op.permutation))
        case BroadcastOp():
            return replace(x, axes=("",) * (op.result.type.rank - len(x.axes)) + x.axes)
        case SliceOp():
            return _sliced(op, x)
        case ConcatOp():
            return _joined(op, operands)
        case MulOp():
            rank = op.result.type.rank
            padded = [("",) * (rank - len(k.axes)) + k.axes for k in operands]
            return _product(operands[0], operands[1], padded[0], padded[1])
        case MatmulOp():
            if op.x.shape[-1] != 1:
                return None
            y = operands[1]
            return _product(x, y, (*x.axes[:-1], ""), (*y.axes[:-2], "", y.axes[-1]))
        case CosOp() | SinOp():
            if x.function or x.positions is None or not x.frequencies or op.result.dtype != DType.F32:
                return None
            return replace(x, function="cos" if isinstance(op, CosOp) else "sin", loc=op.loc)
    return None


def _convert(op: ConvertOp, x: _Known) -> _Known | None:
    if x.function:
        return replace(x, casts=(*x.casts, op.type.dtype)) if op.type.dtype != op.x.dtype else x
    return x if op.type.dtype == DType.F32 else None


def _reshaped(axes: tuple[str, ...], old: tuple[int, ...], new: tuple[int, ...]) -> tuple[str, ...] | None:
    """Labels after a reshape that only inserts or drops axes of extent 1; None for any other."""
    labels = [axis for axis, n in zip(axes, old, strict=True) if n > 1]
    if [n for n in old if n > 1] != [n for n in new if n > 1]:
        return None
    return tuple(labels.pop(0) if n > 1 else "" for n in new)


def _sliced(op: SliceOp, x: _Known) -> _Known | None:
    columns = x.columns
    for axis, start, limit, extent in zip(x.axes, op.starts, op.limits, op.x.shape, strict=True):
        if (start, limit) == (0, extent):
            continue
        if axis != "f" or limit - start < 2:
            return None
        columns = columns[start:limit]
    return replace(x, columns=columns)


def _joined(op: ConcatOp, parts: list[_Known]) -> _Known | None:
    first = parts[0]
    if first.axes[op.axis] != "f" or any(replace(part, columns=first.columns) != first for part in parts):
        return None
    return replace(first, columns=tuple(column for part in parts for column in part.columns))


def _product(a: _Known, b: _Known, left: tuple[str, ...], right: tuple[str, ...]) -> _Known | None:
    """positions * frequencies, in either order."""
    if a.function or b.function or any(x and y for x, y in zip(left, right, strict=True)):
        return None
    axes = tuple(x or y for x, y in zip(left, right, strict=True))
    if a.frequencies and not a.positions and b.positions and not b.frequencies:
        a, b = b, a
    if a.positions and not a.frequencies and b.frequencies and not b.positions:
        return replace(b, axes=axes, positions=a.positions)
    return None
