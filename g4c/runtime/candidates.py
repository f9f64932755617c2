"""What a program says about the next token of a row: logits of the whole vocabulary, or its best candidates.

Which of them a bundle gives was decided when it was compiled (`g4c compile --sample`). Both are indexed alike by the
leading axes [batch, rows], so whoever passes them on need not know which they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from g4c.ir.types import Array


@dataclass(frozen=True)
class Candidates:
    """The k best tokens [..., k] s32, best first, of equal ones the lower id first; log-probabilities [..., k] f32.

    Log-probabilities are the model's, under softmax over the whole vocabulary. Invariant: both have the same shape.
    """

    tokens: Array
    logprobs: Array

    def __getitem__(self, index: Any) -> Candidates:
        """Those of some rows; `index` is of leading axes."""
        return Candidates(self.tokens[index], self.logprobs[index])

    @staticmethod
    def stack(parts: Sequence[Candidates]) -> Candidates:
        """One after the other on a new first axis."""
        return Candidates(np.stack([part.tokens for part in parts]), np.stack([part.logprobs for part in parts]))


# Logits [..., vocabulary] of any float dtype, or candidates.
Prediction: TypeAlias = "Array | Candidates"
