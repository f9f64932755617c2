"""tile-contractions: from GRAPH to TILED, contractions as tiles of at most 128 partitions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from g4c.errors import G4cError
from g4c.ir.builder import Builder
from g4c.ir.levels import UNTILED, untiled
from g4c.ir.module import Function, Module
from g4c.ir.op import Level, Op, Value
from g4c.ir.ops import (
    AttentionOp,
    ConcatOp,
    ExpertsOp,
    LinearOp,
    MatmulOp,
    RopeOp,
    SliceOp,
    SplitTilesOp,
    TiledAttentionOp,
    TiledLinearOp,
)
from g4c.ir.ops.tiled import MOVING, PARTITIONS
from g4c.ir.tiles import Cut, plan
from g4c.passes.call_sites import CallSites
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.head_layout import HeadLayout, find_layouts
from g4c.passes.key_segments import part_updates, segment_kinds
from g4c.passes.linear_tiles import linear_tiles
from g4c.passes.permute_heads import narrow_tables, permute_heads

_LEFT: dict[type[Op], str] = {
    MatmulOp: "no weight is a factor, and no layer of the decoder has one; its k is one tile or XLA cuts it",
    ExpertsOp: "which rows meet which expert is known at run time only",
}


@dataclass(frozen=True)
class TileContractions(Pass):
    """Cut contractions into tiles of at most `partition` partitions, and attention into a schedule of tiles.

    Linear ops add up over tiles of k; which factor is stationary follows from the tensor engine's cycles, then from
    what reads the result. Heads are split into d tiles. Where RoPE rotates few pairs only (full-attention layers: 64
    of 256, read from the tables' frequencies), the heads are put into an order in which these are the two halves of
    the first tile: in the rows of the q and k projections, their norms' weights, the caches, and, where V is K's own
    projection, the columns of the projection after attention. So one tile in four is rotated. What is not proven stays
    as it is and `why` says the reason. An attention that reads a cache just written reads the old cache and the new
    rows instead, and visits, for every tile of queries, the tiles of keys that it may see.

    before:  %3 = "g4.rms_norm"(%2, %q_norm.weight) ... -> tensor<1x512x8x512xbf16>
             %4 = "g4.rope"(%3, %cos, %sin) : (..., tensor<1x512x256xbf16>, ...) -> tensor<1x512x8x512xbf16>
             %14 = "g4.attention"(%4, %12, %13, %positions, %key_positions) {scale = 1.0, window = 0} ...
    after:   %3 = "g4.rms_norm"(%2, %q_norm.weight) ... -> tensor<1x512x8x512xbf16>
             %4:4 = "g4.split_tiles"(%3) {width = 128, why = "the rotated dims are tile 0"} ...
             %5 = "g4.rope"(%4#0, %cos, %sin) : (..., tensor<1x512x64xbf16>, ...) -> tensor<1x512x8x128xbf16>
             %14 = "g4.tiled_attention"(%5, %4#1, %4#2, %4#3, %k_cache, %9, %v_cache, %12, %positions, %key_positions,
               %positions) {scale = 1.0, window = 0, segments = ["past 2048 = 16*128", "chunk 512 = 4*128"],
               schedule = ["q 0:128 | past * | chunk 0~ (1:4 ahead)", "q 128:256 | past * | chunk 0 1~ (2:4 ahead)",
                 "q 256:384 | past * | chunk 0:2 2~ (3 ahead)", "q 384:512 | past * | chunk 0:3 3~"]} ...

    `moving`: the longest free axis of a moving tile; `q_tile` and `kv_tile`: rows of queries and keys of a tile.
    Contractions that stay whole are named in the module's attribute g4.untiled, with the reason. Options outside what
    the engine takes are refused (G4C-P080). Stats: linears, attentions, parted (attentions that read a cache just
    written), visited and skipped pairs of tiles, heads_split (ropes of which one tile is left), heads_kept (ropes
    wider than a tile that are not), permuted (weights).
    """

    name = "tile-contractions"
    runs_after = ("specialize-layers",)
    level_after: ClassVar[Level | None] = Level.TILED

    partition: int = PARTITIONS
    moving: int = MOVING
    q_tile: int = PARTITIONS
    kv_tile: int = PARTITIONS

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        self._check_options()
        stats = {"linears": 0, "attentions": 0, "parted": part_updates(module), "visited": 0, "skipped": 0}
        sites = CallSites(module)
        layouts = find_layouts(module, sites, self.partition)
        permuted = permute_heads(module, layouts)
        split = [rope for layout in layouts if not layout.reason for rope in layout.ropes]
        narrow = not split or narrow_tables(module, sites, split, self.partition // 2)
        tiling = _Tiling(self, sites, {rope: layout for layout in layouts for rope in layout.ropes}, narrow, stats)
        for function in module.functions.values():
            tiling.rewrite(function)
        module.level = Level.TILED
        left = [f"{kind.mnemonic}: {_LEFT[kind]}" for kind in untiled(module)]
        if left:
            module.attributes[UNTILED] = tuple(left)
        kept = sum(len(layout.ropes) for layout in layouts) - len(split)
        return PassResult(True, {**stats, "heads_split": len(split), "heads_kept": kept, "permuted": permuted})

    def _check_options(self) -> None:
        limits = {"partition": PARTITIONS, "moving": MOVING, "q_tile": PARTITIONS, "kv_tile": MOVING}
        for name, limit in limits.items():
            value = getattr(self, name)
            if not 2 <= value <= limit or value % 2:
                spelled = name.replace("_", "-")
                message = f"{spelled} must be even and within 2..{limit}, got {value}"
                raise G4cError("G4C-P080", message, help=f"{self.name}{{{spelled}={limit}}}")


@dataclass(eq=False)
class _Tiling:
    """Rewrites functions. `narrow`: rows of tables already have the columns of one tile only."""

    options: TileContractions
    sites: CallSites
    layouts: dict[RopeOp, HeadLayout]
    narrow: bool
    stats: dict[str, int]
    mapping: dict[Value, Value] = field(default_factory=dict)
    tiles: dict[Value, tuple[Value, ...]] = field(default_factory=dict)  # of heads that are not put together again

    def rewrite(self, function: Function) -> None:
        users = function.users()
        ops, function.ops = function.ops, []
        for op in ops:
            build = Builder(function, op.loc)
            query = op.q if isinstance(op, AttentionOp) else None
            for value in op.operands:
                if value is not query:
                    self.join(build, value)
            kinds = segment_kinds(self.sites, op) if isinstance(op, AttentionOp) else ()
            op.replace_operands(self.mapping)
            if isinstance(op, RopeOp) and op in self.layouts and not self.layouts[op].reason:
                self.tiles[op.result] = self.rotate(build, op)
            elif isinstance(op, AttentionOp):
                assert query is not None
                self.mapping[op.result] = self.attention(build, op, query, kinds)
            elif type(op) is LinearOp:
                cuts, why = linear_tiles(op, self.options.partition, self.options.moving, users)
                self.mapping[op.result] = build.emit(TiledLinearOp(op.x, op.w, cuts, why))
                self.stats["linears"] += 1
            else:
                function.append(op)
        for result in function.results:
            self.join(Builder(function), result.value)
            result.value = self.mapping.get(result.value, result.value)

    def join(self, build: Builder, value: Value) -> None:
        """Put the tiles of a head that is needed whole together, once."""
        if value in self.tiles and value not in self.mapping:
            self.mapping[value] = build.emit(ConcatOp(self.tiles[value], value.type.rank - 1))

    def rotate(self, build: Builder, op: RopeOp) -> tuple[Value, ...]:
        """The tiles of a head of which the first one is rotated."""
        first, *others = self.split(build, op.x, "the rotated dims are tile 0")
        cos, sin = op.cos, op.sin
        if not self.narrow:
            limits = (*cos.shape[:2], self.options.partition // 2)
            cos, sin = (build.emit(SliceOp(rows, (0, 0, 0), limits)) for rows in (cos, sin))
        return (build.emit(RopeOp(first, cos, sin)), *others)

    def split(self, build: Builder, x: Value, why: str) -> tuple[Value, ...]:
        op = SplitTilesOp(x, self.options.partition, why, loc=build.loc)
        return build.function.append(op).results

    def attention(self, build: Builder, op: AttentionOp, query: Value, kinds: tuple[str, ...]) -> Value:
        """The tiled form of `op`, whose q was `query` before anything was rewritten."""
        if query in self.tiles:
            q = self.tiles[query]
        elif query.shape[3] <= self.options.partition:
            q = (op.q,)
        else:
            layout = self.layouts.get(query.owner) if isinstance(query.owner, RopeOp) else None
            why = f"rotated as a whole: {layout.reason}" if layout else "not rotated"
            q = self.split(build, op.q, why)
        rows = Cut.of("q", query.shape[1], self.options.q_tile)
        keys = zip(kinds, op.keys, strict=True)
        cuts = [Cut.of(kind, k.shape[1], self.options.kv_tile) for kind, k in keys]
        schedule = tuple(map(str, plan(rows, cuts, op.window)))
        segments = tuple(map(str, cuts))
        new = TiledAttentionOp(
            q, op.keys, op.values, op.positions, op.key_positions, op.scale, op.window, segments, schedule
        )
        self.stats["attentions"] += 1
        self.stats["visited"] += new.visited
        self.stats["skipped"] += new.skipped
        return build.emit(new)
