"""eliminate-shared-kv: K/V projections, weights and caches of layers that read another layer's cache."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from g4c.ir.module import Function, Module
from g4c.ir.op import Op, Value
from g4c.ir.ops import CallOp, LinearOp
from g4c.passes.cache_states import check_cache_states
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.dce import loaded_weights
from g4c.passes.layer_paths import layer_of
from g4c.passes.liveness import Liveness, analyze


@dataclass(frozen=True)
class EliminateSharedKv(Pass):
    """Delete K/V projections, norms, weights and cache slots of layers that read another layer's cache.

    By dataflow, through calls and from one execution to the next: what no logit of any program, now or later, can
    depend on goes. No layer is told by its name or number. Works on layer functions and on flat programs. Refuses
    (G4C-P020, P021) programs in which a reader might see another state of a cache than the one that its owner leaves
    behind.

    before:  func.func @decode.sliding_shared(%hidden, ..., %k_cache, %v_cache, %self_attn.k_proj.weight, ...) {
               %4 = "g4.linear"(%0, %self_attn.k_proj.weight) ...
               %5 = "g4.rms_norm"(%4, %self_attn.k_norm.weight) ...
               ...
               %9 = "g4.attention"(%3, %k_cache, %v_cache, %positions) ...
    after:   func.func @decode.sliding_shared(%hidden, ..., %k_cache, %v_cache, ...) {
               %6 = "g4.attention"(%3, %k_cache, %v_cache, %positions) ...

    Stats, per program: layers, linear, rms_norm, rope ops no longer executed; per module: weights, projection_weights
    (elements of the matrices among them), caches, cache_bytes.
    """

    name = "eliminate-shared-kv"

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        for program in module.programs:
            check_cache_states(module, program)
        live = analyze(module)
        stats = _executed(module, live)
        loaded = loaded_weights(module)
        taken = {f.name: [param in live.values for param in f.params] for f in module.functions.values()}
        changed = [_prune(function, live, taken) for function in module.functions.values()]
        stats |= _drop_weights(module, loaded) | _drop_caches(module, live)
        return PassResult(any(changed) or any(stats.values()), stats)


def _executed(module: Module, live: Liveness) -> dict[str, int]:
    """How many ops a program no longer executes, of the program where most go."""
    per_program = [_dead_ops(module, program, live) for program in module.programs]
    names = ("layers", "linear", "rms_norm", "rope")
    return {name: max((counts[name] for counts in per_program), default=0) for name in names}


def _dead_ops(module: Module, program: Function, live: Liveness) -> Counter[str]:
    counts: Counter[str] = Counter()
    layers: set[str | None] = set()

    def count(function: Function, call: str | None) -> None:
        for op in function.ops:
            if isinstance(op, CallOp) and live.is_live(op):
                count(module.functions[op.callee.name], op.loc.path)
            elif not live.is_live(op):
                counts[op.mnemonic.removeprefix("g4.")] += 1
                if isinstance(op, LinearOp):
                    layers.add(call or layer_of(op.loc.path))

    count(program, None)
    counts["layers"] = len(layers)
    return counts


def _prune(function: Function, live: Liveness, taken: dict[str, list[bool]]) -> bool:
    """Delete the dead ops of `function`, parameters and results, and what its calls no longer pass or receive."""
    before = (len(function.ops), len(function.params), len(function.results))
    narrowed = False
    ops: list[Op] = []
    mapping: dict[Value, Value] = {}
    for op in function.ops:
        if not live.is_live(op):
            continue
        op.replace_operands(mapping)
        call = _narrow(op, live, taken) if isinstance(op, CallOp) else None
        if call is not None:
            kept = sorted(live.results[call.callee.name])
            mapping.update((op.results[i], value) for i, value in zip(kept, call.results, strict=True))
            narrowed = True
        ops.append(call or op)
    function.ops = ops
    if function.role == "layer":
        function.params = [p for p, keep in zip(function.params, taken[function.name], strict=True) if keep]
        function.results = [function.results[i] for i in sorted(live.results[function.name])]
    else:
        function.params = [p for p in function.params if p.cache is None or p.cache in live.caches]
        function.results = [r for r in function.results if r.cache is None or r.cache in live.caches]
    for result in function.results:
        result.value = mapping.get(result.value, result.value)
    return narrowed or before != (len(function.ops), len(function.params), len(function.results))


def _narrow(call: CallOp, live: Liveness, taken: dict[str, list[bool]]) -> CallOp | None:
    """`call` with the arguments that its callee still takes and the results it still gives; None where that is all."""
    callee = call.callee.name
    kept = sorted(live.results[callee])
    if all(taken[callee]) and len(kept) == len(call.types):
        return None
    args = tuple(value for value, keep in zip(call.args, taken[callee], strict=True) if keep)
    return CallOp(args, call.callee, tuple(call.types[i] for i in kept), loc=call.loc)


def _drop_weights(module: Module, loaded: set[str]) -> dict[str, int]:
    """Delete weights that were loaded before and are not any more."""
    removed = [module.weights.pop(name) for name in sorted(loaded - loaded_weights(module))]
    elements = sum(weight.type.size for weight in removed if weight.type.rank >= 2)
    return {"weights": len(removed), "projection_weights": elements}


def _drop_caches(module: Module, live: Liveness) -> dict[str, int]:
    """Delete caches that no program needs."""
    removed = [module.caches.pop(name) for name in list(module.caches) if name not in live.caches]
    return {"caches": len(removed), "cache_bytes": sum(cache.type.nbytes for cache in removed)}
