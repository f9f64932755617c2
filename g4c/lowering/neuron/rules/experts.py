"""The mixture of experts, in one of two forms that need no loop at run time.

Few rows: gather the weights of a row's k experts, then matrix-vector products. If the gathered copy goes through
memory, an expert is moved three times (read, written, read), so this form is taken while 3 rows k <= E; its peak memory
is one row's k experts.

More rows: every expert for every row, with weight 0 where it was not chosen, in groups of experts so that a group's
f32 intermediates stay within `GROUP_BYTES`. All experts are read once, which a prompt of a few hundred tokens does
anyway, but the FLOP are E / k times those of the chosen experts (16 times for 128 experts, 8 chosen). On 26B-A4B's
shape a trn2 chip computes 128 rows in half the time that it reads the experts, 512 rows in twice that time. An output
that is not chosen must be finite: it is multiplied by 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from g4c.ir import ops
from g4c.ir.types import DType, TensorType
from g4c.lowering.neuron.rules.elementwise import gelu_tanh
from g4c.lowering.neuron.rules.rule import Rule
from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor

GROUP_BYTES = 64 << 20


def lower_experts(b: StablehloBuilder, op: ops.ExpertsOp, operands: Sequence[Tensor]) -> Tensor:
    x, indices, weights, gate_up, down = operands
    experts, hidden, _ = down.shape
    choices = indices.shape[-1]
    rows = math.prod(x.shape[:-1])
    x = b.reshape(x, (rows, hidden))
    indices = b.reshape(indices, (rows, choices))
    weights = b.convert(b.reshape(weights, (rows, choices)), DType.F32)
    if 3 * rows * choices <= experts:
        y = _gathered(b, x, indices, weights, gate_up, down)
    else:
        y = _dense(b, x, indices, weights, gate_up, down)
    return b.reshape(b.convert(y, op.result.dtype), op.result.shape)


def _gated(b: StablehloBuilder, gate_up: Tensor, dtype: DType) -> Tensor:
    """gelu(gate) * up of f32 [..., 2 I], which is rounded first; the product is rounded, too."""
    axis, width = gate_up.type.rank - 1, gate_up.shape[-1] // 2
    halves = b.convert(b.convert(gate_up, dtype), DType.F32)
    gate, up = (b.slice_axis(halves, axis, start, start + width) for start in (0, width))
    return b.convert(b.multiply(gelu_tanh(b, gate), up), dtype)


def _gathered(
    b: StablehloBuilder, x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
) -> Tensor:
    """f32 [rows, h], row by row: all rows together would need a copy of rows * k experts."""
    (rows, hidden), choices = x.shape, indices.shape[1]
    _, double, _ = gate_up.shape
    outputs = []
    for row in range(rows):
        mine = b.reshape(b.slice_axis(indices, 0, row, row + 1), (choices,))
        first = b.reshape(b.gather_rows(gate_up, mine), (choices * double, hidden))
        inner = b.reshape(b.dot(b.slice_axis(x, 0, row, row + 1), first, (1, 1)), (choices, double))
        gated = _gated(b, inner, x.dtype)
        out = b.dot(gated, b.gather_rows(down, mine), (1, 2), ((0,), (0,)))
        out = b.convert(b.convert(out, x.dtype), DType.F32)
        weight = b.reshape(b.slice_axis(weights, 0, row, row + 1), (choices,))
        total = b.reduce(b.multiply(out, b.broadcast(weight, out.shape, (0,))), "add", (0,))
        outputs.append(b.reshape(total, (1, hidden)))
    return b.concat(outputs, 0)


def _dense(b: StablehloBuilder, x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """f32 [rows, h], all experts in groups."""
    (rows, _), (experts, hidden, width) = x.shape, down.shape
    gates = _weight_of_each(b, indices, weights, experts)
    group = group_size(experts, rows, max(2 * width, hidden))
    total: Tensor | None = None
    for start in range(0, experts, group):
        first, second, gate = (b.slice_axis(entry, 0, start, start + group) for entry in (gate_up, down, gates))
        inner = b.dot(x, b.reshape(first, (group * 2 * width, hidden)), (1, 1))
        gated = _gated(b, b.reshape(inner, (rows, group, 2 * width)), x.dtype)
        out = b.dot(gated, second, (2, 2), ((1,), (0,)))
        out = b.convert(b.convert(out, x.dtype), DType.F32)
        part = b.reduce(b.multiply(out, b.broadcast(gate, out.shape, (0, 1))), "add", (0,))
        total = part if total is None else b.add(total, part)
    assert total is not None
    return total


def group_size(experts: int, rows: int, width: int) -> int:
    """How many experts are computed together: a divisor of `experts` whose f32 [rows, width] fit, at least 1."""
    fitting = GROUP_BYTES // (4 * rows * width)
    return max((n for n in range(1, experts + 1) if experts % n == 0 and n <= fitting), default=1)


def _weight_of_each(b: StablehloBuilder, indices: Tensor, weights: Tensor, experts: int) -> Tensor:
    """f32 [E, rows]: the weight of each expert for each row, 0 where it was not chosen."""
    shape = (experts, *indices.shape)
    expert = b.iota(TensorType(shape, DType.S32), 0)
    chosen = b.compare(b.broadcast(indices, shape, (1, 2)), expert, "EQ")
    spread = b.broadcast(weights, shape, (1, 2))
    return b.reduce(b.select(chosen, spread, b.splat(0.0, spread.type)), "add", (2,))


RULES: dict[type, Rule] = {ops.ExpertsOp: lower_experts}
