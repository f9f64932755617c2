"""Follows every program of a module through its calls and records what each op computes and moves.

In: a module, flat or with layer functions, at any stage of a pipeline. Out: `ProgramWork` by program. Invariant: FLOPs
and bytes are those of the ops' own `cost`, so that their sum is that of `Module.cost`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from g4c.estimate.work import OUTSIDE, Attending, Component, OpWork, ProgramWork
from g4c.ir.module import Function, Module
from g4c.ir.op import Op, Value
from g4c.ir.ops import (
    AttentionOp,
    CallOp,
    EmbeddingOp,
    GatherOp,
    KvUpdateOp,
    LoadWeightOp,
    ReshapeOp,
    TiledAttentionOp,
)
from g4c.passes.layer_paths import layer_of
from g4c.passes.specialize_layers import kind_name

# Part of a checkpoint tensor's name -> what multiplying by it is.
_BY_WEIGHT: tuple[tuple[str, Component], ...] = (
    ("self_attn.", "projections"),
    ("mlp.", "mlp"),
    ("experts.", "experts"),
    ("router.", "router"),
    ("per_layer_model_projection.", "ple_projection"),
    ("per_layer_input_gate.", "ple"),
    ("per_layer_projection.", "ple"),
    ("embed_tokens.", "head"),
)


def measure(module: Module) -> dict[str, ProgramWork]:
    """The work of every program of `module`, by name."""
    weights = {name: weight.type for name, weight in module.weights.items()}
    caches = {name: cache.type for name, cache in module.caches.items()}
    return {
        program.name: ProgramWork(program.name, _tokens(program), tuple(_Walk(module, program).run()), weights, caches)
        for program in module.programs
    }


def _tokens(program: Function) -> int:
    """New positions per sequence of one execution."""
    for param in program.params:
        if param.name in ("token_ids", "positions"):
            return param.shape[1]
    return 1


@dataclass(frozen=True)
class _Symbol:
    """What a value is a part of, if not an activation."""

    kind: Literal["weight", "cache"]
    name: str


class _Walk:
    """Follows one program through its calls."""

    def __init__(self, module: Module, program: Function) -> None:
        self.module = module
        self.program = program
        self.calls = 0

    def run(self) -> Iterator[OpWork]:
        symbols: dict[Value, _Symbol] = {
            param: _Symbol("cache", param.cache) for param in self.program.params if param.cache is not None
        }
        kinds = _flat_kinds(self.program)

        def place(op: Op) -> tuple[str, str]:
            layer = layer_of(op.loc.path)
            return (kinds[layer], layer) if layer in kinds else (OUTSIDE, OUTSIDE)

        yield from self.function(self.program, symbols, place)

    def function(
        self, function: Function, symbols: dict[Value, _Symbol], place: Callable[[Op], tuple[str, str]]
    ) -> Iterator[OpWork]:
        for op in function.ops:
            if isinstance(op, CallOp):
                yield from self.call(op, symbols)
            elif isinstance(op, LoadWeightOp):
                symbols[op.result] = _Symbol("weight", op.weight.name)
            elif isinstance(op, ReshapeOp) and op.x in symbols:
                symbols[op.result] = symbols[op.x]
            else:
                work = self.op(op, symbols, *place(op))
                if work is not None:
                    yield work

    def call(self, op: CallOp, symbols: dict[Value, _Symbol]) -> Iterator[OpWork]:
        callee = self.module.functions[op.callee.name]
        inner: dict[Value, _Symbol] = {
            p: symbols[a] for p, a in zip(callee.params, op.args, strict=True) if a in symbols
        }
        section = callee.name.removeprefix(f"{self.program.name}.")
        self.calls += 1
        layer = layer_of(op.loc.path) or f"call {self.calls}"
        yield from self.function(callee, inner, lambda _: (section, layer))
        for value, result in zip(op.results, callee.results, strict=True):
            if result.value in inner:
                symbols[value] = inner[result.value]

    def op(self, op: Op, symbols: dict[Value, _Symbol], section: str, layer: str) -> OpWork | None:
        cost = op.cost()
        reads = _reads(op, symbols, cost.bytes_read)
        weights, caches = ({s.name: n for s, n in reads.items() if s.kind == kind} for kind in ("weight", "cache"))
        written = cost.bytes_written
        updates: dict[str, int] = {}
        if isinstance(op, KvUpdateOp) and op.cache in symbols:
            symbols[op.result] = symbols[op.cache]
            updates, written = {symbols[op.cache].name: written}, 0
        activations = cost.bytes_read - sum(reads.values()) + written
        if not (cost.flops or weights or caches or updates or activations):
            return None
        return OpWork(
            section,
            layer,
            self.component(op, weights) if cost.flops else None,
            cost.flops,
            weights,
            caches,
            updates,
            sum(weights.values()) if isinstance(op, EmbeddingOp | GatherOp) else 0,
            activations,
            sum(value.type.nbytes for value in op.results),
            _attending(op, symbols),
        )

    def component(self, op: Op, weights: Iterable[str]) -> Component:
        if isinstance(op, AttentionOp | TiledAttentionOp):
            return "attention"
        keys = [source.key for name in weights for source in self.module.weights[name].sources]
        for part, component in _BY_WEIGHT:
            if any(part in key for key in keys):
                return component
        return "other" if keys or ".self_attn" not in op.loc.path else "attention"


def _reads(op: Op, symbols: Mapping[Value, _Symbol], total: int) -> dict[_Symbol, int]:
    """Bytes that `op` reads of weights and caches, of `total` that it reads.

    Ops read their operands whole, but for tables, caches and experts, whose cost counts what is looked up. So what is
    missing in `total` was not read of these; of several, in proportion.
    """
    named: dict[_Symbol, int] = {}
    whole = 0
    for value in dict.fromkeys(op.operands):
        symbol = symbols.get(value)
        if symbol is None:
            whole += value.type.nbytes
        else:
            named[symbol] = named.get(symbol, 0) + value.type.nbytes
    size = sum(named.values())
    if size == 0 or total >= whole + size:
        return named
    part = max(0, total - whole)
    return {symbol: count * part // size for symbol, count in named.items() if count * part // size}


def _attending(op: Op, symbols: Mapping[Value, _Symbol]) -> Attending | None:
    if not isinstance(op, AttentionOp | TiledAttentionOp):
        return None
    batch, rows, heads, width = op.results[0].shape
    return Attending(
        rows=rows,
        window=op.window,
        flops=op.cost().flops,
        pair_flops=4 * batch * heads * width,
        key_bytes=sum(v.type.nbytes // v.shape[1] for v in (op.keys[0], op.values[0]) if v in symbols),
        kv_heads=op.keys[0].shape[2],
        apart=len(op.keys) > 1,
    )


def _flat_kinds(program: Function) -> dict[str, str]:
    """What kind each layer of a flat program is, by the layer's path."""
    layers: dict[str, list[Op]] = {}
    for op in program.ops:
        layer = layer_of(op.loc.path)
        if layer is not None and op.operands and not isinstance(op, CallOp):
            layers.setdefault(layer, []).append(op)
    return {layer: kind_name(Function(layer, "layer", ops=ops)) for layer, ops in layers.items()}
