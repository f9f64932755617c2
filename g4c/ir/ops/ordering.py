"""Ops that order: the largest entries of an axis and where they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from g4c.ir.op import Op, Value, require
from g4c.ir.types import Array, DType, TensorType


@dataclass(eq=False, repr=False)
class TopKOp(Op):
    """values[..., j], indices[..., j] = the j-th largest x[..., i] and its i, for j < k, over the last axis.

    In descending order; of equal entries the one with the lower index comes first. Indices are i32. x holds no NaN.
    """

    mnemonic = "g4.top_k"
    x: Value
    k: int

    def infer(self) -> tuple[TensorType, ...]:
        require(self.x.type.rank >= 1, "x is a scalar")
        extent = self.x.shape[-1]
        require(1 <= self.k <= extent, f"k must be within 1..{extent} for x {self.x.type}, got {self.k}")
        values = self.x.type.with_shape((*self.x.shape[:-1], self.k))
        return (values, values.with_dtype(DType.S32))

    def verify(self) -> None:
        require(self.x.dtype.is_float, f"needs floats, got {self.x.type}")

    def reference(self, *operands: Array) -> tuple[Array, Array]:
        x = operands[0]
        order = np.argsort(-x.astype(np.float32), axis=-1, kind="stable")[..., : self.k]
        return np.take_along_axis(x, order, axis=-1), order.astype(DType.S32.numpy)
