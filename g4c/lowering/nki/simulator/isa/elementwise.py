"""Elementwise arithmetic of Vector, Scalar and GpSimd Engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from g4c.lowering.nki.simulator import dtypes, operators
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.enums import Engine
from g4c.lowering.nki.simulator.instruction import GPSIMD, SCALAR, VECTOR, Step
from g4c.lowering.nki.simulator.memory import MemoryRegion
from g4c.lowering.nki.simulator.operators import Operator
from g4c.lowering.nki.simulator.tensor import NkiTensor


def check_operator(step: Step, operator: Operator, parameter: str, binary: bool = False) -> None:
    """Refuse operators that the generation or the Vector Engine lacks; `binary`: unary ones, too."""
    if operator.since > step.program.generation.number:
        step.requires_generation(operator.since, f"{parameter}=nl.{operator.name}")
    if operator.name == "bypass":
        step.refuse("G4C-K021", f"{parameter}=nl.bypass", "only nisa.activate2 has it; one stage is an op0 without op1")
    if operator.name == "rsqrt" and step.name != "tensor_scalar":
        step.refuse("G4C-K021", f"{parameter}=nl.rsqrt", "only nisa.tensor_scalar has it, on the GpSimd Engine")
    if binary and operator.unary:
        step.refuse("G4C-K021", f"{parameter}=nl.{operator.name}", "a binary operator")


def check_bitvec(step: Step, *parameters: str) -> None:
    """Bitvec operators work on integers as they are."""
    for parameter in parameters:
        tensor = step.tensor(parameter)
        if tensor.dtype not in dtypes.INTEGERS:
            step.refuse("G4C-K010", f"{parameter} is {tensor.dtype}", "bitvec operators take and give integer types")


def _bits(value: Any, like: np.ndarray) -> np.ndarray:
    """An integer operand in the type of the data."""
    return np.asarray(value).astype(like.dtype)


def tensor_tensor(dst, data1, data2, op, engine=Engine.unknown, name=None):
    """dst = data1 op data2: fp32 arithmetic, native integers on GpSimd, raw bits for bitvec operators."""
    step = Step("tensor_tensor", name, VECTOR, dst=dst, data1=data1, data2=data2, op=op)
    operator = operators.find(op, "op", "tensor_tensor")
    check_operator(step, operator, "op", binary=True)
    tensors = [step.tensor(p) for p in ("dst", "data1", "data2")]
    wide = all(tensor.dtype in dtypes.WIDE_INTEGERS for tensor in tensors)
    in_psum = any(tensor.buffer is MemoryRegion.psum for tensor in tensors)
    if operator.bitvec:
        step.run_on(engine, (VECTOR,) if not wide else (VECTOR, GPSIMD), VECTOR)
    elif operator.name == "power":
        step.run_on(engine, (GPSIMD,), GPSIMD)
    else:
        step.run_on(engine, (VECTOR, GPSIMD), GPSIMD if wide and not in_psum else VECTOR)
    step.tiles("dst", "data1", "data2")
    step.same_layout("dst", "data1", "data2")
    step.not_both_in_psum("data1", "data2")
    if operator.bitvec:
        check_bitvec(step, "dst", "data1", "data2")
        a, b = step.read(data1), step.read(data2)
        step.store(dst, operators.apply(operator, a, _bits(b, a)).astype(dtypes.NUMPY[dst.dtype]))
    elif wide and step.engine is GPSIMD:
        a, b = step.read(data1).astype(np.int64), step.read(data2).astype(np.int64)
        if operator.name == "power":
            result = np.rint(np.power(a.astype(np.float64), b.astype(np.float64)))
            result = np.where(np.isfinite(result), result, 0)
        else:
            result = operators.apply(operator, a, b)
        step.store(dst, result.astype(np.int64).astype(dtypes.NUMPY[dst.dtype]))
    else:
        a, b = step.read32(data1), step.read32(data2)
        values = operators.apply(operator, a, b)
        if wide:
            step.check_rounding(values, lambda: operators.apply(operator, *(x.astype(np.float64) for x in (a, b))))
        step.write(dst, values)
    return step.done(op=operator.name)


def scalar_operand(
    step: Step, operator: Operator, parameter: str, data: NkiTensor, types: tuple[str, ...] | None = ("float32",)
) -> Any:
    """An operand of tensor_scalar: a number or one value per partition of `types` (None: any); bits for bitvec."""
    operand = step.operands[parameter]
    if operator.unary:
        if operand is not None and (isinstance(operand, NkiTensor) or operand != 0):
            step.refuse("G4C-K002", f"{parameter}={operand!r}", f"None or 0 for the unary nl.{operator.name}")
        return None
    if operand is None:
        raise error("G4C-K002", f"nisa.{step.name}: {parameter} is None", f"nl.{operator.name} needs an operand")
    if not operator.bitvec:
        return step.column(parameter, data.shape[0], types)
    if isinstance(operand, NkiTensor):
        step.check_column(parameter, data.shape[0])
        check_bitvec(step, parameter)
        return step.read(operand)
    if not isinstance(operand, int | float | np.integer | np.floating) or operand != int(operand):
        step.refuse("G4C-K010", f"{parameter}={operand!r}", "an integer for a bitvec operator")
    return np.asarray(int(operand), np.int64)


def apply_scalar(step: Step, operator: Operator, data: np.ndarray, operand: Any, reverse: bool) -> np.ndarray:
    """data op operand, or operand op data."""
    if operator.unary:
        return operators.apply(operator, data, None)
    if operator.bitvec:
        operand = _bits(operand, data)
        if reverse:
            return operators.apply(operator, np.broadcast_to(operand, data.shape).copy(), data)
    return operators.apply(operator, operand, data) if reverse else operators.apply(operator, data, operand)


def tensor_scalar(
    dst,
    data,
    op0,
    operand0,
    reverse0=False,
    op1=None,
    operand1=None,
    reverse1=False,
    engine=Engine.unknown,
    name=None,
):
    """dst = (data op0 operand0) op1 operand1, operands numbers or one fp32 value per partition."""
    step = Step("tensor_scalar", name, VECTOR, dst=dst, data=data, operand0=operand0, operand1=operand1)
    first = operators.find(op0, "op0", "tensor_scalar")
    second = None if op1 is None else operators.find(op1, "op1", "tensor_scalar")
    stages = [(first, "op0")] + ([(second, "op1")] if second is not None else [])
    for operator, parameter in stages:
        check_operator(step, operator, parameter)
    names = {operator.name for operator, _ in stages}
    if second is None and operand1 is not None:
        step.refuse("G4C-K002", "operand1 without op1", "both or none")
    if second is not None and first.bitvec != second.bitvec:
        step.refuse("G4C-K021", f"nl.{first.name} with nl.{second.name}", "both bitvec or both arithmetic")
    _choose_engine(step, engine, first, second, names)
    step.tiles("dst", "data")
    step.same_layout("dst", "data")
    if first.bitvec:
        check_bitvec(step, "dst", "data")
    inputs = step.read(data) if first.bitvec else step.read32(data)
    operands = [(first, scalar_operand(step, first, "operand0", data), reverse0)]
    if second is not None:
        operands.append((second, scalar_operand(step, second, "operand1", data), reverse1))
    values = _chain(step, inputs, operands)
    if not first.bitvec and {dst.dtype, data.dtype} <= dtypes.WIDE_INTEGERS:
        for parameter in ("operand0", "operand1"):
            _check_number(step, parameter)
        step.check_rounding(values, lambda: _chain(step, inputs.astype(np.float64), operands))
    if first.bitvec:
        step.store(dst, values.astype(dtypes.NUMPY[dst.dtype]))
    else:
        step.write(dst, values)
    return step.done(ops=names)


def _check_number(step: Step, parameter: str) -> None:
    """Refuse an integer operand of integers that fp32 rounds."""
    operand = step.operands[parameter]
    if isinstance(operand, int) and int(np.float32(operand)) != operand:
        step.refuse("G4C-K026", f"{parameter}={operand}", "the engine computes in fp32, which is exact up to 2^24")


def _chain(step: Step, values: np.ndarray, operands: list[tuple[Operator, Any, bool]]) -> np.ndarray:
    """One operator after the other, each with its operand."""
    for operator, operand, reverse in operands:
        values = apply_scalar(step, operator, values, operand, reverse)
    return values


def _choose_engine(step: Step, asked: Engine, first: Operator, second: Operator | None, names: set[str]) -> None:
    """Vector does everything but rsqrt and power; GpSimd only rsqrt (and power); Scalar a few forms, from v3 on."""
    if "rsqrt" in names or "power" in names:
        step.run_on(asked, (GPSIMD,) if "rsqrt" in names else (GPSIMD, VECTOR), GPSIMD if "rsqrt" in names else VECTOR)
        return
    allowed = [VECTOR]
    generation = step.program.generation.number
    ordered = (first.name, None if second is None else second.name)
    scalar_form = ordered in {("multiply", "add"), ("multiply", None), ("add", None)}
    if not first.bitvec and (generation >= 4 or (generation == 3 and scalar_form)):
        allowed.append(SCALAR)
    step.run_on(asked, allowed, VECTOR)


def scalar_tensor_tensor(dst, data, op0, operand0, op1, operand1, reverse0=False, reverse1=False, name=None):
    """dst = (data op0 operand0) op1 operand1, operand0 a number or one value per partition, operand1 a tile."""
    operands = {"operand0": operand0, "operand1": operand1, "op0": op0, "op1": op1}
    step = Step("scalar_tensor_tensor", name, VECTOR, dst=dst, data=data, **operands)
    first = operators.find(op0, "op0", "scalar_tensor_tensor")
    second = operators.find(op1, "op1", "scalar_tensor_tensor")
    for operator, parameter in ((first, "op0"), (second, "op1")):
        check_operator(step, operator, parameter, binary=parameter == "op1")
        if operator.bitvec:
            step.refuse("G4C-K021", f"{parameter}=nl.{operator.name}", "arithmetic operators")
    step.tiles("dst", "data", "operand1")
    step.same_layout("dst", "data", "operand1")
    step.not_both_in_psum("data", "operand1")
    scalar = scalar_operand(step, first, "operand0", data, types=None)
    inputs = step.read32(data)
    operands = [(first, scalar, reverse0), (second, step.read32(operand1), reverse1)]
    values = _chain(step, inputs, operands)
    if {dst.dtype, data.dtype, operand1.dtype} <= dtypes.WIDE_INTEGERS:
        _check_number(step, "operand0")
        step.check_rounding(values, lambda: _chain(step, inputs.astype(np.float64), operands))
    step.write(dst, values)
    return step.done(ops=(first.name, second.name))


def reciprocal(dst, data, name=None):
    """dst = 1 / data, on the Vector Engine."""
    step = Step("reciprocal", name, VECTOR, dst=dst, data=data)
    step.tiles("dst", "data")
    step.same_layout("dst", "data")
    step.write(dst, operators.apply(operators.OPERATORS["reciprocal"], step.read32(data), None))
    return step.done()


def tensor_tensor_scan(dst, data0, data1, initial, op0, op1, reverse0=False, reverse1=False, name=None):
    """r[i] = (data0[i] op0 r[i-1]) op1 data1[i], r[-1] = initial; dst = r."""
    step = Step("tensor_tensor_scan", name, VECTOR, dst=dst, data0=data0, data1=data1, initial=initial)
    first = operators.find(op0, "op0", "tensor_tensor_scan")
    second = operators.find(op1, "op1", "tensor_tensor_scan")
    for operator, parameter in ((first, "op0"), (second, "op1")):
        check_operator(step, operator, parameter, binary=True)
        if operator.bitvec:
            step.refuse("G4C-K021", f"{parameter}=nl.{operator.name}", "arithmetic operators")
    step.tiles("dst", "data0", "data1")
    step.same_layout("dst", "data0", "data1")
    step.not_both_in_psum("data0", "data1")
    (a, a_defined), (b, b_defined) = step.take32(data0), step.take32(data1)
    state = np.broadcast_to(step.column("initial", dst.shape[0])[:, 0], a.shape[:1])
    result = np.empty_like(a)
    for n in range(a.shape[1]):
        state = operators.apply(first, state, a[:, n]) if reverse0 else operators.apply(first, a[:, n], state)
        state = operators.apply(second, b[:, n], state) if reverse1 else operators.apply(second, state, b[:, n])
        result[:, n] = state
    masks = [mask for mask in (a_defined, b_defined) if mask is not None]
    defined = np.logical_and.accumulate(np.logical_and.reduce(masks), axis=1) if masks else None
    step.write(dst, result, defined=defined)
    return step.done()
