"""Choosing schedules: the cheapest, deterministic, once; what was compared is recorded."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from g4c.errors import G4cError
from g4c.ir.types import DType, TensorType
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.choose import compare
from g4c.lowering.nki.cost import profile

SOURCE = '''import nki
import nki.isa as nisa
import nki.language as nl

ROWS = {rows}


@nki.jit
def double(x):
    """2 x in tiles of ROWS rows."""
    y = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for start in range(0, x.shape[0], ROWS):
        tile = nl.ndarray((ROWS, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[start : start + ROWS, :])
        nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=2.0)
        nisa.dma_copy(dst=y[start : start + ROWS, :], src=tile)
    return y
'''


@dataclass(frozen=True)
class Doubling:
    """A problem: rows of 512 bf16."""

    rows: int


class Family:
    """Tiles of 16 to 128 rows: the more, the cheaper. Counts what it emits."""

    def __init__(self, generations: tuple[int, ...] = (2, 3, 4)) -> None:
        self.emitted: list[int] = []
        self.generations = generations

    def schedules(self, problem: Doubling, generation: int, cores: int) -> tuple[int, ...]:
        if problem.rows % 16:
            raise G4cError("G4C-K053", f"{problem.rows} rows")
        return (16, 128, 64)

    def emit(self, problem: Doubling, schedule: int, generation: int) -> KernelArtifact:
        self.emitted.append(schedule)
        kind = TensorType((problem.rows, 512), DType.BF16)
        source = SOURCE.format(rows=schedule)
        line = f"{schedule} rows"
        return KernelArtifact("double", "double", source, (("x", kind),), (("y", kind),), (), line, self.generations)


@pytest.mark.parametrize("generation", [2, 3, 4])
def test_the_cheapest_schedule_is_chosen(generation):
    family = Family()
    choice = compare(Doubling(512), family, generation)
    artifact, found = choice.artifact, choice.profile
    assert artifact.schedule == "128 rows"
    assert found.us == profile(artifact, None, f"gen{generation}").us
    assert found.machine.number == generation
    assert found.recorders == ()  # no timelines are kept


def test_what_was_compared_is_recorded():
    choice = compare(Doubling(256), Family(), 3)
    assert [candidate.schedule for candidate in choice.compared] == [16, 128, 64]
    times = {candidate.line: candidate.us for candidate in choice.compared}
    assert times["128 rows"] < times["64 rows"] < times["16 rows"]


def test_a_problem_is_costed_once():
    family = Family()
    first = compare(Doubling(128), family, 3)
    assert family.emitted == [16, 128, 64]
    assert compare(Doubling(128), family, 3) is first
    assert family.emitted == [16, 128, 64]
    compare(Doubling(128), family, 4)
    assert family.emitted == [16, 128, 64] * 2


def test_of_equal_times_the_first_guess_is_taken():
    class Same(Family):
        def schedules(self, problem, generation, cores):
            return (64, 64, 64)

    choice = compare(Doubling(192), Same(), 3)
    assert choice.compared[0].us == choice.compared[1].us == choice.profile.us
    assert choice.artifact.schedule == "64 rows"


def test_what_a_family_refuses_is_refused():
    with pytest.raises(G4cError, match="17 rows"):
        compare(Doubling(17), Family(), 3)


def test_kernels_of_other_generations_are_refused_before_they_are_run():
    with pytest.raises(G4cError, match="NeuronCore-v3, v4, not v2") as caught:
        compare(Doubling(128), Family((3, 4)), 2)
    assert caught.value.code == "G4C-K048"
