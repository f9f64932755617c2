"""Modelled times: bounds of one execution, of a prompt, of a token.

In: the work of the programs, and the cores that share it. Out: seconds, all of them modelled: no figure here was
measured. Invariant: an execution takes as long as its arithmetic or its memory traffic, whichever takes longer, plus
its collectives; a prompt takes the executions that its chunks need, chosen as the engine chooses them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from g4c.estimate.machines import Cores
from g4c.estimate.sharding import Split, head_share
from g4c.estimate.work import OpWork, ProgramWork
from g4c.ir.weights import Weight

# Collectives within a node: a start of 1 to 10 us by AWS's documentation, whose example transfers at 100 GB/s.
COLLECTIVE_SECONDS = 5e-6
COLLECTIVE_BANDWIDTH = 100e9
ZERO = Fraction()


@dataclass(frozen=True)
class Chunk:
    """One execution of a prefill program: `tokens` new tokens after `cached` ones."""

    program: str
    tokens: int
    cached: int


def plan_chunks(prompt: int, buckets: Sequence[int]) -> list[Chunk]:
    """How a prompt runs: chunks of the largest bucket, the rest in the smallest that holds it."""
    buckets = sorted(buckets)
    chunks = []
    for cached in range(0, prompt, buckets[-1]):
        tokens = min(prompt - cached, buckets[-1])
        bucket = next(bucket for bucket in buckets if bucket >= tokens)
        chunks.append(Chunk(f"prefill_{bucket}", tokens, cached))
    return chunks


@dataclass(frozen=True)
class Demand:
    """What one execution asks of one core. Bytes of memory traffic by kind; `sent`: bytes of `collectives`."""

    flops: int
    weight_bytes: int
    kv_read_bytes: int
    kv_written_bytes: int
    collectives: int
    sent: int

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.kv_read_bytes + self.kv_written_bytes


@dataclass(frozen=True)
class Bounds:
    """Seconds of one execution: of its arithmetic, its memory traffic, its collectives, and altogether."""

    compute: float
    bandwidth: float
    collectives: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.bandwidth) + self.collectives

    @property
    def limit(self) -> Literal["compute", "bandwidth"]:
        return "compute" if self.compute > self.bandwidth else "bandwidth"


def demand(
    work: ProgramWork, weights: Mapping[str, Weight], split: Split, seen: tuple[int, int] | None = None
) -> Demand:
    """What an execution of `work` asks of a core. `seen` (tokens, cached): attention only where a query sees a key."""
    shares = {name: split.weight(weights[name]) for name in work.weights_read}
    flops = sum((op.flops * _share(op, shares, split) for op in work.ops if op.attending is None), ZERO)
    read = sum((count * shares[name] for name, count in work.weights_read.items()), ZERO)
    kv = sum((count * split.cache(work.cache_types[name]) for name, count in work.caches_read), ZERO)
    written = sum((n * split.cache(work.cache_types[name]) for op in work.ops for name, n in op.updates.items()), ZERO)
    attention = work.attention_flops
    if seen is not None:
        attention = work.seen_flops(*seen)
        kv = min(kv, sum((a.seen_bytes(*seen) * head_share(a.kv_heads, split.tp) for a in work.attendings), ZERO))
    sent = [split.traffic(_keys(op, weights), op.result_bytes) for op in work.ops if op.flops]
    flops += attention * split.even
    return Demand(int(flops), int(read), int(kv), int(written), sum(map(bool, sent)), sum(sent))


def _share(op: OpWork, shares: Mapping[str, Fraction], split: Split) -> Fraction:
    """A core's share of the arithmetic of `op`: that of the weights that it multiplies by."""
    total = sum(op.weights.values())
    return sum((count * shares[name] for name, count in op.weights.items()), ZERO) / total if total else split.even


def _keys(op: OpWork, weights: Mapping[str, Weight]) -> list[str]:
    return [source.key for name in op.weights for source in weights[name].sources]


def bounds(asked: Demand, cores: Cores) -> Bounds:
    """Modelled seconds of an execution that asks `asked` of every core."""
    collectives = asked.collectives * COLLECTIVE_SECONDS + asked.sent / COLLECTIVE_BANDWIDTH
    return Bounds(asked.flops / cores.flops, asked.bytes / cores.bandwidth, collectives)
