"""The choices of a prefill attention kernel, and the tiles that they take in SBUF and PSUM.

In: a problem and its choices. Out: the buffers.
Invariant: a kernel allocates exactly its `buffers`, once, at the start; so their sum is what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from g4c.lowering.nki.attention.prefill_problem import BANK, P, PrefillProblem

_ITEMSIZE = {"float32": 4, "bfloat16": 2, "int32": 4, "uint8": 1}


@dataclass(frozen=True)
class PrefillSchedule:
    """`kv_heads` are loaded together, and so are `heads` of their query heads: their rows are contiguous in HBM.

    `slots` key tiles of 128 are in SBUF. Where that is less than there are, `query_tiles` query tiles of `heads` heads
    visit the tiles that are there in turn, with their queries and sums in SBUF; else it is 1. `banks` (1 to 4) of PSUM
    hold the scores that share one maximum. `lag`: steps between the scores of a block and its transposed probabilities.
    `ahead`: key tiles that are loaded ahead of their transposition. `cores`: 2 on a logical core of two, launched as
    kernel[2]: each does half of the passes, a pass being `heads` heads of all query tiles of a sequence.
    """

    kv_heads: int
    heads: int
    query_tiles: int
    slots: int
    banks: int = 4
    lag: int = 2
    ahead: int = 4
    cores: int = 1

    @property
    def added(self) -> int:
        """Steps from the one that is prepared to the one whose work ends."""
        return self.lag + 3

    @property
    def units(self) -> int:
        """Pairs of a query tile and a head with queries, sums and result in SBUF: those in turn, and one more."""
        return self.heads * self.query_tiles + 1

    def passes(self, problem: PrefillProblem) -> int:
        """Of one core."""
        return problem.batch * problem.heads // self.heads // self.cores

    def resident(self, problem: PrefillProblem) -> bool:
        """Whether all keys of the KV heads that are loaded together are in SBUF."""
        return self.slots >= problem.key_tiles

    @property
    def scores(self) -> int:
        """PSUM banks of scores: a block's, and at least 3."""
        return max(3, self.banks)

    @property
    def products(self) -> int:
        """PSUM banks of P V: what scores and the two of transposes leave."""
        return 6 - self.scores

    def by_slot(self, problem: PrefillProblem) -> bool:
        """Whether masks of past keys come and go with their tiles, because all of them would be too many."""
        return not self.resident(problem) and any(s.kind == "past" and problem.by_batch(s) for s in problem.segments)

    def sums_in_values(self, problem: PrefillProblem) -> bool:
        """Whether V gets a column of ones, which gives row sums: if a bank has room and loads stay contiguous."""
        return problem.head_dim < BANK and self.kv_heads == 1

    def columns(self, problem: PrefillProblem) -> int:
        """Of V, and of P V."""
        return problem.head_dim + self.sums_in_values(problem)

    def text(self, problem: PrefillProblem) -> str:
        """One line for people."""
        keys = "keys resident" if self.resident(problem) else f"{self.query_tiles} query tiles per pass over the keys"
        heads = f"{self.kv_heads} KV and {self.heads} query heads together"
        cores = ", half of the heads on each of two cores" if self.cores > 1 else ""
        return f"{keys} ({self.slots} tiles in SBUF), {heads}, up to {BANK * self.banks} keys per maximum{cores}"


@dataclass(frozen=True)
class Buffer:
    """`count` tiles [partitions, ...] of `dtype` in SBUF or PSUM, used in rotation; `count` 0: one, for good."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    count: int = 0
    memory: str = "sbuf"
    comment: str = ""

    @property
    def bytes(self) -> int:
        """Per partition."""
        size = _ITEMSIZE[self.dtype] * max(1, self.count)
        for extent in self.shape[1:]:
            size *= extent
        return size


def buffers(problem: PrefillProblem, schedule: PrefillSchedule, blocks: bool) -> tuple[Buffer, ...]:
    """What the kernel allocates. `blocks`: some softmax takes more than one block of keys."""
    dtype = "bfloat16" if problem.itemsize == 2 else "float32"
    partitions, tiles = max(problem.widths), len(problem.widths)
    columns = schedule.columns(problem)
    units, double = schedule.units, 2 * schedule.banks
    row = schedule.heads * problem.head_dim
    peaks = 1 + schedule.banks * (BANK // P if schedule.by_slot(problem) else 1)
    found = [
        Buffer(
            "keys",
            (partitions, schedule.slots, schedule.kv_heads * tiles, P),
            dtype,
            comment="K^T: head dims on the partitions",
        ),
        Buffer("values", (P, schedule.slots, schedule.kv_heads * columns), dtype, comment="V: keys on the partitions"),
        Buffer("raw_keys", (P, schedule.kv_heads * problem.head_dim), dtype, schedule.ahead, comment="K as loaded"),
        Buffer("raw_queries", (P, row), dtype, 2, comment="q as loaded"),
        Buffer("results", (P, row), dtype, 2, comment="y before it is stored"),
        Buffer("at", (P, 1), "int32", 2, comment="positions of the rows"),
        Buffer(
            "valid",
            (P, 1),
            "float32",
            schedule.query_tiles + schedule.added,
            comment="1.0 for rows that are no padding",
        ),
        Buffer("queries", (partitions, tiles, P), dtype, units, comment="q^T"),
        Buffer("peaks", (P, peaks), "float32", units, comment="maximum so far, and of each bank or run in it"),
        Buffer("shift", (P, 1), "float32", 3, comment="minus the maximum"),
        Buffer("weights", (P, BANK), dtype, (schedule.lag + 1) * schedule.banks, comment="P, bank by bank"),
        Buffer("turned", (P, BANK // P, P), dtype, double, comment="P^T: keys on the partitions"),
        Buffer("inverse", (P, 1), "float32", 3, comment="1 / sum"),
        *_of_blocks(problem, schedule, blocks),
        *_of_masks(problem, schedule),
        Buffer("scores", (P, BANK), "float32", schedule.scores, "psum", "S = q K^T"),
        Buffer("turns", (P, BANK // P, P), dtype, 2, "psum", "transposes"),
        Buffer("products", (P, columns), "float32", schedule.products, "psum", "P V"),
    ]
    return tuple(found)


def _of_blocks(problem: PrefillProblem, schedule: PrefillSchedule, blocks: bool) -> list[Buffer]:
    """State from one block of keys to the next, and row sums that V's column of ones does not give."""
    found = []
    if problem.scale != 1:
        found.append(Buffer("bias", (P, 1), "float32", 3, comment="minus the scaled maximum"))
    if blocks:
        columns = schedule.columns(problem)
        found.append(Buffer("decay", (P, 1), "float32", schedule.added, comment="exp(old maximum - new maximum)"))
        found.append(Buffer("state", (P, columns), "float32", schedule.units, comment="P V, summed over blocks"))
    if not schedule.sums_in_values(problem):
        found.append(
            Buffer("sums", (P, schedule.banks), "float32", schedule.added, comment="row sums of P, bank by bank")
        )
        found.append(Buffer("added", (P, 1), "float32", 3, comment="row sum of a block"))
        found.append(Buffer("total", (P, 1), "float32", schedule.units, comment="row sums"))
    return found


def _of_masks(problem: PrefillProblem, schedule: PrefillSchedule) -> list[Buffer]:
    """Masks are bytes, 1 where a query sees a key; those that need data are made from f32 positions."""
    found = []
    by_query = sum(segment.keys for segment in problem.segments if problem.by_query(segment))
    by_slot = schedule.by_slot(problem)
    by_batch = 0 if by_slot else sum(segment.keys for segment in problem.segments if problem.by_batch(segment))
    if problem.causal and "chunk" in [segment.kind for segment in problem.segments]:
        found.append(Buffer("band", (P, problem.band + P), "uint8", comment="causality and window, by row indices"))
    if by_slot:
        found.append(Buffer("raw_held", (P, P), "int32", schedule.ahead, comment="positions of past keys, as loaded"))
        found.append(Buffer("seen_by_slot", (P, schedule.slots, P), "uint8", comment="past keys that are there"))
    elif problem.staged:
        found.append(Buffer("held", (P, problem.staged), "int32", comment="positions of keys"))
    if by_batch:
        found.append(
            Buffer("seen_by_batch", (P, by_batch), "uint8", min(2, problem.batch), comment="keys that a sequence sees")
        )
    if by_query or problem.block_span:
        count = schedule.query_tiles + 1
        found.append(Buffer("position", (P, 1), "float32", 2, comment="positions of the rows, or the last not seen"))
        if by_query:
            found.append(Buffer("key_positions", (P, by_query), "float32", comment="positions of keys"))
            found.append(Buffer("seen_by_query", (P, by_query), "uint8", count, comment="keys that each query sees"))
    if problem.block_span:
        count = schedule.query_tiles + 1
        found.append(Buffer("row_blocks", (P, problem.rows), "float32", comment="image blocks of the rows, as keys"))
        found.append(Buffer("raw_blocks", (P, problem.rows), "int32", comment="the same, as loaded"))
        found.append(Buffer("own_blocks", (P, 1), "int32", 2, comment="image blocks of the queries"))
        found.append(Buffer("seen_in_block", (P, problem.reach), "uint8", count, comment="keys from the diagonal on"))
    return found


def sbuf_bytes(problem: PrefillProblem, schedule: PrefillSchedule, blocks: bool = True) -> int:
    """Per partition."""
    return sum(buffer.bytes for buffer in buffers(problem, schedule, blocks) if buffer.memory == "sbuf")
