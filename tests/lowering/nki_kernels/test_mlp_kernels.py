"""Kernels of the residual stream: O projection, MLP, per-layer gate and all in turn, against torch and the IR ops."""

from __future__ import annotations

import re

import linear_oracle as oracle
import pytest
from linear_oracle import BF16, F32, TARGETS

from g4c.errors import G4cError
from g4c.lowering.nki.choose import compare
from g4c.lowering.nki.linear import residual
from g4c.lowering.nki.linear.residual import ResidualProblem, ResidualSchedule
from g4c.lowering.nki.simulator import source

# The parts of E2B's layers: sliding that owns its keys, full that shares them and has the double-wide MLP.
SLIDING = {"attention": 2048, "mlp": 6144, "per_layer": 256, "scaled": True}
SHARED = {"attention": 4096, "mlp": 12288, "per_layer": 256, "scaled": True}
PARTS = {
    "o_proj": {"attention": 200},
    "mlp": {"mlp": 330},
    "per_layer": {"per_layer": 130, "scaled": True},
    "all": {"attention": 520, "mlp": 300, "per_layer": 64, "scaled": True},
    "two": {"attention": 256, "mlp": 1100, "scaled": True, "gain_in": False},
}


def check(problem: ResidualProblem, schedule: ResidualSchedule, generation: int = 3) -> None:
    """In f32 the error of a few roundings; in bf16 at most that of the ops, each of which rounds its result."""
    artifact = residual.emit(problem, schedule, generation)
    (found,) = oracle.run(artifact, generation)
    assert found.shape == (*problem.rows, problem.width)
    expected = oracle.residual_by_torch(problem, artifact.inputs)
    error = oracle.relative_error(found, expected)
    if problem.dtype == F32:
        assert error < 1e-6
        return
    (reference,) = oracle.references(oracle.residual_function(problem, artifact.inputs))
    assert error <= oracle.relative_error(reference, expected)


def first(problem: ResidualProblem, generation: int = 3) -> ResidualSchedule:
    return residual.schedules(problem, generation)[0]


@pytest.mark.parametrize("rows", [(1, 1), (64, 1)], ids=str)
def test_decode_of_e2b(rows: tuple[int, ...]) -> None:
    problem = ResidualProblem(rows, 1536, BF16, 1e-6, **SLIDING)
    check(problem, first(problem))


@pytest.mark.slow
@pytest.mark.parametrize("rows", [(1, 1), (3,), (64, 1)], ids=str)
@pytest.mark.parametrize("parts", [SLIDING, SHARED], ids=["sliding", "shared"])
def test_decode_of_e2b_in_every_schedule(rows: tuple[int, ...], parts: dict[str, int]) -> None:
    problem = ResidualProblem(rows, 1536, BF16, 1e-6, **parts)
    for schedule in residual.schedules(problem, 3):
        check(problem, schedule)


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("part", ["attention", "mlp", "per_layer"])
def test_parts_alone_at_the_width_of_e2b(part: str, rows: int) -> None:
    problem = ResidualProblem((rows,), 1536, BF16, 1e-6, **{part: 512})
    check(problem, first(problem))


@pytest.mark.parametrize("generation", TARGETS)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
@pytest.mark.parametrize("parts", PARTS)
def test_tails(generation: int, dtype, parts: str) -> None:
    """Extents that no tile divides, in every generation's rules."""
    for rows, width in (((2, 3), 300), ((131,), 200)):
        problem = ResidualProblem(rows, width, dtype, 1e-6, **PARTS[parts])
        check(problem, first(problem, generation), generation)


@pytest.mark.parametrize("parts", ["mlp", "all"])
@pytest.mark.parametrize(("rows", "blocks"), [((1, 512), [512, 256]), ((2, 300), [384, 256])], ids=str)
def test_blocks_of_rows(rows: tuple[int, ...], blocks: list[int], parts: str) -> None:
    """Prefill: as few passes over the weights as can be, or one more; the last block may be shorter."""
    problem = ResidualProblem(rows, 384, BF16, 1e-6, **PARTS[parts])
    schedules = residual.schedules(problem, 3)
    assert [schedule.rows for schedule in schedules] == blocks
    for schedule in schedules:
        check(problem, schedule)


@pytest.mark.parametrize("generation", [3, 4])
@pytest.mark.parametrize(("rows", "block"), [((2, 131), 131), ((1100,), 384)], ids=str)
def test_two_cores_share_rows(generation: int, rows: tuple[int, ...], block: int) -> None:
    """Of many rows each program does half; of few, or an odd number, both would do all."""
    problem = ResidualProblem(rows, 200, BF16, 1e-6, **PARTS["all"])
    schedule = residual.schedules(problem, generation, 2)[0]
    assert (schedule.cores, schedule.rows) == (2, block)
    check(problem, schedule, generation)
    oracle.check_halves(residual.emit(problem, schedule, generation), generation)
    for few in ((1, 1), (128,), (131,)):
        alone = ResidualProblem(few, 200, BF16, 1e-6, **PARTS["all"])
        assert residual.schedules(alone, generation, 2) == residual.schedules(alone, generation)


def test_a_wide_stream_is_cut_into_blocks_of_columns() -> None:
    """As in 31B: the stream is wider than what PSUM takes of it at once."""
    problem = ResidualProblem((200,), 2688, F32, 1e-6, mlp=512)
    check(problem, first(problem))


@pytest.mark.parametrize(("rows", "mlp"), [(128, 3000), (250, 1500), (500, 700), (100, 3839)])
def test_banks_beside_a_last_tile(rows: int, mlp: int) -> None:
    """A tile of less than 128 features has a PSUM bank of its own."""
    problem = ResidualProblem((rows,), 200, F32, 1e-6, mlp=mlp)
    check(problem, first(problem))


@pytest.mark.parametrize("rows", [1, 3, 129])
def test_addresses_in_psum(rows: int) -> None:
    problem = ResidualProblem((rows,), 330, BF16, 1e-6, **PARTS["all"])
    oracle.check_psum_addresses(residual.emit(problem, first(problem), 3), 3)


def test_what_a_file_says() -> None:
    problem = ResidualProblem((3,), 1536, BF16, 1e-6, attention=256, mlp=512, per_layer=256, scaled=True)
    for schedule in residual.schedules(problem, 3):
        artifact = residual.emit(problem, schedule, 3)
        said = re.search(
            r"(\d+) instructions; SBUF (\d+) of (\d+)\s+bytes per partition; PSUM (\d) of 8", artifact.source
        )
        run = (
            source.load(artifact.source, artifact.name)
            .specialize("trn2")
            .run(*(oracle.operand(*entry) for entry in artifact.inputs))
        )
        instructions, sbuf, usable, psum = map(int, said.groups())
        assert instructions == run.instructions[0]
        assert psum == run.peaks[0][1].amount
        assert run.peaks[0][0].amount <= sbuf <= usable


@pytest.mark.parametrize("generation", TARGETS)
@pytest.mark.parametrize(("width", "attention", "mlp"), [(1536, 4096, 12288), (5376, 2048, 5376)], ids=str)
def test_every_schedule_fits(generation: int, width: int, attention: int, mlp: int) -> None:
    """E2B's shared layers, and 31B's with tp 4: what stays allocated is within SBUF."""
    problem = ResidualProblem((1, 512), width, BF16, 1e-6, attention, mlp)
    for schedule in residual.schedules(problem, generation)[:1]:
        said = re.search(r"SBUF (\d+) of (\d+)", residual.emit(problem, schedule, generation).source)
        assert int(said[1]) <= int(said[2])


def test_no_schedule_fits() -> None:
    with pytest.raises(G4cError, match="no schedule fits: 128 rows take") as refused:
        residual.schedules(ResidualProblem((1, 512), 5376, BF16, 1e-6, mlp=215040), 3)
    assert refused.value.code == "G4C-K040"


@pytest.mark.parametrize("parts", PARTS)
def test_a_problem_of_a_function(parts: str) -> None:
    problem = ResidualProblem((1, 3), 256, BF16, 1e-6, **PARTS[parts])
    function = oracle.residual_function(problem, residual.operands(problem))
    assert residual.from_function(function) == problem


@pytest.mark.parametrize(
    ("parts", "share"),
    [({"mlp": 6144}, 0.95), ({"mlp": 12288}, 0.95), ({"attention": 4096}, 0.85), (SLIDING, 0.94)],
    ids=["mlp", "double-wide mlp", "o_proj", "layer"],
)
def test_modelled_share_of_the_hbm_bound(parts: dict[str, int], share: float) -> None:
    """Decode, E2B, v3."""
    choice = compare(ResidualProblem((1, 1), 1536, BF16, 1e-6, **parts), residual, 3)
    assert choice.profile.hbm_utilization >= share


def test_modelled_share_of_the_array() -> None:
    """Prefill of 512 rows, E2B's MLP, v3."""
    choice = compare(ResidualProblem((1, 512), 1536, BF16, 1e-6, mlp=6144), residual, 3)
    assert choice.profile.pe_utilization >= 0.8
