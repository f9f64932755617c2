"""dce: dead code, functions nobody calls, weights nobody loads."""

from __future__ import annotations

from dataclasses import dataclass

from g4c.ir.module import Function, Module
from g4c.ir.op import Value
from g4c.ir.ops import LoadWeightOp
from g4c.passes.contract import Pass, PassContext, PassResult


@dataclass(frozen=True)
class Dce(Pass):
    """Delete ops whose results nobody uses, functions nobody calls, and weights nobody loads.

    Ops have no side effects: caches are values. Parameters, caches and results stay; whether a cache is needed is a
    matter of all programs together (eliminate-shared-kv).

    before:  %0 = "g4.load_weight"() {weight = @unused} ...
             %1 = "g4.linear"(%x, %0) ...
             return %x
    after:   return %x
    """

    name = "dce"
    level_before = None

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        stats = {"ops": sum(remove_dead_ops(function) for function in module.functions.values())}
        stats["functions"] = remove_uncalled_functions(module)
        stats["weights"] = len(remove_unloaded_weights(module))
        return PassResult(any(stats.values()), stats)


def remove_dead_ops(function: Function) -> int:
    """Delete ops none of whose results is used; returns how many."""
    live: set[Value] = {result.value for result in function.results}
    kept = []
    for op in reversed(function.ops):
        if any(value in live for value in op.results):
            kept.append(op)
            live.update(op.operands)
    removed = len(function.ops) - len(kept)
    function.ops = kept[::-1]
    return removed


def used_values(function: Function) -> set[Value]:
    """Values that some op or result of `function` uses."""
    return {value for op in function.ops for value in op.operands} | {result.value for result in function.results}


def remove_newly_dead_ops(function: Function, used: set[Value], spared: set[Value] | None = None) -> None:
    """Delete ops that are dead now but were not when `used` was taken; what was dead already, or is `spared`, stays.

    With this a pass cleans up after itself without anticipating what later passes prove about code that was dead from
    the start.
    """
    live: set[Value] = {result.value for result in function.results} | (spared or set())
    kept = []
    for op in reversed(function.ops):
        if any(value in live for value in op.results) or not any(value in used for value in op.results):
            kept.append(op)
            live.update(op.operands)
    function.ops = kept[::-1]


def remove_uncalled_functions(module: Module) -> int:
    """Delete functions that no program reaches; returns how many."""
    reached: set[str] = set()
    todo = [program.name for program in module.programs]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += module.callees(module.functions[name])
    removed = [name for name in module.functions if name not in reached]
    for name in removed:
        del module.functions[name]
    return len(removed)


def loaded_weights(module: Module) -> set[str]:
    """Symbols that some op loads."""
    return {op.weight.name for function in module.functions.values() for op in function.ops_of(LoadWeightOp)}


def remove_unloaded_weights(module: Module) -> list[str]:
    """Delete weights that no op loads; returns their symbols."""
    loaded = loaded_weights(module)
    removed = [name for name in module.weights if name not in loaded]
    for name in removed:
        del module.weights[name]
    return removed
