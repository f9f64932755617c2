"""split-matvec: the form of a bf16 matrix-vector product that XLA's CPU backend runs at memory speed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from g4c.ir.builder import Builder
from g4c.ir.module import Function, Module
from g4c.ir.op import Dense, Value
from g4c.ir.ops import ConcatOp, ConstantOp, ConvertOp, LinearOp, MulOp, ReduceOp, ReshapeOp, SliceOp
from g4c.ir.types import Array, DType, TensorType
from g4c.passes.contract import Pass, PassContext, PassResult

_STEPS = (12, 8)
_LANES = 16
_SCRATCH_BYTES = 16 << 20


@dataclass(frozen=True)
class SplitMatvec(Pass):
    """Rewrite a one-row bf16 linear as multiply, reduce over a short axis, and an f32 product with a row of ones.

    For the CPU target only. XLA's CPU backend runs a one-row bf16 dot one element at a time; this form it unrolls and
    vectorizes. k is split into 12 or 8 steps of a multiple of 16 lanes; rows of the weight go in pieces, so that the
    f32 partial sums [n, lanes] stay in the cache. Sums are in f32, in another order; the result is rounded once, as
    before. A linear with more rows, in f32, or whose k does not split stays as it is.

    before:  %2 = "g4.linear"(%x, %w) : (tensor<1x1x1536xbf16>, tensor<256x1536xbf16>) -> tensor<1x1x256xbf16>
    after:   %3 = "g4.reshape"(%w) : (tensor<256x1536xbf16>) -> tensor<256x12x128xbf16>
             %4 = "g4.convert"(%3) : (tensor<256x12x128xbf16>) -> tensor<256x12x128xf32>
             %7 = "g4.mul"(%4, %6) : (tensor<256x12x128xf32>, tensor<12x128xf32>) -> tensor<256x12x128xf32>
             %8 = "g4.reduce"(%7) {kind = "sum", axes = array<i64: 1>, ...} : (...) -> tensor<256x128xf32>
             %9 = "g4.linear"(%ones, %8) : (tensor<1x128xf32>, tensor<256x128xf32>) -> tensor<1x256xf32>
    """

    name = "split-matvec"

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        rewritten = kept = 0
        for function in module.functions.values():
            done, left = _rewrite(function)
            rewritten += done
            kept += left
        return PassResult(rewritten > 0, {"linears": rewritten, "one_row_linears_kept": kept})


def split(k: int) -> tuple[int, int] | None:
    """(steps, lanes) with steps * lanes == k; None where k does not split into 12 or 8 steps of a multiple of 16."""
    for steps in _STEPS:
        if k % (steps * _LANES) == 0:
            return steps, k // steps
    return None


def _rewrite(function: Function) -> tuple[int, int]:
    ops, function.ops = function.ops, []
    mapping: dict[Value, Value] = {}
    rewritten = kept = 0
    for op in ops:
        op.replace_operands(mapping)
        if not isinstance(op, LinearOp) or not _is_matvec(op):
            function.append(op)
            continue
        form = split(op.x.shape[-1])
        if form is None:
            kept += 1
            function.append(op)
            continue
        rewritten += 1
        mapping[op.result] = _emit(Builder(function, op.loc), op, *form)
    for result in function.results:
        result.value = mapping.get(result.value, result.value)
    return rewritten, kept


def _is_matvec(op: LinearOp) -> bool:
    return op.x.dtype == DType.BF16 and op.x.type.size == op.x.shape[-1]


def _emit(build: Builder, op: LinearOp, steps: int, lanes: int) -> Value:
    """The split form of `op`; returns a value of the type of its result."""
    n, k = op.w.shape
    row = build.emit(ReshapeOp(op.x, TensorType((steps, lanes), DType.BF16)))
    row = build.emit(ConvertOp(row, TensorType((steps, lanes), DType.F32)))
    filled: Array = np.ones((1, lanes), np.float32)
    ones = build.emit(ConstantOp(Dense.of(filled)))
    pieces = math.ceil(n * lanes * 4 / _SCRATCH_BYTES)
    height = math.ceil(n / pieces)
    sums = []
    for start in range(0, n, height):
        limit = min(n, start + height)
        w = op.w if pieces == 1 else build.emit(SliceOp(op.w, (start, 0), (limit, k)))
        w = build.emit(ReshapeOp(w, TensorType((limit - start, steps, lanes), DType.BF16)))
        w = build.emit(ConvertOp(w, w.type.with_dtype(DType.F32)))
        partial = build.emit(ReduceOp(build.emit(MulOp(w, row)), "sum", (1,)))
        sums.append(build.emit(LinearOp(ones, partial)))
    y = sums[0] if len(sums) == 1 else build.emit(ConcatOp(tuple(sums), 1))
    y = build.emit(ConvertOp(y, y.type.with_dtype(DType.BF16)))
    return build.emit(ReshapeOp(y, op.result.type))
