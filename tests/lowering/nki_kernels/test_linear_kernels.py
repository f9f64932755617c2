"""Projection kernels against torch in double precision and the IR ops' references, and what their files say."""

from __future__ import annotations

import ast
import re

import linear_oracle as oracle
import numpy as np
import pytest
from linear_oracle import BF16, F32, TARGETS

from g4c.errors import G4cError
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.choose import compare
from g4c.lowering.nki.linear import one_row, projection
from g4c.lowering.nki.linear.kernel_file import generation_of
from g4c.lowering.nki.linear.projection import ProjectionProblem, ProjectionSchedule, RowSchedule
from g4c.lowering.nki.simulator import source

QKV = (2048, 256, 256)


def check(problem: ProjectionProblem, schedule: ProjectionSchedule | RowSchedule, generation: int = 3) -> None:
    """In f32 the error of a few roundings; in bf16 at most that of the ops, each of which rounds its result."""
    artifact = projection.emit(problem, schedule, generation)
    results = oracle.run(artifact, generation)
    assert [result.shape for result in results] == [(*problem.rows, width) for width in problem.widths]
    found = np.concatenate(results, axis=-1)
    expected = oracle.projection_by_torch(problem, artifact.inputs)
    error = oracle.relative_error(found, expected)
    if problem.dtype == F32:
        assert error < 1e-6
        return
    function = oracle.projection_function(problem, artifact.inputs)
    reference = np.concatenate(oracle.references(function), axis=-1)
    assert error <= 1.01 * oracle.relative_error(reference, expected), "the same roundings, in another order of sums"


@pytest.mark.parametrize("rows", [(1, 1), (3,), (64, 1)], ids=str)
@pytest.mark.parametrize("widths", [QKV, (4096,)], ids=str)
def test_decode_of_e2b(rows: tuple[int, ...], widths: tuple[int, ...]) -> None:
    """Sliding layers with q, k and v; full layers that share keys: q alone. Both forms."""
    problem = ProjectionProblem(rows, 1536, widths, BF16, 1e-6)
    for schedule in projection.schedules(problem, 3):
        check(problem, schedule)


@pytest.mark.parametrize("generation", TARGETS)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
@pytest.mark.parametrize(
    ("rows", "depth", "widths"),
    [((2, 3), 300, (130, 520)), ((1,), 700, (70,)), ((129,), 256, (200, 40, 17)), ((64,), 100, (1000,))],
    ids=str,
)
def test_tails(generation: int, dtype, rows: tuple[int, ...], depth: int, widths: tuple[int, ...]) -> None:
    """Extents that no tile divides, in every generation's rules, with a norm and without."""
    for epsilon in (None, 1e-6):
        problem = ProjectionProblem(rows, depth, widths, dtype, epsilon)
        for schedule in projection.schedules(problem, generation):
            check(problem, schedule, generation)


@pytest.mark.parametrize(("rows", "block"), [((1, 512), 512), ((2, 200), 256), ((700,), 384), ((1030,), 384)], ids=str)
def test_blocks_of_rows(rows: tuple[int, ...], block: int) -> None:
    """Prefill: several tiles of rows share a pass over the weights, the last block is shorter."""
    problem = ProjectionProblem(rows, 512, (640, 128), BF16, 1e-6)
    (schedule,) = [found for found in projection.schedules(problem, 3) if found.rows == block]
    check(problem, schedule)


@pytest.mark.parametrize(("rows", "width"), [(128, 3000), (100, 3839), (127, 3071)])
def test_banks_beside_a_last_tile(rows: int, width: int) -> None:
    """A tile of less than 128 features has a PSUM bank of its own."""
    problem = ProjectionProblem((rows,), 256, (width,), F32)
    for schedule in projection.schedules(problem, 3):
        check(problem, schedule)


def test_a_norm_without_a_weight() -> None:
    for rows in ((3,), (140,)):
        problem = ProjectionProblem(rows, 300, (520,), BF16, 1e-6, gain=False)
        for schedule in projection.schedules(problem, 3):
            check(problem, schedule)


@pytest.mark.parametrize("generation", TARGETS)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
@pytest.mark.parametrize("widths", [(2048, 256, 256), (2560,), (384, 128)], ids=str)
def test_one_row(generation: int, dtype, widths: tuple[int, ...]) -> None:
    """The schedules for a row alone: one and several groups of columns, with a norm, without its weight, without it."""
    for epsilon, gain in ((1e-6, True), (1e-6, False), (None, True)):
        problem = ProjectionProblem((1, 1), 768, widths, dtype, epsilon, gain)
        found = one_row.schedules(problem, generation)
        assert found
        for schedule in found:
            check(problem, schedule, generation)


@pytest.mark.parametrize("generation", [3, 4])
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
@pytest.mark.parametrize(
    ("rows", "depth", "widths", "shared"),
    [
        ((1, 1), 512, (1024, 128, 128), ["columns"]),
        ((1, 1), 300, (768, 256, 512), ["columns"]),
        ((5,), 300, (2024,), ["columns"]),
        ((64, 1), 256, (512, 256, 256), ["columns"]),
        ((2, 150), 256, (512, 256, 256), ["columns", "rows"]),
        ((700,), 256, (256, 100), ["rows"]),
        ((1, 1), 512, (300,), ["columns"]),
    ],
    ids=str,
)
def test_two_cores(
    generation: int, dtype, rows: tuple[int, ...], depth: int, widths: tuple[int, ...], shared: list[str]
) -> None:
    """Each program does half of the columns or rows; where they can share, no schedule does everything twice."""
    problem = ProjectionProblem(rows, depth, widths, dtype, 1e-6)
    found = projection.schedules(problem, generation, 2)
    assert list(dict.fromkeys(schedule.shared for schedule in found)) == shared
    for schedule in found:
        check(problem, schedule, generation)
        oracle.check_halves(projection.emit(problem, schedule, generation), generation)


def test_two_cores_that_cannot_share() -> None:
    """Halves that whole pieces of the results do not make up: every schedule is one for a core alone."""
    for rows, widths in (((1, 1), (1024, 70)), ((3,), (240,)), ((131,), (200,))):
        problem = ProjectionProblem(rows, 512, widths, BF16)
        assert projection.schedules(problem, 3, 2) == projection.schedules(problem, 3)


@pytest.mark.parametrize(("depth", "widths", "share"), [(1536, QKV, 0.66), (5376, (2048, 1024, 1024), 0.53)], ids=str)
def test_modelled_time_on_two_cores(depth: int, widths: tuple[int, ...], share: float) -> None:
    """Half, where a half's rows are long enough for DMA (31B, tp 4); E2B's are 2560 bytes, and latency stays."""
    problem = ProjectionProblem((1, 1), depth, widths, BF16, 1e-6)
    one, two = (compare(problem, projection, 3, cores).profile.us for cores in (1, 2))
    assert two < share * one


def test_one_row_through_a_ring() -> None:
    """Slabs take the places of those that are used up."""
    problem = ProjectionProblem((1, 1), 1792, (1024, 128), F32, 1e-6)
    for slots in (2, 3):
        check(problem, RowSchedule(slots, 1024))


def test_one_row_wants_whole_tiles() -> None:
    for rows, depth, widths in (((2,), 512, (512,)), ((1,), 384, (512,)), ((1,), 512, (512, 70)), ((1,), 512, (5128,))):
        assert one_row.schedules(ProjectionProblem(rows, depth, widths, BF16), 3) == ()


def test_more_columns_than_banks() -> None:
    problem = ProjectionProblem((5,), 256, (3000, 3100), F32, 1e-6)
    for schedule in projection.schedules(problem, 3):
        assert schedule.columns < 6100
        check(problem, schedule)


def test_a_norm_of_large_and_small_rows() -> None:
    """Rows far from variance 1, and zeros: epsilon decides."""
    problem = ProjectionProblem((4,), 256, (128,), F32, 1e-6)
    artifact = projection.emit(problem, projection.schedules(problem, 3)[0], 3)
    x, gain, weight = (oracle.operand(*entry) for entry in artifact.inputs)
    x = x * np.array([[1e4], [1e-4], [0], [1]], np.float32)
    found = source.load(artifact.source, artifact.name).specialize("trn2")(x, gain, weight)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt(np.square(wide).mean(axis=1, keepdims=True) + 1e-6) * gain @ weight.astype(np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_what_a_file_says() -> None:
    """It is Python, its name is in it, and its budget is what a run needs."""
    for rows in (1, 3):
        problem = ProjectionProblem((rows,), 1536, QKV, BF16, 1e-6)
        for schedule in projection.schedules(problem, 3):
            check_file(projection.emit(problem, schedule, 3), schedule.slots)


def check_file(artifact: KernelArtifact, slots: int) -> None:
    tree = ast.parse(artifact.source)
    assert tree.body[-1].name == artifact.name
    assert max(map(len, artifact.source.splitlines())) <= 120
    document = " ".join(ast.get_docstring(tree).split())
    said = re.search(r"(\d+) instructions; SBUF (\d+) of (\d+) bytes per partition; PSUM (\d) of 8", document)
    run = (
        source.load(artifact.source, artifact.name)
        .specialize("trn2")
        .run(*(oracle.operand(*entry) for entry in artifact.inputs))
    )
    instructions, sbuf, usable, psum = map(int, said.groups())
    assert instructions == run.instructions[0]
    assert psum == run.peaks[0][1].amount
    assert run.peaks[0][0].amount <= sbuf <= usable == generation_of(3).sbuf_usable
    assert str(slots) in artifact.schedule


@pytest.mark.parametrize("rows", [1, 3, 5, 129])
def test_addresses_in_psum(rows: int) -> None:
    problem = ProjectionProblem((rows,), 768, (512, 256, 70) if rows > 1 else (512, 256), BF16, 1e-6)
    for schedule in projection.schedules(problem, 3):
        oracle.check_psum_addresses(projection.emit(problem, schedule, 3), 3)


def test_every_schedule_fits_in_the_order_of_the_program() -> None:
    """What stays allocated is within SBUF for the widest model, too."""
    for generation in TARGETS:
        problem = ProjectionProblem((1, 512), 5376, (1024, 512, 512), BF16, 1e-6)
        for schedule in projection.schedules(problem, generation):
            artifact = projection.emit(problem, schedule, generation)
            said = re.search(r"SBUF (\d+) of (\d+)", artifact.source)
            assert int(said[1]) <= int(said[2])


def test_no_schedule_fits() -> None:
    with pytest.raises(G4cError, match="no schedule fits: 120000 features of one row take") as refused:
        projection.schedules(ProjectionProblem((1,), 120000, (128,), BF16, 1e-6), 3)
    assert refused.value.code == "G4C-K040"


def test_a_problem_of_a_function() -> None:
    problem = ProjectionProblem((1, 3), 256, (128, 64), BF16, 1e-6)
    inputs = projection.emit(problem, projection.schedules(problem, 3)[0], 3).inputs
    assert projection.from_function(oracle.projection_function(problem, inputs)) == problem
    plainly = ProjectionProblem((1, 3), 256, (128,), BF16, 1e-6, gain=False)
    assert projection.from_function(oracle.projection_function(plainly, (inputs[0], inputs[2]))) == plainly
    plain = ProjectionProblem((1, 3), 256, (128,), BF16)
    assert projection.from_function(oracle.projection_function(plain, (inputs[0], inputs[2]))).epsilon is None


@pytest.mark.parametrize(
    ("widths", "share"), [(QKV, 0.85), ((2048,), 0.82), ((4096,), 0.90), ((4096, 512, 512), 0.91)], ids=str
)
def test_modelled_share_of_the_hbm_bound(widths: tuple[int, ...], share: float) -> None:
    """Decode, E2B, v3. The first load and the last store each wait 1.3 us; the bytes of 2048 columns take 17.4."""
    choice = compare(ProjectionProblem((1, 1), 1536, widths, BF16, 1e-6), projection, 3)
    assert choice.profile.hbm_utilization >= share
