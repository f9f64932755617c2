"""At which rows the values of a program are needed, and computing them at no others.

In: a program whose rows are chosen by `g4.select_rows(x, rows)`. Out: the program with these selections moved towards
its inputs. Invariant: an op is computed at chosen rows only if every use of it asks for the same rows, fewer than there
are; what anything else uses (a cache, a result, another choice of rows) stays whole, and is selected from once.
"""

from __future__ import annotations

from g4c.ir.module import Function
from g4c.ir.op import Loc, Op, Value
from g4c.ir.ops import SelectRowsOp
from g4c.passes.cse import common_path
from g4c.passes.row_wise import on_rows, row_wise_fields


def ops_on_chosen_rows(function: Function) -> dict[Op, Value]:
    """The ops that are needed at chosen rows only, each with these rows [b, r]. What nobody uses counts as whole."""
    needs: dict[Value, Value | None] = {result.value: None for result in function.results}  # None: all rows
    places = {op: place for place, op in enumerate(function.ops)}
    found: dict[Op, Value] = {}

    def need(value: Value, rows: Value | None) -> None:
        needs[value] = rows if needs.get(value, rows) is rows else None

    for op in reversed(function.ops):
        if isinstance(op, SelectRowsOp):
            fewer = op.rows.shape[1] < op.x.shape[1]
            need(op.x, op.rows if fewer else None)
            need(op.rows, None)
            continue
        wanted = {needs[value] for value in op.results if value in needs}
        rows = wanted.pop() if len(wanted) == 1 else None
        known = rows is not None and (rows.owner is None or places[rows.owner] < places[op])
        fields = row_wise_fields(op) if known else None
        if rows is not None and fields is not None:
            found[op] = rows
        for name, value in op.named_operands():
            need(value, rows if fields is not None and name in fields else None)
    return found


def prune_rows(function: Function) -> list[Op]:
    """Compute `ops_on_chosen_rows` at these rows only; returns these ops as they are now."""
    found = ops_on_chosen_rows(function)
    return _Rewriter(function, found).run() if found else []


class _Rewriter:
    """Rebuilds a program with some ops at chosen rows, and with one selection for each value and choice of rows."""

    def __init__(self, function: Function, found: dict[Op, Value]) -> None:
        self.function = function
        self.found = found
        self.chosen: dict[tuple[Value, Value], Value] = {}
        self.origins = {op.rows: op.loc for op in reversed(list(function.ops_of(SelectRowsOp)))}

    def run(self) -> list[Op]:
        ops, self.function.ops = self.function.ops, []
        mapping: dict[Value, Value] = {}
        pruned = []
        for op in ops:
            op.replace_operands(mapping)
            if op in self.found:
                rows = mapping.get(self.found[op], self.found[op])
                self.origins.setdefault(rows, self.origins[self.found[op]])
                pruned.append(self.on_rows(op, rows))
            elif isinstance(op, SelectRowsOp) and (op.x, op.rows) in self.chosen:
                mapping[op.result] = self.rows_of(op.x, op.rows, op.loc)
            else:
                self.function.append(op)
                if isinstance(op, SelectRowsOp):
                    self.chosen[op.x, op.rows] = op.result
        for result in self.function.results:
            result.value = mapping.get(result.value, result.value)
        return pruned

    def on_rows(self, op: Op, rows: Value) -> Op:
        names = row_wise_fields(op) or ()
        operands = {value: self.rows_of(value, rows, op.loc) for name, value in op.named_operands() if name in names}
        new = self.function.append(on_rows(op, rows.shape[1], operands))
        for old, value in zip(op.results, new.results, strict=True):
            self.chosen[old, rows] = value
        return new

    def rows_of(self, value: Value, rows: Value, loc: Loc) -> Value:
        """`value` at `rows`, for an op at `loc`. A selection belongs to the module path that all of its users share."""
        if (value, rows) not in self.chosen:
            origin = self.origins[rows]
            selection = SelectRowsOp(value, rows, loc=Loc(loc.path, origin.file, origin.line))
            self.chosen[value, rows] = self.function.append(selection).result
        found = self.chosen[value, rows]
        if isinstance(found.owner, SelectRowsOp):
            at = found.owner.loc
            found.owner.loc = Loc(common_path(at.path, loc.path), at.file, at.line)
        return found
