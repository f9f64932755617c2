"""Attention and the KV cache.

Every query head of a KV group is a row of one matmul against that group's keys, so K and V are never repeated, and no
tensor has more than four axes: rows [b, K, s * g, d] against slots [b, slots, K, d], with axes of extent 1 left out.
Scores, mask and softmax are f32; a masked score is -1e30, which no real score reaches and which underflows to an
exact zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from g4c.ir import ops
from g4c.ir.types import DType, TensorType
from g4c.lowering.neuron.rules.indexing import flat_rows
from g4c.lowering.neuron.rules.rule import Rule
from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor

MASKED = -1e30


def lower_attention(b: StablehloBuilder, op: ops.AttentionOp, operands: Sequence[Tensor]) -> Tensor:
    q, k, v, positions = operands
    batch, length, heads, width = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    k, v = (b.slice_axis(x, 1, 0, op.span) for x in (k, v))
    lead = () if batch * kv_heads == 1 else (batch,) if kv_heads == 1 else (batch, kv_heads)

    rows = b.reshape(_heads_first(b, q, kv_heads), (*lead, length * group, width))
    axes = tuple(range(len(lead)))
    if len(lead) < 2:
        k, v = (b.reshape(x, (*lead, op.span, width)) for x in (k, v))
        slots, batching = len(lead), (axes, axes)
    else:
        slots, batching = 1, (axes, (0, 2))
    scores = b.dot(rows, k, (len(lead) + 1, k.type.rank - 1), batching)
    if op.scale != 1.0:
        scores = b.multiply(scores, b.splat(op.scale, scores.type))
    allowed = _mask(b, op, positions, scores.shape, group)
    scores = b.select(allowed, scores, b.splat(MASKED, scores.type))
    weights = b.convert(_softmax(b, scores), q.dtype)
    y = b.convert(b.dot(weights, v, (len(lead) + 1, slots), batching), q.dtype)
    return _heads_last(b, y, q.shape, kv_heads)


def _heads_first(b: StablehloBuilder, q: Tensor, kv_heads: int) -> Tensor:
    """[b, s, H, d] -> [b, K, s, g * d], H = K * g. With one KV head or one position that is a reshape."""
    batch, length, heads, width = q.shape
    q = b.reshape(q, (batch, length, kv_heads, heads // kv_heads * width))
    return q if 1 in (length, kv_heads) else b.transpose(q, (0, 2, 1, 3))


def _heads_last(b: StablehloBuilder, y: Tensor, shape: tuple[int, ...], kv_heads: int) -> Tensor:
    """The inverse: [..., s * g, d] -> [b, s, H, d]."""
    batch, length, heads, width = shape
    if 1 not in (length, kv_heads):
        y = b.reshape(y, (batch, kv_heads, length, heads // kv_heads * width))
        y = b.transpose(y, (0, 2, 1, 3))
    return b.reshape(y, shape)


def _mask(b: StablehloBuilder, op: ops.AttentionOp, positions: Tensor, shape: tuple[int, ...], group: int) -> Tensor:
    """allow[..., row, j] = j <= position of the row, and j > position - window; row = i * group + head."""
    batch, length = positions.shape
    rank = len(shape)
    rows = b.reshape(b.broadcast(positions, (batch, length, group), (0, 1)), (batch, length * group))
    if rank == 2:
        rows = b.reshape(rows, (length * group,))
    axes = (0,) if rank == 2 else (0, rank - 2)
    type = TensorType(shape, DType.S32)
    slot = b.iota(type, rank - 1)
    query = b.broadcast(rows, shape, axes)
    allowed = b.compare(slot, query, "LE")
    if op.window and op.window < op.span:
        first = b.subtract(rows, b.splat(op.window, rows.type))
        inside = b.compare(slot, b.broadcast(first, shape, axes), "GT")
        allowed = b.binary("and", allowed, inside)
    return allowed


def _softmax(b: StablehloBuilder, scores: Tensor) -> Tensor:
    """Over the last axis, in f32."""
    last = scores.type.rank - 1
    top = b.broadcast(b.reduce(scores, "maximum", (last,)), scores.shape, range(last))
    powers = b.unary("exponential", b.subtract(scores, top))
    total = b.broadcast(b.reduce(powers, "add", (last,)), scores.shape, range(last))
    return b.divide(powers, total)


def lower_kv_fill(b: StablehloBuilder, op: ops.KvFillOp, operands: Sequence[Tensor]) -> Tensor:
    """A prefix fill: dynamic-update-slice with constant starts."""
    cache, x = operands
    starts = [b.scalar(op.start if axis == 1 else 0, DType.S32) for axis in range(4)]
    return b.update_slice(cache, x, starts)


def lower_kv_update(b: StablehloBuilder, op: ops.KvUpdateOp, operands: Sequence[Tensor]) -> Tensor:
    """A scatter of rows into the cache seen as [b * slots, K * d]; one position per sequence makes the rows ascend."""
    cache, x, positions = operands
    batch, slots, heads, width = cache.shape
    flat = b.reshape(cache, (batch * slots, heads * width))
    rows = b.reshape(x, (batch * x.shape[1], heads * width))
    updated = b.scatter_rows(flat, flat_rows(b, positions, slots), rows, ordered=x.shape[1] == 1)
    return b.reshape(updated, cache.shape)


RULES: dict[type, Rule] = {
    ops.AttentionOp: lower_attention,
    ops.KvFillOp: lower_kv_fill,
    ops.KvUpdateOp: lower_kv_update,
}
