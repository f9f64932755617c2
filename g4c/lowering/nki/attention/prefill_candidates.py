"""Which schedules a prefill attention kernel has.

In: a problem, a generation, how many cores a logical core has. Out: the schedules that fit its SBUF, best guess first.
Invariant: keys stay in SBUF for all query heads and query tiles of a KV head wherever a generation has the room.
"""

from __future__ import annotations

from functools import cache

from g4c.errors import G4cError
from g4c.lowering.nki.attention.prefill_plan import planned
from g4c.lowering.nki.attention.prefill_problem import PrefillProblem
from g4c.lowering.nki.attention.prefill_schedule import PrefillSchedule, sbuf_bytes
from g4c.lowering.nki.simulator.generation import V2, V3, V4

# Bytes of a row in HBM that DMA moves at (nearly) full speed: of K and V, of which a prompt has few, and of q and y.
KEY_ROW, QUERY_ROW = 2048, 4096
_GENERATIONS = {2: V2, 3: V3, 4: V4}


MOST = 4  # schedules worth a comparison


@cache
def schedules(problem: PrefillProblem, generation: int, cores: int = 1) -> tuple[PrefillSchedule, ...]:
    """Those that fit the SBUF of a generation (2, 3, 4), best guess first. G4C-K040 where none does.

    `cores` 2: two cores share the passes, unless there is only one.
    """
    cores = cores if problem.batch * problem.heads % cores == 0 else 1
    limit = _GENERATIONS[generation].sbuf_usable
    smallest, found = 1 << 30, []
    for choices in (*_resident(problem, cores), *_in_passes(problem, cores)):
        for schedule in choices:
            size = sbuf_bytes(problem, schedule)
            smallest = min(smallest, size)
            if size <= limit and planned(problem, schedule).fits:
                found.append(schedule)
                break
        if len(found) == MOST or (found and not choices[-1].resident(problem)):
            break
    if not found:
        raise G4cError(
            "G4C-K040",
            f"no schedule fits: {problem.name} needs {smallest} bytes per partition of SBUF at least, "
            f"NeuronCore-v{generation} has {limit}",
            help="a shorter chunk or a shorter cache needs less",
        )
    return tuple(found)


def _resident(problem: PrefillProblem, cores: int) -> list[list[PrefillSchedule]]:
    """All keys in SBUF: by KV heads that are loaded together, each with as much room for the next ones' as there is."""
    tiles, banks, head = problem.key_tiles, min(4, problem.most_banks), problem.head_dim * problem.itemsize
    found = []
    for kv_heads in _row_counts(problem.kv_heads, head, KEY_ROW):
        heads = _shared(problem, _row_counts(kv_heads * problem.group, head, QUERY_ROW), cores)[0]
        spares = (tiles, min(tiles, 20), 0) if problem.batch * problem.kv_heads > kv_heads else (0,)
        found.append([PrefillSchedule(kv_heads, heads, 1, tiles + spare, banks, cores=cores) for spare in spares])
    return found


def _in_passes(problem: PrefillProblem, cores: int) -> list[list[PrefillSchedule]]:
    """Passes over the keys: the more query tiles and heads share one, the less often keys are loaded.

    Blocks are smaller where few steps share one, so that those under way need more keys than there are slots.
    """
    most = min(4, problem.most_banks)
    heads = _shared(problem, _row_counts(problem.group, problem.head_dim * problem.itemsize, QUERY_ROW), cores)
    shared = [(count, query_tiles) for count in heads for query_tiles in (8, 4, 2, 1)]
    shared.sort(key=lambda pair: -pair[0] * min(pair[1], problem.query_tiles))
    sizes = [slots for slots in (64, 40) if slots < problem.key_tiles]
    return [
        [PrefillSchedule(1, *pair, slots, banks, cores=cores) for slots in sizes]
        for banks in range(most, 0, -1)
        for pair in shared
        if sizes
    ]


def _shared(problem: PrefillProblem, counts: list[int], cores: int) -> list[int]:
    """Those of `counts` of heads whose passes two cores can share: a head alone can, where the passes are even."""
    return [count for count in counts if problem.batch * problem.heads // count % cores == 0]


def _row_counts(heads: int, head_bytes: int, row_bytes: int) -> list[int]:
    """Divisors of `heads`, that which makes rows of `row_bytes` first, then smaller ones."""
    divisors = [count for count in range(1, heads + 1) if heads % count == 0]
    enough = [count for count in divisors if count * head_bytes >= row_bytes][:1]
    return sorted({count for count in divisors if not enough or count <= enough[0]}, reverse=True)
