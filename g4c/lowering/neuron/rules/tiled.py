"""Ops of the TILED level. XLA cuts contractions into tiles itself, so that only what a schedule skips is written out.

A tiled linear is one dot. A tiled attention is one dense attention per tile of queries over the tiles of keys that it
visits, with the same masks as g4.attention; where that skips nothing, one for all queries.
"""

from __future__ import annotations

from collections.abc import Sequence

from g4c.ir import ops
from g4c.ir.tiles import Cut, Visits
from g4c.lowering.neuron.rules.attention import attend
from g4c.lowering.neuron.rules.contraction import lower_linear
from g4c.lowering.neuron.rules.rule import Rule
from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor


def lower_split_tiles(b: StablehloBuilder, op: ops.SplitTilesOp, operands: Sequence[Tensor]) -> tuple[Tensor, ...]:
    (x,) = operands
    last = x.type.rank - 1
    return tuple(b.slice_axis(x, last, *bounds) for bounds in Cut.of("d", x.shape[last], op.width))


def lower_tiled_attention(b: StablehloBuilder, op: ops.TiledAttentionOp, operands: Sequence[Tensor]) -> Tensor:
    d, n = len(op.q), len(op.keys)
    q, keys, values = b.concat(operands[:d], 3), operands[d : d + n], operands[d + n : d + 2 * n]
    positions, held = operands[d + 2 * n], operands[d + 2 * n + 1 :]
    if op.skipped == 0:
        return attend(b, q, keys, values, positions, held, op.scale, op.window)
    parts = []
    for tile in op.query_tiles:
        rows = (tile.start, tile.limit)
        spans = [_span(visits, cut) for visits, cut in zip(tile.segments, op.cuts, strict=True)]
        part = [
            [b.slice_axis(x, 1, *span) for x, span in zip(segment, spans, strict=True) if span]
            for segment in (keys, values, held)
        ]
        queries = b.slice_axis(q, 1, *rows)
        if not part[0]:
            parts.append(b.splat(0.0, queries.type))
            continue
        at = b.slice_axis(positions, 1, *rows)
        parts.append(attend(b, queries, part[0], part[1], at, part[2], op.scale, op.window))
    return b.concat(parts, 1)


def _span(visits: Visits, cut: Cut) -> tuple[int, int] | None:
    """The keys from the first to the last visited tile; what lies between and is skipped is masked, too."""
    tiles = [tile for tile, _ in visits.tiles()]
    return (cut.bounds(min(tiles))[0], cut.bounds(max(tiles))[1]) if tiles else None


RULES: dict[type, Rule] = {
    ops.SplitTilesOp: lower_split_tiles,
    ops.TiledLinearOp: lower_linear,
    ops.TiledAttentionOp: lower_tiled_attention,
}
