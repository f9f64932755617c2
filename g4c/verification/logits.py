"""Logits of any positions of a token sequence, from a bundle's programs.

In: a session, tokens. Out: arrays [positions, V]. Invariant: the logits come from the programs that `g4c run` runs, in
the order in which it runs them: one prefill bucket, then decode, one token at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from g4c.runtime.session import Session


def program_logits(session: Session, tokens: Sequence[int], prompt: int, positions: Sequence[int]) -> np.ndarray:
    """Logits [len(positions), V] as f32 at `positions` (ascending) of `tokens`, the first `prompt` of them the prompt.

    The prompt goes through the smallest bucket that holds it; what is past the largest bucket, and all later tokens, go
    through decode. A bucket that gives fewer rows than are asked for runs again; it writes the same caches.
    """
    session.reset()
    prefilled = min(prompt, session.buckets[-1])
    ids = np.asarray(tokens[:prefilled], np.int32)[None].repeat(session.batch, axis=0)
    wanted = [position for position in positions if position < prefilled]
    found: list[np.ndarray] = []
    for start in range(0, max(len(wanted), 1), session.logit_rows):
        rows = np.asarray(wanted[start : start + session.logit_rows] or [prefilled - 1], np.int32)
        logits = session.prefill(ids, rows[None].repeat(session.batch, axis=0))
        if wanted:
            found.extend(logits[0].astype(np.float32))
    later = set(positions) - set(wanted)
    for position in range(prefilled, max(positions, default=-1) + 1):
        token = np.full((session.batch, 1), tokens[position], np.int32)
        logits = session.decode(token, np.full((session.batch, 1), position, np.int32))
        if position in later:
            found.append(logits[0, 0].astype(np.float32))
    return np.stack(found)
