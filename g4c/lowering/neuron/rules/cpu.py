"""Other forms of a few ops, for the cpu target: what XLA's CPU backend runs fast, in the same vocabulary.

A bf16 product of one row with a weight is memory-bound, and XLA's plain dot widens the whole weight to f32 first.
Written as a multiply and a sum over a few long slices of k it becomes one vectorized loop that reads the weight once;
the partial sums that remain are added by a dot with ones. A bf16 scatter or dynamic-update-slice is widened to f32
over the whole cache, too, and a select is the cheapest pass over it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from g4c.ir import ops
from g4c.ir.types import DType, TensorType
from g4c.lowering.neuron.rules.attention import lower_kv_update
from g4c.lowering.neuron.rules.contraction import lower_linear
from g4c.lowering.neuron.rules.rule import Rule
from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor

SLICES = (12, 8)  # few enough that the loop over them is fully unrolled
LANES = 16  # a slice is a multiple of the f32 lanes of the widest vector
MAX_PARTIAL_BYTES = 1 << 24  # partial sums stay in cache: longer weights are taken in chunks of rows


def lower_one_row_linear(b: StablehloBuilder, op: ops.LinearOp, operands: Sequence[Tensor]) -> Tensor:
    """y[n] = sum_l sum_s x[s, l] w[n, s, l] for one bf16 row; anything else is a plain dot."""
    x, w = operands
    rows, width = w.shape
    slices = next((s for s in SLICES if width % (s * LANES) == 0), None)
    if math.prod(x.shape[:-1]) != 1 or x.dtype != DType.BF16 or slices is None:
        return lower_linear(b, op, operands)
    lanes = width // slices
    x = b.reshape(b.convert(x, DType.F32), (slices, lanes))
    ones = b.splat(1.0, TensorType((1, lanes), DType.F32))
    chunk = MAX_PARTIAL_BYTES // (4 * lanes)
    parts = []
    for start in range(0, rows, chunk):
        part = b.slice_axis(w, 0, start, min(start + chunk, rows))
        part = b.convert(b.reshape(part, (part.shape[0], slices, lanes)), DType.F32)
        sums = b.reduce(b.multiply(part, b.broadcast(x, part.shape, (1, 2))), "add", (1,))
        parts.append(b.dot(ones, sums, (1, 1)))
    return b.reshape(b.convert(b.concat(parts, 1), op.result.dtype), op.result.shape)


def lower_one_row_kv_update(b: StablehloBuilder, op: ops.KvUpdateOp, operands: Sequence[Tensor]) -> Tensor:
    """cache[b, j] = x[b] where j == positions[b], for one position per sequence."""
    cache, x, positions = operands
    batch, length = positions.shape
    if length != 1:
        return lower_kv_update(b, op, operands)
    slot = b.iota(cache.type.with_dtype(DType.S32), 1)
    written = b.broadcast(b.reshape(positions, (batch,)), cache.shape, (0,))
    return b.select(b.compare(slot, written, "EQ"), b.numpy_broadcast(x, cache.shape), cache)


CPU_RULES: dict[type, Rule] = {ops.LinearOp: lower_one_row_linear, ops.KvUpdateOp: lower_one_row_kv_update}
