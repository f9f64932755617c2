"""Ops that bring values in: weights, constants, calls."""

from __future__ import annotations

from dataclasses import dataclass

from g4c.ir.op import Cost, Dense, Op, SymbolRef, Value
from g4c.ir.types import Array, TensorType


@dataclass(eq=False, repr=False)
class LoadWeightOp(Op):
    """y = the weight that the symbol `weight` names in the module's table."""

    mnemonic = "g4.load_weight"
    weight: SymbolRef
    type: TensorType

    def infer(self) -> tuple[TensorType, ...]:
        return (self.type,)

    def reference(self, *operands: Array) -> Array:
        raise AssertionError("the interpreter looks weights up in its weight table")

    def cost(self) -> Cost:
        return Cost(0, 0, 0)  # whoever reads the weight pays for it


@dataclass(eq=False, repr=False)
class ConstantOp(Op):
    """y = value."""

    mnemonic = "g4.constant"
    value: Dense

    def infer(self) -> tuple[TensorType, ...]:
        return (self.value.type,)

    def reference(self, *operands: Array) -> Array:
        return self.value.array()

    def cost(self) -> Cost:
        return Cost(0, 0, 0)


@dataclass(eq=False, repr=False)
class CallOp(Op):
    """y... = callee(args...); the callee is a layer or kernel function of the module."""

    mnemonic = "g4.call"
    args: tuple[Value, ...]
    callee: SymbolRef
    types: tuple[TensorType, ...]

    def infer(self) -> tuple[TensorType, ...]:
        return self.types

    def reference(self, *operands: Array) -> Array:
        raise AssertionError("the interpreter runs the callee")
