"""Two programs of a logical core: shared HBM, exchanges, barriers, and what they see of each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from g4c.lowering.nki.simulator import SimulationError, jit, simulate
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl

X = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
BOTH = ["trn2", "trn3"]


@jit
def doubled(x):
    """Each program doubles its half of the rows."""
    half = x.shape[0] // nl.num_programs()
    rows = nl.ds(nl.program_id(0) * half, half)
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    tile = nl.ndarray((half, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x[rows, :])
    nisa.tensor_tensor(dst=tile, data1=tile, data2=tile, op=nl.add)
    nisa.dma_copy(dst=out[rows, :], src=tile)
    return out


@jit
def swapped_sums(x):
    """Each program sums its half of the columns; they exchange the sums and write all of them."""
    me = nl.program_id(0)
    half = x.shape[1] // 2
    tile = nl.ndarray((x.shape[0], half), dtype=x.dtype, buffer=nl.sbuf)
    mine, theirs = [nl.ndarray((x.shape[0], 1), dtype=nl.float32, buffer=nl.sbuf) for _ in range(2)]
    nisa.dma_copy(dst=tile, src=x[:, me * half : (me + 1) * half])
    nisa.tensor_reduce(dst=mine, op=nl.add, data=tile, axis=1)
    nisa.sendrecv(mine, theirs, send_to_rank=1 - me, recv_from_rank=1 - me, pipe_id=0)
    nisa.tensor_tensor(dst=mine, data1=mine, data2=theirs, op=nl.add)
    out = nl.ndarray((2, x.shape[0], 1), dtype=nl.float32, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out[me], src=mine)
    return out


@jit
def mirrored(x):
    """Each program writes a row and, after a barrier, reads the other's."""
    me = nl.program_id(0)
    board = nl.ndarray((2, x.shape[1]), dtype=x.dtype, buffer=nl.shared_hbm)
    out = nl.ndarray((2, x.shape[1]), dtype=x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=board[me : me + 1, :], src=x[me : me + 1, :])
    nisa.core_barrier(board, (0, 1))
    nisa.dma_copy(dst=out[me : me + 1, :], src=board[1 - me : 2 - me, :])
    return out


@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize("programs", [1, 2])
def test_halves(programs: int, target: str) -> None:
    np.testing.assert_array_equal(simulate(doubled, target=target)[programs](X), X + X)


@pytest.mark.parametrize("target", BOTH)
def test_sendrecv(target: str) -> None:
    found = simulate(swapped_sums, target=target)[2](X)
    np.testing.assert_allclose(found[0], X.astype(np.float64).sum(1, keepdims=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("target", BOTH)
def test_core_barrier(target: str) -> None:
    np.testing.assert_array_equal(simulate(mirrored, target=target)[2](X), X[1::-1])


def test_runs_are_repeatable() -> None:
    runs = [simulate(swapped_sums, target="trn2")[2](X) for _ in range(5)]
    assert all(np.array_equal(runs[0], run) for run in runs)


def test_each_program_has_its_own_sbuf_and_counts_its_own_instructions() -> None:
    run = simulate(doubled, target="trn2")[2].run(X)
    assert run.instructions == [3, 3]
    assert [peak.amount for peak, _ in run.peaks] == [32 * 4 * 32 / 128] * 2


def test_what_both_programs_write_is_complete_only_together() -> None:
    @jit
    def kernel(x: Any) -> Any:
        me = nl.program_id(0)
        out = nl.ndarray((4, 32), dtype=nl.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out[me : me + 1, :], src=x[me : me + 1, :])
        return out

    with pytest.raises(SimulationError, match=r"K014[\s\S]*64 elements"):
        simulate(kernel, target="trn2")[2](X)


def test_program_identity() -> None:
    seen: list[tuple[int, int, int]] = []

    @jit
    def kernel() -> None:
        seen.append((nl.program_id(0), nl.num_programs(), nl.program_ndim()))

    simulate(kernel, target="trn2")[2]()
    simulate(kernel, target="trn2")()
    assert sorted(seen[:2]) == [(0, 2, 1), (1, 2, 1)]
    assert seen[2:] == [(0, 1, 0)]


@pytest.mark.parametrize(("elements", "fits"), [(256, True), (257, False)])
def test_gpsimd_exchanges_are_limited(elements: int, fits: bool) -> None:
    @jit
    def kernel() -> None:
        other = 1 - nl.program_id(0)
        tile = nl.full((16, elements), 1.0, nl.float32)
        received = nl.ndarray((16, elements), nl.float32, buffer=nl.sbuf)
        nisa.sendrecv(tile, received, other, other, 0, nisa.dma_engine.gpsimd_dma)

    if fits:
        simulate(kernel, target="trn2")[2]()
        return
    with pytest.raises(SimulationError, match="K007"):
        simulate(kernel, target="trn2")[2]()


def test_what_both_have_written_alike_each_may_read() -> None:
    """No barrier is needed for values that a program has written itself."""

    @jit
    def kernel(x: Any) -> Any:
        me = nl.program_id(0)
        board = nl.ndarray((1, 32), dtype=nl.float32, buffer=nl.shared_hbm)
        out = nl.ndarray((2, 32), dtype=nl.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=board, src=x[0:1, :])
        nisa.dma_copy(dst=out[me : me + 1, :], src=board)
        return out

    np.testing.assert_array_equal(simulate(kernel, target="trn2")[2](X), X[[0, 0]])


def test_the_first_error_of_either_program_is_reported() -> None:
    @jit
    def kernel() -> None:
        if nl.program_id(0) == 1:
            nl.ndarray((129, 1), nl.float32, buffer=nl.sbuf)

    with pytest.raises(SimulationError, match="K007"):
        simulate(kernel, target="trn2")[2]()
