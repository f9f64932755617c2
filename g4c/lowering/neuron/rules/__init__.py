"""How each GRAPH op is written as StableHLO, one rule per op class.

`RULES[type(op)](builder, op, operands) -> Tensor`. Rules follow the ops' `reference`: floats are widened to f32 for
everything but moves and exact arithmetic, and rounded once.
"""

from g4c.lowering.neuron.rules import attention, contraction, elementwise, fused, indexing, shape
from g4c.lowering.neuron.rules.rule import Rule

RULES: dict[type, Rule] = {
    **elementwise.RULES,
    **shape.RULES,
    **contraction.RULES,
    **fused.RULES,
    **attention.RULES,
    **indexing.RULES,
}

__all__ = ["RULES", "Rule"]
