"""Kernels of the head: logits, and the best eight of every tile, against torch in double precision and the IR ops."""

from __future__ import annotations

import linear_oracle as oracle
import numpy as np
import pytest
import torch
from linear_oracle import BF16, F32, TARGETS

from g4c.errors import G4cError
from g4c.lowering.nki.choose import compare
from g4c.lowering.nki.linear import lm_head
from g4c.lowering.nki.linear.lm_head import HeadProblem


def run(problem: HeadProblem, generation: int = 3) -> tuple[np.ndarray, ...]:
    return oracle.run(lm_head.emit(problem, lm_head.schedules(problem, generation)[0], generation), generation)


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
@pytest.mark.parametrize(("rows", "tile", "columns"), [((1, 1), 2048, 6000), ((3,), 512, 1032), ((64, 1), 1024, 1024)])
def test_the_best_of_tiles(generation: int, rows: tuple[int, ...], tile: int, columns: int) -> None:
    """torch's topk of every tile: the same indices, the capped values."""
    problem = HeadProblem(rows, 256, columns, F32, 30.0, 1e-6, tile)
    values, indices = run(problem, generation)
    assert values.shape == indices.shape == (*rows, problem.tiles, 8)
    assert (values.dtype, indices.dtype) == (np.float32, np.int32)
    logits = oracle.head_by_torch(problem, lm_head.operands(problem))
    for n, part in enumerate(logits.split(tile, dim=-1)):
        best, where = part.topk(8)
        np.testing.assert_array_equal(indices[..., n, :], (where + n * tile).numpy())
        np.testing.assert_allclose(values[..., n, :], best.numpy(), rtol=2e-6)


def test_the_best_of_all_is_among_them() -> None:
    """At E2B's depth in bf16: what a graph merges."""
    problem = HeadProblem((3,), 1536, 8192, BF16, 30.0, 1e-6, 2048)
    values, indices = run(problem)
    logits = oracle.head_by_torch(problem, lm_head.operands(problem))
    merged = np.take_along_axis(indices.reshape(3, -1), values.reshape(3, -1).argmax(axis=1)[:, None], axis=1)
    gap = torch.topk(logits, 2).values.diff(dim=-1).abs().min()
    assert gap > 0.02, "the largest is clear of the rounding of the normalized rows"
    np.testing.assert_array_equal(merged[:, 0], logits.argmax(dim=-1).numpy())


def test_more_than_128_rows() -> None:
    problem = HeadProblem((130,), 256, 1024, F32, tile=512)
    _, indices = run(problem)
    where = oracle.head_by_torch(problem, lm_head.operands(problem))[:, 512:].topk(8).indices + 512
    np.testing.assert_array_equal(indices[:, 1], where.numpy())


@pytest.mark.parametrize(("tile", "columns"), [(100, 1000), (4096, 8192), (512, 1027)])
def test_tiles_that_the_engine_does_not_take(tile: int, columns: int) -> None:
    """Unaligned, wider than half of PSUM, and a last tile of less than eight."""
    with pytest.raises(G4cError, match=f"the best of tiles of {tile} of {columns} columns") as refused:
        HeadProblem((1,), 256, columns, F32, tile=tile)
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


def test_rows_and_tiles_that_need_a_packed_weight() -> None:
    for rows, tile in (((129,), 0), ((1,), 512)):
        with pytest.raises(G4cError, match="of a weight as it is stored") as refused:
            HeadProblem(rows, 256, 1024, F32, tile=tile, stored=True)
        assert refused.value.code == "G4C-K041"


@pytest.mark.parametrize(("tile", "stored"), [(0, False), (2048, False), (0, True)])
def test_modelled_share_of_the_hbm_bound(tile: int, stored: bool) -> None:
    """Decode, E2B's depth, an eighth of its vocabulary, v3."""
    problem = HeadProblem((1, 1), 1536, 32768, BF16, 30.0, 1e-6, tile, stored=stored)
    choice = compare(problem, lm_head, 3)
    assert choice.profile.hbm_utilization >= (0.9 if stored else 0.95)
