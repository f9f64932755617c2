"""DMA against numpy: casts, gathers, scatters, rows out of bounds, transposes, sums, dynamic addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from instruction_case import BF16, FP32, INT32, UINT32, Array, integers, normal, single

from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import jit, simulate
from g4c.lowering.nki.simulator import language as nl

TABLE = normal(50, 24)
SKIP = nisa.oob_mode.skip


def run(body: Callable[..., Any], *arrays: Array, target: str = "trn2") -> Any:
    """What kernel body(*HBM tensors) returns."""

    @jit
    def kernel(*tensors: Any) -> Any:
        return body(*tensors)

    return simulate(kernel, target=target)(*arrays)


def output(shape: tuple[int, ...], dtype: Any = FP32) -> Any:
    return nl.ndarray(shape, dtype, buffer=nl.shared_hbm)


def sbuf(shape: tuple[int, ...], dtype: Any = FP32) -> Any:
    return nl.ndarray(shape, dtype, buffer=nl.sbuf)


@pytest.mark.parametrize(
    ("source", "target"), [(FP32, BF16), (BF16, FP32), (FP32, INT32), (INT32, FP32)], ids=lambda d: str(d)
)
def test_a_copy_casts_through_fp32(source: np.dtype, target: np.dtype) -> None:
    def copied(x: Any) -> Any:
        tile, out = sbuf(x.shape, target), output(x.shape, target)
        nisa.dma_copy(dst=tile, src=x)
        nisa.dma_copy(dst=out, src=tile)
        return out

    x = (TABLE * 100).astype(source)
    expected = np.rint(single(x)).astype(np.int32) if target == INT32 else single(x).astype(target)
    np.testing.assert_array_equal(run(copied, x), expected)


def test_shapes_of_a_copy_may_differ() -> None:
    def copied(x: Any) -> Any:
        tile, out = sbuf((24, 50)), output((25, 48))
        nisa.dma_copy(dst=tile, src=x)
        nisa.dma_copy(dst=out, src=tile)
        return out

    np.testing.assert_array_equal(run(copied, TABLE), TABLE.reshape(25, 48))


def test_hbm_to_hbm_and_a_row_for_every_partition() -> None:
    def copied(x: Any) -> Any:
        out, tile = output((50, 24)), sbuf((50, 24))
        nisa.dma_copy(dst=tile, src=x.ap([[0, 50], [1, 24]], offset=24))
        nisa.dma_copy(dst=out[:25, :], src=x[25:, :])
        nisa.dma_copy(dst=out[25:, :], src=tile[25:50, :])
        return out

    expected = np.concatenate([TABLE[25:], np.tile(TABLE[1], (25, 1))])
    np.testing.assert_array_equal(run(copied, TABLE), expected)


@pytest.mark.parametrize("kind", [INT32, UINT32], ids=str)
@pytest.mark.parametrize("select", [False, True])
def test_gather(kind: np.dtype, select: bool) -> None:
    rows = integers(0, 50, 32, 1, dtype=kind)

    def gathered(x: Any, i: Any) -> Any:
        index, tile, out = nl.load(i), sbuf((32, 24)), output((32, 24))
        source = x.vector_select(0, index) if select else x.ap([[24, 32], [1, 24]], vector_offset=index)
        nisa.dma_copy(dst=tile, src=source)
        nisa.dma_copy(dst=out, src=tile)
        return out

    np.testing.assert_array_equal(run(gathered, TABLE, rows), TABLE[rows[:, 0].astype(int)])


def test_a_gather_of_parts_of_rows() -> None:
    rows = integers(0, 50, 32, 1)

    def gathered(x: Any, i: Any) -> Any:
        index, tile, out = nl.load(i), sbuf((32, 5)), output((32, 5))
        nisa.dma_copy(dst=tile, src=x.ap([[24, 32], [2, 5]], offset=3, vector_offset=index))
        nisa.dma_copy(dst=out, src=tile)
        return out

    np.testing.assert_array_equal(run(gathered, TABLE, rows), TABLE[rows[:, 0], 3:13:2])


def test_a_gather_skips_rows_out_of_bounds() -> None:
    rows = np.array([[3], [50], [-1], [49]], np.int32)

    def gathered(x: Any, i: Any) -> Any:
        index, tile, out = nl.load(i), sbuf((4, 24)), output((4, 24))
        nisa.memset(tile, 7.0)
        nisa.dma_copy(dst=tile, src=x.ap([[24, 4], [1, 24]], vector_offset=index), oob_mode=SKIP)
        nisa.dma_copy(dst=out, src=tile)
        return out

    seven = np.full(24, 7, np.float32)
    np.testing.assert_array_equal(run(gathered, TABLE, rows), np.stack([TABLE[3], seven, seven, TABLE[49]]))


def test_a_scatter_and_its_rows_out_of_bounds() -> None:
    rows = np.array([[5], [0], [99], [2]], np.int32)

    def scattered(x: Any, i: Any) -> Any:
        index, tile, out = nl.load(i), nl.load(x[:4, :]), output((8, 24))
        nisa.dma_copy(dst=out, src=x[8:16, :])
        nisa.dma_copy(dst=out.ap([[24, 4], [1, 24]], vector_offset=index), src=tile, oob_mode=SKIP)
        return out

    expected = TABLE[8:16].copy()
    expected[[5, 0, 2]] = TABLE[[0, 1, 3]]
    np.testing.assert_array_equal(run(scattered, TABLE, rows), expected)


@pytest.mark.parametrize("register", [False, True])
def test_a_row_at_a_run_time_address(register: bool) -> None:
    def copied(x: Any, i: Any) -> Any:
        index, tile, out = nl.load(i), sbuf((2, 24)), output((2, 24))
        if register:
            loaded = nisa.register_alloc()
            nisa.register_load(loaded, index)
            index = loaded
        nisa.dma_copy(dst=tile, src=x.ap([[24, 2], [1, 24]], scalar_offset=index, indirect_dim=0))
        nisa.dma_copy(dst=out, src=tile)
        return out

    np.testing.assert_array_equal(run(copied, TABLE, np.array([[17]], np.int32)), TABLE[17:19])


def test_a_write_at_a_run_time_address_updates_the_argument() -> None:
    def written(cache: Any, row: Any, i: Any) -> Any:
        index = nl.load(i)
        nisa.dma_copy(dst=cache[index, :], src=row)
        return cache

    cache, row = TABLE.copy(), normal(1, 24, seed=9)
    found = run(written, cache, row, np.array([[17]], np.int32))
    expected = TABLE.copy()
    expected[17] = row
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(cache, expected)


def test_a_run_time_address_out_of_bounds_is_skipped() -> None:
    def copied(x: Any, i: Any) -> Any:
        index, out = nl.load(i), output((1, 24))
        nisa.dma_copy(dst=out, src=x[0:1, :])
        nisa.dma_copy(dst=out, src=x.ap([[24, 1], [1, 24]], scalar_offset=index), oob_mode=SKIP)
        return out

    np.testing.assert_array_equal(run(copied, TABLE, np.array([[50]], np.int32)), TABLE[:1])


@pytest.mark.parametrize(
    ("shape", "order"), [((16, 40), (1, 0)), ((16, 3, 40), (2, 1, 0)), ((16, 3, 2, 40), (3, 1, 2, 0))], ids=str
)
def test_dma_transpose(shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    def transposed(x: Any) -> Any:
        target = tuple([shape[n] for n in order])
        tile, out = sbuf(target, BF16), output(target, BF16)
        nisa.dma_transpose(dst=tile, src=x, axes=order)
        nisa.dma_copy(dst=out, src=tile)
        return out

    x = normal(*shape, dtype=BF16)
    np.testing.assert_array_equal(run(transposed, x), np.transpose(x, order))


def test_dma_transpose_of_gathered_rows() -> None:
    """flat = index.T.flatten()[:rows]; dst = src[flat].T."""
    index = integers(0, 64, 128, 2, dtype=UINT32)
    table = normal(64, 96, dtype=BF16)

    def transposed(x: Any, i: Any) -> Any:
        tile, out = sbuf((96, 160), BF16), output((96, 160), BF16)
        rows = x.ap([[96, 160], [1, 96]], vector_offset=nl.load(i))
        nisa.dma_transpose(dst=tile, src=rows)
        nisa.dma_copy(dst=out, src=tile)
        return out

    flat = index.T.reshape(-1)[:160].astype(int)
    np.testing.assert_array_equal(run(transposed, table, index), table[flat].T)


def test_dma_compute_adds_in_fp32() -> None:
    x, y, z = (normal(50, 24, dtype=BF16, seed=n) for n in range(3))

    def added(a: Any, b: Any, c: Any) -> Any:
        out = output((50, 24), BF16)
        nisa.dma_compute(dst=out, srcs=[a, b, c], reduce_op=nl.add)
        return out

    np.testing.assert_array_equal(run(added, x, y, z), (single(x) + single(y) + single(z)).astype(BF16))


def test_dma_compute_scatters_sums() -> None:
    index = np.random.default_rng(0).permutation(50)[:16].astype(np.int32)[:, None]
    update = normal(16, 24, seed=5)

    def added(x: Any, u: Any, i: Any) -> Any:
        out = output((50, 24))
        nisa.dma_copy(dst=out, src=x)
        rows = out.ap([[24, 16], [1, 24]], vector_offset=nl.load(i))
        nisa.dma_compute(dst=rows, srcs=[nl.load(u), rows], reduce_op=nl.add)
        return out

    expected = TABLE.copy()
    expected[index[:, 0]] += update
    np.testing.assert_array_equal(run(added, TABLE, update, index), expected)


def test_dma_compute_gathers_sums() -> None:
    index = np.random.default_rng(0).permutation(50)[:16].astype(np.int32)[:, None]
    start = normal(16, 24, seed=5)

    def added(x: Any, u: Any, i: Any) -> Any:
        out, tile = output((16, 24)), nl.load(u)
        rows = x.ap([[24, 16], [1, 24]], vector_offset=nl.load(i))
        nisa.dma_compute(dst=tile, srcs=[tile, rows], reduce_op=nl.add)
        nisa.dma_copy(dst=out, src=tile)
        return out

    np.testing.assert_array_equal(run(added, TABLE, start, index), start + TABLE[index[:, 0]])
