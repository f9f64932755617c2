"""Elementwise ops: operands broadcast explicitly; transcendental functions in f32.

A sum, product, maximum or minimum of two bf16 values is written in bf16: rounding the exact result once is what the
op means.
"""

from __future__ import annotations

from collections.abc import Sequence

from g4c.ir import ops
from g4c.ir.types import DType
from g4c.lowering.neuron.rules.rule import Rule
from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor


def binary(name: str, *, widen: bool = False) -> Rule:
    """A rule for z = x <name> y, in f32 if `widen`."""

    def rule(b: StablehloBuilder, op: ops.ElementwiseOp, operands: Sequence[Tensor]) -> Tensor:
        shape = op.result.shape
        x, y = (b.convert(operand, DType.F32) if widen else operand for operand in operands)
        z = b.binary(name, b.numpy_broadcast(x, shape), b.numpy_broadcast(y, shape))
        return b.convert(z, op.result.dtype)

    return rule


def unary(name: str, *, widen: bool = True) -> Rule:
    """A rule for y = name(x), in f32 if `widen`."""

    def rule(b: StablehloBuilder, op: ops.ElementwiseOp, operands: Sequence[Tensor]) -> Tensor:
        x = b.convert(operands[0], DType.F32) if widen else operands[0]
        return b.convert(b.unary(name, x), op.result.dtype)

    return rule


def gelu_tanh(b: StablehloBuilder, x: Tensor) -> Tensor:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); x in f32."""
    cube = b.multiply(b.multiply(b.multiply(b.splat(0.044715, x.type), x), x), x)
    inner = b.multiply(b.splat(0.7978845608028654, x.type), b.add(x, cube))
    gate = b.add(b.splat(1.0, x.type), b.unary("tanh", inner))
    return b.multiply(b.multiply(b.splat(0.5, x.type), x), gate)


def lower_gelu(b: StablehloBuilder, op: ops.GeluOp, operands: Sequence[Tensor]) -> Tensor:
    return b.convert(gelu_tanh(b, b.convert(operands[0], DType.F32)), op.result.dtype)


def lower_convert(b: StablehloBuilder, op: ops.ConvertOp, operands: Sequence[Tensor]) -> Tensor:
    return b.convert(operands[0], op.type.dtype)


def lower_compare(b: StablehloBuilder, op: ops.CompareOp, operands: Sequence[Tensor]) -> Tensor:
    x, y = (b.numpy_broadcast(operand, op.result.shape) for operand in operands)
    return b.compare(x, y, op.direction.upper())


def lower_select(b: StablehloBuilder, op: ops.SelectOp, operands: Sequence[Tensor]) -> Tensor:
    predicate, x, y = (b.numpy_broadcast(operand, op.result.shape) for operand in operands)
    return b.select(predicate, x, y)


RULES: dict[type, Rule] = {
    ops.AddOp: binary("add"),
    ops.SubOp: binary("subtract"),
    ops.MulOp: binary("multiply"),
    ops.MaxOp: binary("maximum"),
    ops.MinOp: binary("minimum"),
    ops.AndOp: binary("and"),
    ops.DivOp: binary("divide", widen=True),
    ops.PowOp: binary("power", widen=True),
    ops.NegOp: unary("negate", widen=False),
    ops.ExpOp: unary("exponential"),
    ops.LogOp: unary("log"),
    ops.TanhOp: unary("tanh"),
    ops.CosOp: unary("cosine"),
    ops.SinOp: unary("sine"),
    ops.RsqrtOp: unary("rsqrt"),
    ops.GeluOp: lower_gelu,
    ops.ConvertOp: lower_convert,
    ops.CompareOp: lower_compare,
    ops.SelectOp: lower_select,
}
