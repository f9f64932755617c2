"""Attention and the KV cache.

Every query head of a KV group is a row of one matmul against that group's keys, so K and V are never repeated, and no
tensor has more than four axes: rows [b, K, s * g, d] against keys [b, m, K, d], with axes of extent 1 left out. Scores,
mask and softmax are f32; a masked score is -1e30, which no real score reaches and which underflows to an exact zero.
Segments of keys are scored one by one, share one softmax and are summed.
"""

from __future__ import annotations

from collections.abc import Sequence

from g4c.ir import ops
from g4c.lowering.neuron.rules.indexing import flat_rows
from g4c.lowering.neuron.rules.rule import Rule
from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor

MASKED = -1e30
NOWHERE = 1 << 30  # later than every position: what a slot that holds nothing counts as


def lower_attention(b: StablehloBuilder, op: ops.AttentionOp, operands: Sequence[Tensor]) -> Tensor:
    n = len(op.keys)
    q, keys, values = operands[0], operands[1 : 1 + n], operands[1 + n : 1 + 2 * n]
    return attend(b, q, keys, values, operands[1 + 2 * n], operands[2 + 2 * n :], op.scale, op.window)


def attend(
    b: StablehloBuilder,
    q: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    positions: Tensor,
    held: Sequence[Tensor],
    scale: float,
    window: int,
) -> Tensor:
    """What g4.attention means for these operands, in their type; one softmax over all keys."""
    batch, length, heads, width = q.shape
    kv_heads = keys[0].shape[2]
    group = heads // kv_heads
    lead = () if batch * kv_heads == 1 else (batch,) if kv_heads == 1 else (batch, kv_heads)
    axes = tuple(range(len(lead)))
    rows = b.reshape(_heads_first(b, q, kv_heads), (*lead, length * group, width))
    scores = b.concat([_scores(b, rows, _keys(b, k, lead), axes) for k in keys], len(lead) + 1)
    if scale != 1.0:
        scores = b.multiply(scores, b.splat(scale, scores.type))
    allowed = _mask(b, window, positions, b.concat(held, 1), scores.shape, group)
    weights = b.convert(_softmax(b, b.select(allowed, scores, b.splat(MASKED, scores.type))), q.dtype)
    y, start = None, 0
    for v in values:
        stop = start + v.shape[1]
        part = b.slice_axis(weights, len(lead) + 1, start, stop)
        product = _weighted(b, part, _keys(b, v, lead), axes)
        start = stop
        y = product if y is None else b.add(y, product)
    assert y is not None
    return _heads_last(b, b.convert(y, q.dtype), q.shape, kv_heads)


def _keys(b: StablehloBuilder, x: Tensor, lead: tuple[int, ...]) -> Tensor:
    """[b, m, K, d] without the axes of extent 1 that the rows do not have either."""
    return x if len(lead) == 2 else b.reshape(x, (*lead, x.shape[1], x.shape[3]))


def _scores(b: StablehloBuilder, rows: Tensor, k: Tensor, axes: tuple[int, ...]) -> Tensor:
    batching = (axes, (0, 2)) if len(axes) == 2 else (axes, axes)
    return b.dot(rows, k, (len(axes) + 1, k.type.rank - 1), batching)


def _weighted(b: StablehloBuilder, weights: Tensor, v: Tensor, axes: tuple[int, ...]) -> Tensor:
    batching = (axes, (0, 2)) if len(axes) == 2 else (axes, axes)
    return b.dot(weights, v, (len(axes) + 1, 1 if len(axes) else 0), batching)


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


def _mask(
    b: StablehloBuilder, window: int, positions: Tensor, held: Tensor, shape: tuple[int, ...], group: int
) -> Tensor:
    """allow[.., row, j] = 0 <= held[j] <= its position and held[j] > its position - window; row = i * group + head."""
    batch, length = positions.shape
    rank = len(shape)
    rows = b.reshape(b.broadcast(positions, (batch, length, group), (0, 1)), (batch, length * group))
    empty = b.compare(held, b.splat(0, held.type), "LT")
    held = b.select(empty, b.splat(NOWHERE, held.type), held)
    if rank == 2:
        rows, held = (b.reshape(x, (x.type.size,)) for x in (rows, held))
    key = b.broadcast(held, shape, (1,) if rank == 2 else (0, rank - 1))
    axes = (0,) if rank == 2 else (0, rank - 2)
    allowed = b.compare(key, b.broadcast(rows, shape, axes), "LE")
    if window:
        first = b.subtract(rows, b.splat(window, rows.type))
        allowed = b.binary("and", allowed, b.compare(key, b.broadcast(first, shape, axes), "GT"))
    return allowed


def _softmax(b: StablehloBuilder, scores: Tensor) -> Tensor:
    """Over the last axis, in f32."""
    last = scores.type.rank - 1
    top = b.broadcast(b.reduce(scores, "maximum", (last,)), scores.shape, range(last))
    powers = b.unary("exponential", b.subtract(scores, top))
    total = b.broadcast(b.reduce(powers, "add", (last,)), scores.shape, range(last))
    return b.divide(powers, total)


def lower_held_positions(b: StablehloBuilder, op: ops.HeldPositionsOp, operands: Sequence[Tensor]) -> Tensor:
    (positions,) = operands
    if op.updated:
        last = b.reshape(b.reduce(positions, "maximum", (1,)), (positions.shape[0], 1))
    else:
        last = b.slice_axis(positions, 1, 0, 1)
        last = b.subtract(last, b.splat(1, last.type))
    return _held(b, last, op.slots)


def _held(b: StablehloBuilder, last: Tensor, slots: int) -> Tensor:
    """[b, slots]: the largest p <= last [b, 1] with p mod slots = slot, -1 where there is none."""
    shape = (last.shape[0], slots)
    known = b.binary("maximum", last, b.splat(0, last.type))
    newest = b.binary("remainder", known, b.splat(slots, last.type))
    turn = b.broadcast(b.subtract(known, newest), shape, (0, 1))
    slot = b.iota(last.type.with_shape(shape), 1)
    older = b.subtract(turn, b.splat(slots, turn.type))
    this_turn = b.compare(slot, b.broadcast(newest, shape, (0, 1)), "LE")
    held = b.add(slot, b.select(this_turn, turn, older))
    nothing = b.splat(-1, held.type)
    empty = b.compare(b.broadcast(last, shape, (0, 1)), b.splat(0, held.type), "LT")
    return b.select(empty, nothing, b.binary("maximum", held, nothing))


def lower_kv_update(b: StablehloBuilder, op: ops.KvUpdateOp, operands: Sequence[Tensor]) -> Tensor:
    """A scatter of rows into the cache seen as [b * slots, K * d], every index within it: padding rewrites old rows.

    The rows after the first go to the slots after its slot, so indices never meet. More rows than slots: every slot
    takes the row of the position that it holds afterwards.
    """
    cache, x, positions = operands
    batch, slots, heads, width = cache.shape
    rows = x.shape[1]
    flat = b.reshape(cache, (batch * slots, heads * width))
    new = b.reshape(x, (batch * rows, heads * width))
    first = b.slice_axis(positions, 1, 0, 1)
    first = b.binary("maximum", first, b.splat(0, first.type))
    if rows > slots:
        last = b.reshape(b.reduce(positions, "maximum", (1,)), (batch, 1))
        held = _held(b, last, slots)
        offset = b.subtract(held, b.broadcast(first, held.shape, (0, 1)))
        written = b.compare(offset, b.splat(0, offset.type), "GE")
        offset = b.binary("maximum", offset, b.splat(0, offset.type))
        taken = b.gather_rows(new, flat_rows(b, offset, rows))
        updated = b.select(_per_row(b, written, taken), taken, flat)
    else:
        after = b.add(b.broadcast(first, positions.shape, (0, 1)), b.iota(positions.type, 1))
        index = flat_rows(b, b.binary("remainder", after, b.splat(slots, after.type)), slots)
        valid = b.compare(positions, b.splat(0, positions.type), "GE")
        new = b.select(_per_row(b, valid, new), new, b.gather_rows(flat, index))
        updated = b.scatter_rows(flat, index, new, ordered=rows == 1)
    return b.reshape(updated, cache.shape)


def _per_row(b: StablehloBuilder, predicate: Tensor, rows: Tensor) -> Tensor:
    """A predicate [b, n] in the shape of rows [b * n, w]."""
    return b.broadcast(b.reshape(predicate, rows.shape[:1]), rows.shape, (0,))


RULES: dict[type, Rule] = {
    ops.AttentionOp: lower_attention,
    ops.HeldPositionsOp: lower_held_positions,
    ops.KvUpdateOp: lower_kv_update,
}
