"""What instructions compute, to the last bit where the last bit is defined: casts, and functions far from 0.

Oracles: torch's casts and functions; ml_dtypes has no part in the first, and the second are in double precision.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import jit, simulate
from g4c.lowering.nki.simulator import language as nl

FLOATS = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float8_e5m2": torch.float8_e5m2}
INTEGERS = {"int8": torch.int8, "uint8": torch.uint8, "int16": torch.int16, "int32": torch.int32}
WAYS = ["vector", "scalar", "dma"]


def cast(values: np.ndarray, dtype: str, way: str) -> np.ndarray:
    """`values` [P, N] as `dtype`, by an engine or by a DMA, as fp32."""

    @jit
    def kernel(x: Any) -> Any:
        source, target = nl.load(x), nl.ndarray(x.shape, dtype, buffer=nl.sbuf)
        out = nl.ndarray(x.shape, dtype, buffer=nl.shared_hbm)
        if way == "dma":
            nisa.dma_copy(dst=target, src=source)
        elif way == "vector":
            nisa.tensor_copy(dst=target, src=source)
        else:
            nisa.activation(dst=target, op=nl.copy, data=source)
        nisa.dma_copy(dst=out, src=target)
        return out

    return simulate(kernel, target="trn2")(values).astype(np.float32)


def ties(bits: int) -> np.ndarray:
    """Values half-way between two of `bits` significant bits, their neighbors in fp32, and values that overflow."""
    half = np.arange(2**bits, 2 ** (bits + 1), dtype=np.float64) + 0.5
    near = np.concatenate([half, half * (1 + 2.0**-20), half * (1 - 2.0**-20)])
    scaled = np.concatenate([near * 2.0**shift for shift in (-bits - 3, -bits, 0)])
    values = np.concatenate([scaled, -scaled, [0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-30]])
    return values.astype(np.float32).reshape(1, -1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 8), ("float16", 11), ("float8_e5m2", 3)])
def test_floats_round_once_to_nearest_even(dtype: str, bits: int, way: str) -> None:
    values = ties(bits)
    expected = torch.from_numpy(values).to(FLOATS[dtype]).float().numpy()
    np.testing.assert_array_equal(cast(values, dtype, way), expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_round_to_nearest_even_and_saturate(dtype: str, way: str) -> None:
    limits = torch.iinfo(INTEGERS[dtype])
    values = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 2.5000002, 99.5, 1e3, -1e3, 4e9, -4e9, np.inf, -np.inf]])
    expected = np.clip(np.round(values), limits.min, limits.max)
    np.testing.assert_array_equal(cast(values.astype(np.float32), dtype, way), expected.astype(np.float32))


FUNCTIONS = {
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_apprx_tanh": lambda x: x * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)),
    "gelu_apprx_sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    "erf": torch.erf,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "exp": torch.exp,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_keep_their_relative_error_where_they_are_small(name: str) -> None:
    x = np.concatenate([s * np.geomspace(1e-6, 6.0, 60) for s in (1, -1)]).astype(np.float32).reshape(1, -1)

    @jit
    def kernel(x: Any) -> Any:
        tile, out = nl.load(x), nl.ndarray(x.shape, nl.float32, buffer=nl.shared_hbm)
        nisa.activation(dst=tile, op=getattr(nl, name), data=tile)
        nisa.dma_copy(dst=out, src=tile)
        return out

    expected = FUNCTIONS[name](torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(simulate(kernel, target="trn2")(x), expected, rtol=5e-6)


def test_a_sum_is_of_what_was_read_where_the_result_overwrites_it() -> None:
    @jit
    def kernel(x: Any) -> Any:
        tile, total = nl.load(x), nl.ndarray((4, 1), nl.float32, buffer=nl.sbuf)
        nisa.activation(
            dst=tile[:, 1:],
            op=nl.copy,
            data=tile[:, :-1],
            reduce_op=nl.add,
            reduce_res=total,
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )
        out = nl.ndarray((4, 1), nl.float32, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=total)
        return out

    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    np.testing.assert_array_equal(simulate(kernel, target="trn2")(x), x[:, :-1].sum(1, keepdims=True))
