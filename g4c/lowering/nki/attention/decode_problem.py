"""What a decode attention kernel computes: shapes, segments of keys, masks; nothing that is a choice.

In: the shapes. Out: `DecodeProblem`, and the kernel's operands.
Invariant: what the family has no kernel for is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass

from g4c.errors import G4cError
from g4c.ir.types import DType, TensorType

PARTITIONS = 128
BANK_F32 = 512  # f32 per partition in a PSUM bank
STORED = ("past", "mixed")  # segments that lie in HBM with positions of their own


@dataclass(frozen=True)
class Segment:
    """Keys and values [b, keys, K, d] of a `kind`: past (with held positions), chunk (the queries' own), mixed."""

    kind: str
    keys: int

    @property
    def columns(self) -> int:
        """Keys that each of 128 partitions has."""
        return self.keys // PARTITIONS

    @property
    def tail(self) -> int:
        """Keys that are left, one for each of the first partitions."""
        return self.keys % PARTITIONS


@dataclass(frozen=True)
class DecodeProblem:
    """Attention of q [batch, rows, heads, head_dim] over segments of keys, all of `dtype` (bf16 or f32).

    window 0: none. scale > 0. `update`: the rows of the chunk are written into the past, at position mod keys.
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
    update: bool = False

    def __post_init__(self) -> None:
        kinds = [segment.kind for segment in self.segments]
        queries = self.rows * self.heads
        checks = (
            (self.heads % self.kv_heads == 0, f"{self.heads} heads do not divide over {self.kv_heads} KV heads"),
            (self.head_dim <= PARTITIONS or self.head_dim % PARTITIONS == 0, f"head_dim {self.head_dim}"),
            (self.head_dim <= 512, f"head_dim {self.head_dim} is more than 512"),
            (set(kinds) <= {"chunk", *STORED}, f"segments {kinds}"),
            (max(kinds.count("chunk"), kinds.count("past")) <= 1, f"segments {kinds}: one past and one chunk"),
            (any(kind in STORED for kind in kinds), "no keys in HBM: this is prefill of a first chunk"),
            ("chunk" not in kinds or self.chunk == self.rows, f"a chunk of {self.chunk} keys, {self.rows} rows"),
            (not self.update or {"past", "chunk"} <= set(kinds), "an update writes the chunk into the past"),
            (not self.update or self.rows <= self.past, f"{self.rows} rows for {self.past} slots: two meet in one"),
            (not self.update or self.batch * self.past <= 2**24, f"{self.batch * self.past} slots: f32 counts to 2^24"),
            (self.scale > 0, f"scale {self.scale}: the maximum of the scores is that of their products"),
            (self.dtype in (DType.BF16, DType.F32), f"{self.dtype.mlir}: bf16 or f32"),
            (queries <= BANK_F32, f"{queries} queries per sequence (rows * heads), at most {BANK_F32}"),
            (self.batch * self.rows <= PARTITIONS, f"{self.batch * self.rows} rows in the batch, at most 128"),
        )
        for holds, what in checks:
            if not holds:
                raise G4cError("G4C-K041", f"no decode attention kernel: {what}")

    @property
    def chunk(self) -> int:
        """Keys of the chunk segment; 0: none."""
        return sum(segment.keys for segment in self.segments if segment.kind == "chunk")

    @property
    def past(self) -> int:
        """Keys of the past segment; 0: none."""
        return sum(segment.keys for segment in self.segments if segment.kind == "past")

    @property
    def stored(self) -> tuple[Segment, ...]:
        return tuple(segment for segment in self.segments if segment.kind in STORED)

    @property
    def labels(self) -> dict[str, Segment]:
        """Segments by the names of their operands: the kind, with a number where it is not the only one."""
        kinds, found = [segment.kind for segment in self.segments], {}
        for n, segment in enumerate(self.segments):
            several = kinds.count(segment.kind) > 1
            found[segment.kind + (str(kinds[:n].count(segment.kind)) if several else "")] = segment
        return found

    @property
    def group(self) -> int:
        """Query heads of a KV head."""
        return self.heads // self.kv_heads

    @property
    def queries(self) -> int:
        """Of a sequence: rows * heads."""
        return self.rows * self.heads

    @property
    def width(self) -> int:
        """Head dims of one contraction."""
        return min(self.head_dim, PARTITIONS)

    @property
    def chunks(self) -> int:
        """Contractions of one product of q and k."""
        return self.head_dim // self.width

    @property
    def slot(self) -> int:
        """Elements of one key of all KV heads."""
        return self.kv_heads * self.head_dim

    @property
    def itemsize(self) -> int:
        return self.dtype.bits // 8

    @property
    def row_masks(self) -> int:
        """Masks per key: one where all rows of a sequence see the same stored keys, else one per row."""
        alike = self.rows == 1 or (not self.window and all(segment.kind == "past" for segment in self.stored))
        return 1 if alike else self.rows

    @property
    def mask_columns(self) -> int:
        """Columns of 128 stored keys, tails included."""
        return sum(segment.columns + (segment.tail > 0) for segment in self.stored)

    @property
    def name(self) -> str:
        parts = [f"b{self.batch}_s{self.rows}_h{self.heads}_kv{self.kv_heads}_d{self.head_dim}"]
        parts += [f"{segment.kind}{segment.keys}" for segment in self.segments]
        parts += [f"w{self.window}"] if self.window else []
        parts += [f"x{self.scale:g}".replace(".", "p").replace("-", "m").replace("+", "")] if self.scale != 1 else []
        parts += [self.dtype.mlir] + (["update"] if self.update else [])
        return "decode_attention_" + "_".join(parts)


def operands(problem: DecodeProblem) -> tuple[tuple[str, TensorType], ...]:
    """q, per segment keys, values and, unless it is the chunk, held positions; positions."""
    shape = (problem.batch, problem.rows, problem.heads, problem.head_dim)
    result = [("q", TensorType(shape, problem.dtype))]
    for label, segment in problem.labels.items():
        keys = TensorType((problem.batch, segment.keys, problem.kv_heads, problem.head_dim), problem.dtype)
        result += [(f"{label}_keys", keys), (f"{label}_values", keys)]
        if segment.kind != "chunk":
            result.append((f"{label}_held", TensorType((problem.batch, segment.keys), DType.S32)))
    result.append(("positions", TensorType((problem.batch, problem.rows), DType.S32)))
    return tuple(result)
