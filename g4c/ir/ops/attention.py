"""Attention and the KV cache, kept whole: the slot of a key is its absolute position.

Caches are [batch, slots, kv_heads, head_dim]. Right-padded positions write garbage into slots that no valid query can
see and that decode overwrites before they become visible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from g4c.ir.op import Cost, Op, Value, require
from g4c.ir.ops.indexing import checked_indices
from g4c.ir.types import Array, DType, TensorType


@dataclass(eq=False, repr=False)
class AttentionOp(Op):
    """y[b,i,h] = sum_j softmax_j(scale * q[b,i,h] . k[b,j,g]) * v[b,j,g], g = h // (H / K), over the keys that i sees.

    sees(i, j) = j < span and j <= positions[b,i] and (window == 0 or j > positions[b,i] - window).
    q [b, s, H, d]; k, v [b, slots, K, d]; positions [b, s] i32. Scores and softmax in f32; probabilities are rounded to
    the operand type before they meet v. The window counts the query itself. A query that sees no key gives zeros (a
    lowering may give any finite value: only padding has such queries).
    """

    mnemonic = "g4.attention"
    q: Value
    k: Value
    v: Value
    positions: Value
    scale: float
    window: int
    span: int

    def infer(self) -> tuple[TensorType, ...]:
        q, k = self.q.type, self.k.type
        require(q.rank == 4 and k.rank == 4, f"q must be [b, s, H, d] and k [b, slots, K, d], got {q} and {k}")
        require(self.k.type == self.v.type, f"k is {k}, v is {self.v.type}")
        require(q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3], f"batch or head_dim differ: q is {q}, k is {k}")
        require(q.dtype == k.dtype, f"operand dtypes differ: {q} and {k}")
        require(q.shape[2] % k.shape[2] == 0, f"{q.shape[2]} query heads do not divide over {k.shape[2]} KV heads")
        wanted = TensorType(q.shape[:2], DType.S32)
        require(self.positions.type == wanted, f"positions must be {wanted}, got {self.positions.type}")
        return (q,)

    def verify(self) -> None:
        require(
            0 < self.span <= self.k.shape[1], f"span {self.span} is not within the {self.k.shape[1]} slots of the cache"
        )
        require(self.window >= 0, f"window must be >= 0 (0 = none), got {self.window}")
        require(self.q.dtype.is_float, f"needs floats, got {self.q.type}")

    def reference(self, *operands: Array) -> Array:
        q, k, v = (operand.astype(np.float32) for operand in operands[:3])
        k, v = k[:, : self.span], v[:, : self.span]
        batch, rows, heads, width = q.shape
        group = heads // k.shape[2]
        q = q.reshape(batch, rows, k.shape[2], group, width)
        scores = np.einsum("bikgd,bjkd->bkgij", q, k, optimize=True) * np.float32(self.scale)
        query = operands[3][:, None, None, :, None]
        slot = np.arange(self.span)[None, None, None, None, :]
        allowed = slot <= query
        if self.window:
            allowed &= slot > query - self.window
        scores = np.where(allowed, scores, np.float32(-np.inf))
        peak = scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores - np.where(np.isneginf(peak), np.float32(0), peak))
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights / np.where(total == 0, np.float32(1), total)
        weights = weights.astype(operands[0].dtype).astype(np.float32)
        y: Array = np.einsum("bkgij,bjkd->bikgd", weights, v, optimize=True)
        return y.reshape(batch, rows, heads, width).astype(self.result.dtype.numpy)

    def cost(self) -> Cost:
        """Dense over the span: 4 b H d s span FLOP. Of k and v only the span is read."""
        batch, rows, heads, width = self.q.shape
        read = self.q.type.nbytes + self.positions.type.nbytes
        read += 2 * self.k.type.nbytes * self.span // self.k.shape[1]
        return Cost(4 * batch * heads * width * rows * self.span, read, self.result.type.nbytes)


def _check_cache(cache: TensorType, x: TensorType) -> None:
    fits = cache.rank == 4 == x.rank and cache.dtype == x.dtype
    fits = fits and (cache.shape[0], *cache.shape[2:]) == (x.shape[0], *x.shape[2:]) and x.shape[1] <= cache.shape[1]
    require(fits, f"cannot write {x} into a cache of {cache}; both are [b, positions, kv_heads, head_dim]")


@dataclass(eq=False, repr=False)
class KvFillOp(Op):
    """y = cache with slots start .. start+s-1 of every sequence replaced by x. The prefill form: static slots."""

    mnemonic = "g4.kv_fill"
    cache: Value
    x: Value
    start: int = 0

    def infer(self) -> tuple[TensorType, ...]:
        _check_cache(self.cache.type, self.x.type)
        return (self.cache.type,)

    def verify(self) -> None:
        limit = self.cache.shape[1] - self.x.shape[1]
        require(0 <= self.start <= limit, f"start {self.start} is not within 0..{limit}")

    def reference(self, *operands: Array) -> Array:
        y = operands[0].copy()
        y[:, self.start : self.start + self.x.shape[1]] = operands[1]
        return y

    def cost(self) -> Cost:
        return Cost(0, self.x.type.nbytes, self.x.type.nbytes)  # in place


@dataclass(eq=False, repr=False)
class KvUpdateOp(Op):
    """y = cache with slot positions[b, i] of sequence b replaced by x[b, i]. The decode form: run-time slots.

    Positions must be slots of the cache; of equal positions in one sequence the last wins.
    """

    mnemonic = "g4.kv_update"
    cache: Value
    x: Value
    positions: Value

    def infer(self) -> tuple[TensorType, ...]:
        _check_cache(self.cache.type, self.x.type)
        wanted = TensorType(self.x.shape[:2], DType.S32)
        require(self.positions.type == wanted, f"positions must be {wanted}, got {self.positions.type}")
        return (self.cache.type,)

    def reference(self, *operands: Array) -> Array:
        cache, x, positions = operands
        y = cache.copy()
        for sequence, slots in enumerate(checked_indices(positions, cache.shape[1])):
            y[sequence, slots] = x[sequence]
        return y

    def cost(self) -> Cost:
        return Cost(0, self.x.type.nbytes + self.positions.type.nbytes, self.x.type.nbytes)  # in place
