"""How far two sets of logits are apart, position by position.

In: logits [positions, V] as f32 of the bundle, of Hugging Face in f32, and for bf16 of Hugging Face in bf16. Out: `Comparison`.
Invariant: nothing is averaged over positions; one bad position shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

F32_TOLERANCE = 1e-4
BF16_COSINE = 0.9999


@dataclass(frozen=True)
class Comparison:
    """The worst position of a group.

    max_relative: max |a - b| / max |b| over the vocabulary, largest over positions. min_cosine: smallest cosine. same_argmax and
    contested: positions with equal argmax, and positions with another argmax although HF's top-2 margin exceeds `noise`
    (contested must be 0). noise: twice the largest difference that HF's own bf16 run shows at that position; 0 in f32.
    """

    label: str
    positions: int
    max_relative: float
    min_cosine: float
    same_argmax: int
    contested: int
    peer_min_cosine: float | None = None  # HF bf16 against HF f32: the yardstick

    def passes(self, *, bf16: bool) -> bool:
        """f32: relative error within 1e-4. bf16: cosine above 0.9999 or above HF bf16's own, and no contested argmax."""
        if not bf16:
            return self.max_relative <= F32_TOLERANCE and self.contested == 0
        floor = BF16_COSINE if self.peer_min_cosine is None else min(BF16_COSINE, self.peer_min_cosine)
        return self.min_cosine >= floor and self.contested == 0


def compare(label: str, found: np.ndarray, wanted: np.ndarray, peer: np.ndarray | None = None) -> Comparison:
    """Compare logits `found` with HF's f32 logits `wanted`, both [positions, V]; `peer` is HF in bf16."""
    found, wanted = found.astype(np.float32), wanted.astype(np.float32)
    difference = np.abs(found - wanted).max(axis=-1)
    relative = difference / np.abs(wanted).max(axis=-1)
    noise = np.zeros(len(wanted), np.float32) if peer is None else 2 * np.abs(peer - wanted).max(axis=-1)
    top = np.partition(wanted, -2, axis=-1)[:, -2:]
    margin = top[:, 1] - top[:, 0]
    same = found.argmax(axis=-1) == wanted.argmax(axis=-1)
    if not np.isfinite(found).all():
        relative = np.where(np.isfinite(relative), relative, np.inf)
    return Comparison(
        label,
        len(wanted),
        float(relative.max()),
        float(cosine(found, wanted).min()),
        int(same.sum()),
        int((~same & (margin > noise)).sum()),
        None if peer is None else float(cosine(peer.astype(np.float32), wanted).min()),
    )


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with the same row of `b`, both [positions, V]; -1 where a row is not finite."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norm = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(all="ignore"):
        result = (a * b).sum(axis=-1) / norm
    return np.where(np.isfinite(result), result, -1.0)
