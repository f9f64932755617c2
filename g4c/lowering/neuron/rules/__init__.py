"""How each GRAPH op is written as StableHLO, one rule per op class.

`RULES[type(op)](builder, op, operands) -> Tensor`. Rules follow the ops' `reference`: floats are widened to f32 for
everything but moves and exact arithmetic, and rounded once.
"""

from g4c.lowering.neuron.rules import attention, contraction, elementwise, fused, indexing, shape
from g4c.lowering.neuron.rules.cpu import CPU_RULES
from g4c.lowering.neuron.rules.rule import Rule

RULES: dict[type, Rule] = {
    **elementwise.RULES,
    **shape.RULES,
    **contraction.RULES,
    **fused.RULES,
    **attention.RULES,
    **indexing.RULES,
}


def rules_for(target: str) -> dict[type, Rule]:
    """The rules for `target`: one set for every Neuron family, with other forms of a few ops for XLA's CPU backend."""
    return {**RULES, **CPU_RULES} if target == "cpu" else RULES


__all__ = ["CPU_RULES", "RULES", "Rule", "rules_for"]
