"""Contractions in tiles as the tensor engine takes them: 128 partitions of the contracted axis at a time, sums in f32.

The tensor engine multiplies stationary[128, up to 128]^T by moving[128, up to 512] and adds up in PSUM, where a bank
holds 512 f32 per partition. How extents are cut, and which tiles of keys a tile of queries visits, is text that the ops
parse and check; `g4c.ir.tiles` says how to read it. A reference goes tile by tile, in the order that is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from g4c.ir.op import Cost, Level, Op, Value, require
from g4c.ir.ops.contraction import LinearOp
from g4c.ir.ops.online_softmax import OnlineSoftmax
from g4c.ir.tiles import KINDS, Cut, QueryTile, Visits, check, parse_cut, parse_query_tile
from g4c.ir.types import Array, DType, TensorType

PARTITIONS = 128  # of the contracted axis, and free axis of a stationary tile
MOVING = 512  # free axis of a moving tile: one PSUM bank of f32


@dataclass(eq=False, repr=False)
class SplitTilesOp(Op):
    """y_t[..., i] = x[..., t * width + i]: the last axis in tiles of `width`, the last one perhaps shorter.

    Nothing moves. `why` says why a head was rotated before it was split, or not.
    """

    mnemonic = "g4.split_tiles"
    level = Level.TILED
    x: Value
    width: int
    why: str

    def infer(self) -> tuple[TensorType, ...]:
        require(self.x.type.rank >= 1, "x is a scalar")
        require(0 < self.width <= PARTITIONS, f"width must be within 1..{PARTITIONS}, got {self.width}")
        cut = Cut.of("d", self.x.shape[-1], self.width)
        return tuple(self.x.type.with_shape((*self.x.shape[:-1], limit - start)) for start, limit in cut)

    def reference(self, *operands: Array) -> tuple[Array, ...]:
        cut = Cut.of("d", self.x.shape[-1], self.width)
        return tuple(operands[0][..., start:limit] for start, limit in cut)

    def cost(self) -> Cost:
        return Cost(0, 0, 0)


@dataclass(eq=False, repr=False)
class TiledLinearOp(LinearOp):
    """y[..., n] = sum_k x[..., k] * w[n, k], added up in f32 tile by tile along k; rounded once.

    `tiles` cuts k, the rows n of w and the rows m of x. k lies on the partitions; of n and m one is stationary, the
    other one moves. `why` says what decided that. A tail is a shorter tile: the engine takes one, so nothing is padded.
    """

    mnemonic = "g4.tiled_linear"
    level = Level.TILED
    tiles: tuple[str, ...]
    why: str

    @property
    def cuts(self) -> tuple[Cut, Cut, Cut]:
        """Those of k, n and m."""
        require(len(self.tiles) == 3, f"tiles must cut k, n and m, got {list(self.tiles)}")
        k, n, m = (parse_cut(text) for text in self.tiles)
        return k, n, m

    def verify(self) -> None:
        super().verify()
        cuts = k, n, m = self.cuts
        extents = (self.w.shape[1], self.w.shape[0], self.x.type.size // max(1, self.x.shape[-1]))
        for cut, name, extent in zip(cuts, "knm", extents, strict=True):
            require((cut.name, cut.extent) == (name, extent), f"tiles must cut {name} = {extent}, got {cut}")
        roles = {n.role, m.role} == {"stationary", "moving"} and not k.role
        require(roles, f"of n and m one is stationary, one moving, k is neither: {list(self.tiles)}")
        for cut in cuts:
            limit = MOVING if cut.role == "moving" else PARTITIONS
            require(cut.width <= limit, f"{cut}: tiles are at most {limit} wide")

    def reference(self, *operands: Array) -> Array:
        x, w = (operand.astype(np.float32) for operand in operands)
        y = np.zeros(self.result.shape, np.float32)
        for start, limit in self.cuts[0]:
            y += x[..., start:limit] @ w[:, start:limit].T
        return y.astype(self.result.dtype.numpy)


@dataclass(eq=False, repr=False)
class TiledAttentionOp(Op):
    """y[b,i,h] = sum_j softmax_j(scale * q[b,i,h] . k[b,j,g]) * v[b,j,g], g = h // (H / K), over the keys that i sees.

    What a query sees is as in g4.attention. q is given in d tiles [b, s, H, <= 128], whose products with the same dims
    of the keys [b, m, K, d] add up in f32, one after the other. `segments` cuts each segment of keys and says what is
    known of it: past, before the first query (held_positions of the queries' positions, not updated); chunk, the
    queries' own rows (its key positions are `positions`); mixed, nothing. `schedule` says, for each tile of queries,
    which tiles of keys it visits, in order, masked (~, *) or not, and why it skips the others. Softmax is online: a
    running maximum and sum in f32, probabilities rounded to the operand type before they meet v, sums over d and keys
    in f32. A query at a negative position gives zeros.

    In a past segment the slots from min(positions[b, 0], m) on hold nothing: a kernel stops there. Refused are
    schedules that skip a tile which could be seen; the reference refuses data that contradicts what the segments say.
    """

    mnemonic = "g4.tiled_attention"
    level = Level.TILED
    q: tuple[Value, ...]
    keys: tuple[Value, ...]
    values: tuple[Value, ...]
    positions: Value
    key_positions: tuple[Value, ...]
    scale: float
    window: int
    segments: tuple[str, ...]
    schedule: tuple[str, ...]

    def infer(self) -> tuple[TensorType, ...]:
        require(len(self.q) > 0, "q has no tiles")
        q = self.q[0].type
        require(q.rank == 4, f"tiles of q must be [b, s, H, d], got {q}")
        for tile in self.q:
            same = tile.type.rank == 4 and tile.shape[:3] == q.shape[:3] and tile.dtype == q.dtype
            require(same, f"tiles of q differ in more than their width: {q} and {tile.type}")
        width = sum(tile.shape[3] for tile in self.q)
        counts = (len(self.keys), len(self.values), len(self.key_positions))
        require(len(set(counts)) == 1 and counts[0] > 0, f"segments differ: {counts} keys, values and key_positions")
        for k, v, held in zip(self.keys, self.values, self.key_positions, strict=True):
            fits = k.type.rank == 4 and (k.shape[0], k.shape[3], k.dtype) == (q.shape[0], width, q.dtype)
            require(fits, f"keys must be {q.dtype.mlir} [{q.shape[0]}, m, K, {width}], got {k.type}")
            require(k.type == v.type, f"a segment's keys are {k.type}, its values {v.type}")
            fits = k.shape[2] == self.keys[0].shape[2] and q.shape[2] % k.shape[2] == 0
            require(fits, f"{q.shape[2]} query heads do not divide over {k.shape[2]} KV heads")
            wanted = TensorType(k.shape[:2], DType.S32)
            require(held.type == wanted, f"key_positions must be {wanted}, got {held.type}")
        wanted = TensorType(q.shape[:2], DType.S32)
        require(self.positions.type == wanted, f"positions must be {wanted}, got {self.positions.type}")
        return (q.with_shape((*q.shape[:3], width)),)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """One per segment of keys, named by what is known of it."""
        return tuple(parse_cut(text) for text in self.segments)

    @property
    def query_tiles(self) -> tuple[QueryTile, ...]:
        cuts = self.cuts
        return tuple(parse_query_tile(text, cuts) for text in self.schedule)

    def verify(self) -> None:
        require(self.window >= 0, f"window must be >= 0 (0 = none), got {self.window}")
        require(self.q[0].dtype.is_float, f"needs floats, got {self.q[0].type}")
        widths = [tile.shape[3] for tile in self.q]
        require(max(widths) <= PARTITIONS, f"d tiles are at most {PARTITIONS} wide, got {widths}")
        require(len(self.segments) == len(self.keys), f"{len(self.keys)} segments, cut are {list(self.segments)}")
        for cut, k, held in zip(self.cuts, self.keys, self.key_positions, strict=True):
            known = cut.name in KINDS and not cut.role and cut.extent == k.shape[1]
            require(known, f"segments are {', '.join(KINDS)} of {k.shape[1]} keys, got {cut}")
            require(cut.width <= MOVING, f"{cut}: tiles are at most {MOVING} wide")
            own = held is self.positions
            require(cut.name != "chunk" or own, "a chunk's key positions are the positions of the queries")
        tiles = self.query_tiles
        check(tiles, self.positions.shape[1], self.cuts, self.window)
        longest = max((tile.limit - tile.start for tile in tiles), default=0)
        require(longest <= PARTITIONS, f"query tiles are at most {PARTITIONS} rows, got {longest}")

    def reference(self, *operands: Array) -> Array:
        d, n = len(self.q), len(self.keys)
        q, keys, values = operands[:d], operands[d : d + n], operands[d + n : d + 2 * n]
        positions, held = operands[d + 2 * n], operands[d + 2 * n + 1 :]
        cuts, y = self.cuts, np.zeros(self.result.shape, np.float32)
        for tile in self.query_tiles:
            rows = slice(tile.start, tile.limit)
            state = OnlineSoftmax(tuple(part[:, rows] for part in q), keys[0].shape[2])
            for visits, cut, k, v, at in zip(tile.segments, cuts, keys, values, held, strict=True):
                allowed = _allowed(positions[:, rows], at, self.window)
                _check_facts(tile, visits, cut, allowed, positions[:, rows])
                for t, masked in visits.tiles():
                    part = slice(*cut.bounds(t))
                    state.visit(k[:, part], v[:, part], self.scale, allowed[..., part] if masked else None)
            y[:, rows] = state.result()
        y = np.where(positions[:, :, None, None] < 0, np.float32(0), y)
        return y.astype(self.result.dtype.numpy)

    def cost(self) -> Cost:
        """4 b H d FLOP per query row and key of a visited tile; of a past segment all slots."""
        read = sum(value.type.nbytes for value in dict.fromkeys(self.operands))
        return Cost(self.flops(None), read, self.result.type.nbytes)

    def flops(self, start: int | None) -> int:
        """FLOP of the visited tiles where the first query is at position `start`; None: wherever it is."""
        batch, _, heads, width = self.result.shape
        cuts, pairs = self.cuts, 0
        for tile in self.query_tiles:
            for visits, cut in zip(tile.segments, cuts, strict=True):
                holds = cut.extent if start is None or cut.name != "past" else min(start, cut.extent)
                bounds = [cut.bounds(t) for t, _ in visits.tiles()]
                pairs += (tile.limit - tile.start) * sum(high - low for low, high in bounds if low < holds)
        return 4 * batch * heads * width * pairs

    @property
    def visited(self) -> int:
        """How many pairs of a tile of queries and a tile of keys are computed."""
        return sum(1 for tile in self.query_tiles for visits in tile.segments for _ in visits.tiles())

    @property
    def skipped(self) -> int:
        """How many are not."""
        return len(self.schedule) * sum(cut.count for cut in self.cuts) - self.visited


Mask: TypeAlias = "npt.NDArray[np.bool_]"


def _allowed(positions: Array, held: Array, window: int) -> Mask:
    """[b, 1, 1, rows, keys]: who sees whom."""
    query, key = positions[:, None, None, :, None], held[:, None, None, None, :]
    allowed = (key >= 0) & (key <= query)
    return allowed & (key > query - window) if window else allowed


def _check_facts(tile: QueryTile, visits: Visits, cut: Cut, allowed: Mask, positions: Array) -> None:
    """ValueError unless nobody sees what is skipped, and every query but padding sees all that is not masked."""
    everything = allowed | (positions < 0)[:, None, None, :, None]
    for run in (*visits.visited, *visits.skipped):
        keys = slice(cut.bounds(run.start)[0], cut.bounds(run.limit - 1)[1])
        if run.reason and allowed[..., keys].any():
            raise ValueError(f"{tile}: a query sees a key that is skipped: the positions are not as {cut.name} says")
        if not run.reason and not run.masked and not everything[..., keys].all():
            raise ValueError(f"{tile}: not masked is a key that is not seen: the positions are not as {cut.name} says")
