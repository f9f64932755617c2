"""Ops that move data without computing: reshape, transpose, slice, concat, broadcast, iota; and reductions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from g4c.ir.op import Cost, Op, Value, require
from g4c.ir.ops.elementwise import widen
from g4c.ir.types import Array, DType, TensorType


@dataclass(eq=False, repr=False)
class ReshapeOp(Op):
    """y = x with the same elements, row-major, in another shape."""

    mnemonic = "g4.reshape"
    x: Value
    type: TensorType

    def infer(self) -> tuple[TensorType, ...]:
        fits = self.type.size == self.x.type.size and self.type.dtype == self.x.dtype
        require(fits, f"cannot reshape {self.x.type} ({self.x.type.size} elements) to {self.type} ({self.type.size})")
        return (self.type,)

    def reference(self, *operands: Array) -> Array:
        return operands[0].reshape(self.type.shape)

    def cost(self) -> Cost:
        return Cost(0, 0, 0)  # nothing moves


@dataclass(eq=False, repr=False)
class TransposeOp(Op):
    """y[i...] has axis k = axis permutation[k] of x."""

    mnemonic = "g4.transpose"
    x: Value
    permutation: tuple[int, ...]

    def infer(self) -> tuple[TensorType, ...]:
        require(
            sorted(self.permutation) == list(range(self.x.type.rank)),
            f"{list(self.permutation)} does not permute the axes of {self.x.type}",
        )
        return (self.x.type.with_shape(tuple(self.x.shape[i] for i in self.permutation)),)

    def reference(self, *operands: Array) -> Array:
        return operands[0].transpose(self.permutation)


@dataclass(eq=False, repr=False)
class SliceOp(Op):
    """y = x[starts[0]:limits[0], starts[1]:limits[1], ...]."""

    mnemonic = "g4.slice"
    x: Value
    starts: tuple[int, ...]
    limits: tuple[int, ...]

    def infer(self) -> tuple[TensorType, ...]:
        rank = self.x.type.rank
        require(
            len(self.starts) == rank == len(self.limits),
            f"{len(self.starts)} starts and {len(self.limits)} limits for {self.x.type}",
        )
        for axis, (start, limit, extent) in enumerate(zip(self.starts, self.limits, self.x.shape, strict=True)):
            require(0 <= start <= limit <= extent, f"axis {axis}: [{start}:{limit}] is not within 0:{extent}")
        return (self.x.type.with_shape(tuple(b - a for a, b in zip(self.starts, self.limits, strict=True))),)

    def reference(self, *operands: Array) -> Array:
        return operands[0][tuple(slice(a, b) for a, b in zip(self.starts, self.limits, strict=True))]

    def cost(self) -> Cost:
        """Only what is kept is read."""
        return Cost(0, self.result.type.nbytes, self.result.type.nbytes)


@dataclass(eq=False, repr=False)
class ConcatOp(Op):
    """y = the inputs joined along `axis`."""

    mnemonic = "g4.concat"
    xs: tuple[Value, ...]
    axis: int

    def infer(self) -> tuple[TensorType, ...]:
        require(len(self.xs) > 0, "no inputs")
        first = self.xs[0].type
        require(0 <= self.axis < first.rank, f"axis {self.axis} of a rank-{first.rank} tensor")
        for other in self.xs[1:]:
            fits = other.dtype == first.dtype and other.type.rank == first.rank
            fits = fits and all(
                a == b for i, (a, b) in enumerate(zip(first.shape, other.shape, strict=True)) if i != self.axis
            )
            require(fits, f"{first} and {other.type} differ outside axis {self.axis}")
        shape = list(first.shape)
        shape[self.axis] = sum(x.shape[self.axis] for x in self.xs)
        return (first.with_shape(tuple(shape)),)

    def reference(self, *operands: Array) -> Array:
        return np.concatenate(operands, axis=self.axis)


@dataclass(eq=False, repr=False)
class BroadcastOp(Op):
    """y = x repeated to the shape of the result, by numpy's rule."""

    mnemonic = "g4.broadcast"
    x: Value
    type: TensorType

    def infer(self) -> tuple[TensorType, ...]:
        x, y = self.x.shape, self.type.shape
        fits = len(x) <= len(y) and all(a in (1, b) for a, b in zip(reversed(x), reversed(y), strict=False))
        require(fits and self.x.dtype == self.type.dtype, f"cannot broadcast {self.x.type} to {self.type}")
        return (self.type,)

    def reference(self, *operands: Array) -> Array:
        return np.broadcast_to(operands[0], self.type.shape)


@dataclass(eq=False, repr=False)
class IotaOp(Op):
    """y[..., i, ...] = start + i, counting along `axis`."""

    mnemonic = "g4.iota"
    axis: int
    type: TensorType
    start: int = 0

    def infer(self) -> tuple[TensorType, ...]:
        require(0 <= self.axis < self.type.rank, f"axis {self.axis} of {self.type}")
        require(self.type.dtype in (DType.S32, DType.F32), f"counts in i32 or f32, got {self.type.dtype.mlir}")
        return (self.type,)

    def reference(self, *operands: Array) -> Array:
        extent = self.type.shape[self.axis]
        column = (self.start + np.arange(extent)).reshape([-1] + [1] * (self.type.rank - self.axis - 1))
        return np.broadcast_to(column, self.type.shape).astype(self.type.dtype.numpy)


_REDUCTIONS: dict[str, Callable[..., Array]] = {"sum": np.sum, "max": np.max, "mean": np.mean}


@dataclass(eq=False, repr=False)
class ReduceOp(Op):
    """y = sum, max or mean of x over `axes`, in f32; the reduced axes stay with extent 1 where `keep` says so."""

    mnemonic = "g4.reduce"
    x: Value
    kind: str
    axes: tuple[int, ...]
    keep: bool = False

    def infer(self) -> tuple[TensorType, ...]:
        fits = all(0 <= axis < self.x.type.rank for axis in self.axes) and len(set(self.axes)) == len(self.axes)
        require(fits, f"cannot reduce axes {list(self.axes)} of {self.x.type}")
        shape = (1 if i in self.axes else n for i, n in enumerate(self.x.shape) if self.keep or i not in self.axes)
        return (self.x.type.with_shape(tuple(shape)),)

    def verify(self) -> None:
        require(self.kind in _REDUCTIONS, f"unknown kind {self.kind!r}; there are {', '.join(_REDUCTIONS)}")
        require(self.x.dtype.is_float, f"needs floats, got {self.x.type}")

    def reference(self, *operands: Array) -> Array:
        y = _REDUCTIONS[self.kind](widen(operands[0]), axis=self.axes, keepdims=self.keep)
        return np.asarray(y).astype(self.result.dtype.numpy)
