"""Cases of prefill attention: random operands for a problem, the reference in double precision, a peer, a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from attention_reference import Keys, attention, chunk_positions, ring_positions

from g4c.lowering.nki.attention.prefill import PrefillProblem, PrefillSchedule, emit, schedules
from g4c.lowering.nki.attention.prefill_plan import planned
from g4c.lowering.nki.simulator.launch import Run
from g4c.lowering.nki.simulator.source import load

TARGETS = {2: "trn1", 3: "trn2", 4: "trn3"}


@dataclass(frozen=True)
class Case:
    """Operands by name, in the kernel's order, and what they mean."""

    problem: PrefillProblem
    operands: dict[str, np.ndarray]

    @property
    def keys(self) -> list[Keys]:
        """Positions of the chunk are those of the queries."""
        labels = self.problem.labels
        held = [self.operands.get(f"{label}_held", self.operands["positions"]) for label in labels]
        pairs = [(self.operands[f"{label}_keys"], self.operands[f"{label}_values"]) for label in labels]
        return [Keys(k, v, at) for (k, v), at in zip(pairs, held, strict=True)]

    def reference(self) -> np.ndarray:
        """y in double precision."""
        p, given = self.problem, self.operands
        masks = {"window": p.window, "causal": p.causal, "blocks": given.get("blocks")}
        return attention(given["q"], self.keys, given["positions"], scale=p.scale, **masks)

    def run(self, generation: int = 3, schedule: PrefillSchedule | None = None) -> Run:
        """The kernel in the simulator."""
        artifact = emit(self.problem, schedule or schedules(self.problem, generation)[0], generation)
        kernel = load(artifact.source, artifact.name).specialize(TARGETS[generation])
        return kernel.run(*(operand.copy() for operand in self.operands.values()))

    def peer(self, schedule: PrefillSchedule) -> np.ndarray:
        """Flash attention in numpy with the blocks of `schedule`: f32, probabilities and result in the operand type."""
        p, y = self.problem, np.zeros(self.operands["q"].shape, self.problem.dtype.numpy)
        seen = self.seen()
        starts = np.cumsum([0, *(segment.keys for segment in p.segments)])
        plan, state = planned(p, schedule), {}
        for step in plan.steps:
            if not step["banks"]:
                continue
            b, start, limit, first = plan.tiles[step["unit"] // schedule.heads]
            head = first + step["unit"] % schedule.heads
            q = self.operands["q"][b, start:limit, head].astype(np.float32)
            ranges = [np.arange(starts[s] + low, starts[s] + high) for s, low, high, _, _ in step["banks"]]
            columns = np.concatenate(ranges)
            k, v = (self.all_keys(name)[b, columns, head // p.group].astype(np.float32) for name in "kv")
            scores = np.where(seen[b, start:limit, columns].T, q @ k.T * np.float32(p.scale), np.float32(-1e30))
            peak, total, result = state.get(step["unit"], (np.full((len(q), 1), -1e20, np.float32), 0.0, 0.0))
            new = np.maximum(peak, scores.max(axis=1, keepdims=True))
            weights, alpha = np.exp(scores - new), np.exp(peak - new)
            total = total * alpha + weights.sum(axis=1, keepdims=True)
            result = result * alpha + weights.astype(p.dtype.numpy).astype(np.float32) @ v
            state[step["unit"]] = new, total, result
            y[b, start:limit, head] = result / np.maximum(total, np.float32(1e-30))
        return np.where(self.operands["positions"][:, :, None, None] < 0, 0, y)

    def all_keys(self, name: str) -> np.ndarray:
        """k or v of all segments."""
        return np.concatenate([getattr(segment, name) for segment in self.keys], axis=1)

    def seen(self) -> np.ndarray:
        """[b, s, keys]: who sees whom, where there are no image blocks."""
        p = self.problem
        held = np.concatenate([segment.held for segment in self.keys], axis=1)[:, None]
        at = self.operands["positions"][:, :, None]
        seen = (at >= 0) & (held >= 0)
        if p.causal:
            seen = seen & (held <= at)
        return seen & (held > at - p.window) if p.window else seen


def make(problem: PrefillProblem, starts: list[tuple[int, int]], seed: int = 0, spread: float = 2.0) -> Case:
    """Operands with `starts`: per sequence the first query's position and how many rows are valid.

    `spread`: standard deviation of the scores; what is padding or an empty slot has large values, which show where a
    mask lets them through.
    """
    p, rng = problem, np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    q = normal(p.batch, p.rows, p.heads, p.head_dim) * np.float32(spread / p.head_dim**0.5 / p.scale)
    positions = np.stack([chunk_positions(start, p.rows, p.rows - count) for start, count in starts]).astype(np.int32)
    operands = {"q": q.astype(p.dtype.numpy)}
    for label, segment in zip(p.labels, p.segments, strict=True):
        held = positions
        if segment.kind == "past":
            held = np.stack([ring_positions(start if count else 0, segment.keys) for start, count in starts])
        if segment.kind == "mixed":
            held = np.stack([rng.permutation(segment.keys) - 3 for _ in starts])
        shape = (p.batch, segment.keys, p.kv_heads, p.head_dim)
        empty = (held < 0)[:, :, None, None]
        for name in ("keys", "values"):
            operands[f"{label}_{name}"] = np.where(empty, 40.0, normal(*shape)).astype(p.dtype.numpy)
        if segment.kind != "chunk":
            operands[f"{label}_held"] = np.maximum(held, -1).astype(np.int32)
    operands["positions"] = positions
    return Case(p, operands)
