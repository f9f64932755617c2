"""How far two sets of logits are apart, or candidates and the logits that they should be the best of.

In: logits [positions, V] or candidates [positions, k] of the bundle; logits, as f32, of Hugging Face in f32 and, for
bf16, of Hugging Face in bf16. Out: `Comparison`. Invariant: the worst position decides; an average never hides one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from g4c.runtime.candidates import Candidates

F32_TOLERANCE = 1e-4
BF16_COSINE = 0.9999
BF16_RATIO = 1.5


@dataclass(frozen=True)
class Comparison:
    """One group of positions; of candidates, log-probabilities are compared as logits are.

    max_relative: max |found - wanted| / max |wanted| over the vocabulary, at the worst position. rms: root mean square
    of the difference over that of `wanted`, all positions together. min_cosine: cosine at the worst position; None for
    candidates, too few numbers to have a direction.
    same_argmax: positions with the same argmax; contested: positions with another one although the margin between
    HF's two best exceeds what rounding can do (nothing in f32; in bf16 twice the largest difference that HF's own
    bf16 run shows at that position, or at any where rounding can choose another expert), or with candidates that are
    not, in this order and but for such a margin, the best ones. peer_*: the same figures of
    HF's bf16 run against HF's f32 run; None in f32.
    """

    label: str
    positions: int
    max_relative: float
    rms: float
    min_cosine: float | None
    same_argmax: int
    contested: int
    peer_rms: float | None = None
    peer_min_cosine: float | None = None

    @property
    def passes(self) -> bool:
        """f32: at most 1e-4 relative. bf16: cosine at least 0.9999 or, on a model whose bf16 rounding alone costs more
        than that (HF's own run shows it), and for candidates always, an error of at most 1.5 times HF's. Never a
        contested argmax."""
        if self.contested:
            return False
        if self.peer_rms is None:
            return self.max_relative <= F32_TOLERANCE
        if self.min_cosine is not None and self.peer_min_cosine is not None and self.peer_min_cosine >= BF16_COSINE:
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
    noise = _noise(wanted, peer, flips)
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


def compare_candidates(
    label: str, found: Candidates, wanted: np.ndarray, peer: np.ndarray | None = None, *, flips: float = 0.0
) -> Comparison:
    """Compare candidates `found` [positions, k] with the log-probabilities of HF's logits `wanted`, as `compare` does.

    HF's bf16 run is measured by its own candidates. A position is contested where the first token is not the argmax, by
    `compare`'s rule; where a later one is not as likely as HF's of that rank, by more than an error that passes can do
    (the tolerance in f32, 1.5 times the noise in bf16); where a token comes twice; where log-probabilities ascend.
    """
    k = found.tokens.shape[-1]
    reference = log_softmax(wanted)
    best = np.sort(reference, axis=-1)[:, : -k - 1 : -1]
    tokens = found.tokens.clip(0, wanted.shape[-1] - 1)
    likely = np.take_along_axis(reference, tokens, axis=-1)
    noise = _noise(wanted, peer, flips)
    scale = np.abs(wanted).max(axis=-1)
    slack = np.maximum(BF16_RATIO * noise, F32_TOLERANCE * scale)[:, None].repeat(k, axis=-1)
    slack[:, 0] = noise
    wrong = ((best - likely > slack) | (tokens != found.tokens)).any(axis=-1)
    wrong |= (np.diff(np.sort(tokens, axis=-1), axis=-1) == 0).any(axis=-1)
    wrong |= (np.diff(found.logprobs, axis=-1) > 0).any(axis=-1)
    logprobs = np.where(np.isfinite(found.logprobs), found.logprobs, np.float32(np.inf))
    peer_rms = None
    if peer is not None:
        chosen = np.argsort(-peer, axis=-1, kind="stable")[:, :k]
        peer_rms = relative_rms(*(np.take_along_axis(x, chosen, axis=-1) for x in (log_softmax(peer), reference)))
    return Comparison(
        label,
        len(wanted),
        float((np.abs(logprobs - likely).max(axis=-1) / scale).max()),
        relative_rms(logprobs, likely),
        None,
        int((tokens[:, 0] == wanted.argmax(axis=-1)).sum()),
        int(wrong.sum()),
        peer_rms,
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """ln of the probabilities that `logits` [positions, V] give, in f32, summed in f64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: np.ndarray = (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)
    return result


def _noise(wanted: np.ndarray, peer: np.ndarray | None, flips: float) -> np.ndarray:
    """What rounding can do to a difference of two logits, per position."""
    noise = np.zeros(len(wanted), np.float32) if peer is None else 2 * np.abs(peer - wanted).max(axis=-1)
    result: np.ndarray = np.maximum(noise, 2 * flips)
    return result


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
