"""The plan of a prefill kernel: which keys a query tile visits, in which steps, and when key tiles are loaded.

In: a problem and a schedule. Out: the plan as Python text, which is part of the kernel's source, and what it gives.
Invariant: the generator counts, checks and budgets with the very text that the kernel runs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from g4c.lowering.nki.attention.prefill_problem import BANK, P, PrefillProblem
from g4c.lowering.nki.attention.prefill_schedule import PrefillSchedule
from g4c.lowering.nki.source_text import SourceText


def constants(problem: PrefillProblem, schedule: PrefillSchedule) -> tuple[tuple[str, object, str], ...]:
    """(name, value, comment) of the literals that the plan and the kernel share."""
    found: list[tuple[str, object, str]] = [
        ("P", P, "partitions: rows of a query tile, keys of a key tile"),
        ("BANK", BANK, "scores of one PSUM bank"),
        ("BATCH", problem.batch, "sequences"),
        ("ROWS", problem.rows, "queries of a sequence"),
        ("QUERY_TILES", problem.query_tiles, "of a sequence"),
        ("KV_HEADS", problem.kv_heads, "of K and V"),
        ("GROUP", problem.group, "query heads of a KV head"),
        ("D", problem.head_dim, "head dim"),
        ("D_TILES", len(problem.widths), "contractions of one product of q and k"),
        ("COLUMNS", schedule.columns(problem), "of V" + ", the last one of ones" * schedule.sums_in_values(problem)),
    ]
    if problem.window:
        found.append(("WINDOW", problem.window, "positions that a query sees, itself included"))
    if problem.block_span:
        found.append(("BLOCK", problem.block_span, "rows of the longest image block"))
    if problem.causal:
        found.append(("BAND", problem.band, "columns of `band` before the keys at the first row of a query tile"))
    found += [
        ("TOGETHER", schedule.kv_heads, "KV heads that are loaded together"),
        ("HEADS", schedule.heads, "query heads that are loaded and stored together"),
        *([("PASSES", schedule.passes(problem), "of HEADS heads, on each core")] if schedule.cores > 1 else []),
        ("SHARED", schedule.query_tiles, "query tiles that use the keys in SBUF in turn"),
        ("UNITS", schedule.units, "query tiles of one head with queries and sums in SBUF"),
        ("SLOTS", schedule.slots, "key tiles in SBUF"),
        ("AHEAD", schedule.ahead, "key tiles that are loaded, but not transposed yet"),
        ("BLOCK_BANKS", schedule.banks, "PSUM banks of scores that share one maximum"),
        ("SCORES", schedule.scores, "PSUM banks of scores, in rotation"),
        ("PRODUCTS", schedule.products, "PSUM banks of products with V, in rotation"),
        ("TURNED", schedule.added - 2, "steps from one's preparation to its P^T"),
        ("MULTIPLIED", schedule.added - 1, "steps from one's preparation to its P V"),
        ("ADDED", schedule.added, "steps from one's preparation to the end of its work"),
        ("KEY_TILES", problem.key_tiles, "of all segments"),
        ("SEGMENT_KEYS", tuple(segment.keys for segment in problem.segments), "keys of each segment"),
        ("FIRST_TILES", problem.first_tiles, "first key tile of each segment"),
    ]
    return tuple(found)


def plan_text(problem: PrefillProblem, schedule: PrefillSchedule, pauses: bool) -> str:
    """The functions visits, bring, pause and plan, in terms of the `constants`."""
    text = SourceText()
    _visits(text, problem, schedule)
    text.add()
    text.add()
    _bring(text, problem, schedule)
    text.add()
    text.add()
    _plan(text, pauses, schedule.resident(problem), schedule.cores > 1)
    return str(text)


def _visits(text: SourceText, problem: PrefillProblem, schedule: PrefillSchedule) -> None:
    with text.block("def visits(i):"):
        text.add('"""What query tile i sees, in banks: (segment, first key, limit, mask, column of the mask)."""')
        text.add("""
            start = i * P
            limit = min(ROWS, start + P)
            banks = []
        """)
        for index, segment in enumerate(problem.segments):
            if segment.kind == "chunk" and problem.causal:
                _chunk(text, problem, index)
            else:
                _stored(text, problem, index, schedule.by_slot(problem))
        text.add("return banks")


def _stored(text: SourceText, problem: PrefillProblem, index: int, by_slot: bool) -> None:
    """All keys, masked by data."""
    segment = problem.segments[index]
    mask = "query" if problem.by_query(segment) else "slot" if by_slot else "batch"
    column = problem.mask_columns(index)
    at = f"{column} + k" if column else "k"
    loop = f"""
        for k in range(0, {segment.keys}, BANK):
            banks.append(({index}, k, min({segment.keys}, k + BANK), "{mask}", {at}))
    """
    if segment.kind == "past" and problem.window:
        with text.block("if start + 1 < WINDOW:  # else the past is behind all windows of the tile"):
            text.add(loop)
    else:
        text.add(loop)


def _chunk(text: SourceText, problem: PrefillProblem, index: int) -> None:
    """Rows before the queries, from the window's first tile on, and the tile of the queries themselves."""
    first = "max(0, start - WINDOW + 1) // P * P" if problem.window else "0"
    seen = "limit - k <= WINDOW" if problem.window else ""
    if not problem.block_span:
        seen = f"high <= start + 1 and {seen}" if seen else "high <= start + 1"
        text.add(f"""
            for k in range({first}, limit, BANK):
                high = min(limit, k + BANK)
                mask = "none" if {seen} else "band"
                banks.append(({index}, k, high, mask, BAND + k - start))
        """)
        return
    text.add(f"""
        for k in range({first}, start, BANK):
            mask = {f'"none" if {seen} else "band"' if seen else '"none"'}
            banks.append(({index}, k, min(start, k + BANK), mask, BAND + k - start))
        ahead = min(ROWS, -(-(limit + BLOCK - 1) // P) * P)
        for k in range(start, ahead, BANK):
            banks.append(({index}, k, min(ahead, k + BANK), "block", k - start))
    """)


def _bring(text: SourceText, problem: PrefillProblem, schedule: PrefillSchedule) -> None:
    resident = schedule.resident(problem)
    with text.block("def bring(b, g, block, number, loads):"):
        text.add('''
            """Add loads for the key tiles of `block` that SBUF lacks; `number` is the last load of each tile.

            Gives for each bank its runs of neighbors in SBUF, (slot, tiles, keys of a tile), and the oldest load.
            """
            runs = []
            oldest = len(loads)
        ''')
        if not resident:
            text.add("""
                wanted = 0
                for segment, first, limit, mask, column in block:
                    wanted += -(-(limit - first) // P)
            """)
        with text.block("for segment, first, limit, mask, column in block:"):
            text.add("neighbors = []")
            with text.block("for k in range(first, limit, P):"):
                text.add("tile = FIRST_TILES[segment] + k // P")
                missing = "number[tile] < 0" if resident else "number[tile] < max(0, len(loads) + wanted - SLOTS)"
                with text.block(f"if {missing}:"):
                    text.add("""
                        number[tile] = len(loads)
                        loads.append((b, g, segment, k, min(P, SEGMENT_KEYS[segment] - k)))
                    """)
                text.add("""
                    oldest = min(oldest, number[tile])
                    slot = number[tile] % SLOTS
                    width = min(P, limit - k)
                    if len(neighbors) > 0 and neighbors[-1][0] + neighbors[-1][1] == slot and width == P:
                        neighbors[-1] = (neighbors[-1][0], neighbors[-1][1] + 1, width)
                    else:
                        neighbors.append((slot, 1, width))
                """)
            text.add("runs.append(neighbors)")
        text.add("return runs, oldest")


def _plan(text: SourceText, pauses: bool, resident: bool, two: bool) -> None:
    text.add(_PAUSE)
    text.add()
    text.add()
    with text.block("def plan(core):" if two else "def plan():"):
        text.add('''
            """Steps (a block of keys for one head of one query tile), loads of key tiles, loads of query tiles."""
            steps = []
            loads = []
            tiles = []
            unit = 0
            pause(steps, loads, ADDED)
        ''')
        if two:
            text.add("passes = 0  # of both cores: the first half is core 0's")
        with text.block("for b in range(BATCH):"), text.block("for g in range(0, KV_HEADS, TOGETHER):"):
            if pauses:
                text.add("# SBUF has no room for keys of the next KV head as long as steps of this one are under way.")
                text.add("pause(steps, loads, MULTIPLIED)")
            text.add("""
                number = []
                for _ in range(KEY_TILES):
                    number.append(-1)
            """)
            heads = text.block("for head in range(g * GROUP, (g + TOGETHER) * GROUP, HEADS):")
            every = "0, QUERY_TILES, SHARED"
            with heads:
                if two:
                    every = "0, QUERY_TILES if passes // PASSES == core else 0, SHARED"
                with text.block(f"for i0 in range({every}):"):
                    text.add("""
                        i1 = min(i0 + SHARED, QUERY_TILES)
                        seen = []
                        blocks = 0
                        for i in range(i0, i1):
                            tiles.append((b, i * P, min(ROWS, i * P + P), head))
                            seen.append(visits(i))
                            blocks = max(blocks, -(-len(seen[-1]) // BLOCK_BANKS))
                    """)
                    with text.block("for p in range(blocks):"), text.block("for i in range(i0, i1):"):
                        equal = "-(-len(banks) // -(-len(banks) // BLOCK_BANKS))  # blocks of about one size"
                        text.add(f"""
                            banks = seen[i - i0]
                            size = {equal if resident else "BLOCK_BANKS  # the same keys for all query tiles"}
                        """)
                        text.add("""
                            block = banks[p * size : (p + 1) * size]
                            runs, oldest = bring(b, g, block, number, loads)
                            for h in range(HEADS if len(block) > 0 else 0):
                                step = {"banks": block, "runs": runs, "kv": (head + h) // GROUP - g}
                                step["unit"] = unit + (i - i0) * HEADS + h
                                step["b"] = b
                                step["rows"] = min(P, ROWS - i * P)
                                step["needs"] = len(loads)
                                step["oldest"] = oldest
                                step["opens"] = p == 0
                                step["closes"] = (p + 1) * size >= len(banks)
                                steps.append(step)
                        """)
                    text.add("unit += (i1 - i0) * HEADS")
                if two:
                    text.add("passes += 1")
        text.add("""
            pause(steps, loads, ADDED)
            for n in range(len(steps) - 2, -1, -1):  # the oldest load that this step or a later one uses
                steps[n]["oldest"] = min(steps[n]["oldest"], steps[n + 1]["oldest"])
            return steps, loads, tiles
        """)


_PAUSE = '''
def pause(steps, loads, count):
    """Steps that do nothing, while earlier ones come to their end."""
    for _ in range(count):
        steps.append({"banks": [], "opens": False, "needs": len(loads), "oldest": len(loads)})
'''


class Plan:
    """What the plan of a problem and a schedule gives, of two cores the first one's; `pauses`: between KV heads, where
    SBUF demands it."""

    def __init__(self, problem: PrefillProblem, schedule: PrefillSchedule) -> None:
        for self.pauses in (False, True):
            self.text = plan_text(problem, schedule, self.pauses)
            scope: dict[str, Any] = {name: value for name, value, _ in constants(problem, schedule)}
            exec(self.text, scope)
            every = [scope["plan"](core) for core in range(2)] if schedule.cores > 1 else [scope["plan"]()]
            self.steps, self.loads, self.tiles = every[0]
            self.fits = all(
                step["needs"] <= steps[n - schedule.added + 1]["oldest"] + schedule.slots
                for steps, _, _ in every
                for n, step in enumerate(steps)
                if n >= schedule.added
            )
            if self.fits:
                break

    @property
    def blocks(self) -> bool:
        """Whether some unit takes more than one step."""
        return not all(step["closes"] for step in self.steps if step["banks"])


@cache
def planned(problem: PrefillProblem, schedule: PrefillSchedule) -> Plan:
    """The plan, made once."""
    return Plan(problem, schedule)
