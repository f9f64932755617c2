"""Convenience functions of `nki.language`: loads, stores, reductions, and small compositions.

In: tiles and HBM tensors. Out: new tiles in SBUF (matmul: in PSUM).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from g4c.lowering.nki.simulator import access, dtypes
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.isa import (
    dma_copy,
    dma_transpose,
    memset,
    nc_matmul,
    tensor_copy,
    tensor_copy_predicated,
    tensor_reduce,
)
from g4c.lowering.nki.simulator.language.creation import allocate
from g4c.lowering.nki.simulator.memory import MemoryRegion
from g4c.lowering.nki.simulator.program import current
from g4c.lowering.nki.simulator.tensor import NkiTensor
from g4c.lowering.nki.simulator.tokens import TOKENS

_SBUF = MemoryRegion.sbuf


def load(src, dtype=None):
    """A new tile in SBUF with the contents of an HBM tensor."""
    tile = allocate(src.shape, dtype or src.dtype, _SBUF)
    dma_copy(tile, src)
    return tile


def store(dst, value):
    """HBM tensor = tile."""
    dma_copy(dst, value)


def load_transpose2d(src, dtype=None):
    """A new tile in SBUF with the transpose of an HBM tensor."""
    tile = allocate(tuple(reversed(src.shape)), src.dtype, _SBUF)
    dma_transpose(tile, src)
    return tile if dtype is None or dtypes.canonical(dtype) == tile.dtype else TOKENS["copy"](tile, dtype)


def broadcast_to(x, shape, dtype=None):
    """A new tile in which dimensions of size 1 are repeated; also the partition dimension."""
    program = current()
    program.count_instruction("broadcast_to")
    result = allocate(shape, dtype or x.dtype, _SBUF)
    values = dtypes.convert(access.read(program, x), x.dtype, result.dtype)
    access.write(program, result, np.broadcast_to(values, result.shape))
    return result


def expand_dims(x, axis):
    """A view with a new dimension of size 1."""
    return x.expand_dim(axis % (x.ndim + 1))


def transpose(x, dtype=None):
    """A new tile with the transpose of a 2-D tile."""
    program = current()
    program.count_instruction("transpose")
    result = allocate(tuple(reversed(x.shape)), dtype or x.dtype, _SBUF)
    access.write(program, result, dtypes.convert(access.read(program, x).T, x.dtype, result.dtype))
    return result


def matmul(x, y, transpose_x=False):
    """x.T @ y in PSUM; only transpose_x=True compiles for a device."""
    if not transpose_x:
        raise error("G4C-K020", "nl.matmul(transpose_x=False) does not compile for a device", "pass x transposed")
    result = allocate((x.shape[1], y.shape[1]), "float32", MemoryRegion.psum)
    nc_matmul(result, x, y)
    return result


def gather_flattened(data, indices, axis=0, dtype=None):
    """result[p, i] = data[p].flat[indices[p, i]]."""
    program = current()
    program.count_instruction("gather_flattened")
    result = allocate(indices.shape, dtype or data.dtype, _SBUF)
    rows = access.read(program, data).reshape(data.shape[0], -1)
    chosen = access.read(program, indices).reshape(indices.shape[0], -1).astype(np.int64)
    if chosen.min() < 0 or chosen.max() >= rows.shape[1]:
        raise error(
            "G4C-K015", f"an index of nl.gather_flattened is outside of 0..{rows.shape[1] - 1}", "clamp the indices"
        )
    values = np.take_along_axis(rows, chosen, axis=1)
    access.write(program, result, dtypes.convert(values, data.dtype, result.dtype))
    return result


def _reduction(token: str) -> Callable[..., Any]:
    def function(x: NkiTensor, axis: Any, dtype: Any = None, keepdims: bool = False) -> NkiTensor:
        axes = sorted(a % x.ndim for a in (axis if isinstance(axis, tuple | list) else (axis,)))
        kept = tuple(1 if n in axes else size for n, size in enumerate(x.shape))
        shape = kept if keepdims else tuple(size for n, size in enumerate(x.shape) if n not in axes)
        result = allocate(shape if len(shape) > 1 else (*shape, 1), dtype or x.dtype, _SBUF)
        tensor_reduce(result, TOKENS[token], x, axes)
        return result

    function.__doc__ = f"The reduction of a tile over free axes with {token}."
    return function


sum = _reduction("add")
max = _reduction("maximum")
min = _reduction("minimum")
prod = _reduction("multiply")


def all(x, axis, dtype=None):
    """Whether all elements over free axes are not 0."""
    return _reduction("logical_and")(x, axis, dtype)


def mean(x, axis, dtype=None, keepdims=False):
    """The mean over free axes."""
    axes = [a % x.ndim for a in (axis if isinstance(axis, tuple | list) else (axis,))]
    count = math.prod(x.shape[a] for a in axes)
    return TOKENS["multiply"](sum(x, axes, dtype or "float32", keepdims), 1.0 / count, dtype=dtype or x.dtype)


def _rows(x: NkiTensor, dtype: Any, shape: tuple[int, ...], function: Callable[[np.ndarray], np.ndarray]) -> NkiTensor:
    """A composition on [P, N] in fp32, rounded once."""
    program = current()
    program.count_instruction("composed")
    result = allocate(shape, dtype or x.dtype, _SBUF)
    with np.errstate(all="ignore"):
        values = function(dtypes.to_fp32(access.read(program, x)))
    access.write(program, result, dtypes.cast(np.asarray(values, np.float32), result.dtype))
    return result


def var(x, axis, dtype=None, keepdims=False):
    """The population variance over free axes."""
    axes = tuple(a % x.ndim for a in (axis if isinstance(axis, tuple | list) else (axis,)))
    shape = tuple(1 if n in axes else size for n, size in enumerate(x.shape))
    return _rows(x, dtype, shape, lambda values: values.var(axis=axes, keepdims=True))


def softmax(x, axis=-1, dtype=None):
    """exp(x - max) / sum over a free axis."""

    def function(values: np.ndarray) -> np.ndarray:
        exponentials = np.exp(values - values.max(axis=axis, keepdims=True))
        return exponentials / exponentials.sum(axis=axis, keepdims=True)

    return _rows(x, dtype, x.shape, function)


def rms_norm(x, w, axis, n, epsilon=1e-06, dtype=None, compute_dtype=None):
    """x / sqrt(sum(x^2) / n + epsilon) * w."""
    weights = dtypes.to_fp32(access.read(current(), w)) if w is not None else np.float32(1)
    return _rows(
        x,
        dtype,
        x.shape,
        lambda values: values / np.sqrt(np.square(values).sum(axis=axis, keepdims=True) / n + epsilon) * weights,
    )


def where(condition, x, y, dtype=None):
    """x where condition is not 0, else y; x and y are tiles or numbers."""
    tile = next((value for value in (x, y) if isinstance(value, NkiTensor)), condition)
    result = allocate(condition.shape, dtype or tile.dtype, _SBUF)
    if isinstance(y, NkiTensor):
        tensor_copy(result, y)
    else:
        memset(result, int(y) if result.dtype in dtypes.INTEGERS else float(y))
    predicate = condition
    if predicate.dtype not in ("bool", "uint8", "uint16", "uint32"):
        predicate = TOKENS["not_equal"](condition, 0.0, dtype="uint8")
    if isinstance(x, NkiTensor) and x.dtype != result.dtype:
        x = TOKENS["copy"](x, result.dtype)
    tensor_copy_predicated(result, x, predicate)
    return result
