"""Attention in double precision, by its formula, and what the tests of the attention kernels share.

In: numpy arrays of any float type; positions as the kernels take them (-1: padding, an empty slot).
Out: float64. Invariant: nothing here is tiled, online or rounded, and nothing of g4c is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Keys:
    """One segment: k, v [b, m, K, d]; held [b, m], the position of each key, -1 where there is none."""

    k: np.ndarray
    v: np.ndarray
    held: np.ndarray


def attention(q, segments, positions, *, scale, window=0, causal=True, blocks=None):
    """y [b, s, H, d] of q [b, s, H, d] at positions [b, s] over the segments, which count as concatenated.

    i sees j iff neither is padding and, where causal, held[j] <= positions[i]; with a window, held[j] > positions[i] -
    window. `blocks` [b, s] (>= 0: the id of an image block) are those of the queries' own rows, which are the last
    segment: a query also sees its block's keys that are ahead. A query that sees nothing gives zeros.
    """
    k, v = (np.concatenate([getattr(s, name) for s in segments], axis=1).astype(np.float64) for name in "kv")
    held = np.concatenate([segment.held for segment in segments], axis=1)[:, None, :]
    at = positions[:, :, None]
    ahead = held > at if causal else np.zeros(np.broadcast_shapes(held.shape, at.shape), bool)
    if blocks is not None:
        own = np.full((len(q), held.shape[2]), -1)
        own[:, held.shape[2] - blocks.shape[1] :] = blocks
        ahead &= ~((blocks[:, :, None] == own[:, None, :]) & (blocks[:, :, None] >= 0))
    seen = (at >= 0) & (held >= 0) & ~ahead
    if window:
        seen &= held > at - window
    group = q.shape[2] // k.shape[2]
    y = np.zeros(q.shape, np.float64)
    for head in range(q.shape[2]):
        scores = q[:, :, head].astype(np.float64) @ k[:, :, head // group].transpose(0, 2, 1) * scale
        scores = np.where(seen, scores, -np.inf)
        peak = np.where(seen.any(axis=-1, keepdims=True), scores.max(axis=-1, keepdims=True), 0)
        weights = np.exp(scores - peak)
        total = weights.sum(axis=-1, keepdims=True)
        y[:, :, head] = weights / np.where(total == 0, 1, total) @ v[:, :, head // group]
    return y


def ring_positions(start: int, slots: int) -> np.ndarray:
    """[slots]: the position that each slot of a cache holds before position `start` is written, -1 where none."""
    held = np.full(slots, -1)
    for position in range(max(0, start - slots), start):
        held[position % slots] = position
    return held


def chunk_positions(start: int, rows: int, padding: int = 0) -> np.ndarray:
    """[rows]: consecutive from `start`, the last `padding` of them -1."""
    return np.where(np.arange(rows) < rows - padding, start + np.arange(rows), -1)


def relative_error(y: np.ndarray, reference: np.ndarray) -> float:
    """Frobenius norm of the difference over that of the reference."""
    return float(np.linalg.norm(y.astype(np.float64) - reference) / max(np.linalg.norm(reference), 1e-30))
