"""Scalar Engine: activation, activation_reduce, activate2; and the Vector Engine's exponential."""

from __future__ import annotations

import numpy as np

from g4c.lowering.nki.simulator import activations, operators
from g4c.lowering.nki.simulator.accumulators import accumulate, disturb, read_out
from g4c.lowering.nki.simulator.activations import Activation
from g4c.lowering.nki.simulator.enums import ReduceCommand
from g4c.lowering.nki.simulator.instruction import SCALAR, VECTOR, Step
from g4c.lowering.nki.simulator.isa.elementwise import apply_scalar
from g4c.lowering.nki.simulator.tensor import NkiTensor

_TWO_STAGES = {
    ("multiply", "add"),
    ("multiply", "subtract"),
    ("multiply", "bypass"),
    ("add", "bypass"),
    ("subtract", "bypass"),
    ("bypass", "bypass"),
}
_REDUCTIONS = frozenset({"add", "maximum", "minimum", "abs_max", "abs_min"})


def _evaluate(step: Step, function: Activation, inputs: np.ndarray) -> np.ndarray:
    """The function of the inputs, which must be in its range."""
    known = step.defined(*inputs.shape)
    checked = inputs if known is None else inputs[known]
    outside = activations.first_outside(function, checked) if step.program.strict and checked.size else None
    if outside is not None:
        step.refuse(
            "G4C-K013",
            f"nl.{function.name} of {outside:g}",
            f"the Scalar Engine's {function.name} is valid for {'|x|' if function.magnitude else 'x'} in "
            f"[{function.low:g}, {function.high:g}]",
        )
    return activations.evaluate(function, inputs)


def _affine(step: Step, data: NkiTensor) -> np.ndarray:
    """data * scale + bias in fp32."""
    inputs = step.read32(data)
    scale, bias = step.operands["scale"], step.operands["bias"]
    if isinstance(scale, NkiTensor) or scale != 1.0:
        inputs = inputs * step.column("scale", data.shape[0], ("float32",))
    if bias is None:
        return inputs
    if isinstance(bias, NkiTensor):
        if bias.dtype == "tfloat32":
            step.refuse("G4C-K010", "bias is tfloat32", "any type but tfloat32")
        return inputs + step.column("bias", data.shape[0])
    if bias != 0.0:
        step.requires_generation(3, f"bias={bias} as a number")
        inputs = inputs + step.column("bias", data.shape[0])
    return inputs


def activation(
    dst,
    op,
    data,
    bias=None,
    scale=1.0,
    reduce_op=None,
    reduce_res=None,
    reduce_cmd=ReduceCommand.idle,
    name=None,
):
    """dst = op(data * scale + bias); the sum over the free dimensions goes to the Scalar Engine's registers."""
    step = Step("activation", name, SCALAR, dst=dst, data=data, bias=bias, scale=scale, reduce_res=reduce_res)
    return _activate(step, op, reduce_op, reduce_res, reduce_cmd)


def activation_reduce(dst, op, data, reduce_op, reduce_res, bias=None, scale=1.0, name=None):
    """`activation` with reduce_cmd.reset_reduce."""
    step = Step("activation_reduce", name, SCALAR, dst=dst, data=data, bias=bias, scale=scale, reduce_res=reduce_res)
    return _activate(step, op, reduce_op, reduce_res, ReduceCommand.reset_reduce)


def _activate(step: Step, op: object, reduce_op: object, reduce_res: NkiTensor | None, command: ReduceCommand):
    dst, data = step.tensor("dst"), step.tensor("data")
    function = activations.find(op, step.name)
    if function.name == "prelu":
        step.refuse("G4C-K021", "op=nl.prelu", "prelu needs the relu_param of nisa.activate2")
    if reduce_op is not None:
        operators.find(reduce_op, "reduce_op", step.name, frozenset({"add"}))
    step.tiles("dst", "data")
    step.same_layout("dst", "data")
    if function.name == "reciprocal" and step.operands["bias"] is not None and step.program.generation.number < 3:
        step.refuse("G4C-K019", "reciprocal with a bias", "not supported on NeuronCore-v2")
    values = _evaluate(step, function, _affine(step, data))
    if command is ReduceCommand.idle and reduce_op is not None and reduce_res is not None:
        step.refuse(
            "G4C-K027",
            "reduce_res with reduce_cmd.idle reads what an earlier instruction left in the registers",
            "the default reduce_cmd does not reduce; pass reset_reduce",
        )
    accumulate(step, "scalar", operators.OPERATORS["add"], values, command)
    step.write(dst, values)
    if reduce_res is not None:
        read_out(step, "scalar", "reduce_res")
    return step.done(op=function.name)


def activate2(
    dst,
    op,
    data,
    imm0,
    imm1,
    op0,
    op1,
    relu_param=0.0,
    reverse0=False,
    reverse1=False,
    reduce_op=None,
    reduce_res=None,
    reduce_cmd=ReduceCommand.idle,
    name=None,
):
    """dst = op((data op0 imm0) op1 imm1), with a reduction (v4)."""
    operands = {"imm0": imm0, "imm1": imm1, "relu_param": relu_param, "reduce_res": reduce_res}
    step = Step("activate2", name, SCALAR, dst=dst, data=data, **operands)
    step.requires_generation(4, "activate2")
    function = activations.find(op, "activate2")
    first, second = operators.find(op0, "op0", "activate2"), operators.find(op1, "op1", "activate2")
    if (first.name, second.name) not in _TWO_STAGES:
        step.refuse("G4C-K021", f"(nl.{first.name}, nl.{second.name})", f"one of {sorted(_TWO_STAGES)}")
    step.tiles("dst", "data")
    step.same_layout("dst", "data")
    if isinstance(imm0, NkiTensor) and isinstance(imm1, NkiTensor) and imm0.dtype != imm1.dtype:
        step.refuse("G4C-K010", f"imm0 is {imm0.dtype}, imm1 is {imm1.dtype}", "tiles of immediates share one type")
    values = step.read32(data)
    for operator, parameter, reverse in ((first, "imm0", reverse0), (second, "imm1", reverse1)):
        if operator.name != "bypass":
            values = apply_scalar(step, operator, values, step.column(parameter, data.shape[0]), reverse)
    if function.name == "prelu":
        values = np.where(values >= 0, values, values * step.column("relu_param", data.shape[0]))
    else:
        values = _evaluate(step, function, values)
    reduction = operators.find(reduce_op, "reduce_op", "activate2", _REDUCTIONS) if reduce_op is not None else None
    if reduction is not None:
        accumulate(step, "scalar", reduction, values, reduce_cmd)
    step.write(dst, values)
    if reduce_res is not None:
        read_out(step, "scalar", "reduce_res")
    return step.done(op=function.name)


def exponential(dst, src, max_value=0.0, reduce_res=None, reduce_cmd=ReduceCommand.idle, reduce_init=0.0, name=None):
    """dst = exp(src - max_value) on the Vector Engine, with a sum (v4)."""
    operands = {"max_value": max_value, "reduce_res": reduce_res, "reduce_init": reduce_init}
    step = Step("exponential", name, VECTOR, dst=dst, src=src, **operands)
    step.requires_generation(4, "exponential")
    step.tiles("dst", "src")
    step.same_layout("dst", "src")
    values = activations.evaluate(
        activations.ACTIVATIONS["exp"], step.read32(src) - step.column("max_value", src.shape[0], ("float32",))
    )
    step.write(dst, values)
    if reduce_cmd is ReduceCommand.idle:
        disturb(step, "vector")
    initial = step.column("reduce_init", src.shape[0]) if reduce_cmd is ReduceCommand.load_reduce else None
    accumulate(step, "vector", operators.OPERATORS["add"], values, reduce_cmd, initial)
    if reduce_res is not None:
        read_out(step, "vector", "reduce_res")
    return step.done()
