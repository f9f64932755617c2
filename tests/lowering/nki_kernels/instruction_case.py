"""One instruction on given arrays: what the tests of the instructions run.

In: a function of a destination tile and source tiles; numpy arrays.
Out: what the destination holds afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import jit, simulate
from g4c.lowering.nki.simulator import language as nl

BF16 = np.dtype(ml_dtypes.bfloat16)
FP32 = np.dtype(np.float32)
INT32 = np.dtype(np.int32)
UINT32 = np.dtype(np.uint32)
Array = np.ndarray[Any, Any]
Memory = nl.MemoryRegion


def normal(*shape: int, dtype: Any = FP32, seed: int = 0) -> Array:
    """Normally distributed numbers of a type."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def integers(low: int, high: int, *shape: int, dtype: Any = INT32, seed: int = 0) -> Array:
    """Integers low..high - 1 of a type."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def single(array: Array) -> Array:
    """As fp32."""
    return array.astype(np.float32)


def execute(
    instruction: Callable[..., Any],
    *arrays: Array,
    shape: tuple[int, ...] | None = None,
    dtype: Any = FP32,
    target: str = "trn2",
    held: Array | None = None,
    memory: Memory = nl.sbuf,
) -> Array:
    """The destination [shape] of `dtype` after instruction(destination, *tiles); `held`: what it holds before.

    The tiles are in SBUF; the destination is in `memory`.
    """

    @jit
    def kernel(*values: Any) -> Any:
        tiles = []
        for value in values[1:]:
            tile = nl.ndarray(value.shape, value.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=tile, src=value)
            tiles.append(tile)
        size = shape or values[1].shape
        destination = nl.ndarray(size, dtype, buffer=memory)
        if values[0] is not None:
            before = nl.ndarray(size, dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=before, src=values[0])
            nisa.tensor_copy(dst=destination, src=before)
        instruction(destination, *tiles)
        out = nl.ndarray(size, dtype, buffer=nl.shared_hbm)
        if memory == nl.psum:
            copied = nl.ndarray(size, dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=copied, src=destination)
            destination = copied
        nisa.dma_copy(dst=out, src=destination)
        return out

    result: Array = simulate(kernel, target=target)(held, *arrays)
    return result


@dataclass(frozen=True)
class Example:
    """An instruction on arrays, and what numpy makes of them; `tolerance`: relative, 0 where the result is exact."""

    name: str
    instruction: Callable[..., Any]
    arrays: tuple[Array, ...]
    expected: Callable[..., Array]
    dtype: Any = FP32
    shape: tuple[int, ...] | None = None
    tolerance: float = 0.0
    targets: tuple[str, ...] = ("trn1", "trn2", "trn3")
    options: dict[str, Any] = field(default_factory=dict)

    def check(self, target: str) -> None:
        """Run it and compare."""
        found = execute(
            self.instruction, *self.arrays, shape=self.shape, dtype=self.dtype, target=target, **self.options
        )
        expected = np.asarray(self.expected(*self.arrays))
        assert found.dtype == self.dtype
        if self.tolerance:
            wide = found.astype(np.float64)
            np.testing.assert_allclose(wide, expected.reshape(found.shape), rtol=self.tolerance, atol=self.tolerance)
        else:
            assert expected.dtype == found.dtype, "an exact expectation has the type of the result"
            np.testing.assert_array_equal(found, expected.reshape(found.shape))


def cases(examples: list[Example]) -> list[tuple[Example, str]]:
    """Every example on each of its targets."""
    return [(example, target) for example in examples for target in example.targets]


def label(value: object) -> str:
    """What pytest shows."""
    return value.name if isinstance(value, Example) else str(value)
