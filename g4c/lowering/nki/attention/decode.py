"""Decode attention: few query rows per sequence against a long cache, with the cache update in the same kernel.

In: a `DecodeProblem`: shapes, segments of keys, window, whether the cache is updated.
Out: `schedules`, the choices that fit a generation, and `emit`, the kernel of one of them.
Invariant: what a schedule allocates in SBUF is `sbuf_bytes`, and no candidate is larger than the generation's SBUF.

Keys lie on the partitions, queries on the free axis: K^T q gives scores [keys, queries], in which the softmax of a
thousand keys takes as many cycles as 8 queries have scores on one partition; V^T p gives the result [head dims,
queries], without a transpose of V. What it takes is K^T: the tensor engine transposes 128 x 128 at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

from g4c.errors import G4cError
from g4c.ir.ops import TiledAttentionOp
from g4c.ir.types import DType
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.simulator import generation as generations

PARTITIONS = 128
BANK = 2048  # bytes per partition of a PSUM bank
BANK_F32 = 512
STORED = ("past", "mixed")  # segments that lie in HBM with positions of their own
_GENERATIONS = {2: generations.V2, 3: generations.V3, 4: generations.V4}
_ROW_BYTES = (4096, 8192)  # contiguous per partition and load: DMA is slower below, latency is longer above
_MANY_SCORES = 8192  # per partition: their softmax takes longer than the next loads, so that parts may be better


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
            (len(set(kinds)) == len(kinds) and set(kinds) <= {"chunk", *STORED}, f"segments {kinds}"),
            (any(kind in STORED for kind in kinds), "no keys in HBM: this is prefill of a first chunk"),
            ("chunk" not in kinds or self.chunk == self.rows, f"a chunk of {self.chunk} keys, {self.rows} rows"),
            (not self.update or {"past", "chunk"} <= set(kinds), "an update writes the chunk into the past"),
            (not self.update or self.rows <= self.past, f"{self.rows} rows for {self.past} slots: two meet in one"),
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


@dataclass(frozen=True)
class Block:
    """Keys that one load brings: `columns` consecutive ones for each of `partitions`, `pitch` keys apart.

    `column`: the first of its columns among all stored keys of a sequence.
    """

    segment: int
    first: int
    pitch: int
    partitions: int
    columns: int
    column: int


@dataclass(frozen=True)
class DecodeSchedule:
    """How: keys per partition and load, loads in SBUF at once, sequences at once, parts of the keys, copies.

    parts: softmax over all keys at once, or part after part with a running maximum (flash decoding).
    key_tiles: banks of transposed keys.
    """

    columns: int
    tiles: int
    sequences: int
    parts: int
    key_tiles: int = 3

    def __str__(self) -> str:
        text = f"{self.columns} keys per partition and load, {self.tiles} loads in SBUF, "
        text += f"{self.sequences} sequences at once"
        return text + (f", {self.parts} parts" if self.parts > 1 else "")


def blocks(problem: DecodeProblem, columns: int) -> tuple[Block, ...]:
    """The loads of one sequence's keys, in order."""
    result, column = [], 0
    for number, segment in enumerate(problem.stored):
        for first in range(0, segment.columns, columns):
            count = min(columns, segment.columns - first)
            result.append(Block(number, first, segment.columns, PARTITIONS, count, column + first))
        column += segment.columns
        if segment.tail:
            result.append(Block(number, PARTITIONS * segment.columns, 1, segment.tail, 1, column))
            column += 1
    return tuple(result)


def parts(problem: DecodeProblem, schedule: DecodeSchedule) -> tuple[tuple[int, int], ...]:
    """Ranges of blocks, about equal."""
    count = len(blocks(problem, schedule.columns))
    bounds = [count * n // schedule.parts for n in range(schedule.parts + 1)]
    return tuple(pair for pair in pairwise(bounds) if pair[0] < pair[1])


def score_columns(problem: DecodeProblem, schedule: DecodeSchedule) -> int:
    """Columns of scores that a part has at most; the chunk is the last column of part 0."""
    loads, most = blocks(problem, schedule.columns), 0
    for number, (first, limit) in enumerate(parts(problem, schedule)):
        count = sum(block.columns for block in loads[first:limit])
        most = max(most, count + (1 if problem.chunk and number == 0 else 0))
    return most


def pairs(problem: DecodeProblem) -> int:
    """Keys of one head and column ("pairs") whose transposes, [128, chunks, 128], fill a bank."""
    return max(1, BANK // (problem.chunks * PARTITIONS * problem.itemsize))


def result_rows(problem: DecodeProblem, schedule: DecodeSchedule) -> tuple[int, int]:
    """Rows and heads of the result in PSUM, padded so that the dims of one contraction never straddle banks."""
    return _power(schedule.sequences * problem.rows), _power(problem.heads)


def psum_banks(problem: DecodeProblem, schedule: DecodeSchedule) -> int:
    """Banks that live at once: transposed keys, scores, the result, and two for maxima and sums."""
    rows, heads = result_rows(problem, schedule)
    return schedule.key_tiles + 2 + ceil(problem.chunks * rows * heads * 4 / BANK) + 2


def sbuf_bytes(problem: DecodeProblem, schedule: DecodeSchedule) -> int:
    """Bytes per partition of all tiles together."""
    p, size = problem, problem.itemsize
    queries = schedule.sequences * p.queries
    columns = score_columns(p, schedule)
    rows = p.batch * p.rows
    total = schedule.tiles * schedule.columns * p.slot * size
    total += schedule.key_tiles * pairs(p) * p.chunks * PARTITIONS * size
    total += queries * columns * (4 + size)
    total += p.chunks * rows * p.heads * size + ceil(rows * p.heads / PARTITIONS) * p.head_dim * size
    total += p.batch * p.mask_columns * 4 * (1 + p.row_masks) + 4 * rows * 4
    if p.chunk:
        total += p.kv_heads * p.chunks * rows * size + 2 * p.slot * size
        total += p.batch * p.slot * size if p.batch > 1 else 0
        total += 3 * p.rows * 4
    total += 2 * PARTITIONS * 4 + PARTITIONS * 4 + 6 * queries * 4  # identities, ones, statistics
    total += p.chunks * queries * size + ceil(queries / PARTITIONS) * p.head_dim * size
    if schedule.parts > 1:
        total += p.chunks * queries * 4 + 4 * queries * 4
    return total + 64


def schedules(problem: DecodeProblem, generation: int) -> tuple[DecodeSchedule, ...]:
    """Candidates that fit the generation's SBUF and PSUM, best guess first.

    Refusals: G4C-K040: none fits.
    """
    room = _GENERATIONS[generation].sbuf_usable
    most = max(1, *(segment.columns for segment in problem.stored))
    wanted = [max(1, size // (problem.slot * problem.itemsize)) for size in _ROW_BYTES]
    limits = [min(columns, most, BANK_F32 // problem.queries) for columns in wanted]
    found: list[DecodeSchedule] = []
    for columns in dict.fromkeys(limits):
        for sequences in _divisors(problem.batch):
            found += _fitted(problem, columns, sequences, room)
    if not found:
        least = DecodeSchedule(1, 2, 1, len(blocks(problem, 1)), 2)
        raise G4cError(
            "G4C-K040",
            f"no schedule fits {problem.name}: the smallest needs {sbuf_bytes(problem, least)} bytes per partition of "
            f"SBUF, there are {room}, and {psum_banks(problem, least)} banks of PSUM, there are 8",
        )
    return tuple(sorted(found, key=lambda one: (_scores(problem, one) > _MANY_SCORES, one.parts, -one.sequences)))


def _scores(problem: DecodeProblem, schedule: DecodeSchedule) -> int:
    """Per partition, at once."""
    return schedule.sequences * problem.queries * score_columns(problem, schedule)


def _fitted(problem: DecodeProblem, columns: int, sequences: int, room: int) -> list[DecodeSchedule]:
    """With the most loads in SBUF, and the least parts with which this fits, or has few scores at once."""
    if sequences * problem.queries > BANK_F32:
        return []
    count, found = len(blocks(problem, columns)), []
    needed, split = 2 * count * problem.batch, 1
    while split <= count:
        schedule = DecodeSchedule(columns, 2, sequences, split)
        if psum_banks(problem, schedule) > 8:
            schedule = replace(schedule, key_tiles=2)
        if psum_banks(problem, schedule) > 8:
            return []
        tiles = 2 + (room - sbuf_bytes(problem, schedule)) // (columns * problem.slot * problem.itemsize)
        few = _scores(problem, schedule) <= _MANY_SCORES
        if tiles >= min(needed, 6) and (few or not found):
            found.append(replace(schedule, tiles=min(tiles, needed)))
        if few and found:
            break
        split *= 2
    return found


def emit(problem: DecodeProblem, schedule: DecodeSchedule, generation: int) -> KernelArtifact:
    """The kernel. It follows the rules of all generations; `generation` is the one that its budget is measured on."""
    from g4c.lowering.nki.attention.decode_source import write

    return write(problem, schedule, generation)


def from_tiled_attention(op: TiledAttentionOp, update: bool = False) -> DecodeProblem:
    """The problem of an op; `update`: the kernel also writes the chunk's rows into the past (two g4.kv_update)."""
    batch, rows, heads, head_dim = op.result.shape
    segments = tuple(Segment(cut.name, cut.extent) for cut in op.cuts)
    kv_heads = op.keys[0].shape[2]
    return DecodeProblem(batch, rows, heads, kv_heads, head_dim, segments, op.window, op.scale, op.result.dtype, update)


def _power(count: int) -> int:
    """The least power of two that is not below `count`."""
    return 1 << (count - 1).bit_length()


def _divisors(count: int) -> list[int]:
    """Largest first."""
    return [n for n in range(count, 0, -1) if count % n == 0]
