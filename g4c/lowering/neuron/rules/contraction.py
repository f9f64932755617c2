"""Contractions: dot with f32 accumulation, rounded once."""

from __future__ import annotations

from collections.abc import Sequence

from g4c.ir import ops
from g4c.lowering.neuron.rules.rule import Rule
from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor


def lower_linear(b: StablehloBuilder, op: ops.LinearOp, operands: Sequence[Tensor]) -> Tensor:
    """The leading axes of x stay free axes of the dot; w is contracted on its second axis, as checkpoints store it."""
    x, w = operands
    return b.convert(b.dot(x, w, (x.type.rank - 1, 1)), op.result.dtype)


def lower_matmul(b: StablehloBuilder, op: ops.MatmulOp, operands: Sequence[Tensor]) -> Tensor:
    x, y = operands
    batch = tuple(range(x.type.rank - 2))
    return b.convert(b.dot(x, y, (x.type.rank - 1, x.type.rank - 2), (batch, batch)), op.result.dtype)


RULES: dict[type, Rule] = {ops.LinearOp: lower_linear, ops.MatmulOp: lower_matmul}
