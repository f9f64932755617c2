"""Attention and the KV cache, kept whole: which position a slot holds is data, and masking goes by position alone.

A cache is [batch, slots, kv_heads, head_dim], a ring: position p lives in slot p mod slots. A linear cache is a ring
that never wraps. Positions are [batch, rows]; in each sequence the valid ones are consecutive and ascending, and
padding after them has position -1: it is not written and sees nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from g4c.ir.op import Cost, Op, Value, require
from g4c.ir.types import Array, DType, TensorType


@dataclass(eq=False, repr=False)
class AttentionOp(Op):
    """y[b,i,h] = sum_j softmax_j(scale * q[b,i,h] . k[b,j,g]) * v[b,j,g], g = h // (H / K), over the keys i sees.

    sees(i, j) = 0 <= kp[b,j] <= p[b,i] and (window == 0 or kp[b,j] > p[b,i] - window), p the positions of the queries
    and kp those of the keys. q [b, s, H, d]; keys and values come in segments [b, m, K, d] with key_positions [b, m]
    i32, and count as concatenated. Scores and softmax in f32; probabilities are rounded to the operand type before they
    meet v.
    The window counts the query itself. A query that sees no key gives zeros (a lowering may give any finite value: only
    padding has such queries).
    """

    mnemonic = "g4.attention"
    q: Value
    keys: tuple[Value, ...]
    values: tuple[Value, ...]
    positions: Value
    key_positions: tuple[Value, ...]
    scale: float
    window: int

    def infer(self) -> tuple[TensorType, ...]:
        q = self.q.type
        require(q.rank == 4, f"q must be [b, s, H, d], got {q}")
        counts = (len(self.keys), len(self.values), len(self.key_positions))
        require(len(set(counts)) == 1 and counts[0] > 0, f"segments differ: {counts} keys, values and key_positions")
        for k, v, held in zip(self.keys, self.values, self.key_positions, strict=True):
            require(k.type.rank == 4, f"keys must be [b, m, K, d], got {k.type}")
            require(k.type == v.type, f"a segment's keys are {k.type}, its values {v.type}")
            fits = (q.shape[0], q.shape[3]) == (k.shape[0], k.shape[3])
            require(fits, f"batch or head_dim differ: q is {q}, keys are {k.type}")
            require(q.dtype == k.dtype, f"operand dtypes differ: {q} and {k.type}")
            require(
                k.shape[2] == self.keys[0].shape[2], f"segments have {self.keys[0].shape[2]} and {k.shape[2]} KV heads"
            )
            require(q.shape[2] % k.shape[2] == 0, f"{q.shape[2]} query heads do not divide over {k.shape[2]} KV heads")
            wanted = TensorType(k.shape[:2], DType.S32)
            require(held.type == wanted, f"key_positions must be {wanted}, got {held.type}")
        wanted = TensorType(q.shape[:2], DType.S32)
        require(self.positions.type == wanted, f"positions must be {wanted}, got {self.positions.type}")
        return (q,)

    def verify(self) -> None:
        require(self.window >= 0, f"window must be >= 0 (0 = none), got {self.window}")
        require(self.q.dtype.is_float, f"needs floats, got {self.q.type}")

    @property
    def key_count(self) -> int:
        """Keys of all segments, per sequence."""
        return sum(k.shape[1] for k in self.keys)

    def reference(self, *operands: Array) -> Array:
        n = len(self.keys)
        q = operands[0].astype(np.float32)
        k, v = (np.concatenate(operands[1 + i * n : 1 + i * n + n], axis=1).astype(np.float32) for i in range(2))
        held = np.concatenate(operands[2 + 2 * n :], axis=1)[:, None, None, None, :]
        query = operands[1 + 2 * n][:, None, None, :, None]
        batch, rows, heads, width = q.shape
        q = q.reshape(batch, rows, k.shape[2], heads // k.shape[2], width)
        scores = np.einsum("bikgd,bjkd->bkgij", q, k, optimize=True) * np.float32(self.scale)
        allowed = (held >= 0) & (held <= query)
        if self.window:
            allowed &= held > query - self.window
        scores = np.where(allowed, scores, np.float32(-np.inf))
        peak = scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores - np.where(np.isneginf(peak), np.float32(0), peak))
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights / np.where(total == 0, np.float32(1), total)
        weights = weights.astype(operands[0].dtype).astype(np.float32)
        y: Array = np.einsum("bkgij,bjkd->bikgd", weights, v, optimize=True)
        return y.reshape(batch, rows, heads, width).astype(self.result.dtype.numpy)

    def cost(self) -> Cost:
        """Dense over all keys: 4 b H d s m FLOP."""
        batch, rows, heads, width = self.q.shape
        read = sum(value.type.nbytes for value in self.operands)
        return Cost(4 * batch * heads * width * rows * self.key_count, read, self.result.type.nbytes)


@dataclass(eq=False, repr=False)
class HeldPositionsOp(Op):
    """y[b, j] = the largest p <= last[b] with p mod slots = j, or -1: the position that slot j of a cache holds.

    `updated`: last is the largest of positions[b], so this is what a cache holds after these rows were written to it;
    otherwise last = positions[b, 0] - 1, which is what it held before. Every position up to last has been written.
    """

    mnemonic = "g4.held_positions"
    positions: Value
    slots: int
    updated: bool

    def infer(self) -> tuple[TensorType, ...]:
        wanted = self.positions.type.rank == 2 and self.positions.dtype == DType.S32
        require(wanted, f"positions must be [b, rows] i32, got {self.positions.type}")
        return (TensorType((self.positions.shape[0], self.slots), DType.S32),)

    def verify(self) -> None:
        require(self.slots > 0, f"slots must be > 0, got {self.slots}")

    def reference(self, *operands: Array) -> Array:
        positions = operands[0]
        last = positions.max(axis=1) if self.updated else positions[:, 0] - 1
        slot = np.arange(self.slots, dtype=np.int32)
        held = last[:, None] - (last[:, None] - slot) % self.slots
        return np.where(last[:, None] < 0, -1, np.maximum(held, -1)).astype(np.int32)


@dataclass(eq=False, repr=False)
class KvUpdateOp(Op):
    """y = cache with slot positions[b, i] mod slots of sequence b replaced by x[b, i].

    Rows at negative positions are not written. Of rows that meet in one slot, which takes more rows than the cache has
    slots, the last wins.
    """

    mnemonic = "g4.kv_update"
    cache: Value
    x: Value
    positions: Value

    def infer(self) -> tuple[TensorType, ...]:
        cache, x = self.cache.type, self.x.type
        fits = cache.rank == 4 == x.rank and cache.dtype == x.dtype
        fits = fits and (cache.shape[0], *cache.shape[2:]) == (x.shape[0], *x.shape[2:])
        require(fits, f"cannot write {x} into a cache of {cache}; both are [b, positions, kv_heads, head_dim]")
        wanted = TensorType(x.shape[:2], DType.S32)
        require(self.positions.type == wanted, f"positions must be {wanted}, got {self.positions.type}")
        return (cache,)

    def reference(self, *operands: Array) -> Array:
        cache, x, positions = operands
        y = cache.copy()
        for sequence, row in enumerate(positions):
            valid = consecutive(row)
            y[sequence, row[:valid] % cache.shape[1]] = x[sequence, :valid]
        return y

    def cost(self) -> Cost:
        return Cost(0, self.x.type.nbytes + self.positions.type.nbytes, self.x.type.nbytes)  # in place


def consecutive(positions: Array) -> int:
    """How many of one sequence's positions are valid. ValueError unless consecutive, with padding after them."""
    valid = int((positions >= 0).sum())
    wanted = positions[0] + np.arange(valid)
    if valid and not (positions[0] >= 0 and np.array_equal(positions[:valid], wanted)):
        raise ValueError(f"positions {positions.tolist()} are not consecutive, followed by padding")
    return valid
