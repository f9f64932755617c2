"""Schedules of prefill attention: what fits, what they have in common, budgets, sources, modelled time."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

import numpy as np
import pytest
from prefill_case import TARGETS, make
from test_prefill_attention import check, first, problem

from g4c.errors import G4cError
from g4c.ir.types import DType
from g4c.lowering.nki.attention.prefill import PrefillProblem, PrefillSchedule, Segment, emit, schedules
from g4c.lowering.nki.attention.prefill_budget import instructions, psum_banks
from g4c.lowering.nki.attention.prefill_plan import planned
from g4c.lowering.nki.attention.prefill_schedule import buffers, sbuf_bytes
from g4c.lowering.nki.cost import profile
from g4c.lowering.nki.simulator.generation import from_target
from g4c.lowering.nki.simulator.source import load

PROBLEMS = {
    "windowed": (problem("4:2", 256, 300, window=128), [(0, 300)]),
    "full": (problem("2:1", 512, 1100), [(0, 1100)]),
    "past": (problem("4:2", 256, 200, 2200), [(1500, 190)]),
    "ring": (problem("4:1", 256, 200, 512, 2, window=512), [(1500, 190), (3, 200)]),
    "mixed": (PrefillProblem(1, 20, 4, 2, 512, (Segment("mixed", 700),), window=512), [(600, 20)]),
    "two mixed": (PrefillProblem(1, 20, 4, 2, 256, (Segment("mixed", 512), Segment("mixed", 300))), [(400, 20)]),
    "vision": (problem("4:4", 72, 300, causal=False, batch=2), [(0, 300), (0, 200)]),
    "ragged": (problem("2:2", 160, 200, scale=0.5, dtype=DType.F32), [(0, 200)]),
    "blocks": (problem("2:1", 256, 700, window=512, block_span=280), [(0, 700)]),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("generation", [2, 3])
def test_budgets_are_those_of_a_run(name: str, generation: int) -> None:
    kind, starts = PROBLEMS[name]
    case = make(kind, starts)
    if kind.block_span:
        case.operands["blocks"] = np.full((1, kind.rows), -1, np.int32)
    schedule = schedules(kind, generation)[0]
    plan = planned(kind, schedule)
    held = buffers(kind, schedule, plan.blocks)
    run = case.run(generation, schedule)
    assert run.instructions == [instructions(kind, schedule, plan)]
    (sbuf, psum) = run.peaks[0]
    total = sum(buffer.bytes for buffer in held if buffer.memory == "sbuf")
    assert sbuf.amount <= total <= sbuf_bytes(kind, schedule) <= from_target(TARGETS[generation]).sbuf_usable
    assert psum.amount <= psum_banks(held) <= 8
    text = ast.get_docstring(ast.parse(emit(kind, schedule, generation).source))
    assert text is not None
    wanted = (
        f"SBUF {total} bytes per partition",
        f"PSUM {psum_banks(held)} banks",
        f"{run.instructions[0]} instructions",
    )
    assert all(figure in text.replace("\n", " ") for figure in wanted)


@pytest.mark.parametrize("name", PROBLEMS)
def test_sources(name: str) -> None:
    """Deterministic, of its name, no line too long; every matmul says whether it adds."""
    kind, _ = PROBLEMS[name]
    artifact = emit(kind, schedules(kind, 3)[0], 3)
    assert artifact == emit(replace(kind), schedules(kind, 3)[0], 3)
    assert artifact.name == kind.name
    assert artifact.name.isidentifier()
    assert max(map(len, artifact.source.splitlines())) <= 120
    calls = [node for node in ast.walk(ast.parse(artifact.source)) if isinstance(node, ast.Call)]
    matmuls = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "nc_matmul"]
    assert len(matmuls) == 2
    assert all("accumulate" in [keyword.arg for keyword in call.keywords] for call in matmuls)
    definitions = re.findall(r"(\n+)(?:@nki\.jit|def (?!prefill))", artifact.source)
    assert definitions == ["\n\n\n"] * 8


@pytest.mark.parametrize(
    "schedule",
    [
        PrefillSchedule(1, 1, 1, 10),
        PrefillSchedule(1, 2, 1, 10, lag=1),
        PrefillSchedule(2, 2, 1, 7, banks=1),
        PrefillSchedule(2, 4, 1, 20, banks=2, lag=3),
        PrefillSchedule(1, 2, 3, 7, banks=2, ahead=1),
    ],
)
def test_choices_change_nothing_but_sums(schedule: PrefillSchedule) -> None:
    """Heads together, keys with and without room for the next KV head's, blocks, lags."""
    check(make(problem("4:2", 256, 850), [(0, 850)]), 3, schedule)


@pytest.mark.parametrize(
    ("head_dim", "schedule"),
    [(64, PrefillSchedule(1, 2, 4, 20, banks=2)), (512, PrefillSchedule(1, 1, 2, 12, banks=1, lag=1))],
)
def test_keys_that_do_not_fit_are_loaded_again(head_dim: int, schedule: PrefillSchedule) -> None:
    """Query tiles visit the keys in SBUF in turn."""
    case = make(problem("2:1", head_dim, 2700 if head_dim == 64 else 1700), [(0, 1700)])
    plan = planned(case.problem, schedule)
    assert not schedule.resident(case.problem)
    assert case.problem.key_tiles < len(plan.loads) < case.problem.key_tiles * case.problem.query_tiles / 2
    check(case, 3, schedule)


@pytest.mark.parametrize(
    "schedule", [PrefillSchedule(1, 1, 2, 18, banks=1, lag=1), PrefillSchedule(1, 2, 2, 25, banks=2)]
)
def test_masks_of_a_past_come_and_go_with_its_keys(schedule: PrefillSchedule) -> None:
    """Where neither fits; slots are reused, so that a bank's keys, and their masks, lie in several places."""
    kind = problem("2:1", 256, 300, 3000, 2)
    case = make(kind, [(2500, 290), (10, 300)])
    plan = planned(kind, schedule)
    assert max(len(runs) for step in plan.steps if step["banks"] for runs in step["runs"]) > 1
    check(case, 3, schedule)
    assert case.run(3, schedule).instructions == [instructions(kind, schedule, plan)]


def test_all_candidates_give_the_same() -> None:
    kind = problem("4:2", 256, 300, 300, 2)
    found = schedules(kind, 3)
    assert len(found) == 2
    for schedule in found:
        check(make(kind, [(200, 300), (300, 90)]), 3, schedule)


@pytest.mark.parametrize(
    ("kind", "starts", "heads"),
    [
        (problem("4:1", 512, 300), [(0, 300)], 2),
        (problem("4:2", 256, 150, 512, 4, window=512), [(700, 140), (3, 150), (0, 0), (0, 130)], 4),
        (problem("2:1", 256, 150, 700, 2), [(600, 150), (2, 100)], 2),
    ],
)
def test_two_cores_share_the_heads(kind: PrefillProblem, starts: list[tuple[int, int]], heads: int) -> None:
    """The same bits as one core gives; half of the instructions, but for what both need."""
    case, one = make(kind, starts), replace(schedules(kind, 3)[0], heads=heads)
    two = replace(one, cores=2)
    artifact = emit(kind, two, 3)
    kernel = load(artifact.source, artifact.name).specialize("trn2")
    run = kernel[2].run(*(operand.copy() for operand in case.operands.values()))
    alone = case.run(3, one)
    np.testing.assert_array_equal(run.results.view(np.uint16), alone.results.view(np.uint16))
    assert run.instructions == [instructions(kind, two, planned(kind, two))] * 2
    assert run.instructions[0] < 0.6 * alone.instructions[0]


def test_keys_are_loaded_and_transposed_once() -> None:
    """For all query heads and tiles, wherever they fit; each exactly once."""
    for kind in (problem("8:1", 512, 4096), problem("16:8", 256, 2048, window=1024), problem("32:4", 512, 1024, 4096)):
        schedule = schedules(kind, 3)[0]
        assert schedule.resident(kind)
        loads = planned(kind, schedule).loads
        assert len(loads) == len(set(loads)) == kind.key_tiles * kind.kv_heads // schedule.kv_heads


def test_tiles_that_nobody_sees_are_not_visited() -> None:
    """Of 128 x 128 pairs: the triangle, the band, the past only where the window reaches it."""

    def pairs(kind: PrefillProblem) -> int:
        steps = planned(kind, schedules(kind, 3)[0]).steps
        return sum(-(-(high - low) // 128) for step in steps for _, low, high, _, _ in step["banks"]) // kind.heads

    assert pairs(problem("1:1", 512, 1024)) == 8 * 9 // 2
    assert pairs(problem("1:1", 256, 2048, window=512)) == 1 + 2 + 3 + 4 + 12 * 5
    assert pairs(problem("1:1", 256, 1024, 512, window=512)) == 1 + 2 + 3 + 4 + 4 * 5 + 4 * 4
    assert pairs(problem("1:1", 64, 512, causal=False)) == 16
    assert pairs(problem("1:1", 256, 512, window=512, block_span=1)) == 1 + 2 + 3 + 4
    assert pairs(problem("1:1", 256, 512, window=512, block_span=129)) == 2 + 3 + 4 + 4


LENGTHS = [1, 2, 63, 127, 128, 129, 255, 257, 384, 511, 512, 513, 640, 1000, 1023, 1025, 1300, 2047, 2049, 4095, 4096]


@pytest.mark.parametrize("window", [0, 1, 128, 129, 512, 1024])
def test_every_pair_that_is_seen_is_visited_once(window: int) -> None:
    """Of rows and their own keys, for prompts of up to 4096; and where the past is not visited, no row sees it."""
    for rows in LENGTHS:
        kind = problem("1:1", 64, rows, 512, window=window)
        plan = planned(kind, schedules(kind, 3)[0])
        at = np.arange(rows)
        for tile, (_, start, limit, _) in enumerate(plan.tiles):
            row = at[start:limit, None]
            wanted = (at <= row) & ((row - at < window) | (window == 0))
            banks = [bank for step in plan.steps if step.get("unit") == tile for bank in step["banks"]]
            visits = np.zeros_like(wanted, int)
            for segment, low, high, mask, column in banks:
                if segment == 1:
                    behind = row - start - (column + np.arange(high - low) - kind.band)  # as `band` is made
                    inside = (behind >= 0) & ((behind < window) | (window == 0))
                    visits[:, low:high] += inside if mask == "band" else 1
            np.testing.assert_array_equal(visits, wanted)
            past = sum(high - low for segment, low, high, _, _ in banks if segment == 0)
            assert past == (512 if not window or start + 1 < window else 0)


def test_long_caches_have_schedules() -> None:
    """Chunks over caches that SBUF cannot hold, and prompts whose keys it cannot."""
    assert not schedules(problem("4:1", 512, 256, 131072), 3)[0].resident(problem("4:1", 512, 256, 131072))
    for generation in (2, 3, 4):
        assert schedules(problem("1:1", 512, 16384), generation)
        assert schedules(problem("8:4", 256, 8192, window=512), generation)


@pytest.mark.parametrize("heads", ["1:1", "2:1", "8:1"])
def test_short_chunks_over_long_caches(heads: str) -> None:
    """A bucket of one query tile, few heads on a core: few steps share the keys that are in SBUF."""
    kind = problem(heads, 512, 128, 32768)
    for generation, cores in ((2, 1), (3, 1), (3, 2), (4, 1)):
        assert not schedules(kind, generation, cores)[0].resident(kind)
    check(make(problem(heads, 512, 20, 9000), [(8990, 17)]), 2)


def test_refusals() -> None:
    with pytest.raises(G4cError, match=r"K041.*600 is more than a PSUM bank"):
        problem("8:1", 600, 128)
    with pytest.raises(G4cError, match=r"K041.*8 heads do not divide"):
        problem("8:3", 256, 128)
    with pytest.raises(G4cError, match=r"K041.*chunk of \[100\] keys, 128 rows"):
        PrefillProblem(1, 128, 8, 1, 256, (Segment("chunk", 100),))
    with pytest.raises(G4cError, match=r"K041.*\['past', 'past', 'chunk'\]: one past and one chunk"):
        PrefillProblem(1, 128, 8, 1, 256, (Segment("past", 8), Segment("past", 8), Segment("chunk", 128)))
    with pytest.raises(G4cError, match=r"K041.*only the past"):
        PrefillProblem(1, 128, 8, 1, 256, (Segment("past", 100),))
    with pytest.raises(G4cError, match=r"K040.*bytes per partition of SBUF"):
        schedules(PrefillProblem(1, 128, 1, 1, 512, (Segment("mixed", 65536),)), 3)
    with pytest.raises(G4cError, match=r"K040.*passes of 1 heads are not 2 equal parts"):
        emit(problem("3:1", 512, 128), PrefillSchedule(1, 1, 1, 1, cores=2), 3)
    with pytest.raises(G4cError, match=r"K040.*no room for the keys"):
        emit(problem("1:1", 512, 4096), PrefillSchedule(1, 1, 1, 8), 3)


def modelled(kind: PrefillProblem) -> tuple[float, float]:
    """(us, share of the time that PE would need for the multiply-adds of exactly what queries see)."""
    found = profile(emit(kind, schedules(kind, 3)[0], 3))
    seen = sum(min(row + 1, kind.window or kind.rows) for row in range(kind.rows))
    return found.us, 4 * kind.batch * kind.heads * kind.head_dim * seen / found.machine.peak_flops / 1000 / found.us


def test_modelled_time() -> None:
    """d 512 near what PE can do; with a window, time grows with the length."""
    assert modelled(problem("8:1", 512, 2048))[1] > 0.75
    short, long = (modelled(problem("8:1", 256, rows, window=512))[0] for rows in (2048, 4096))
    assert 1.9 < long / short < 2.1


@pytest.mark.slow
def test_modelled_time_of_long_prompts() -> None:
    assert modelled(problem("8:1", 512, 8192))[1] > 0.84


def test_a_first_chunk_of_one_row_is_its_value() -> None:
    case = first("4:1", 256, 1)
    np.testing.assert_array_equal(case.run().results, np.repeat(case.operands["chunk_values"], 4, axis=2))
