"""Random weights: a deterministic model with sane statistics, for runs without a checkpoint.

In: a seed and, per tensor, its checkpoint key and type. Out: arrays. What is drawn depends on the seed, the key and the
shape, not on the order of requests, the number of threads or the dtype (values are rounded to bf16 first).
No norm weight, scalar or table is left at a value that would hide a mistake: q_norm and k_norm in [0.1, 0.2], because
attention scores are unscaled and sum over 256 or 512 products (wider ranges make 35 layers amplify f32 rounding to 1e-4
of the logits), other norm weights in [0.5, 1.5], layer_scalar in [0.5, 0.9]; matrices are normal with variance
1 / fan-in, the router's with variance 1, because its input was scaled down by the root of the fan-in. 16 random bits
select each value from a table of quantiles: faster than drawing normals.
Invariant: peak memory is the result plus one small block per thread.
"""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from g4c.runtime.aligned import aligned_empty

if TYPE_CHECKING:
    from g4c.ir.types import Array, TensorType
    from g4c.ir.weights import Source

_BLOCK = 1 << 18  # elements that one random stream fills; part of what a seed means
_QUANTILES = 1 << 16
_UNIFORM = (
    ("q_norm.weight", 0.1, 0.2),
    ("k_norm.weight", 0.1, 0.2),
    ("norm.weight", 0.5, 1.5),
    ("layernorm.weight", 0.5, 1.5),
    ("layernorm_1.weight", 0.5, 1.5),
    ("layernorm_2.weight", 0.5, 1.5),
    ("layer_scalar", 0.5, 0.9),
    ("router.scale", 0.5, 2.0),
    ("router.per_expert_scale", 0.5, 2.0),
)
_DEVIATION = (
    # Its last axis packs all layers, so the shape does not show the fan-in; it is scaled by sqrt(256) when read.
    ("embed_tokens_per_layer.weight", 1 / 16),
    ("router.proj.weight", 1.0),
)


class RandomWeights:
    """A provider of random tensors, in place of a checkpoint."""

    def __init__(self, seed: int, threads: int | None = None) -> None:
        self.seed = seed
        self.threads = threads or min(8, os.cpu_count() or 1)

    def stored(self, source: Source) -> Array:
        """The tensor for `source`, in its shape and dtype; the data starts 64-byte aligned."""
        table = _table(source.key, source.type)
        result = aligned_empty(source.type)
        flat = result.reshape(-1)
        key = zlib.crc32(source.key.encode())
        starts = range(0, flat.size, _BLOCK)

        def fill(start: int) -> None:
            block = flat[start : start + _BLOCK]
            stream = np.random.SFC64(np.random.SeedSequence((self.seed, key, start // _BLOCK)))
            bits = stream.random_raw((block.size + 3) // 4).view(np.uint16)[: block.size]
            np.take(table, bits, out=block, mode="wrap")

        if len(starts) == 1 or self.threads == 1:
            for start in starts:
                fill(start)
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                list(pool.map(fill, starts))
        return result


def _table(key: str, type: TensorType) -> Array:
    """The 65,536 values that the elements of tensor `key` take, all equally likely, in its dtype."""
    for suffix, low, high in _UNIFORM:
        if key.endswith(suffix):
            values = low + (high - low) * _positions()
            break
    else:
        usual = float(max(1, type.shape[-1])) ** -0.5
        deviation = next((known for suffix, known in _DEVIATION if key.endswith(suffix)), usual)
        values = _normal_quantiles() * deviation
    return values.astype(ml_dtypes.bfloat16).astype(type.dtype.numpy)


def _positions() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return (np.arange(_QUANTILES) + 0.5) / _QUANTILES


@cache
def _normal_quantiles() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    upper = [NormalDist().inv_cdf(float(p)) for p in _positions()[_QUANTILES // 2 :]]
    return np.array([-value for value in reversed(upper)] + upper)
