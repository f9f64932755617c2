"""Which schedules a prefill attention kernel has.

In: a problem and a generation. Out: the schedules that fit its SBUF, best guess first.
Invariant: keys stay in SBUF for all query heads and query tiles of a KV head wherever a generation has the room.
"""

from __future__ import annotations

from functools import cache

from g4c.errors import G4cError
from g4c.lowering.nki.attention.prefill_plan import planned
from g4c.lowering.nki.attention.prefill_problem import PrefillProblem
from g4c.lowering.nki.attention.prefill_schedule import PrefillSchedule, sbuf_bytes
from g4c.lowering.nki.simulator.generation import V2, V3, V4

EFFICIENT = 4096  # bytes of a row that DMA moves at full speed
_GENERATIONS = {2: V2, 3: V3, 4: V4}


@cache
def schedules(problem: PrefillProblem, generation: int) -> tuple[PrefillSchedule, ...]:
    """Those that fit the SBUF of a generation (2, 3, 4), best guess first. G4C-K040 where none does."""
    limit = _GENERATIONS[generation].sbuf_usable
    sizes = {schedule: sbuf_bytes(problem, schedule) for schedule in _candidates(problem)}
    small = [schedule for schedule, size in sizes.items() if size <= limit]
    found = [schedule for schedule in small if planned(problem, schedule).fits]
    if not found:
        raise G4cError(
            "G4C-K040",
            f"no schedule fits: {problem.name} needs {min(sizes.values())} bytes per partition of SBUF at least, "
            f"NeuronCore-v{generation} has {limit}",
            help="a shorter chunk or a shorter cache needs less",
        )
    return tuple(found)


def _candidates(problem: PrefillProblem) -> list[PrefillSchedule]:
    """All keys in SBUF, with room for the next KV head's if possible; else passes over the keys, block by block."""
    tiles, banks, found = problem.key_tiles, min(4, problem.most_banks), []
    for kv_heads in _row_counts(problem.kv_heads, problem.head_dim * problem.itemsize):
        heads = _row_counts(kv_heads * problem.group, problem.head_dim * problem.itemsize)[0]
        many = problem.batch * problem.kv_heads > kv_heads
        for spare in (tiles, min(tiles, 20), 0) if many else (0,):
            found.append(PrefillSchedule(kv_heads, heads, 1, tiles + spare, banks))
    heads = _row_counts(problem.group, problem.head_dim * problem.itemsize)
    shared = [(count, query_tiles) for count in heads for query_tiles in (8, 4, 2, 1)]
    for count, query_tiles in sorted(shared, key=lambda pair: -pair[0] * min(pair[1], problem.query_tiles)):
        found += [PrefillSchedule(1, count, query_tiles, slots, banks) for slots in (64, 40) if slots < tiles]
    return list(dict.fromkeys(found))


def _row_counts(heads: int, head_bytes: int) -> list[int]:
    """Divisors of `heads`, that which makes rows of EFFICIENT bytes first, then smaller ones."""
    divisors = [count for count in range(1, heads + 1) if heads % count == 0]
    enough = [count for count in divisors if count * head_bytes >= EFFICIENT][:1]
    return sorted({count for count in divisors if not enough or count <= enough[0]}, reverse=True)
