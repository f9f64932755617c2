"""Computing the columns of a value in parts, where some are needed at all rows and others at chosen rows only.

In: a program in which a value is only ever cut into columns (slices along one axis from 2 on), some of them after
`g4.select_rows`. Out: the same program with one value per run of columns that are needed at the same rows, each
computed from its rows of the projection's weight; columns that nobody needs are gone. Invariant: exact; nothing but
slices of what was there is computed, and no column in two parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from g4c.ir.module import Function
from g4c.ir.op import Op, Value, layout
from g4c.ir.ops import (
    ConcatOp,
    ElementwiseOp,
    GatedGeluOp,
    LinearOp,
    LoadWeightOp,
    PerLayerInputOp,
    ReshapeOp,
    RmsNormOp,
    SelectRowsOp,
    SliceOp,
    SoftcapOp,
)
from g4c.ir.types import TensorType
from g4c.passes.dce import remove_newly_dead_ops, used_values

_POINTWISE = (ElementwiseOp, PerLayerInputOp, GatedGeluOp, SoftcapOp)


@dataclass(frozen=True)
class Part:
    """Columns `start` to `limit`, all needed at the same rows; None: at all of them."""

    start: int
    limit: int
    rows: Value | None


@dataclass(frozen=True)
class Cuts:
    """A value that is only ever cut along `axis`: the slices that do it, each with the rows at which it is needed."""

    value: Value
    axis: int
    readers: Mapping[SliceOp, Value | None]

    def parts(self) -> list[Part]:
        """Runs of columns that are needed at the same rows, in order; columns that nobody needs are in none."""
        axis, runs = self.axis, list[Part]()
        places = sorted({place for op in self.readers for place in (op.starts[axis], op.limits[axis])})
        for start, limit in itertools.pairwise(places):
            within = {r for op, r in self.readers.items() if op.starts[axis] <= start and limit <= op.limits[axis]}
            rows = next(iter(within)) if len(within) == 1 else None
            if within and runs and runs[-1].limit == start and runs[-1].rows is rows:
                runs[-1] = Part(runs[-1].start, limit, rows)
            elif within:
                runs.append(Part(start, limit, rows))
        return runs


def split_columns(function: Function) -> int:
    """Split every value of which that saves matmul FLOP; returns how many."""
    used, users = used_values(function), function.users()
    returned = {result.value for result in function.results}
    split = 0
    for value in [value for op in function.ops for value in op.results]:
        cuts = _cuts(value, users, returned)
        if cuts and not _is_one(cuts.parts(), value.shape[cuts.axis]) and _is_projected(value, cuts.axis):
            _replace(function, cuts)
            split += 1
    if split:
        remove_newly_dead_ops(function, used)
    return split


def _is_one(parts: list[Part], extent: int) -> bool:
    return [(part.start, part.limit) for part in parts] == [(0, extent)]


def _cuts(value: Value, users: Mapping[Value, list[Op]], returned: set[Value]) -> Cuts | None:
    readers: dict[SliceOp, Value | None] = {}
    for user in users.get(value, ()):
        chosen = isinstance(user, SelectRowsOp) and user.x is value and user.result not in returned
        for reader in users.get(user.result, ()) if chosen else (user,):
            if not isinstance(reader, SliceOp):
                return None
            readers[reader] = user.rows if isinstance(user, SelectRowsOp) else None
    axes = {i for op in readers for i, extent in enumerate(op.x.shape) if op.result.shape[i] != extent}
    axis = axes.pop() if len(axes) == 1 and value not in returned else 0
    return Cuts(value, axis, readers) if axis >= 2 else None


def _replace(function: Function, cuts: Cuts) -> None:
    """Let the readers of a value cut its parts instead."""
    ops, function.ops = function.ops, []
    mapping: dict[Value, Value] = {}
    made: dict[Part, Value] = {}
    selections: dict[tuple[Value, Value], Value] = {}

    def emit(op: Op) -> Value:
        return function.append(op).result

    def at_rows(whole: Value, rows: Value, selection: Op | None) -> Value:
        if (whole, rows) not in selections:
            assert selection is not None
            selections[whole, rows] = emit(SelectRowsOp(whole, rows, loc=selection.loc))
        return selections[whole, rows]

    for op in ops:
        op.replace_operands(mapping)
        function.append(op)
        if op is cuts.value.owner:
            columns = _Columns(emit)
            made = {part: columns.of(cuts.value, cuts.axis, part.start, part.limit) for part in cuts.parts()}
        elif isinstance(op, SliceOp) and op in cuts.readers:
            rows, pieces = cuts.readers[op], []
            for part, whole in made.items():
                start, limit = max(op.starts[cuts.axis], part.start), min(op.limits[cuts.axis], part.limit)
                if start < limit:
                    whole = whole if rows is None else at_rows(whole, rows, op.x.owner)
                    if (start, limit) != (part.start, part.limit):
                        whole = emit(_slice(whole, cuts.axis, start - part.start, limit - part.start, op))
                    pieces.append(whole)
            joined = pieces[0] if len(pieces) == 1 else emit(ConcatOp(tuple(pieces), cuts.axis, loc=op.loc))
            mapping[op.result] = joined
    for result in function.results:
        result.value = mapping.get(result.value, result.value)


def _slice(x: Value, axis: int, start: int, limit: int, like: Op) -> SliceOp:
    """x[..., start:limit, ...] along `axis`, in the place of `like`."""
    starts, limits = [0] * x.type.rank, list(x.shape)
    starts[axis], limits[axis] = start, limit
    return SliceOp(x, tuple(starts), tuple(limits), loc=like.loc)


# -- from columns of a result to those of operands ---------------------------------------------------------------------
@dataclass(frozen=True)
class _Reach:
    """Column i of a result is made of columns i * `width` to (i + 1) * `width` of an operand, along its `axis`."""

    axis: int
    width: int = 1


def _reach(op: Op, axis: int) -> dict[str, _Reach] | None:
    """By operand field, what columns along `axis` of the result of `op` are made of; other operands stay whole.

    None: not known of this op, so that its result is what has to be cut.
    """
    if isinstance(op, _POINTWISE):
        rank, extent = op.result.type.rank, op.result.shape[axis]
        places = {name: axis - rank + value.type.rank for name, value in op.named_operands()}
        shapes = {name: value.shape for name, value in op.named_operands()}
        return {name: _Reach(i) for name, i in places.items() if i >= 0 and shapes[name][i] == extent}
    if isinstance(op, RmsNormOp) and axis < op.x.type.rank - 1:
        return {"x": _Reach(axis)}
    if isinstance(op, LinearOp) and axis == op.x.type.rank - 1:
        return {"w": _Reach(0)}
    if isinstance(op, ReshapeOp) and op.x.shape[:axis] == op.type.shape[:axis] and axis < op.x.type.rank:
        width, rest = divmod(op.x.shape[axis], op.type.shape[axis])
        return {"x": _Reach(axis, width)} if rest == 0 else None
    return None


def _is_projected(value: Value, axis: int) -> bool:
    """Whether columns of `value` come from rows of a weight by a linear op, which then has less to do."""
    op = value.owner
    reach = _reach(op, axis) if op is not None else None
    if op is None or reach is None:
        return False
    if isinstance(op, LinearOp) and "w" in reach:
        return isinstance(op.w.owner, LoadWeightOp)
    return any(_is_projected(operand, reach[name].axis) for name, operand in op.named_operands() if name in reach)


class _Columns:
    """Emits the ops that compute columns of values, each once."""

    def __init__(self, emit: Callable[[Op], Value]) -> None:
        self.emit = emit
        self.made: dict[tuple[Value, int, int, int], Value] = {}

    def of(self, value: Value, axis: int, start: int, limit: int) -> Value:
        key = (value, axis, start, limit)
        if (start, limit) == (0, value.shape[axis]):
            return value
        if key not in self.made:
            self.made[key] = self.emit(self.op(value, axis, start, limit))
        return self.made[key]

    def op(self, value: Value, axis: int, start: int, limit: int) -> Op:
        op = value.owner
        assert op is not None
        reach = _reach(op, axis)
        if reach is None:
            return _slice(value, axis, start, limit, op)
        spec = layout(type(op))
        fields: dict[str, object] = {"loc": op.loc}
        for name in (*spec.operands, *spec.attributes, *spec.signature):
            entry = getattr(op, name)
            if name in reach:
                to = reach[name]
                entry = self.of(entry, to.axis, start * to.width, limit * to.width)
            elif isinstance(entry, TensorType):
                entry = entry.with_shape((*entry.shape[:axis], limit - start, *entry.shape[axis + 1 :]))
            fields[name] = entry
        build: Callable[..., Op] = type(op)
        return build(**fields)
