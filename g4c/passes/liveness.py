"""Liveness across calls and executions: which values, layer results and caches can reach anything that a user sees.

In: a module. Out: `Liveness`. What is seen are the results of programs that are not caches. A cache is live if, in
some program, its state can reach what is seen, directly or through another live cache; then the state that any program
leaves in it is live too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from g4c.ir.module import Function, Module
from g4c.ir.op import Op, Value
from g4c.ir.ops import CallOp


@dataclass
class Liveness:
    """`values`: of all functions. `results`: indices of the live results of each layer function. `caches`: by name."""

    values: set[Value] = field(default_factory=set)
    results: dict[str, set[int]] = field(default_factory=dict)
    caches: set[str] = field(default_factory=set)

    def is_live(self, op: Op) -> bool:
        return any(value in self.values for value in op.results)


def analyze(module: Module) -> Liveness:
    """The least fixed point of the rules above; sets only grow, so it is reached."""
    live = Liveness(results={name: set() for name in module.functions})
    while True:
        size = (len(live.values), len(live.caches), sum(map(len, live.results.values())))
        for function in module.functions.values():
            _visit(module, function, live)
        for program in module.programs:
            live.caches |= {p.cache for p in program.params if p.cache is not None and p in live.values}
        if size == (len(live.values), len(live.caches), sum(map(len, live.results.values()))):
            return live


def _visit(module: Module, function: Function, live: Liveness) -> None:
    for index, result in enumerate(function.results):
        if function.role == "program":
            seen = result.cache is None or result.cache in live.caches
        else:
            seen = index in live.results[function.name]
        if seen:
            live.values.add(result.value)
    for op in reversed(function.ops):
        if not live.is_live(op):
            continue
        if isinstance(op, CallOp):
            callee = module.functions[op.callee.name]
            live.results[callee.name] |= {i for i, value in enumerate(op.results) if value in live.values}
            live.values.update(a for p, a in zip(callee.params, op.args, strict=True) if p in live.values)
        else:
            live.values.update(op.operands)
