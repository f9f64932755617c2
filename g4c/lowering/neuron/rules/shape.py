"""Ops that move data, constants and reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from g4c.ir import ops
from g4c.ir.types import DType
from g4c.lowering.neuron.rules.rule import Rule
from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor


def lower_constant(b: StablehloBuilder, op: ops.ConstantOp, operands: Sequence[Tensor]) -> Tensor:
    return b.dense(op.value)


def lower_reshape(b: StablehloBuilder, op: ops.ReshapeOp, operands: Sequence[Tensor]) -> Tensor:
    return b.reshape(operands[0], op.type.shape)


def lower_transpose(b: StablehloBuilder, op: ops.TransposeOp, operands: Sequence[Tensor]) -> Tensor:
    return b.transpose(operands[0], op.permutation)


def lower_slice(b: StablehloBuilder, op: ops.SliceOp, operands: Sequence[Tensor]) -> Tensor:
    return b.slice(operands[0], op.starts, op.limits)


def lower_concat(b: StablehloBuilder, op: ops.ConcatOp, operands: Sequence[Tensor]) -> Tensor:
    return b.concat(operands, op.axis)


def lower_broadcast(b: StablehloBuilder, op: ops.BroadcastOp, operands: Sequence[Tensor]) -> Tensor:
    return b.numpy_broadcast(operands[0], op.type.shape)


def lower_iota(b: StablehloBuilder, op: ops.IotaOp, operands: Sequence[Tensor]) -> Tensor:
    count = b.iota(op.type, op.axis)
    return b.add(count, b.splat(op.start, op.type)) if op.start else count


def lower_reduce(b: StablehloBuilder, op: ops.ReduceOp, operands: Sequence[Tensor]) -> Tensor:
    """In f32. A mean is a sum times the reciprocal of the count."""
    x = b.convert(operands[0], DType.F32)
    y = b.reduce(x, "maximum" if op.kind == "max" else "add", op.axes)
    if op.kind == "mean":
        count = math.prod(x.shape[axis] for axis in op.axes)
        y = b.multiply(y, b.splat(1.0 / count, y.type))
    return b.reshape(b.convert(y, op.result.dtype), op.result.shape)


RULES: dict[type, Rule] = {
    ops.ConstantOp: lower_constant,
    ops.ReshapeOp: lower_reshape,
    ops.TransposeOp: lower_transpose,
    ops.SliceOp: lower_slice,
    ops.ConcatOp: lower_concat,
    ops.BroadcastOp: lower_broadcast,
    ops.IotaOp: lower_iota,
    ops.ReduceOp: lower_reduce,
}
