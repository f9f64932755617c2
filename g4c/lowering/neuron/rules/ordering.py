"""The largest entries of an axis, from maxima, minima and comparisons: no sort, no custom call.

neuronx-cc turns a sort over a vocabulary into a top-k that it then rejects (EVRF014), and what its own top-k does with
equal entries is not documented. This form runs anywhere, bit for bit.

Cost: a narrow axis of n entries takes k rounds of about 14 instructions, each of which reads the axis. A wide one is
cut into tiles of width w, about sqrt(n / k): one pass for the tiles' maxima, k rounds over the n / w maxima, a gather
of the k best tiles, k rounds over their k w entries. No entry outside those tiles can be among the k largest: each of
them has an entry that comes before it. For n = 262,144 and k = 64: 0.8 million entries are visited, not 17 million.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.types import DType, TensorType
from g4c.lowering.neuron.rules.indexing import flat_rows
from g4c.lowering.neuron.rules.rule import Rule
from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor

MAX_ROUNDS = 256  # a round is a dozen instructions
EXACT_INDICES = 1 << 24  # indices are compared in f32, the vector engine's own arithmetic
WIDE = 4096
MIN_TILE = 32


def lower_top_k(b: StablehloBuilder, op: ops.TopKOp, operands: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """G4C-L010: k or the axis are beyond what the rounds are good for."""
    extent = op.x.shape[-1]
    if op.k > MAX_ROUNDS or extent > EXACT_INDICES:
        limits = f"at most k = {MAX_ROUNDS} of {EXACT_INDICES} entries"
        raise G4cError("G4C-L010", f"g4.top_k of k = {op.k} over {op.x.type}; {limits}", where=str(op.loc) or None)
    rows = math.prod(op.x.shape[:-1])
    x = b.convert(b.reshape(operands[0], (rows, extent)), DType.F32)
    width = tile_width(extent, op.k)
    if width < extent:
        x, indices = _best_tiles(b, x, op.k, width)
    else:
        indices = b.iota(x.type, 1)
    values, indices = _rounds(b, x, indices, op.k, extent)
    found, places = op.results
    return b.reshape(b.convert(values, found.dtype), found.shape), b.reshape(indices, places.shape)


def tile_width(extent: int, k: int) -> int:
    """The width of a tile, a power of 2 near sqrt(extent / k); `extent` where tiles are not worth it."""
    width = max(MIN_TILE, 1 << round(math.log2(extent / k) / 2))
    return width if extent > WIDE and 2 * k * width <= extent else extent


def _best_tiles(b: StablehloBuilder, x: Tensor, k: int, width: int) -> tuple[Tensor, Tensor]:
    """The entries of the k tiles with the largest maxima, and the index of each in its row: [rows, k * width]."""
    rows, extent = x.shape
    tiles = -(-extent // width)
    if tiles * width > extent:
        padding = TensorType((rows, tiles * width - extent), DType.F32)
        x = b.concat((x, b.splat(-math.inf, padding)), 1)
    x = b.reshape(x, (rows, tiles, width))
    maxima = b.reduce(x, "maximum", (2,))
    _, best = _rounds(b, maxima, b.iota(maxima.type, 1), k, tiles)
    chosen = b.gather_rows(b.reshape(x, (rows * tiles, width)), flat_rows(b, best, tiles))
    shape = (rows, k, width)
    first = b.multiply(b.convert(best, DType.F32), b.splat(width, TensorType((rows, k), DType.F32)))
    within = b.iota(TensorType(shape, DType.F32), 2)
    indices = b.add(b.broadcast(first, shape, (0, 1)), within)
    return b.reshape(chosen, (rows, k * width)), b.reshape(indices, (rows, k * width))


def _rounds(b: StablehloBuilder, x: Tensor, indices: Tensor, k: int, extent: int) -> tuple[Tensor, Tensor]:
    """values f32 [rows, k] and s32 [rows, k]: per round the first entry after the last one taken.

    One entry comes before another if it is larger, or as large and of lower index. Indices stay below `extent`, also
    for NaN.
    """
    rows = x.shape[0]
    lowest = b.splat(-math.inf, x.type)
    last = b.splat(extent - 1, x.type)
    values: list[Tensor] = []
    places: list[Tensor] = []
    left: Tensor | None = None  # which entries come after those taken
    for _ in range(k):
        if values:
            value, place = (b.broadcast(taken[-1], x.shape, (0, 1)) for taken in (values, places))
            below = b.compare(x, value, "LT")
            as_large = b.compare(x, value, "EQ")
            after = b.compare(indices, place, "GT")
            left = b.binary("or", below, b.binary("and", as_large, after))
        entries = x if left is None else b.select(left, x, lowest)
        top = b.reduce(entries, "maximum", (1,))
        hit = b.compare(x, b.broadcast(top, x.shape, (0,)), "EQ")
        hit = hit if left is None else b.binary("and", hit, left)
        place = b.reduce(b.select(hit, indices, last), "minimum", (1,))
        values.append(b.reshape(top, (rows, 1)))
        places.append(b.reshape(place, (rows, 1)))
    return b.concat(values, 1), b.convert(b.concat(places, 1), DType.S32)


RULES: dict[type, Rule] = {ops.TopKOp: lower_top_k}
