"""Softmax and weighted sum over keys that come tile by tile: what the reference of tiled attention computes with.

In: the d tiles of one tile of queries, then tiles of keys and values. Out: the attention of these queries. Invariant:
running maximum, sum and result are in f32; probabilities are rounded to the queries' type before they meet the values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from g4c.ir.types import Array


class OnlineSoftmax:
    """The online softmax of one tile of queries: q as d tiles [b, rows, H, width]; sums as [b, K, H / K, rows, ...]."""

    def __init__(self, q: Sequence[Array], kv_heads: int) -> None:
        batch, rows, heads, _ = q[0].shape
        grouped = [part.reshape(batch, rows, kv_heads, heads // kv_heads, -1).astype(np.float32) for part in q]
        self.q = [part.transpose(0, 2, 3, 1, 4) for part in grouped]
        self.dtype = q[0].dtype
        self.peak = np.full((*self.q[0].shape[:4], 1), -np.inf, np.float32)
        self.total = np.zeros_like(self.peak)
        self.y = np.zeros((*self.q[0].shape[:4], sum(part.shape[3] for part in q)), np.float32)

    def visit(self, k: Array, v: Array, scale: float, allowed: npt.NDArray[np.bool_] | None) -> None:
        """Add a tile of keys and values [b, keys, K, d]; `allowed` None: every query sees every key."""
        k, v = (x.transpose(0, 2, 1, 3)[:, :, None].astype(np.float32) for x in (k, v))
        scores = np.zeros((*self.peak.shape[:4], k.shape[3]), np.float32)
        start = 0
        for part in self.q:
            limit = start + part.shape[-1]
            scores += part @ k[..., start:limit].swapaxes(-1, -2)
            start = limit
        scores *= np.float32(scale)
        if allowed is not None:
            scores = np.where(allowed, scores, np.float32(-np.inf))
        peak: Array = np.maximum(self.peak, scores.max(axis=-1, keepdims=True))
        base = np.where(np.isneginf(peak), np.float32(0), peak)
        weights, shrink = np.exp(scores - base), np.exp(self.peak - base)
        self.peak = peak
        self.total = self.total * shrink + weights.sum(axis=-1, keepdims=True)
        self.y = self.y * shrink + weights.astype(self.dtype).astype(np.float32) @ v

    def result(self) -> Array:
        """[b, rows, H, d] in f32; zeros where nothing was seen."""
        batch, _, _, rows, width = self.y.shape
        y = (self.y / np.where(self.total == 0, np.float32(1), self.total)).astype(np.float32)
        return y.transpose(0, 3, 1, 2, 4).reshape(batch, rows, -1, width)
