"""Elementwise ops. Operands broadcast as in numpy; arithmetic is done in f32 and rounded once to the result's type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from g4c.ir.op import InvalidOpError, Op, Value, require
from g4c.ir.types import Array, DType, TensorType, broadcast_shapes

Mask: TypeAlias = npt.NDArray[np.bool_]


def widen(x: Array) -> Array:
    """Floats as f32, everything else as it is."""
    return x.astype(np.float32) if x.dtype.kind not in "ib" else x


def gelu_tanh(x: Array) -> Array:
    """gelu(x), tanh approximation, in the dtype of `x`."""
    with np.errstate(over="ignore"):  # a cube that overflows is inf, whose tanh is 1
        inner = np.float32(0.7978845608028654) * (x + np.float32(0.044715) * x * x * x)
    y: Array = np.float32(0.5) * x * (1 + np.tanh(inner))
    return y


class ElementwiseOp(Op):
    """Base: result shape by broadcasting, result dtype that of the operands, which must agree."""

    floats_only: ClassVar[bool] = False
    predicates: ClassVar[bool] = False  # whether predicates are accepted

    def infer(self) -> tuple[TensorType, ...]:
        dtypes = {value.dtype for value in self.operands}
        require(len(dtypes) == 1, f"operand dtypes differ: {' and '.join(str(value.type) for value in self.operands)}")
        dtype = self.operands[0].dtype
        require(not self.floats_only or dtype.is_float, f"needs floats, got {dtype.mlir}")
        require(self.predicates or dtype != DType.PRED, f"needs numbers, got {dtype.mlir}")
        return (TensorType(self.broadcast_shape(), dtype),)

    def broadcast_shape(self) -> tuple[int, ...]:
        try:
            return broadcast_shapes(*(value.shape for value in self.operands))
        except ValueError as error:
            raise InvalidOpError(str(error)) from None

    def compute(self, *operands: Array) -> Array | Mask:
        """The result before rounding. Floats arrive in f32; IEEE rules for what has no finite result."""
        raise NotImplementedError

    def reference(self, *operands: Array) -> Array:
        with np.errstate(all="ignore"):
            y = np.asarray(self.compute(*map(widen, operands)))
        return y.astype(self.result.dtype.numpy)


@dataclass(eq=False, repr=False)
class _Unary(ElementwiseOp):
    x: Value


@dataclass(eq=False, repr=False)
class _Binary(ElementwiseOp):
    x: Value
    y: Value


class AddOp(_Binary):
    """z = x + y."""

    mnemonic = "g4.add"

    def compute(self, *operands: Array) -> Array:
        return operands[0] + operands[1]


class SubOp(_Binary):
    """z = x - y."""

    mnemonic = "g4.sub"

    def compute(self, *operands: Array) -> Array:
        return operands[0] - operands[1]


class MulOp(_Binary):
    """z = x * y."""

    mnemonic = "g4.mul"

    def compute(self, *operands: Array) -> Array:
        return operands[0] * operands[1]


class DivOp(_Binary):
    """z = x / y, floats."""

    mnemonic = "g4.div"
    floats_only = True

    def compute(self, *operands: Array) -> Array:
        return operands[0] / operands[1]


class MaxOp(_Binary):
    """z = max(x, y)."""

    mnemonic = "g4.max"

    def compute(self, *operands: Array) -> Array:
        return np.maximum(*operands)


class MinOp(_Binary):
    """z = min(x, y)."""

    mnemonic = "g4.min"

    def compute(self, *operands: Array) -> Array:
        return np.minimum(*operands)


class PowOp(_Binary):
    """z = x ** y, floats."""

    mnemonic = "g4.pow"
    floats_only = True

    def compute(self, *operands: Array) -> Array:
        return operands[0] ** operands[1]


class AndOp(_Binary):
    """z = x and y, predicates."""

    mnemonic = "g4.and"
    predicates = True

    def verify(self) -> None:
        require(self.x.dtype == DType.PRED, f"needs predicates, got {self.x.dtype.mlir}")

    def compute(self, *operands: Array) -> Mask:
        return np.logical_and(*operands)


class NegOp(_Unary):
    """y = -x."""

    mnemonic = "g4.neg"

    def compute(self, *operands: Array) -> Array:
        return -operands[0]


class ExpOp(_Unary):
    """y = e ** x."""

    mnemonic = "g4.exp"
    floats_only = True

    def compute(self, *operands: Array) -> Array:
        return np.exp(operands[0])


class LogOp(_Unary):
    """y = ln(x)."""

    mnemonic = "g4.log"
    floats_only = True

    def compute(self, *operands: Array) -> Array:
        return np.log(operands[0])


class TanhOp(_Unary):
    """y = tanh(x)."""

    mnemonic = "g4.tanh"
    floats_only = True

    def compute(self, *operands: Array) -> Array:
        return np.tanh(operands[0])


class CosOp(_Unary):
    """y = cos(x)."""

    mnemonic = "g4.cos"
    floats_only = True

    def compute(self, *operands: Array) -> Array:
        return np.cos(operands[0])


class SinOp(_Unary):
    """y = sin(x)."""

    mnemonic = "g4.sin"
    floats_only = True

    def compute(self, *operands: Array) -> Array:
        return np.sin(operands[0])


class RsqrtOp(_Unary):
    """y = 1 / sqrt(x)."""

    mnemonic = "g4.rsqrt"
    floats_only = True

    def compute(self, *operands: Array) -> Array:
        return np.reciprocal(np.sqrt(operands[0]))


class GeluOp(_Unary):
    """y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the tanh approximation."""

    mnemonic = "g4.gelu"
    floats_only = True

    def compute(self, *operands: Array) -> Array:
        return gelu_tanh(operands[0])


@dataclass(eq=False, repr=False)
class ConvertOp(ElementwiseOp):
    """y = x rounded to the element type of the result."""

    mnemonic = "g4.convert"
    x: Value
    type: TensorType

    def infer(self) -> tuple[TensorType, ...]:
        require(self.type.shape == self.x.shape, f"shapes differ: {self.x.type} and {self.type}")
        return (self.type,)

    def reference(self, *operands: Array) -> Array:
        return operands[0].astype(self.type.dtype.numpy)


_COMPARISONS = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


@dataclass(eq=False, repr=False)
class CompareOp(ElementwiseOp):
    """z = x <direction> y, a predicate; direction is one of eq ne lt le gt ge."""

    mnemonic = "g4.compare"
    predicates = True
    x: Value
    y: Value
    direction: str

    def infer(self) -> tuple[TensorType, ...]:
        return (super().infer()[0].with_dtype(DType.PRED),)

    def verify(self) -> None:
        require(
            self.direction in _COMPARISONS,
            f"unknown direction {self.direction!r}; there are {', '.join(_COMPARISONS)}",
        )

    def compute(self, *operands: Array) -> Mask:
        y: Mask = _COMPARISONS[self.direction](*operands)
        return y


@dataclass(eq=False, repr=False)
class SelectOp(ElementwiseOp):
    """z = x where predicate else y."""

    mnemonic = "g4.select"
    predicate: Value
    x: Value
    y: Value

    def infer(self) -> tuple[TensorType, ...]:
        require(self.predicate.dtype == DType.PRED, f"predicate is {self.predicate.type}")
        require(self.x.dtype == self.y.dtype, f"operand dtypes differ: {self.x.type} and {self.y.type}")
        return (TensorType(self.broadcast_shape(), self.x.dtype),)

    def reference(self, *operands: Array) -> Array:
        predicate, x, y = operands
        return np.where(predicate, x, y)
