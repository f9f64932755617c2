"""What one execution of a program computes and moves: one record per executed op, and sums over them.

In: records, which `g4c.estimate.walk` makes. Out: `ProgramWork`. Invariant: a weight counts once per execution however
many ops read it, a cache once per layer that reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from g4c.ir.types import TensorType

Component = Literal["projections", "mlp", "attention", "experts", "router", "ple", "ple_projection", "head", "other"]
COMPONENTS: dict[Component, str] = {
    "projections": "q, k, v and o projections",
    "mlp": "dense MLP",
    "attention": "scores and weighted values, as the program computes them",
    "experts": "experts of the mixture",
    "router": "router of the mixture",
    "ple": "per-layer-input gate and projection, in the layers",
    "ple_projection": "per-layer-input projection of the whole model",
    "head": "logits",
    "other": "contractions of nothing that g4c knows by name",
}
OUTSIDE = "outside layers"


@dataclass(frozen=True)
class Attending:
    """One attention as it is executed, `flops`; of a pair of a query and a key, `pair_flops` (4 b H d).

    `key_bytes`: what the caches hold of one position, all sequences; window 0: none. `apart`: K and V of the new tokens
    do not come from the caches, but beside them.
    """

    rows: int
    window: int
    flops: int
    pair_flops: int
    key_bytes: int
    kv_heads: int
    apart: bool

    def seen(self, tokens: int, cached: int) -> int:
        """Pairs of a query and a key that it sees, per sequence and head, for `tokens` new after `cached` positions.

        Where the op has fewer queries than the program has tokens, they are the last ones.
        """
        return sum(self._in_sight(cached + i + 1) for i in range(max(0, tokens - self.rows), tokens))

    def seen_flops(self, tokens: int, cached: int) -> int:
        """FLOPs of those pairs alone."""
        return self.pair_flops * self.seen(tokens, cached)

    def seen_bytes(self, tokens: int, cached: int) -> int:
        """Bytes in caches of the K and V that at least one of the queries sees."""
        first = cached + max(0, tokens - self.rows) + 1
        begin = first - self._in_sight(first)
        return self.key_bytes * max(0, cached + (0 if self.apart else tokens) - begin)

    def _in_sight(self, length: int) -> int:
        return min(self.window, length) if self.window else length


@dataclass(frozen=True)
class OpWork:
    """One executed op. `weights`, `caches`: bytes read of each; `updates`: bytes written of each cache.

    `rows`: of the bytes of weights, those looked up row by row.
    """

    section: str
    layer: str
    component: Component | None
    flops: int
    weights: Mapping[str, int]
    caches: Mapping[str, int]
    updates: Mapping[str, int]
    rows: int
    activations: int
    result_bytes: int
    attending: Attending | None


@dataclass(frozen=True)
class ProgramWork:
    """One execution of one program. `weight_types`: of every weight of the module."""

    name: str
    tokens: int
    ops: tuple[OpWork, ...]
    weight_types: Mapping[str, TensorType]
    cache_types: Mapping[str, TensorType]

    @cached_property
    def flops(self) -> int:
        return sum(op.flops for op in self.ops)

    @cached_property
    def components(self) -> dict[Component, int]:
        """FLOPs by component, those that the program has."""
        return components(self.ops)

    @cached_property
    def weights_read(self) -> dict[str, int]:
        """Bytes read of each weight, at most all of it."""
        return _capped((op.weights for op in self.ops), self.weight_types)

    @cached_property
    def weight_bytes(self) -> int:
        return sum(self.weights_read.values())

    @cached_property
    def looked_up(self) -> int:
        """Of the bytes of weights, those looked up row by row, in weights that nothing reads whole."""
        looked = [op for op in self.ops if op.rows]
        whole = {name for op in self.ops if not op.rows for name in op.weights}
        names = {name for op in looked for name in op.weights} - whole
        return sum(self.weights_read[name] for name in names)

    @cached_property
    def matmul_weights(self) -> int:
        """Elements of the weights that contractions read."""
        read = _capped((op.weights for op in self.ops if op.flops), self.weight_types)
        return sum(count * 8 // self.weight_types[name].dtype.bits for name, count in read.items())

    @cached_property
    def caches_read(self) -> list[tuple[str, int]]:
        """Bytes read of each cache, per layer that reads it: a layer reads a cache at most once."""
        by_layer: dict[str, list[Mapping[str, int]]] = {}
        for op in self.ops:
            by_layer.setdefault(op.layer, []).append(op.caches)
        return [item for reads in by_layer.values() for item in _capped(reads, self.cache_types).items()]

    @cached_property
    def kv_read(self) -> int:
        return sum(count for _, count in self.caches_read)

    @cached_property
    def kv_written(self) -> int:
        return sum(sum(op.updates.values()) for op in self.ops)

    @cached_property
    def activation_traffic(self) -> int:
        """Bytes that the ops read and write of what is neither a weight nor a cache, were none of them fused."""
        return sum(op.activations for op in self.ops)

    @cached_property
    def attendings(self) -> list[Attending]:
        return [op.attending for op in self.ops if op.attending is not None]

    @cached_property
    def attention_flops(self) -> int:
        """FLOPs of attention as the program computes it: every query with every slot."""
        return sum(attending.flops for attending in self.attendings)

    def seen_flops(self, tokens: int, cached: int) -> int:
        """FLOPs of attention, were it computed only where a query sees a key; see `Attending.seen`."""
        return sum(attending.seen_flops(tokens, cached) for attending in self.attendings)

    def sections(self) -> list[Section]:
        """The program's layer kinds and what lies outside layers, in order of appearance."""
        found: dict[str, list[OpWork]] = {}
        for op in self.ops:
            found.setdefault(op.section, []).append(op)
        return [Section(name, self._narrowed(ops)) for name, ops in found.items()]

    def _narrowed(self, ops: list[OpWork]) -> ProgramWork:
        return ProgramWork(self.name, self.tokens, tuple(ops), self.weight_types, self.cache_types)


@dataclass(frozen=True)
class Section:
    """The layers of one kind, together; `work` is of all of them."""

    name: str
    work: ProgramWork

    @property
    def layers(self) -> int:
        return len({op.layer for op in self.work.ops} - {OUTSIDE})


def components(ops: Iterable[OpWork]) -> dict[Component, int]:
    """FLOPs by component, in the order of COMPONENTS."""
    total: dict[Component, int] = {}
    for op in ops:
        if op.component is not None:
            total[op.component] = total.get(op.component, 0) + op.flops
    return {name: total[name] for name in COMPONENTS if name in total}


def _capped(reads: Iterable[Mapping[str, int]], types: Mapping[str, TensorType]) -> dict[str, int]:
    """Sums by name, each at most the whole tensor."""
    total: dict[str, int] = {}
    for read in reads:
        for name, count in read.items():
            total[name] = total.get(name, 0) + count
    return {name: min(count, types[name].nbytes) for name, count in total.items()}
