"""How far two sets of logits are apart.

In: logits [positions, V] as f32 of the bundle and of Hugging Face in f32 and, for bf16, of Hugging Face in bf16.
Out: `Comparison`. Invariant: the worst position decides; an average never hides one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

F32_TOLERANCE = 1e-4
BF16_COSINE = 0.9999
BF16_RATIO = 1.5


@dataclass(frozen=True)
class Comparison:
    """One group of positions.

    max_relative: max |found - wanted| / max |wanted| over the vocabulary, at the worst position. rms: root mean square
    of the difference over that of `wanted`, all positions together. min_cosine: cosine at the worst position.
    same_argmax: positions with the same argmax; contested: positions with another one although the margin between
    HF's two best exceeds what rounding can do (nothing in f32; in bf16 twice the largest difference that HF's own
    bf16 run shows at that position, or at any where rounding can choose another expert). peer_*: the same figures of
    HF's bf16 run against HF's f32 run; None in f32.
    """

    label: str
    positions: int
    max_relative: float
    rms: float
    min_cosine: float
    same_argmax: int
    contested: int
    peer_rms: float | None = None
    peer_min_cosine: float | None = None

    @property
    def passes(self) -> bool:
        """f32: at most 1e-4 relative. bf16: cosine at least 0.9999 or, on a model whose bf16 rounding alone costs more
        than that (HF's own run shows it), an error of at most 1.5 times HF's. Never a contested argmax."""
        if self.contested:
            return False
        if self.peer_rms is None or self.peer_min_cosine is None:
            return self.max_relative <= F32_TOLERANCE
        if self.peer_min_cosine >= BF16_COSINE:
            return self.min_cosine >= BF16_COSINE
        return self.rms <= BF16_RATIO * self.peer_rms


def compare(
    label: str, found: np.ndarray, wanted: np.ndarray, peer: np.ndarray | None = None, *, flips: float = 0.0
) -> Comparison:
    """Compare logits `found` with HF's f32 logits `wanted`, [positions, V]; `peer`: HF's in bf16, or None.

    `flips`: the largest difference that HF's bf16 run shows at any position of a model with experts; 0 without. There
    a rounding error can choose another expert, at one position in HF's run and at another in the bundle's.
    """
    found, wanted = found.astype(np.float32), wanted.astype(np.float32)
    found = np.where(np.isfinite(found), found, np.float32(np.inf))
    noise = np.zeros(len(wanted), np.float32) if peer is None else 2 * np.abs(peer - wanted).max(axis=-1)
    noise = np.maximum(noise, 2 * flips)
    top = np.partition(wanted, -2, axis=-1)[:, -2:]
    same = found.argmax(axis=-1) == wanted.argmax(axis=-1)
    return Comparison(
        label,
        len(wanted),
        float((np.abs(found - wanted).max(axis=-1) / np.abs(wanted).max(axis=-1)).max()),
        relative_rms(found, wanted),
        float(cosine(found, wanted).min()),
        int(same.sum()),
        int((~same & (top[:, 1] - top[:, 0] > noise)).sum()),
        None if peer is None else relative_rms(peer, wanted),
        None if peer is None else float(cosine(peer, wanted).min()),
    )


def relative_rms(found: np.ndarray, wanted: np.ndarray) -> float:
    """|found - wanted| / |wanted|, Euclidean, over all elements."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.linalg.norm((found - wanted).ravel().astype(np.float64)) / np.linalg.norm(wanted.ravel())
    return float(error) if np.isfinite(error) else float("inf")


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with the same row of `b`, both [positions, V]; -1 where a row is not finite."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        result = (a * b).sum(axis=-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return np.where(np.isfinite(result), result, -1.0)
