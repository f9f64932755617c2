"""Reductions of Vector and GpSimd Engine, cumulative forms, and batch-norm statistics."""

from __future__ import annotations

from typing import Any

import numpy as np

from g4c.lowering.nki.simulator import dtypes, operators
from g4c.lowering.nki.simulator.accumulators import accumulate, keep, read_out, start
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.enums import ReduceCommand
from g4c.lowering.nki.simulator.instruction import GPSIMD, VECTOR, Step
from g4c.lowering.nki.simulator.isa.elementwise import apply_scalar, check_bitvec, check_operator, scalar_operand
from g4c.lowering.nki.simulator.operators import Operator

_REDUCTIONS = frozenset(name for name, operator in operators.OPERATORS.items() if operator.identity is not None)
_SCALAR_REDUCTIONS = frozenset({"add", "multiply", "maximum", "minimum"})
_CUMULATIVE = frozenset({"add", "subtract", "multiply", "maximum", "minimum"})
_PARTITION_REDUCTIONS = ("add", "average", "maximum", "bitwise_or", "bitwise_and")
_BN_LIMIT = 512


def tensor_reduce(dst, op, data, axis, negate=False, keepdims=False, name=None):
    """dst = the reduction of `data` over its trailing free dimensions `axis`, times -1 with `negate`."""
    step = Step("tensor_reduce", name, VECTOR, dst=dst, data=data, op=op)
    operator = operators.find(op, "op", "tensor_reduce", _REDUCTIONS)
    step.tiles("dst", "data")
    given = axis if isinstance(axis, tuple | list) else (axis,)
    if not given or any(not isinstance(a, int | np.integer) or not -data.ndim <= a < data.ndim for a in given):
        raise error("G4C-K002", f"nisa.tensor_reduce: axis={axis} of rank {data.ndim}", "dimensions that data has")
    axes = sorted(a % data.ndim for a in given)
    if axes[0] == 0:
        step.refuse("G4C-K002", f"axis={axis}", "the partition axis cannot be reduced: transpose, or use a matmul")
    if axes != list(range(data.ndim - len(axes), data.ndim)):
        step.refuse("G4C-K002", f"axis={axis} of rank {data.ndim}", "the last free dimensions, contiguous, to the end")
    kept = int(np.prod(data.shape[1 : axes[0]], dtype=np.int64))
    if dst.shape[0] != data.shape[0] or dst.size != dst.shape[0] * kept:
        step.refuse("G4C-K017", f"dst is {list(dst.shape)}", f"{kept} elements for each of {data.shape[0]} partitions")
    if operator.bitvec:
        check_bitvec(step, "dst", "data")
        if negate:
            step.refuse("G4C-K021", f"negate with nl.{operator.name}", "only arithmetic reductions")
        values, defined = step.take(data)
        values = operators.reduce(operator, values.reshape(data.shape[0], kept, -1))
        step.store(dst, values.astype(dtypes.NUMPY[dst.dtype]), defined=_reduced(defined, kept))
        return step.done(op=operator.name)
    inputs, defined = step.take32(data)
    inputs, known = inputs.reshape(data.shape[0], kept, -1), _reduced(defined, kept)
    values = operators.reduce(operator, inputs)[..., 0]
    if {dst.dtype, data.dtype} <= dtypes.WIDE_INTEGERS and known is None:
        step.check_rounding(values, lambda: operators.reduce(operator, inputs.astype(np.float64))[..., 0])
    step.write(dst, -values if negate else values, defined=known)
    return step.done(op=operator.name)


def _reduced(defined: np.ndarray | None, kept: int) -> np.ndarray | None:
    """Which of the `kept` results per partition come from defined elements only."""
    return None if defined is None else defined.reshape(len(defined), kept, -1).all(axis=-1)


def tensor_partition_reduce(dst, op, data, name=None):
    """dst [1, ...] = the reduction of `data` over the partitions."""
    step = Step("tensor_partition_reduce", name, GPSIMD, dst=dst, data=data)
    token = getattr(op, "nki_name", None)
    if token not in _PARTITION_REDUCTIONS:
        step.refuse("G4C-K021", f"op={op!r}", f"one of: {', '.join(_PARTITION_REDUCTIONS)}")
    step.tiles("dst", "data")
    if dst.shape[0] != 1 or dst.size * data.shape[0] != data.size:
        step.refuse(
            "G4C-K017", f"dst is {list(dst.shape)}, data is {list(data.shape)}", "one partition, the same elements"
        )
    if token in ("bitwise_or", "bitwise_and"):
        check_bitvec(step, "dst", "data")
        reduced = getattr(np, token).reduce(step.read_exactly(data), axis=0)
        step.store(dst, reduced.astype(dtypes.NUMPY[dst.dtype]).reshape(1, -1))
        return step.done(op=token)
    values, defined = step.take32(data)
    reduced = operators.reduce(operators.OPERATORS["add" if token == "average" else token], values.T).T
    kept = None if defined is None else defined.all(axis=0, keepdims=True)
    step.write(dst, reduced / np.float32(data.shape[0]) if token == "average" else reduced, defined=kept)
    return step.done(op=token)


def tensor_scalar_reduce(
    dst,
    data,
    op0,
    operand0,
    reduce_op,
    reduce_res=None,
    reverse0=False,
    reduce_cmd=ReduceCommand.reset_reduce,
    reduce_init=None,
    reduce_res_negate=False,
    name=None,
):
    """dst = data op0 operand0, reduced over all free elements into the Vector Engine's registers."""
    operands = {"operand0": operand0, "reduce_res": reduce_res, "reduce_init": reduce_init}
    step = Step("tensor_scalar_reduce", name, VECTOR, dst=dst, data=data, **operands)
    operator = operators.find(op0, "op0", "tensor_scalar_reduce")
    check_operator(step, operator, "op0")
    if operator.bitvec:
        step.refuse("G4C-K021", f"op0=nl.{operator.name}", "arithmetic operators")
    if reverse0:
        step.refuse("G4C-K002", "reverse0", "not supported by this instruction")
    reduction = operators.find(reduce_op, "reduce_op", "tensor_scalar_reduce", _SCALAR_REDUCTIONS)
    step.tiles("dst", "data")
    step.same_layout("dst", "data")
    values = apply_scalar(step, operator, step.read32(data), scalar_operand(step, operator, "operand0", data), reverse0)
    step.write(dst, values)
    initial = None
    if reduce_cmd is ReduceCommand.load_reduce:
        if reduce_init is None:
            raise error(
                "G4C-K002", "nisa.tensor_scalar_reduce: load_reduce without reduce_init", "the value to start from"
            )
        initial = step.column("reduce_init", data.shape[0])
    accumulate(step, "vector", reduction, values, reduce_cmd, initial)
    if reduce_res is not None:
        read_out(step, "vector", "reduce_res", negate=reduce_res_negate)
    return step.done(ops=(operator.name, reduction.name))


def tensor_scalar_cumulative(dst, src, op0, op1, imm0, imm1=None, reduce_cmd=ReduceCommand.reset_reduce, name=None):
    """reg = op1(op0(src[i], imm0), reg); dst[i] = reg."""
    step = Step("tensor_scalar_cumulative", name, VECTOR, dst=dst, src=src, imm0=imm0, imm1=imm1)
    first = operators.find(op0, "op0", "tensor_scalar_cumulative")
    second = operators.find(op1, "op1", "tensor_scalar_cumulative", _CUMULATIVE)
    check_operator(step, first, "op0")
    if first.bitvec:
        step.refuse("G4C-K021", f"op0=nl.{first.name}", "arithmetic operators")
    step.tiles("dst", "src")
    step.same_layout("dst", "src")
    for parameter in ("dst", "src"):
        if step.tensor(parameter).dtype in dtypes.WIDE_INTEGERS:
            step.refuse("G4C-K010", f"{parameter} is {step.tensor(parameter).dtype}", "no 32-bit integers")
    values, defined = step.take32(src)
    if not first.unary:
        values = operators.apply(first, values, step.column("imm0", src.shape[0], ("float32",)))
    initial = None if imm1 is None else step.column("imm1", src.shape[0], ("float32",))
    state = start(step, "vector", second, reduce_cmd, src.shape[0], initial)
    result = _cumulate(second, values, state)
    kept = None if defined is None else np.logical_and.accumulate(defined, axis=1)
    keep(step, "vector", second, result[:, -1:].copy(), None if kept is None else kept[:, -1:])
    step.write(dst, result, defined=kept)
    return step.done(ops=(first.name, second.name))


def _cumulate(operator: Operator, values: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Running reduction along the free dimension, from `state`."""
    chained = np.concatenate([state, values], axis=1)
    with np.errstate(all="ignore"):
        if operator.name == "subtract":  # reg = value - reg
            result = np.empty_like(values)
            for n in range(values.shape[1]):
                state = values[:, n : n + 1] - state
                result[:, n : n + 1] = state
            return result
        ufunc: Any = {"add": np.add, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum}[
            operator.name
        ]
        return ufunc.accumulate(chained, axis=1)[:, 1:]


def bn_stats(dst, data, name=None):
    """(count, mean, variance * count) of the even and of the odd elements of each partition."""
    step = Step("bn_stats", name, VECTOR, dst=dst, data=data)
    step.tiles("dst", "data")
    values = step.read32(data)
    if values.shape[1] > _BN_LIMIT:
        step.refuse("G4C-K007", f"{values.shape[1]} elements per partition", f"at most {_BN_LIMIT}")
    if dst.shape[0] != data.shape[0] or dst.size != 6 * dst.shape[0]:
        step.refuse("G4C-K017", f"dst is {list(dst.shape)}", "6 elements per partition")
    columns = []
    for half in (values[:, 0::2], values[:, 1::2]):
        count = half.shape[1]
        mean = half.mean(axis=1) if count else np.zeros(len(values), np.float32)
        spread = np.square(half - mean[:, None]).sum(axis=1) if count else np.zeros(len(values), np.float32)
        columns += [np.full(len(values), count, np.float32), mean, spread]
    step.write(dst, np.stack(columns, axis=1).astype(np.float32))
    return step.done()


def bn_aggr(dst, data, name=None):
    """(mean, variance) per partition of what several bn_stats saw."""
    step = Step("bn_aggr", name, VECTOR, dst=dst, data=data)
    step.tiles("dst", "data")
    values = step.read32(data)
    if values.shape[1] % 3:
        step.refuse("G4C-K017", f"{values.shape[1]} elements per partition", "a multiple of 3")
    if dst.shape[0] != data.shape[0] or dst.size != 2 * dst.shape[0]:
        step.refuse("G4C-K017", f"dst is {list(dst.shape)}", "2 elements per partition")
    groups = values.reshape(len(values), -1, 3)
    counts, means, spreads = groups[..., 0], groups[..., 1], groups[..., 2]
    total = counts.sum(axis=1)
    mean = (counts * means).sum(axis=1) / total
    variance = (spreads + counts * np.square(means - mean[:, None])).sum(axis=1) / total
    step.write(dst, np.stack([mean, variance], axis=1).astype(np.float32))
    return step.done()


__all__ = [
    "bn_aggr",
    "bn_stats",
    "tensor_partition_reduce",
    "tensor_reduce",
    "tensor_scalar_cumulative",
    "tensor_scalar_reduce",
]
