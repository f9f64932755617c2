"""Histories: many executions in a row over one set of caches, as a runtime would make them.

A history is a list of `Call`s. `results_of` runs one on the reference interpreter and gives the results of every row
that was asked for, `logits_of` the logits among them, so that two forms of a module can be compared whatever their
caches look like. The caches start out full of garbage, and differently so for each form: what was never written must
not be seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from g4c.ir.interpreter import interpret
from g4c.ir.module import Module
from g4c.ir.types import Array
from g4c.passes.numerics import difference, sample_weights


@dataclass(frozen=True)
class Call:
    """One execution of the program of `length` rows. Sequence i is fed `counts[i]` tokens, from `starts[i]` on."""

    length: int
    starts: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def program(self) -> str:
        return f"prefill_{self.length}" if self.length > 1 else "decode"

    def positions(self) -> Array:
        """[batch, length]; -1 where there is no token."""
        rows = np.arange(self.length)
        starts, counts = (np.array(x)[:, None] for x in (self.starts, self.counts))
        return np.where(rows < counts, starts + rows, -1).astype(np.int32)

    def rows(self, count: int) -> Array:
        """[batch, count]: which rows to ask for. All if they are so many; else the last one fed, and any before it."""
        if count == self.length:
            return np.broadcast_to(np.arange(self.length, dtype=np.int32), (len(self.starts), count))
        last = np.maximum(self.counts, 1)[:, None] - 1
        rows = np.random.default_rng(self.starts).integers(0, last + 1, (len(last), count))
        rows[:, -1:] = last
        return rows.astype(np.int32)


def single(chunks: Sequence[tuple[int, int]], *, start: int = 0) -> list[Call]:
    """A history of one sequence: (program length, tokens) per call, one after the other."""
    calls = []
    for length, count in chunks:
        calls.append(Call(length, (start,), (count,)))
        start += count
    return calls


def chunked(prompt: int, length: int, *, decode: int = 0) -> list[Call]:
    """A prompt through the program of `length` rows, the last chunk padded; then `decode` tokens, one by one."""
    chunks = [(length, min(length, prompt - start)) for start in range(0, prompt, length)]
    return single([*chunks, *[(1, 1)] * decode])


def mixed(random: np.random.Generator, lengths: Sequence[int], batch: int, context: int, calls: int) -> list[Call]:
    """Programs in any order; each sequence goes on by as many tokens as it likes, or none, or starts over."""
    history = []
    at = np.zeros(batch, int)
    for _ in range(calls):
        length = int(random.choice(lengths))
        at[(random.random(batch) < 0.1) | (at + length > context)] = 0
        counts = random.integers(1, length + 1, batch) * (random.random(batch) < 0.8)
        history.append(Call(length, tuple(at.tolist()), tuple(counts.tolist())))
        at += counts
    return history


def mild_weights(module: Module) -> dict[str, Array]:
    """Random weights whose scores are of size 1, not 16 as norms of 256 dims make them: a softmax that is no argmax.

    Otherwise rounding alone, where keys are summed in another order, would decide which key an attention takes.
    """
    weights = sample_weights(module)
    for name, array in weights.items():
        if name.endswith("q_norm.weight"):
            weights[name] = (array.astype(np.float32) / np.sqrt(array.size)).astype(array.dtype)
    return weights


def results_of(module: Module, history: Sequence[Call], *, garbage: int = 0) -> list[dict[str, Array]]:
    """Per call the results by name [n, ...], caches aside, of the rows that were fed and are asked for.

    A prefill whose `rows` are as many as it has is asked for all of them, another for random ones among those that are
    fed, the last one always.
    """
    weights = mild_weights(module)
    random = np.random.default_rng(garbage)
    caches: Mapping[str, Array] = {
        cache.name: (9 * random.standard_normal(cache.type.shape)).astype(cache.type.dtype.numpy)
        for cache in module.caches.values()
    }
    tokens = np.random.default_rng(1)
    found = []
    for call in history:
        positions = call.positions()
        inputs = {"token_ids": tokens.integers(0, 50, positions.shape).astype(np.int32), "positions": positions}
        fed = positions >= 0
        if call.length > 1:
            inputs["rows"] = call.rows(module.functions[call.program].param("rows").shape[1])
            fed = np.take_along_axis(fed, inputs["rows"], axis=1)
        results = dict(interpret(module, call.program, {**inputs, **caches}, weights))
        caches = {name: results.pop(name) for name in module.caches}
        found.append({name: array[fed] for name, array in results.items()})
    return found


def logits_of(module: Module, history: Sequence[Call], *, garbage: int = 0) -> list[Array]:
    """Per call the logits [n, V] of the rows that were fed and are asked for, see `results_of`."""
    return [results["logits"].astype(np.float32) for results in results_of(module, history, garbage=garbage)]


def worst(found: Sequence[Array], wanted: Sequence[Array]) -> float:
    """The largest difference of any call, relative to its logits."""
    assert len(found) == len(wanted)
    assert sum(array.size for array in wanted) > 0
    return max(difference(a, b) for a, b in zip(found, wanted, strict=True) if b.size)
