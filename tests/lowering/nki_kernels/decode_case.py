"""Cases of decode attention: random operands for a problem, the reference in double precision, and a kernel's run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from attention_reference import Keys, attention, chunk_positions, ring_positions

from g4c.lowering.nki.attention.decode import DecodeProblem, DecodeSchedule, emit, schedules
from g4c.lowering.nki.simulator.source import load

TARGETS = {2: "trn1", 3: "trn2", 4: "trn3"}


@dataclass(frozen=True)
class Case:
    """Operands by name, in the kernel's order, and the segments of keys that they are."""

    problem: DecodeProblem
    operands: dict[str, np.ndarray]

    @property
    def keys(self) -> list[Keys]:
        """Positions of the chunk are those of the queries."""
        names = list(self.problem.labels)
        held = [self.operands.get(f"{name}_held", self.operands["positions"]) for name in names]
        pairs = [(self.operands[f"{name}_keys"], self.operands[f"{name}_values"]) for name in names]
        return [Keys(k, v, at) for (k, v), at in zip(pairs, held, strict=True)]

    def reference(self) -> np.ndarray:
        """y in double precision."""
        p = self.problem
        return attention(self.operands["q"], self.keys, self.operands["positions"], scale=p.scale, window=p.window)

    def updated(self, what: str) -> np.ndarray:
        """The cache of `what` (keys or values) after the chunk, slot by slot."""
        cache = self.operands[f"past_{what}"].copy()
        for sequence, row in np.argwhere(self.operands["positions"] >= 0):
            position = self.operands["positions"][sequence, row]
            cache[sequence, position % cache.shape[1]] = self.operands[f"chunk_{what}"][sequence, row]
        return cache


def make(problem: DecodeProblem, starts: list[tuple[int, int]], seed: int = 0, spread: float = 2.0) -> Case:
    """Operands with `starts`: per sequence the first query's position and how many rows are valid.

    `spread`: standard deviation of the scores. Slots that hold nothing have large values, which show where a mask lets
    them through.
    """
    p, rng = problem, np.random.default_rng(seed)
    dtype = p.dtype.numpy

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    # Scores of a few units, unless said otherwise: q and k are normed, so that softmax is neither flat nor one-hot.
    q = normal(p.batch, p.rows, p.heads, p.head_dim) * (spread / p.head_dim**0.5 / p.scale)
    positions = np.stack([chunk_positions(start, p.rows, p.rows - count) for start, count in starts])
    operands = {"q": q.astype(dtype)}
    for name, segment in p.labels.items():
        shape = (p.batch, segment.keys, p.kv_heads, p.head_dim)
        k, v = normal(*shape), normal(*shape)
        if segment.kind == "past":
            rings = [ring_positions(start if count else 0, segment.keys) for start, count in starts]
            held = np.stack(rings)
        elif segment.kind == "mixed":
            rows = [chunk_positions(start - segment.keys // 2, segment.keys) for start, _ in starts]
            held = np.stack(
                [
                    rng.permutation(np.where((row >= 0) & (count > 0), row, -1))
                    for row, (_, count) in zip(rows, starts, strict=True)
                ]
            )
        else:
            held = positions
        k[held < 0], v[held < 0] = 40.0, 1000.0
        operands[f"{name}_keys"], operands[f"{name}_values"] = k.astype(dtype), v.astype(dtype)
        if segment.kind != "chunk":
            operands[f"{name}_held"] = held.astype(np.int32)
    operands["positions"] = positions.astype(np.int32)
    return Case(p, operands)


def run(case: Case, generation: int = 3, schedule: DecodeSchedule | None = None) -> tuple[np.ndarray, ...]:
    """(y, or y and both caches) as the kernel gives them; the case's operands stay as they are."""
    chosen = schedule or schedules(case.problem, generation)[0]
    artifact = emit(case.problem, chosen, generation)
    arrays = [case.operands[name].copy() for name, _ in artifact.inputs]
    kernel = load(artifact.source, artifact.name).specialize(TARGETS[generation])
    results = (kernel if chosen.cores == 1 else kernel[chosen.cores])(*arrays)
    return results if isinstance(results, tuple) else (results,)
