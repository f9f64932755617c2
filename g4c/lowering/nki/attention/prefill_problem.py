"""What a prefill attention kernel computes: shapes, segments of keys, masks; nothing that is a choice.

In: a tiled attention op, or the shapes themselves. Out: a `PrefillProblem`.
Invariant: equal problems have equal kernels, whatever the schedule of the op was.
"""

from __future__ import annotations

from dataclasses import dataclass

from g4c.errors import G4cError
from g4c.ir.ops import TiledAttentionOp
from g4c.ir.types import DType, TensorType

P = 128  # partitions: rows of a query tile, keys of a key tile, head dims of a contraction
BANK = 512  # f32 per partition in a PSUM bank
STAGED = 2048  # keys whose held positions are masked at once
KINDS = ("past", "chunk", "mixed")


@dataclass(frozen=True)
class Segment:
    """Keys and values [b, keys, K, d] of a `kind`: past (with held positions), chunk (the queries' own), mixed."""

    kind: str
    keys: int

    @property
    def tiles(self) -> int:
        return -(-self.keys // P)


@dataclass(frozen=True)
class PrefillProblem:
    """y [batch, rows, heads, head_dim] = attention of q over the segments, all of `dtype` (bf16 or f32).

    `window` 0: none. `causal` False: every query sees every key that is no padding (vision). `block_span`: image
    blocks, whose rows see each other in both directions, are at most so many rows long; 0: there are none. With blocks
    there is one more operand, [batch, rows] s32: the block of each row, -1 for text and padding.
    """

    batch: int
    rows: int
    heads: int
    kv_heads: int
    head_dim: int
    segments: tuple[Segment, ...]
    window: int = 0
    scale: float = 1.0
    dtype: DType = DType.BF16
    causal: bool = True
    block_span: int = 0

    def __post_init__(self) -> None:
        kinds = [segment.kind for segment in self.segments]
        chunks = [segment.keys for segment in self.segments if segment.kind == "chunk"]
        checks = (
            (self.heads % self.kv_heads == 0, f"{self.heads} heads do not divide over {self.kv_heads} KV heads"),
            (1 <= self.head_dim <= BANK, f"head_dim {self.head_dim} is more than a PSUM bank holds ({BANK})"),
            (min(self.batch, self.rows) >= 1, f"batch {self.batch}, {self.rows} rows"),
            (set(kinds) <= set(KINDS), f"segments {kinds}"),
            (max(kinds.count("past"), kinds.count("chunk")) <= 1, f"segments {kinds}: one past and one chunk"),
            (all(segment.keys >= 1 for segment in self.segments), "a segment without keys"),
            (kinds and kinds != ["past"], "queries that see only the past may see nothing at all"),
            (set(chunks) <= {self.rows}, f"a chunk of {chunks} keys, {self.rows} rows"),
            (self.causal or (kinds == ["chunk"] and not self.window), "not causal, but more than a chunk"),
            (not self.block_span or (self.causal and "chunk" in kinds), "blocks without a causal chunk"),
            (not self.block_span or not self.window or self.window >= P, f"blocks and a window of {self.window}"),
            (self.scale > 0, f"scale {self.scale}: the maximum of the scores is that of their products"),
            (self.dtype in (DType.BF16, DType.F32), f"{self.dtype.mlir}: bf16 or f32"),
        )
        for holds, what in checks:
            if not holds:
                raise G4cError("G4C-K041", f"no prefill attention kernel: {what}")

    @property
    def group(self) -> int:
        """Query heads of a KV head."""
        return self.heads // self.kv_heads

    @property
    def labels(self) -> tuple[str, ...]:
        """How the segments' operands are called: by kind, with a number where it is not the only one."""
        kinds = [segment.kind for segment in self.segments]
        numbers = [str(kinds[:n].count(kind)) if kinds.count(kind) > 1 else "" for n, kind in enumerate(kinds)]
        return tuple(kind + number for kind, number in zip(kinds, numbers, strict=True))

    @property
    def query_tiles(self) -> int:
        return -(-self.rows // P)

    @property
    def key_tiles(self) -> int:
        """Of all segments; a segment starts a tile."""
        return sum(segment.tiles for segment in self.segments)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the tiles of the head dim."""
        return tuple(min(P, self.head_dim - start) for start in range(0, self.head_dim, P))

    @property
    def itemsize(self) -> int:
        return self.dtype.bits // 8

    @property
    def sees_itself(self) -> bool:
        """Whether every row sees a key, padding included: itself."""
        return self.causal and any(segment.kind == "chunk" for segment in self.segments)

    def by_query(self, segment: Segment) -> bool:
        """Whether what a query sees of a segment with held positions depends on the query."""
        return segment.kind == "mixed" or (segment.kind == "past" and self.window > 0)

    def by_batch(self, segment: Segment) -> bool:
        """Whether all queries of a sequence see the same keys of a segment, given by data."""
        return (segment.kind == "past" and not self.window) or (segment.kind == "chunk" and not self.causal)

    @property
    def first_tiles(self) -> tuple[int, ...]:
        """The first key tile of each segment."""
        counts = [segment.tiles for segment in self.segments]
        return tuple(sum(counts[:index]) for index in range(len(counts)))

    @property
    def band(self) -> int:
        """Rows that a visited key may be before the first of a query tile, where its bank is masked by row indices."""
        before = -(-(self.window - 1) // P) * P if self.window else BANK - P
        return min(before, (self.query_tiles - 1) * P)

    @property
    def most_banks(self) -> int:
        """Of scores that a query tile has, at most."""
        banks = 0
        for segment in self.segments:
            keys = segment.keys
            if segment.kind == "chunk" and self.causal and self.window and not self.block_span:
                keys = min(keys, self.band + P)
            banks += -(-keys // BANK)
        return banks + (self.block_span > 0)

    @property
    def reach(self) -> int:
        """Keys from the first row of a query tile on that its rows may see, where there are image blocks."""
        return min(self.rows, P + -(-(self.block_span - 1) // P) * P)

    @property
    def staged(self) -> int:
        """Keys whose held positions are on all partitions at once; 0: no mask needs them."""
        counts = [s.keys for s in self.segments if self.by_query(s) or self.by_batch(s)]
        return min(STAGED, max(counts, default=0))

    def mask_columns(self, index: int) -> int:
        """Keys of the segments before `index` that are masked in the same way, by query or by batch."""
        kind = self.by_query(self.segments[index])
        return sum(
            segment.keys
            for segment in self.segments[:index]
            if (self.by_query(segment) if kind else self.by_batch(segment))
        )

    @property
    def parameters(self) -> tuple[tuple[str, TensorType], ...]:
        """The kernel's, in order."""
        batch, rows, dtype = self.batch, self.rows, self.dtype
        found = [("q", TensorType((batch, rows, self.heads, self.head_dim), dtype))]
        for label, segment in zip(self.labels, self.segments, strict=True):
            stored = TensorType((batch, segment.keys, self.kv_heads, self.head_dim), dtype)
            found += [(f"{label}_keys", stored), (f"{label}_values", stored)]
            if segment.kind != "chunk":
                found.append((f"{label}_held", TensorType((batch, segment.keys), DType.S32)))
        found.append(("positions", TensorType((batch, rows), DType.S32)))
        if self.block_span:
            found.append(("blocks", TensorType((batch, rows), DType.S32)))
        return tuple(found)

    @property
    def name(self) -> str:
        parts = [f"b{self.batch}_s{self.rows}_h{self.heads}_kv{self.kv_heads}_d{self.head_dim}"]
        parts += [f"{segment.kind}{segment.keys}" for segment in self.segments]
        parts += [f"w{self.window}"] if self.window else []
        parts += [] if self.causal else ["bidirectional"]
        parts += [f"blocks{self.block_span}"] if self.block_span else []
        parts += [f"x{self.scale:g}".replace(".", "p").replace("-", "m").replace("+", "")] if self.scale != 1 else []
        return "prefill_attention_" + "_".join([*parts, self.dtype.mlir])


def from_tiled_attention(op: TiledAttentionOp) -> PrefillProblem:
    """What `op` computes, its q joined along the head dim. G4C-K041 where the family has no kernel for it."""
    batch, rows, heads, head_dim = op.result.shape
    return PrefillProblem(
        batch=batch,
        rows=rows,
        heads=heads,
        kv_heads=op.keys[0].shape[2],
        head_dim=head_dim,
        segments=tuple(Segment(cut.name, cut.extent) for cut in op.cuts),
        window=op.window,
        scale=op.scale,
        dtype=op.q[0].dtype,
    )
