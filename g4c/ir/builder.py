"""Appends ops to a function and hands back their values, so that a graph reads like the formula it is.

In: a function, and the location that new ops get. Out: values. Invariant: an op that already has a location keeps it.
"""

from __future__ import annotations

from g4c.ir.module import Function
from g4c.ir.op import UNKNOWN, Dense, Loc, Op, SymbolRef, Value
from g4c.ir.ops.structure import ConstantOp, LoadWeightOp
from g4c.ir.types import DType
from g4c.ir.weights import Weight


class Builder:
    """`Builder(function, loc).emit(LinearOp(x, w))` appends the op, located at `loc`, and returns its result."""

    def __init__(self, function: Function, loc: Loc = UNKNOWN) -> None:
        self.function = function
        self.loc = loc

    def emit(self, op: Op) -> Value:
        """Append `op`; returns its only result."""
        if op.loc == UNKNOWN:
            op.loc = self.loc
        return self.function.append(op).result

    def load(self, weight: Weight) -> Value:
        """The value of `weight`, a symbol of the module."""
        return self.emit(LoadWeightOp(SymbolRef(weight.name), weight.type))

    def scalar(self, value: float, dtype: DType) -> Value:
        """A rank-0 constant, rounded to `dtype`."""
        return self.emit(ConstantOp(Dense.scalar(value, dtype)))
