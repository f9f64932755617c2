"""How each GRAPH and TILED op is written as StableHLO, one rule per op class.

`RULES[type(op)](builder, op, operands) -> Tensor`, or a tuple of them where the op has several results. Rules follow
the ops' `reference`: floats are widened to f32 for everything but moves and exact arithmetic, and rounded once.
"""

from g4c.lowering.neuron.rules import (
    attention,
    contraction,
    elementwise,
    experts,
    fused,
    indexing,
    ordering,
    shape,
    tiled,
)
from g4c.lowering.neuron.rules.rule import Rule

RULES: dict[type, Rule] = {
    **elementwise.RULES,
    **shape.RULES,
    **contraction.RULES,
    **fused.RULES,
    **attention.RULES,
    **indexing.RULES,
    **ordering.RULES,
    **experts.RULES,
    **tiled.RULES,
}

__all__ = ["RULES", "Rule"]
