"""Patterns and selections: iota, affine_select, range_select, select_reduce."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from g4c.lowering.nki.simulator import dtypes, operators
from g4c.lowering.nki.simulator.accumulators import accumulate, disturb, read_out
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.enums import ReduceCommand
from g4c.lowering.nki.simulator.instruction import GPSIMD, VECTOR, Step
from g4c.lowering.nki.simulator.operators import COMPARISONS
from g4c.lowering.nki.simulator.registers import VirtualRegister
from g4c.lowering.nki.simulator.tensor import NkiTensor
from g4c.lowering.nki.simulator.tokens import TOKENS

_EQUAL, _MAXIMUM = TOKENS["equal"], TOKENS["maximum"]
_FP32_MIN = -3.4028235e38
_BOUNDS = COMPARISONS - {"not_equal"}
_PREDICATES = ("bool", "int8", "int16", "uint8", "uint16")


def _integer(step: Step, value: Any) -> int:
    """An argument of a pattern, which may be a float without a fraction."""
    if not isinstance(value, int | float | np.integer | np.floating) or value != int(value):
        raise error("G4C-K002", f"nisa.{step.name}: {value!r}", "patterns, offsets and multipliers are integers")
    return int(value)


def _affine(step: Step, rows: int, count: int, pattern: Any, offset: Any, multiplier: int) -> np.ndarray:
    """offset + p * multiplier + sum(step * index) as int32 [rows, count]; p counts from the first partition."""
    pairs = [(_integer(step, stride), _integer(step, number)) for stride, number in pattern]
    if not 1 <= len(pairs) <= 4:
        raise error("G4C-K002", f"nisa.{step.name}: pattern {pattern}", "1 to 4 pairs [step, count]")
    if math.prod(number for _, number in pairs) != count:
        step.refuse("G4C-K017", f"pattern {pattern} for {count} elements per partition", "the counts multiply to them")
    start = int(offset.read()) if isinstance(offset, VirtualRegister) else _integer(step, offset)
    values = np.zeros((), np.int64)
    for stride, number in pairs:
        values = values[..., None] + stride * np.arange(number, dtype=np.int64)
    grid = start + _integer(step, multiplier) * np.arange(rows, dtype=np.int64)[:, None] + values.reshape(1, -1)
    return grid.astype(np.int32)


def iota(dst, pattern, offset=0, channel_multiplier=0, name=None):
    """dst[p, ...] = offset + p * channel_multiplier + sum(step * index), in 32-bit integers, then cast."""
    step = Step("iota", name, GPSIMD, dst=dst)
    step.tiles("dst")
    values = _affine(step, dst.shape[0], dst.size // dst.shape[0], pattern, offset, channel_multiplier)
    target = dtypes.NUMPY[dst.dtype]
    if dst.dtype in dtypes.WIDE_INTEGERS:
        step.store(dst, values.astype(target))
    elif dst.dtype in dtypes.INTEGERS:
        limits = np.iinfo(target)
        step.store(dst, np.clip(values, limits.min, limits.max).astype(target))
    else:
        step.write(dst, values.astype(np.float32))
    return step.done()


def affine_select(dst, pattern, channel_multiplier, on_true_tile, on_false_value, cmp_op=_EQUAL, offset=0, name=None):
    """dst = on_true_tile where cmp_op(offset + p * channel_multiplier + sum(step * index), 0), else on_false_value."""
    step = Step("affine_select", name, GPSIMD, dst=dst, on_true_tile=on_true_tile, on_false_value=on_false_value)
    operator = operators.find(cmp_op, "cmp_op", "affine_select", COMPARISONS)
    step.tiles("dst", "on_true_tile")
    step.same_layout("dst", "on_true_tile")
    grid = _affine(step, dst.shape[0], dst.size // dst.shape[0], pattern, offset, channel_multiplier)
    chosen = operators.apply(operator, grid, 0) != 0
    if isinstance(on_false_value, NkiTensor):
        step.refuse("G4C-K002", f"on_false_value is {on_false_value!r}", "a compile-time number")
    false = step.column("on_false_value", dst.shape[0])
    true, known = step.take32(on_true_tile)
    step.write(dst, np.where(chosen, true, false), defined=None if known is None else known | ~chosen)
    return step.done()


def range_select(
    dst,
    on_true_tile,
    comp_op0,
    comp_op1,
    bound0,
    bound1,
    reduce_cmd=ReduceCommand.reset_reduce,
    reduce_res=None,
    reduce_op=_MAXIMUM,
    range_start=0,
    on_false_value=_FP32_MIN,
    name=None,
):
    """dst = on_true_tile where comp_op0(i, bound0) and comp_op1(i, bound1), else the least fp32; a maximum too, v3+."""
    operands = {"bound0": bound0, "bound1": bound1, "reduce_res": reduce_res}
    step = Step("range_select", name, VECTOR, dst=dst, on_true_tile=on_true_tile, **operands)
    step.requires_generation(3, "range_select")
    first = operators.find(comp_op0, "comp_op0", "range_select", _BOUNDS)
    second = operators.find(comp_op1, "comp_op1", "range_select", _BOUNDS)
    operators.find(reduce_op, "reduce_op", "range_select", frozenset({"maximum"}))
    if np.float32(on_false_value) != np.float32(_FP32_MIN):
        step.refuse("G4C-K002", f"on_false_value={on_false_value}", f"the only legal value is {_FP32_MIN}")
    step.tiles("dst", "on_true_tile", "bound0", "bound1")
    step.same_layout("dst", "on_true_tile")
    step.check_dtype("on_true_tile", dtypes.FLOATS)
    count = dst.size // dst.shape[0]
    if not isinstance(range_start, int) or range_start + count > 2**24:
        step.refuse("G4C-K026", f"range_start={range_start!r} with {count} elements", "indices are fp32: below 2^24")
    index = (range_start + np.arange(count)).astype(np.float32)[None, :]
    rows = dst.shape[0]
    chosen = operators.apply(first, index, step.column("bound0", rows, ("float32",))) != 0
    chosen &= operators.apply(second, index, step.column("bound1", rows, ("float32",))) != 0
    true, known = step.take32(on_true_tile)
    values = np.where(chosen, true, np.float32(_FP32_MIN))
    defined = None if known is None else known | ~chosen
    step.write(dst, values, defined=defined)
    accumulate(step, "vector", operators.OPERATORS["maximum"], values, reduce_cmd, defined=defined)
    if reduce_res is not None:
        read_out(step, "vector", "reduce_res")
    return step.done()


def select_reduce(
    dst,
    predicate,
    on_true,
    on_false,
    reduce_res=None,
    reduce_cmd=ReduceCommand.idle,
    reduce_op=_MAXIMUM,
    reverse_pred=False,
    name=None,
):
    """dst = predicate ? on_true : on_false, with a maximum."""
    operands = {"on_true": on_true, "on_false": on_false, "reduce_res": reduce_res}
    step = Step("select_reduce", name, VECTOR, dst=dst, predicate=predicate, **operands)
    operators.find(reduce_op, "reduce_op", "select_reduce", frozenset({"maximum"}))
    step.tiles("dst", "predicate", "on_true")
    step.same_layout("dst", "predicate", "on_true")
    step.not_both_in_psum("on_true", "predicate")
    step.check_dtype("predicate", _PREDICATES)
    if on_true.dtype in ("tfloat32", "int32", "uint32"):
        step.refuse("G4C-K010", f"on_true is {on_true.dtype}", "any type but tfloat32, int32, uint32")
    if reduce_res is not None:
        step.check_dtype("reduce_res", dtypes.FLOATS)
    chosen = (step.read(predicate) != 0) != bool(reverse_pred)
    true, known = step.take32(on_true)
    values = np.where(chosen, true, step.column("on_false", dst.shape[0]))
    defined = None if known is None else known | ~chosen
    step.write(dst, values, defined=defined)
    if reduce_cmd is ReduceCommand.idle:
        disturb(step, "vector")
    accumulate(step, "vector", operators.OPERATORS["maximum"], values, reduce_cmd, defined=defined)
    if reduce_res is not None and reduce_cmd is not ReduceCommand.idle:
        read_out(step, "vector", "reduce_res")
    return step.done()
