"""Ops that name a piece of Gemma 4: norms, rotary embedding, gated activation, softcap, per-layer inputs. All in f32.

A norm over a tensor of rank 4 is written on its rows: norm chains on rank 4 crash neuronx-cc (ITEN404).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from g4c.ir import ops
from g4c.ir.types import DType
from g4c.lowering.neuron.rules.elementwise import gelu_tanh
from g4c.lowering.neuron.rules.rule import Rule
from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor

MAX_NORM_RANK = 3


def lower_rms_norm(b: StablehloBuilder, op: ops.RmsNormOp, operands: Sequence[Tensor]) -> Tensor:
    """y = x * rsqrt(sum(x^2) / n + epsilon) * w."""
    x = operands[0]
    width = x.shape[-1]
    if x.type.rank > MAX_NORM_RANK:
        x = b.reshape(x, (math.prod(x.shape[:-1]), width))
    x = b.convert(x, DType.F32)
    rows = range(x.type.rank - 1)
    total = b.reduce(b.multiply(x, x), "add", (x.type.rank - 1,))
    mean = b.multiply(total, b.splat(1.0 / width, total.type))
    factor = b.unary("rsqrt", b.add(mean, b.splat(op.epsilon, mean.type)))
    y = b.multiply(x, b.broadcast(factor, x.shape, rows))
    if len(operands) == 2:
        w = b.convert(operands[1], DType.F32)
        y = b.multiply(y, b.broadcast(w, x.shape, (x.type.rank - 1,)))
    return b.reshape(b.convert(y, op.result.dtype), op.result.shape)


def lower_rope(b: StablehloBuilder, op: ops.RopeOp, operands: Sequence[Tensor]) -> Tensor:
    """The two halves of the head are slices; rank stays 4."""
    x, cos, sin = (b.convert(operand, DType.F32) for operand in operands)
    half = x.shape[3] // 2
    low, high = b.slice_axis(x, 3, 0, half), b.slice_axis(x, 3, half, 2 * half)
    cos, sin = (b.broadcast(table, low.shape, (0, 1, 3)) for table in (cos, sin))
    first = b.subtract(b.multiply(low, cos), b.multiply(high, sin))
    second = b.add(b.multiply(high, cos), b.multiply(low, sin))
    return b.convert(b.concat((first, second), 3), op.result.dtype)


def lower_gated_gelu(b: StablehloBuilder, op: ops.GatedGeluOp, operands: Sequence[Tensor]) -> Tensor:
    gate, up = (b.convert(operand, DType.F32) for operand in operands)
    return b.convert(b.multiply(gelu_tanh(b, gate), up), op.result.dtype)


def lower_softcap(b: StablehloBuilder, op: ops.SoftcapOp, operands: Sequence[Tensor]) -> Tensor:
    x = b.convert(operands[0], DType.F32)
    cap = b.splat(op.cap, x.type)
    return b.convert(b.multiply(cap, b.unary("tanh", b.divide(x, cap))), op.result.dtype)


def lower_per_layer_input(b: StablehloBuilder, op: ops.PerLayerInputOp, operands: Sequence[Tensor]) -> Tensor:
    total = b.add(*(b.convert(operand, DType.F32) for operand in operands))
    return b.convert(b.multiply(total, b.splat(op.scale, total.type)), op.result.dtype)


RULES: dict[type, Rule] = {
    ops.RmsNormOp: lower_rms_norm,
    ops.RopeOp: lower_rope,
    ops.GatedGeluOp: lower_gated_gelu,
    ops.SoftcapOp: lower_softcap,
    ops.PerLayerInputOp: lower_per_layer_input,
}
