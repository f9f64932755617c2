"""Kernels of the head: logits, and the best eight of every tile, against torch in double precision and the IR ops."""

from __future__ import annotations

from dataclasses import replace

import linear_oracle as oracle
import numpy as np
import pytest
from linear_oracle import BF16, F32, TARGETS

from g4c.errors import G4cError
from g4c.lowering.nki.choose import compare
from g4c.lowering.nki.linear import lm_head
from g4c.lowering.nki.linear.lm_head import HeadProblem


def run(problem: HeadProblem, generation: int = 3, cores: int = 1) -> tuple[np.ndarray, ...]:
    artifact = lm_head.emit(problem, lm_head.schedules(problem, generation, cores)[0], generation)
    assert artifact.cores == cores
    if cores == 2:
        oracle.check_halves(artifact, generation)
    return oracle.run(artifact, generation)


@pytest.mark.parametrize("generation", TARGETS)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
@pytest.mark.parametrize("rows", [(1, 1), (3,), (64, 1), (130,)], ids=str)
def test_logits(generation: int, dtype, rows: tuple[int, ...]) -> None:
    for cap, epsilon in ((30.0, 1e-6), (0.0, None), (2.0, None)):
        problem = HeadProblem(rows, 300, 2500, dtype, cap, epsilon, result=dtype)
        (found,) = run(problem, generation)
        inputs = lm_head.operands(problem)
        expected = oracle.head_by_torch(problem, inputs)
        error = oracle.relative_error(found, expected)
        if dtype == F32:
            assert error < 1e-6
        else:
            (reference,) = oracle.references(oracle.head_function(problem, inputs))
            assert error <= 1.01 * oracle.relative_error(reference, expected)


@pytest.mark.parametrize("generation", TARGETS)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
@pytest.mark.parametrize("rows", [(1, 1), (3,), (100,), (128, 1)], ids=str)
def test_logits_of_a_weight_as_it_is_stored(generation: int, dtype, rows: tuple[int, ...]) -> None:
    for cap, epsilon, columns in ((30.0, 1e-6, 1100), (0.0, None, 70), (2.0, None, 2304)):
        problem = HeadProblem(rows, 300, columns, dtype, cap, epsilon, result=dtype, stored=True)
        (found,) = run(problem, generation)
        inputs = lm_head.operands(problem)
        expected = oracle.head_by_torch(problem, inputs)
        error = oracle.relative_error(found, expected)
        if dtype == F32:
            assert error < 1e-6
        else:
            (reference,) = oracle.references(oracle.head_function(problem, inputs))
            assert error <= 1.01 * oracle.relative_error(reference, expected)


@pytest.mark.parametrize("generation", TARGETS)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
@pytest.mark.parametrize(
    ("rows", "tile", "columns", "cap"),
    [((1, 1), 2048, 6144, 2.0), ((3,), 256, 12800, 0.0), ((100, 1), 1024, 2048, 2.0), ((40,), 300, 300, 30.0)],
)
def test_the_best_of_tiles(generation: int, dtype, rows: tuple[int, ...], tile: int, columns: int, cap: float) -> None:
    """Those of the logits that the kernel without tiles gives, of equal ones the first first; sums as numpy adds them.

    In bf16 many of a tile's best are equal.
    """
    problem = HeadProblem(rows, 256, columns, dtype, cap, 1e-6, tile, dtype, stored=True)
    values, indices, sums = run(problem, generation)
    (logits,) = run(replace(problem, tile=0), generation)
    assert values.shape == indices.shape == (problem.tiles, problem.count, 8)
    assert sums.shape == (problem.tiles, problem.count, 1)
    assert (values.dtype, indices.dtype, sums.dtype) == (np.float32, np.int32, np.float32)
    ties = 0
    for n in range(problem.tiles):
        part = logits.reshape(-1, columns)[:, n * tile : (n + 1) * tile].astype(np.float64)
        where = np.argsort(-part, axis=-1, kind="stable")[..., :8]
        best = np.take_along_axis(part, where, axis=-1)
        np.testing.assert_array_equal(indices[n], where)
        np.testing.assert_array_equal(values[n], best)
        np.testing.assert_allclose(sums[n, :, 0], np.exp(part - best[:, :1]).sum(axis=-1), rtol=2e-6)
        ties += (np.diff(best) == 0).sum()
    assert ties > 0 or dtype is F32


@pytest.mark.parametrize("generation", [3, 4])
@pytest.mark.parametrize(
    ("rows", "tile", "stored"),
    [
        ((1, 1), 0, False),
        ((5,), 0, False),
        ((130,), 0, False),
        ((1,), 0, True),
        ((3,), 512, True),
        ((100, 1), 512, True),
    ],
    ids=str,
)
def test_two_cores(generation: int, rows: tuple[int, ...], tile: int, stored: bool) -> None:
    """Each program does half of the vocabulary: the very numbers of a program alone."""
    problem = HeadProblem(rows, 300, 5120, BF16, 2.0, 1e-6, tile, stored=stored)
    for found, expected in zip(run(problem, generation, 2), run(problem, generation), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_two_cores_that_cannot_share() -> None:
    """Half of the vocabulary is no whole slab of weights, or no whole number of tiles."""
    for columns, tile in ((5376, 0), (1536, 512)):
        problem = HeadProblem((1,), 256, columns, BF16, tile=tile, stored=True)
        assert lm_head.schedules(problem, 3, 2) == lm_head.schedules(problem, 3)


@pytest.mark.parametrize(("tile", "stored", "share"), [(0, False, 0.53), (2048, True, 0.56), (0, True, 0.54)])
def test_modelled_time_on_two_cores(tile: int, stored: bool, share: float) -> None:
    """Half, but for what comes before the weights and after them; a sixteenth of E2B's vocabulary."""
    problem = HeadProblem((1, 1), 1536, 16384, BF16, 30.0, 1e-6, tile, stored=stored)
    one, two = (compare(problem, lm_head, 3, cores).profile.us for cores in (1, 2))
    assert two < share * one


@pytest.mark.parametrize(("tile", "columns"), [(100, 1000), (4096, 8192), (512, 1027), (7, 7)])
def test_tiles_that_the_engine_does_not_take(tile: int, columns: int) -> None:
    """Unaligned, wider than is worth it, a shorter last tile, less than eight columns at all."""
    with pytest.raises(G4cError, match=f"the best of tiles of {tile} of {columns} columns") as refused:
        HeadProblem((1,), 256, columns, F32, tile=tile, stored=True)
    assert refused.value.code == "G4C-K041"


def test_no_schedule_fits() -> None:
    with pytest.raises(G4cError, match="no schedule fits: 200000 features") as refused:
        lm_head.schedules(HeadProblem((1,), 200000, 1024, BF16), 3)
    assert refused.value.code == "G4C-K040"


def test_a_problem_of_a_function() -> None:
    for stored in (False, True):
        problem = HeadProblem((1, 3), 256, 1024, BF16, 30.0, 1e-6, result=BF16, stored=stored)
        function = oracle.head_function(problem, lm_head.operands(problem))
        assert lm_head.from_function(function) == problem


def test_rows_and_tiles_that_a_stored_weight_does_not_have() -> None:
    for rows, tile, stored in ((129, 0, True), (1, 512, False)):
        with pytest.raises(G4cError, match=r"of a weight .*as it is stored") as refused:
            HeadProblem((rows,), 256, 1024, F32, tile=tile, stored=stored)
        assert refused.value.code == "G4C-K041"


@pytest.mark.parametrize(("tile", "stored"), [(0, False), (2048, True), (0, True)])
def test_modelled_share_of_the_hbm_bound(tile: int, stored: bool) -> None:
    """Decode, E2B's depth, an eighth of its vocabulary, v3."""
    problem = HeadProblem((1, 1), 1536, 32768, BF16, 30.0, 1e-6, tile, stored=stored)
    choice = compare(problem, lm_head, 3)
    assert choice.profile.hbm_utilization >= (0.9 if stored else 0.95)
