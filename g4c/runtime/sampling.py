"""Choosing the next token from logits: greedy, or temperature, top-k and top-p as Hugging Face's warpers do it.

In: logits of one position, any float dtype. Out: a token id. Invariant: the same logits, options and seed give the same
ids; the candidates and their probabilities are those of `transformers`' TemperatureLogitsWarper, TopKLogitsWarper and
TopPLogitsWarper applied in this order to f32 logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from g4c.errors import G4cError

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. The defaults are Gemma's. `temperature` 0 is greedy, `top_k` 0 and `top_p` 1 switch off."""

    temperature: float = 1.0
    top_k: int = 64
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise G4cError("G4C-R060", f"temperature {self.temperature} is not a number of at least 0")
        if self.top_k < 0:
            raise G4cError("G4C-R060", f"top-k {self.top_k} is negative", help="0 switches it off")
        if not 0 < self.top_p <= 1:
            raise G4cError("G4C-R060", f"top-p {self.top_p} is not above 0 and at most 1", help="1 switches it off")
        if self.seed < 0:
            raise G4cError("G4C-R060", f"seed {self.seed} is negative")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


GREEDY = Sampling(temperature=0.0)


class Sampler:
    """Draws tokens of one sequence. `stream` sets the sequences of a batch apart that share a seed."""

    def __init__(self, sampling: Sampling, stream: int = 0) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng([sampling.seed, stream])

    def __call__(self, logits: Numbers) -> int:
        """A token id for `logits` [vocabulary]. G4C-R061 where they hold a NaN."""
        logits = logits.astype(np.float32)
        if np.isnan(logits).any():
            raise G4cError("G4C-R061", "the model returned logits that are not numbers")
        if self.sampling.greedy:
            return int(np.argmax(logits))
        ids, probabilities = candidates(logits, self.sampling)
        drawn = int(np.searchsorted(np.cumsum(probabilities), self._random.random(), side="right"))
        return int(ids[min(drawn, len(ids) - 1)])


def candidates(logits: Numbers, sampling: Sampling) -> tuple[Numbers, Numbers]:
    """Ids that may be drawn, most likely first, and their probabilities (f64), for `logits` [vocabulary]."""
    scores = logits.astype(np.float32) / np.float32(sampling.temperature)
    ids = np.arange(len(scores))
    if 0 < sampling.top_k < len(scores):
        threshold = np.partition(scores, -sampling.top_k)[-sampling.top_k]
        ids = np.flatnonzero(scores >= threshold)  # ties with the last one stay
    ids = ids[np.argsort(-scores[ids], kind="stable")]
    probabilities = _softmax(scores[ids])
    if sampling.top_p < 1:
        # A candidate stays while those before it, it not included, have not yet reached top_p together.
        before = np.cumsum(probabilities) - probabilities
        kept = max(1, int(np.count_nonzero(before < sampling.top_p)))
        ids, probabilities = ids[:kept], _softmax(scores[ids[:kept]])
    return ids, probabilities


def _softmax(scores: Numbers) -> Numbers:
    exponentials = np.exp(scores.astype(np.float64) - float(scores.max()))
    result: Numbers = exponentials / exponentials.sum()
    return result
