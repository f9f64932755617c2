"""Whole kernels in the simulator against numpy in fp64: matmul, softmax, RMSNorm, flash attention (d 128 and 512)."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import sample_kernels as kernels

from g4c.lowering.nki.simulator import simulate

BF16 = np.dtype(ml_dtypes.bfloat16)
FP32 = np.dtype(np.float32)


def normal(shape: tuple[int, ...], dtype: np.dtype, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("target", ["trn1", "trn2", "trn3"])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_matmul(target: str, dtype: np.dtype) -> None:
    lhs, rhs = normal((300, 200), dtype), normal((300, 700), dtype, 1)
    found = simulate(kernels.matmul, target=target)(lhs, rhs)
    expected = lhs.astype(np.float64).T @ rhs.astype(np.float64)
    assert found.dtype == dtype
    assert found.shape == (200, 700)
    assert relative_error(found, expected) < (1e-6 if dtype == FP32 else 2.5e-3)


def test_softmax() -> None:
    x = normal((200, 333), FP32) * 5
    powers = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(simulate(kernels.softmax, target="trn2")(x), expected, rtol=1e-5)


@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_rms_norm(target: str) -> None:
    x, weight = normal((150, 256), BF16), normal((256,), BF16, 1)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt(np.square(wide).mean(axis=1, keepdims=True) + 1e-6) * weight.astype(np.float64)
    found = simulate(kernels.rms_norm, target=target)(x, weight, 1e-6)
    assert relative_error(found, expected) < 2.5e-3


@pytest.mark.parametrize(("length", "width"), [(300, 128), (640, 512)])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_flash_attention(length: int, width: int, dtype: np.dtype) -> None:
    q, k, v = (normal((length, width), dtype, seed) for seed in range(3))
    scale = width**-0.5
    scores = q.astype(np.float64) @ k.astype(np.float64).T * scale
    scores[np.triu_indices(length, 1)] = -np.inf
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = powers / powers.sum(axis=1, keepdims=True) @ v.astype(np.float64)
    found = simulate(kernels.flash_attention, target="trn2")(q, k, v, scale)
    assert relative_error(found, expected) < (2e-6 if dtype == FP32 else 5e-3)
