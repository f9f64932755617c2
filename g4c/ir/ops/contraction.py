"""Contractions: accumulated in f32, rounded once to the result's type."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from g4c.ir.op import Cost, Op, Value, require
from g4c.ir.types import Array, TensorType


@dataclass(eq=False, repr=False)
class LinearOp(Op):
    """y[..., n] = sum_k x[..., k] * w[n, k], accumulated in f32; w as checkpoints store it."""

    mnemonic = "g4.linear"
    x: Value
    w: Value

    def infer(self) -> tuple[TensorType, ...]:
        require(self.w.type.rank == 2, f"w must be [n, k], got {self.w.type}")
        require(self.x.type.rank >= 1, "x is a scalar")
        k, wk = self.x.shape[-1], self.w.shape[1]
        require(k == wk, f"contraction mismatch: x has k={k}, w has k={wk}")
        require(self.x.dtype == self.w.dtype, f"operand dtypes differ: {self.x.type} and {self.w.type}")
        return (self.x.type.with_shape((*self.x.shape[:-1], self.w.shape[0])),)

    def verify(self) -> None:
        require(self.x.dtype.is_float, f"needs floats, got {self.x.type}")

    def reference(self, *operands: Array) -> Array:
        x, w = (operand.astype(np.float32) for operand in operands)
        return (x @ w.T).astype(self.result.dtype.numpy)

    def cost(self) -> Cost:
        flops = 2 * self.result.type.size * self.x.shape[-1]
        return Cost(flops, self.x.type.nbytes + self.w.type.nbytes, self.result.type.nbytes)


@dataclass(eq=False, repr=False)
class MatmulOp(Op):
    """z[..., m, n] = sum_k x[..., m, k] * y[..., k, n], accumulated in f32; leading axes are equal batch axes."""

    mnemonic = "g4.matmul"
    x: Value
    y: Value

    def infer(self) -> tuple[TensorType, ...]:
        require(
            self.x.type.rank == self.y.type.rank >= 2, f"ranks must be equal and >= 2: {self.x.type} and {self.y.type}"
        )
        require(self.x.shape[:-2] == self.y.shape[:-2], f"batch axes differ: {self.x.type} and {self.y.type}")
        k, yk = self.x.shape[-1], self.y.shape[-2]
        require(k == yk, f"contraction mismatch: x has k={k}, y has k={yk}")
        require(self.x.dtype == self.y.dtype, f"operand dtypes differ: {self.x.type} and {self.y.type}")
        return (self.x.type.with_shape((*self.x.shape[:-1], self.y.shape[-1])),)

    def verify(self) -> None:
        require(self.x.dtype.is_float, f"needs floats, got {self.x.type}")

    def reference(self, *operands: Array) -> Array:
        x, y = (operand.astype(np.float32) for operand in operands)
        return (x @ y).astype(self.result.dtype.numpy)

    def cost(self) -> Cost:
        flops = 2 * self.result.type.size * self.x.shape[-1]
        return Cost(flops, self.x.type.nbytes + self.y.type.nbytes, self.result.type.nbytes)
