"""Ops that look rows up by run-time index. An index outside the table is an error, never wrapped or clamped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from g4c.ir.op import Cost, Op, Value, require
from g4c.ir.types import Array, DType, TensorType


def checked_indices(indices: Array, extent: int) -> npt.NDArray[np.int64]:
    """`indices` as numpy takes them. IndexError names one that is outside 0..extent-1 (numpy would wrap -1 around)."""
    wanted = indices.astype(np.int64)
    outside = wanted[(wanted < 0) | (wanted >= extent)]
    if outside.size:
        raise IndexError(f"index {outside[0]} is outside 0..{extent - 1}")
    return wanted


def _lookup_cost(op: Op, table: Value) -> Cost:
    """Only the rows that are looked up are read."""
    other = sum(value.type.nbytes for value in op.operands if value is not table)
    return Cost(0, other + op.result.type.nbytes, op.result.type.nbytes)


@dataclass(eq=False, repr=False)
class GatherOp(Op):
    """y[i..., :] = table[indices[i...], :]; indices must be within the table."""

    mnemonic = "g4.gather"
    table: Value
    indices: Value

    def infer(self) -> tuple[TensorType, ...]:
        require(self.table.type.rank >= 1, "table is a scalar")
        require(self.indices.dtype == DType.S32, f"indices must be i32, got {self.indices.type}")
        return (self.table.type.with_shape((*self.indices.shape, *self.table.shape[1:])),)

    def reference(self, *operands: Array) -> Array:
        table, indices = operands
        return table[checked_indices(indices, table.shape[0])]

    def cost(self) -> Cost:
        return _lookup_cost(self, self.table)


@dataclass(eq=False, repr=False)
class EmbeddingOp(Op):
    """y[b, s, :] = table[ids[b, s], :] * scale, rounded once; scale is already rounded to the table's dtype."""

    mnemonic = "g4.embedding"
    ids: Value
    table: Value
    scale: float

    def infer(self) -> tuple[TensorType, ...]:
        require(self.table.type.rank == 2, f"table must be [rows, width], got {self.table.type}")
        require(self.ids.dtype == DType.S32, f"ids must be i32, got {self.ids.type}")
        return (self.table.type.with_shape((*self.ids.shape, self.table.shape[1])),)

    def verify(self) -> None:
        require(self.table.dtype.is_float, f"needs floats, got {self.table.type}")

    def reference(self, *operands: Array) -> Array:
        ids, table = operands
        rows = table[checked_indices(ids, table.shape[0])].astype(np.float32)
        return (rows * np.float32(self.scale)).astype(self.result.dtype.numpy)

    def cost(self) -> Cost:
        return _lookup_cost(self, self.table)


@dataclass(eq=False, repr=False)
class SelectRowsOp(Op):
    """y[b, r, ...] = x[b, rows[b, r], ...]: the positions whose logits are wanted. x [b, s, ...], rows [b, r]."""

    mnemonic = "g4.select_rows"
    x: Value
    rows: Value

    def infer(self) -> tuple[TensorType, ...]:
        fits = self.x.type.rank >= 2 == self.rows.type.rank and self.rows.shape[0] == self.x.shape[0]
        require(fits, f"x must be [b, s, ...] and rows [b, r], got {self.x.type} and {self.rows.type}")
        require(self.rows.dtype == DType.S32, f"rows must be i32, got {self.rows.type}")
        return (self.x.type.with_shape((*self.rows.shape, *self.x.shape[2:])),)

    def reference(self, *operands: Array) -> Array:
        x, rows = operands
        return x[np.arange(x.shape[0])[:, None], checked_indices(rows, x.shape[1])]

    def cost(self) -> Cost:
        return _lookup_cost(self, self.x)
