"""How a decode attention kernel goes about it: loads, sequences at once, parts; and what of that fits a generation.

In: a `DecodeProblem`, a NeuronCore generation, the cores of a logical core. Out: the candidates, best guess first.
Invariant: the tiles of a kernel take at most `sbuf_bytes` and `psum_banks`, each in a place of its own; no candidate
needs more than the generation has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

from g4c.errors import G4cError
from g4c.lowering.nki.attention.decode_problem import BANK_F32, PARTITIONS, DecodeProblem
from g4c.lowering.nki.simulator import generation as generations

BANK = 2048  # bytes per partition of a PSUM bank
_GENERATIONS = {2: generations.V2, 3: generations.V3, 4: generations.V4}
_ROW_BYTES = (4096, 8192)  # contiguous per partition and load: DMA is slower below, latency is longer above
SHARES = ("sequences", "heads", "keys")
_MANY_SCORES = 9216  # per partition: their softmax takes longer than the next loads, so that parts may be better


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
    key_tiles: banks of transposed keys. cores: 2 on a logical core of two, launched as kernel[2]. share: what each of
    these has half of: sequences, (KV) heads, or keys, that is parts, whose results they exchange. No candidate of
    `schedules` shares keys: a graph may call a kernel that exchanges something only once.
    """

    columns: int
    tiles: int
    sequences: int
    parts: int
    key_tiles: int = 3
    cores: int = 1
    share: str = "keys"

    def __post_init__(self) -> None:
        if self.cores not in (1, 2) or self.share not in SHARES or (self.shares("keys") and self.parts % 2):
            raise ValueError(f"{self.parts} parts on {self.cores} cores that share {self.share}")

    def shares(self, what: str) -> bool:
        """Whether two cores have half of `what` each."""
        return self.cores == 2 and self.share == what

    def own(self, problem: DecodeProblem) -> DecodeProblem:
        """What one core computes of `problem`; where cores share keys, that is the same for a part of the keys."""
        if self.shares("sequences"):
            return replace(problem, batch=problem.batch // 2)
        if self.shares("heads"):
            return replace(problem, heads=problem.heads // 2, kv_heads=problem.kv_heads // 2)
        return problem

    def __str__(self) -> str:
        text = f"{self.columns} keys per partition and load, {self.tiles} loads in SBUF, "
        text += f"{self.sequences} sequences at once"
        text += f", {self.parts} parts" if self.parts > 1 else ""
        return text + (f", half of the {self.share} on each of two cores" if self.cores > 1 else "")


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


def first_loads(problem: DecodeProblem, schedule: DecodeSchedule) -> int:
    """Loads of keys that are transposed while the queries come: 1 MiB, about 3 us."""
    first, limit = parts(problem, schedule)[0]
    load = PARTITIONS * schedule.columns * problem.slot * problem.itemsize
    return min(schedule.tiles, (limit - first) * schedule.sequences, max(1, 2**20 // load))


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
    total += p.batch * p.mask_columns * (4 + p.row_masks) + 4 * rows * 4
    if p.chunk:
        total += p.kv_heads * p.chunks * rows * size + 2 * p.slot * size
        total += p.batch * p.slot * size if p.batch > 1 else 0
        total += p.rows
    total += 2 * PARTITIONS * 4 + PARTITIONS * 4 + 6 * queries * 4  # identities, ones, statistics
    total += p.chunks * queries * size + ceil(queries / PARTITIONS) * p.head_dim * size
    if schedule.parts > 1:
        total += (2 if schedule.shares("keys") else 1) * (p.chunks + 4) * queries * 4
    return total + 64


def schedules(problem: DecodeProblem, generation: int, cores: int = 1) -> tuple[DecodeSchedule, ...]:
    """Candidates that fit the generation's SBUF and PSUM, best guess first.

    `cores` 2: two cores share the sequences or, where their number is odd, the KV heads, and exchange nothing. Where
    both numbers are odd, they share nothing. Refusals: G4C-K040: none fits.
    """
    share = "sequences" if problem.batch % 2 == 0 else "heads" if problem.kv_heads % 2 == 0 else ""
    if cores == 2 and share:
        half = DecodeSchedule(1, 2, 1, 1, cores=2, share=share).own(problem)
        return tuple(replace(one, cores=2, share=share) for one in schedules(half, generation))
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
        if tiles >= min(needed, 2 if few else 6) and (few or not found):
            found.append(replace(schedule, tiles=min(tiles, needed)))
        if few and found:
            break
        split *= 2
    return found


def _power(count: int) -> int:
    """The least power of two that is not below `count`."""
    return 1 << (count - 1).bit_length()


def _divisors(count: int) -> list[int]:
    """Largest first."""
    return [n for n in range(count, 0, -1) if count % n == 0]
