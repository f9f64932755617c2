"""Choosing the next token: greedy, or temperature, top-k and top-p as Hugging Face's warpers do it.

In: a prediction of one position: logits, any float dtype, or the best candidates. Out: a token id. Invariant: the same
prediction, options and seed give the same ids; what may be drawn and its probabilities are those of `transformers`'
TemperatureLogitsWarper, TopKLogitsWarper and TopPLogitsWarper applied in this order to f32 logits. Log-probabilities of
candidates stand in for logits: they differ from them by a constant, which no softmax sees. The one thing that
candidates cannot show is a logit beyond them that equals that of the last one, which the warpers would let stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from g4c.errors import G4cError
from g4c.runtime.candidates import Candidates, Prediction

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

    def candidates_needed(self, vocabulary: int) -> int:
        """How many of the best tokens must be known."""
        return 1 if self.greedy else min(self.top_k or vocabulary, vocabulary)


GREEDY = Sampling(temperature=0.0)


class Sampler:
    """Draws tokens of one sequence. `stream` sets the sequences of a batch apart that share a seed."""

    def __init__(self, sampling: Sampling, stream: int = 0) -> None:
        self.sampling = sampling
        self._random = np.random.default_rng([sampling.seed, stream])

    def __call__(self, prediction: Prediction) -> int:
        """A token id for a prediction of one row, logits [vocabulary] or candidates [k]. G4C-R061 where it has NaNs."""
        scores = _scores(prediction)
        if np.isnan(scores).any():
            raise G4cError("G4C-R061", "the model returned logits that are not numbers")
        if self.sampling.greedy:
            return int(_tokens(prediction, np.argmax(scores)))
        ids, probabilities = candidates(prediction, self.sampling)
        drawn = int(np.searchsorted(np.cumsum(probabilities), self._random.random(), side="right"))
        return int(ids[min(drawn, len(ids) - 1)])


def candidates(prediction: Prediction, sampling: Sampling) -> tuple[Numbers, Numbers]:
    """Ids that may be drawn, most likely first, and their probabilities (f64), for a prediction of one row."""
    scores = _scores(prediction) / np.float32(sampling.temperature)
    places = np.arange(len(scores))
    if 0 < sampling.top_k < len(scores):
        threshold = np.partition(scores, -sampling.top_k)[-sampling.top_k]
        places = np.flatnonzero(scores >= threshold)  # ties with the last one stay
    places = places[np.argsort(-scores[places], kind="stable")]
    probabilities = _softmax(scores[places])
    if sampling.top_p < 1:
        # A candidate stays while those before it, it not included, have not yet reached top_p together.
        before = np.cumsum(probabilities) - probabilities
        kept = max(1, int(np.count_nonzero(before < sampling.top_p)))
        places, probabilities = places[:kept], _softmax(scores[places[:kept]])
    return _tokens(prediction, places), probabilities


def logprob(prediction: Prediction, token: int) -> float:
    """ln of the model's own probability of `token`, before temperature, for a prediction of one row."""
    scores = _scores(prediction)
    if isinstance(prediction, Candidates):
        return float(scores[prediction.tokens == token][0])
    shifted = scores.astype(np.float64) - float(scores.max())
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


def _scores(prediction: Prediction) -> Numbers:
    """Logits, or what differs from them by a constant, in f32."""
    found = prediction.logprobs if isinstance(prediction, Candidates) else prediction
    scores: Numbers = found.astype(np.float32)
    return scores


def _tokens(prediction: Prediction, places: Numbers | np.integer[Any]) -> Numbers:
    """The token ids of places in the scores."""
    return np.asarray(prediction.tokens[places] if isinstance(prediction, Candidates) else places)


def _softmax(scores: Numbers) -> Numbers:
    exponentials = np.exp(scores.astype(np.float64) - float(scores.max()))
    result: Numbers = exponentials / exponentials.sum()
    return result
