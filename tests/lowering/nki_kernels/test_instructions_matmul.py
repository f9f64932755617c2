"""The Tensor Engine against numpy: products, accumulation in PSUM, transposes, per generation."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from instruction_case import BF16, FP32, Array, execute, normal, single

from g4c.lowering.nki.simulator import SimulationError
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl

FP16 = np.dtype(np.float16)
FP8 = np.dtype(ml_dtypes.float8_e4m3)
FP8_E5 = np.dtype(ml_dtypes.float8_e5m2)
GENERATIONS = ("trn1", "trn2", "trn3")


def product(left: Array, right: Array) -> Array:
    return left.astype(np.float64).T @ right.astype(np.float64)


@pytest.mark.parametrize("target", GENERATIONS)
@pytest.mark.parametrize(
    ("left", "right"), [(FP32, FP32), (BF16, BF16), (BF16, FP16), (FP8, FP8), (FP8_E5, BF16)], ids=str
)
def test_products_of_every_type(left: np.dtype, right: np.dtype, target: str) -> None:
    a, b = normal(96, 70, dtype=left), normal(96, 130, dtype=right, seed=1)
    found = execute(
        lambda d, s, m: nisa.nc_matmul(d, s, m, accumulate=False),
        a,
        b,
        shape=(70, 130),
        target=target,
        memory=nl.psum,
    )
    np.testing.assert_allclose(found, product(a, b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", GENERATIONS)
@pytest.mark.parametrize("flags", [(False, True, True), (None, None, None), (False, None, True)], ids=str)
def test_accumulation(flags: tuple[bool | None, ...], target: str) -> None:
    a, b = normal(3 * 128, 64, dtype=BF16), normal(3 * 128, 96, dtype=BF16, seed=1)

    def accumulated(d: Any, *tiles: Any) -> None:
        for k in range(3):
            nisa.nc_matmul(d, tiles[k], tiles[3 + k], accumulate=flags[k])

    parts = [a[k * 128 : (k + 1) * 128] for k in range(3)] + [b[k * 128 : (k + 1) * 128] for k in range(3)]
    found = execute(accumulated, *parts, shape=(64, 96), target=target, memory=nl.psum)
    np.testing.assert_allclose(found, product(a, b), rtol=1e-5, atol=1e-4)


def test_accumulate_none_overwrites_where_nothing_is() -> None:
    a, b = normal(128, 64), normal(128, 32, seed=1)

    def halves(d: Any, s: Any, m: Any) -> None:
        nisa.nc_matmul(d[:, :32], s, m)
        nisa.nc_matmul(d[:, 16:48], s, m)

    found = execute(halves, a, b, shape=(64, 48), memory=nl.psum)
    expected = np.zeros((64, 48))
    expected[:, :32] += product(a, b)
    expected[:, 16:48] += product(a, b)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_accumulate_false_overwrites() -> None:
    a, b = normal(128, 64), normal(128, 32, seed=1)

    def twice(d: Any, s: Any, m: Any) -> None:
        nisa.nc_matmul(d, s, m, accumulate=False)
        nisa.nc_matmul(d, s, m, accumulate=False)

    np.testing.assert_allclose(
        execute(twice, a, b, shape=(64, 32), memory=nl.psum), product(a, b), rtol=1e-5, atol=1e-4
    )


def test_accumulation_rounds_to_bf16_on_trn3() -> None:
    a, b = normal(128, 64, dtype=BF16), normal(128, 32, dtype=BF16, seed=1)

    def twice(d: Any, s: Any, m: Any) -> None:
        nisa.nc_matmul(d, s, m, accumulate=False)
        nisa.nc_matmul(d, s, m, accumulate=True)

    found = execute(twice, a, b, shape=(64, 32), dtype=BF16, target="trn3", memory=nl.psum)
    once = single(product(a, b).astype(np.float32).astype(BF16))
    difference = np.abs(single(found) - (once + product(a, b)))
    assert (difference <= np.abs(once) * 2**-8 * 1.01 + 1e-3).all()


def test_free_dimensions_flatten_in_order() -> None:
    a, b = normal(128, 64), normal(128, 96, seed=1)
    found = execute(
        lambda d, s, m: nisa.nc_matmul(
            d.reshape((64, 8, 12)), s.reshape((128, 8, 8)), m.reshape((128, 8, 12)).permute((0, 2, 1)), accumulate=False
        ),
        a,
        b,
        shape=(64, 96),
        memory=nl.psum,
    )
    expected = product(a, b.reshape(128, 8, 12).transpose(0, 2, 1).reshape(128, 96))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_row_tiles(target: str) -> None:
    """The contraction over 32 rows of the array, at two places, accumulates like any other."""
    a, b = normal(128, 64), normal(128, 96, seed=1)

    def tiled(d: Any, s: Any, m: Any) -> None:
        for row in range(0, 128, 32):
            rows = slice(row, row + 32)
            nisa.nc_matmul(d, s[rows, :], m[rows, :], accumulate=row > 0, tile_position=(row, 0), tile_size=(32, 128))

    found = execute(tiled, a, b, shape=(64, 96), target=target, memory=nl.psum)
    np.testing.assert_allclose(found, product(a, b), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_double_row(target: str) -> None:
    a, b = normal(128, 2 * 64, dtype=FP8), normal(128, 2 * 96, dtype=FP8, seed=1)
    found = execute(
        lambda d, s, m: nisa.nc_matmul(
            d,
            s.reshape((128, 2, 64)),
            m.reshape((128, 2, 96)),
            accumulate=False,
            perf_mode=nisa.matmul_perf_mode.double_row,
        ),
        a,
        b,
        shape=(64, 96),
        target=target,
        memory=nl.psum,
    )
    expected = sum(product(a.reshape(128, 2, 64)[:, r], b.reshape(128, 2, 96)[:, r]) for r in range(2))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [FP32, BF16, np.dtype(np.int32)], ids=str)
@pytest.mark.parametrize("engine", ["tensor", "vector", "unknown"])
def test_nc_transpose(engine: str, dtype: np.dtype) -> None:
    shape = (32, 24) if engine == "vector" else (120, 72)
    x = (normal(*shape) * 100).astype(dtype)
    memory = nl.sbuf if engine == "vector" else nl.psum
    found = execute(
        lambda d, a: nisa.nc_transpose(d, a, engine=getattr(nisa.engine, engine)),
        x,
        shape=shape[::-1],
        dtype=dtype,
        memory=memory,
    )
    np.testing.assert_array_equal(found, x.T)


@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_a_matmul_as_transpose_is_exact_from_v3_on(target: str) -> None:
    x = normal(100, 60, dtype=BF16)
    x[3, 5], x[4, 7] = np.inf, np.nan

    def transposed(d: Any, a: Any) -> None:
        nisa.nc_matmul(d, a, nl.shared_identity_matrix(100, dtype=nl.bfloat16), is_transpose=True)

    found = execute(transposed, x, shape=(60, 100), dtype=BF16, target=target, memory=nl.psum)
    np.testing.assert_array_equal(single(found), single(x.T))


def test_on_v2_a_nan_spoils_the_row_of_a_transpose() -> None:
    x = normal(100, 60, dtype=BF16)
    x[4, 7] = np.nan
    found = execute(lambda d, a: nisa.nc_transpose(d, a), x, shape=(60, 100), dtype=BF16, target="trn1", memory=nl.psum)
    expected = single(x.T)
    expected[7, :] = np.nan
    np.testing.assert_array_equal(single(found), expected)


def test_fp32_products_are_refused_with_bf16() -> None:
    with pytest.raises(SimulationError, match="K010"):
        execute(
            lambda d, s, m: nisa.nc_matmul(d, s, m, accumulate=False),
            normal(64, 64),
            normal(64, 64, dtype=BF16),
            memory=nl.psum,
        )


def test_on_v2_a_transpose_into_psum_may_be_fp32_as_every_product() -> None:
    x = normal(60, 100, dtype=BF16)

    def transposed(target: str) -> Array:
        return execute(lambda d, a: nisa.nc_transpose(d, a), x, shape=(100, 60), target=target, memory=nl.psum)

    np.testing.assert_array_equal(transposed("trn1"), x.T.astype(np.float32))
    with pytest.raises(SimulationError, match="K010"):
        transposed("trn2")
