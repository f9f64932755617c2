"""What the ops of a module do with its weights, for passes that rewrite a weight for all programs at once.

In: a module. Out: the uses of each weight. Invariant: a weight is listed with everything that reads what is loaded of
it, in every function, so that a pass that has looked at all of its uses may change it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from g4c.ir.module import Function, Module
from g4c.ir.op import Op, Value
from g4c.ir.ops import LoadWeightOp
from g4c.ir.weights import Weight


@dataclass(frozen=True)
class Use:
    """One operand that is a loaded weight: `operand` of `op`; op None: `function` returns it."""

    function: Function
    op: Op | None
    operand: str


def weight_uses(module: Module) -> dict[str, list[Use]]:
    """For every weight that is loaded somewhere its uses, in program order; weights in the order of their first use."""
    uses: dict[str, list[Use]] = {}
    for function in module.functions.values():
        for op in function.ops:
            for operand, value in op.named_operands():
                if (name := loaded_weight(value)) is not None:
                    uses.setdefault(name, []).append(Use(function, op, operand))
        for result in function.results:
            if (name := loaded_weight(result.value)) is not None:
                uses.setdefault(name, []).append(Use(function, None, result.name))
    return uses


def loaded_weight(value: Value | None) -> str | None:
    """Symbol of the weight that `value` is, if it is one."""
    owner = value.owner if value is not None else None
    return owner.weight.name if isinstance(owner, LoadWeightOp) else None


def replace_weights(module: Module, replacements: Mapping[str, Weight | None]) -> None:
    """Put other weights in the place of some in the module's table; None: it goes. One weight may replace several."""
    table: dict[str, Weight] = {}
    for name, weight in module.weights.items():
        kept = replacements.get(name, weight)
        if kept is not None:
            table[kept.name] = kept
    module.weights = table
