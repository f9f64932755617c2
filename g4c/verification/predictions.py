"""Predictions at any positions of a token sequence, from a bundle's programs.

In: a session, tokens. Out: one prediction per position, logits [V] or candidates [k]. Invariant: they come from the
programs that `g4c run` runs, in the order in which it runs them: the prompt in chunks through the prefill buckets, then
decode, one token at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from g4c.runtime.candidates import Prediction
from g4c.runtime.session import Session


def predictions(session: Session, tokens: Sequence[int], prompt: int, positions: Sequence[int]) -> list[Prediction]:
    """Those at `positions` (ascending) of `tokens`, the first `prompt` of them the prompt.

    The prompt goes through the buckets as `Engine` sends it; later tokens go through decode. A chunk of which more rows
    are asked for than its program gives runs again, from the caches as they were before it.
    """
    session.reset()
    found: list[Prediction] = []
    for start in range(0, prompt, session.buckets[-1]):
        stop = min(start + session.buckets[-1], prompt)
        found += _chunk(session, tokens[start:stop], start, [p - start for p in positions if start <= p < stop])
    later = {position for position in positions if position >= prompt}
    for position in range(prompt, max(positions, default=-1) + 1):
        token = np.full((session.batch, 1), tokens[position], np.int32)
        prediction = session.decode(token, np.full((session.batch, 1), position, np.int32))
        if position in later:
            found.append(prediction[0, 0])
    return found


def _chunk(session: Session, tokens: Sequence[int], start: int, rows: Sequence[int]) -> list[Prediction]:
    """Run one chunk of the prompt, the same in all sequences; predictions after `rows` of it."""

    def everywhere(values: Sequence[int]) -> np.ndarray:
        return np.asarray(values, np.int32)[None].repeat(session.batch, axis=0)

    places = range(start, start + len(tokens))
    groups = [rows[i : i + session.logit_rows] for i in range(0, len(rows), session.logit_rows)] or [[len(tokens) - 1]]
    before = session.save() if len(groups) > 1 else {}
    found: list[Prediction] = []
    for index, group in enumerate(groups):
        if index:
            session.restore(before)
        prediction = session.prefill(everywhere(tokens), everywhere(places), everywhere(group))
        found += [prediction[0, row] for row in range(len(group))] if rows else []
    return found
