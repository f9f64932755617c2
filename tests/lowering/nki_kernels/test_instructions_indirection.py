"""Indirect views of tiles (v4) against numpy: gathers and scatters by the instructions that have them, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from instruction_case import BF16, Array, execute, normal

from g4c.lowering.nki.simulator import SimulationError, jit, simulate
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl

ROWS, WIDE, COLUMNS = 64, 40, 24
A, B = normal(ROWS, WIDE), normal(ROWS, COLUMNS, seed=1)
SEED = np.random.default_rng(2)


def offsets(group: int, count: int, width: int = WIDE) -> tuple[Array, Array]:
    """Distinct offsets of each group of partitions, [ROWS, count], and the index tile that holds them."""
    wanted = np.stack([SEED.permutation(width)[:count] for _ in range(ROWS // group)])
    index = np.zeros((ROWS, -(-count // group)), np.uint16)
    for at, row in enumerate(wanted):
        for n, offset in enumerate(row):
            index[at * group + n % group, n // group] = offset
    return np.repeat(wanted, group, axis=0), index


CHOSEN, INDEX = offsets(16, COLUMNS)
CHOSEN_32, INDEX_32 = offsets(32, COLUMNS)
GATHERED = np.take_along_axis(A, CHOSEN, 1)


def scattered(values: Array, held: Array, chosen: Array = CHOSEN) -> Array:
    """`held` with `values` at the chosen places."""
    result = held.copy()
    np.put_along_axis(result, chosen, values.astype(held.dtype), 1)
    return result


def view(tile: Any, index: Any) -> Any:
    return tile.indirect(index, num_elem=COLUMNS)


Call = Callable[[Any, Any, Any, Any], Any]
GATHERS: list[tuple[str, Call, Array]] = [
    ("tensor_copy", lambda d, a, b, i: nisa.tensor_copy(d, view(a, i)), GATHERED),
    ("scalar", lambda d, a, b, i: nisa.tensor_copy(d, view(a, i), engine=nisa.engine.scalar), GATHERED),
    ("tensor_tensor", lambda d, a, b, i: nisa.tensor_tensor(d, view(a, i), b, nl.subtract), GATHERED - B),
    ("tensor_scalar", lambda d, a, b, i: nisa.tensor_scalar(d, view(a, i), nl.multiply, 2.0), 2 * GATHERED),
    ("activation", lambda d, a, b, i: nisa.activation(d, nl.square, view(a, i), scale=3.0), np.square(3 * GATHERED)),
    (
        "activate2",
        lambda d, a, b, i: nisa.activate2(d, nl.copy, view(a, i), 2.0, 1.0, nl.multiply, nl.add),
        2 * GATHERED + 1,
    ),
    ("exponential", lambda d, a, b, i: nisa.exponential(d, view(a, i)), np.exp(GATHERED)),
    (
        "tensor_scalar_reduce",
        lambda d, a, b, i: nisa.tensor_scalar_reduce(d, view(a, i), nl.add, 1.0, nl.add),
        GATHERED + 1,
    ),
    (
        "tensor_scalar_cumulative",
        lambda d, a, b, i: nisa.tensor_scalar_cumulative(d, view(a, i), nl.multiply, nl.maximum, 1.0),
        np.maximum.accumulate(GATHERED, 1),
    ),
]


@pytest.mark.parametrize(("instruction", "expected"), [g[1:] for g in GATHERS], ids=[g[0] for g in GATHERS])
def test_gathers(instruction: Call, expected: Array) -> None:
    found = execute(instruction, A, B, INDEX, shape=(ROWS, COLUMNS), target="trn3")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_reductions_gather_too() -> None:
    found = execute(
        lambda d, a, i: nisa.tensor_reduce(d, nl.add, view(a, i), axis=1), A, INDEX, shape=(ROWS, 1), target="trn3"
    )
    np.testing.assert_allclose(found, GATHERED.astype(np.float64).sum(1, keepdims=True), rtol=1e-4, atol=1e-5)


SCATTERS: list[tuple[str, Call]] = [
    ("tensor_copy", lambda d, b, i: nisa.tensor_copy(view(d, i), b)),
    ("tensor_tensor", lambda d, b, i: nisa.tensor_tensor(view(d, i), b, b, nl.maximum)),
    ("activation", lambda d, b, i: nisa.activation(view(d, i), nl.copy, b)),
]


@pytest.mark.parametrize("instruction", [s[1] for s in SCATTERS], ids=[s[0] for s in SCATTERS])
def test_scatters(instruction: Call) -> None:
    found = execute(instruction, B, INDEX, shape=(ROWS, WIDE), target="trn3", held=A)
    np.testing.assert_array_equal(found, scattered(B, A))


def test_predicates_are_gathered_and_what_they_choose_scattered() -> None:
    mask = (A > 0).astype(np.uint8)
    found = execute(
        lambda d, b, m, i: nisa.tensor_copy_predicated(view(d, i), b, view(m, i)),
        B,
        mask,
        INDEX,
        shape=(ROWS, WIDE),
        target="trn3",
        held=A,
    )
    chosen = np.take_along_axis(mask, CHOSEN, 1) != 0
    np.testing.assert_array_equal(found, scattered(np.where(chosen, B, GATHERED), A))


def test_the_tensor_engine_has_groups_of_32() -> None:
    k, m = normal(ROWS, WIDE, dtype=BF16), normal(ROWS, 32, dtype=BF16, seed=3)

    def multiply(d: Any, moving: Any, stationary: Any, index: Any) -> None:
        psum = nl.ndarray((32, COLUMNS), nl.float32, buffer=nl.psum)
        nisa.nc_matmul(psum, stationary, view(moving, index), accumulate=False)
        nisa.nc_matmul(psum, stationary, view(moving, index), accumulate=True)
        nisa.tensor_copy(d, psum)

    found = execute(multiply, k, m, INDEX_32, shape=(32, COLUMNS), target="trn3")
    moving = np.take_along_axis(k.astype(np.float64), CHOSEN_32, 1)
    np.testing.assert_allclose(found, 2 * m.astype(np.float64).T @ moving, rtol=1e-5, atol=1e-5)


def test_a_matmul_adds_to_what_it_has_scattered() -> None:
    k, m = normal(32, COLUMNS, dtype=BF16), normal(32, ROWS, dtype=BF16, seed=3)

    def multiply(d: Any, moving: Any, stationary: Any, index: Any) -> None:
        psum = nl.ndarray((ROWS, WIDE), nl.float32, buffer=nl.psum)
        nisa.memset(psum, 7.0)
        nisa.nc_matmul(view(psum, index), stationary, moving, accumulate=False)
        nisa.nc_matmul(view(psum, index), stationary, moving, accumulate=True)
        nisa.tensor_copy(d, psum)

    found = execute(multiply, k, m, INDEX_32, shape=(ROWS, WIDE), target="trn3")
    product = 2 * m.astype(np.float64).T @ k.astype(np.float64)
    expected = scattered(product, np.full((ROWS, WIDE), 7.0), CHOSEN_32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_only_what_is_gathered_must_be_written() -> None:
    def half(d: Any, a: Any, index: Any) -> None:
        tile = nl.ndarray((ROWS, WIDE), nl.float32)
        nisa.tensor_copy(tile[:, 0:20], a[:, 0:20])
        nisa.tensor_copy(d, tile.indirect(index, num_elem=16))

    low = np.repeat(SEED.integers(0, 20, (1, 16)), ROWS, 0)
    index = np.tile(low[0], ROWS // 16).reshape(ROWS, 1).astype(np.uint16)
    found = execute(half, A, index, shape=(ROWS, 16), target="trn3")
    np.testing.assert_array_equal(found, np.take_along_axis(A, low, 1))
    with pytest.raises(SimulationError, match="G4C-K011"):
        execute(half, A, index + 5, shape=(ROWS, 16), target="trn3")


def test_an_index_is_read_by_every_use_of_the_view() -> None:
    def twice(d: Any, a: Any, index: Any) -> None:
        gathered = view(a, index)
        nisa.tensor_copy(d, gathered)
        nisa.memset(index, 3)
        nisa.tensor_tensor(d, gathered, d, nl.subtract)

    found = execute(twice, A, INDEX, shape=(ROWS, COLUMNS), target="trn3")
    np.testing.assert_array_equal(found, A[:, 3:4] - GATHERED)


REFUSALS: list[tuple[str, str, Call, str]] = [
    ("before v4", "K019", lambda d, a, b, i: nisa.tensor_copy(d, view(a, i)), "trn2"),
    (
        "too many columns",
        "K017",
        lambda d, a, b, i: nisa.tensor_copy(nl.ndarray((64, 128), a.dtype), a.indirect(i)),
        "",
    ),
    ("an offset outside", "K015", lambda d, a, b, i: nisa.tensor_copy(d, view(a[:, 0:4], i)), ""),
    ("no such operand", "K002", lambda d, a, b, i: nisa.tensor_tensor(d, b, view(a, i), nl.add), ""),
    ("no such instruction", "K002", lambda d, a, b, i: nisa.reciprocal(d, view(a, i)), ""),
    ("a DMA", "K002", lambda d, a, b, i: nisa.dma_copy(d, view(a, i)), ""),
    ("a view of it", "K023", lambda d, a, b, i: view(a, i)[:, 0:4], ""),
    ("GpSimd", "K018", lambda d, a, b, i: nisa.tensor_copy(d, view(a, i), engine=nisa.engine.gpsimd), ""),
    ("an index of fp32", "K002", lambda d, a, b, i: view(a, b), ""),
    ("partitions of the index", "K017", lambda d, a, b, i: view(a[0:32], i), ""),
    ("fp32 in a matmul", "K010", lambda d, a, b, i: nisa.nc_matmul(_psum(), b, view(a, i)), ""),
]


def _psum(*shape: int) -> Any:
    return nl.ndarray(shape or (COLUMNS, COLUMNS), nl.float32, buffer=nl.psum)


@pytest.mark.parametrize(("code", "call", "target"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS])
def test_refusals(code: str, call: Call, target: str) -> None:
    with pytest.raises(SimulationError, match=code):
        execute(call, A, B, INDEX, shape=(ROWS, COLUMNS), target=target or "trn3")


@pytest.mark.parametrize(("partition", "fits"), [(32, True), (0, False)])
def test_a_placed_tile_starts_at_the_partition_of_its_index(partition: int, fits: bool) -> None:
    @jit
    def kernel(x: Any, places: Any) -> Any:
        tile = nl.ndarray((32, WIDE), nl.float32, address=(32, 0))
        index = nl.ndarray((32, 2), nl.uint16, address=(partition, 4096))
        out, result = nl.ndarray((32, COLUMNS), nl.float32), nl.ndarray((32, COLUMNS), nl.float32, nl.shared_hbm)
        nisa.dma_copy(tile, x)
        nisa.dma_copy(index, places)
        nisa.tensor_copy(out, view(tile, index))
        nisa.dma_copy(result, out)
        return result

    run = simulate(kernel, target="trn3")
    if fits:
        np.testing.assert_array_equal(run(A[:32], INDEX[:32]), GATHERED[:32])
    else:
        with pytest.raises(SimulationError, match="K006"):
            run(A[:32], INDEX[:32])
