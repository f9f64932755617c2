"""The largest values of each partition: max8, nc_find_index8, nc_match_replace8 (Vector), topk (GpSimd)."""

from __future__ import annotations

import numpy as np

from g4c.lowering.nki.simulator import dtypes
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.instruction import GPSIMD, VECTOR, Step
from g4c.lowering.nki.simulator.tensor import NkiTensor

_LEAST, _MOST = 8, 16384


def _check(step: Step, parameter: str, *eights: str) -> None:
    tensor = step.tensor(parameter)
    count = tensor.size // tensor.shape[0]
    if not _LEAST <= count <= _MOST:
        step.refuse("G4C-K007", f"{parameter} has {count} elements per partition", f"{_LEAST} to {_MOST}")
    for name in eights:
        other = step.tensor(name)
        if other.shape[0] != tensor.shape[0] or other.size != 8 * other.shape[0]:
            step.refuse("G4C-K017", f"{name} is {list(other.shape)}", "8 elements for each partition of the data")


def max8(dst, src, name=None):
    """dst [P, 8] = the 8 largest values of each partition, descending."""
    step = Step("max8", name, VECTOR, dst=dst, src=src)
    step.tiles("dst", "src")
    if src.ndim > 3:
        step.refuse("G4C-K007", f"src has rank {src.ndim}", "at most 3 dimensions")
    _check(step, "src", "dst")
    values = step.read32(src)
    largest = np.partition(values, values.shape[1] - 8, axis=1)[:, -8:]
    step.write(dst, np.sort(largest, axis=1)[:, ::-1])
    return step.done()


def _matches(values: np.ndarray, wanted: np.ndarray, order: range) -> np.ndarray:
    """The position of each wanted value, successive ones for duplicates in `order`; -1 where there is none."""
    found = np.full(wanted.shape, -1, np.int64)
    for n, column in enumerate(order):
        equal = values == wanted[:, column : column + 1]
        first = equal.argmax(axis=1)
        found[:, column] = np.where(equal[np.arange(len(values)), first], first, -1)
        before = (wanted[:, order[:n]] == wanted[:, column : column + 1]).sum(axis=1)
        for row in np.flatnonzero(before):
            positions = np.flatnonzero(equal[row])
            found[row, column] = positions[before[row]] if before[row] < len(positions) else -1
    return found


def _store_indices(step: Step, dst: NkiTensor, found: np.ndarray, parameter: str) -> None:
    step.check_dtype(parameter, ("uint16", "uint32"))
    step.store(dst, found.astype(dtypes.NUMPY[dst.dtype]))  # -1 becomes all ones


def nc_find_index8(dst, data, vals, name=None):
    """The index of each of 8 values; all ones where a value is not there."""
    step = Step("nc_find_index8", name, VECTOR, dst=dst, data=data, vals=vals)
    step.tiles("dst", "data", "vals")
    _check(step, "data", "dst", "vals")
    _store_indices(step, dst, _matches(step.read32(data), step.read32(vals), range(8)), "dst")
    return step.done()


def nc_match_replace8(dst, data, vals, imm, dst_idx=None, name=None):
    """dst = data with the first match of each of 8 values replaced by `imm`, from value 7 down to 0."""
    step = Step("nc_match_replace8", name, VECTOR, dst=dst, data=data, vals=vals, dst_idx=dst_idx)
    step.tiles("dst", "data", "vals")
    step.same_layout("dst", "data")
    _check(step, "data", "vals")
    if isinstance(imm, bool) or not isinstance(imm, int | float | np.integer | np.floating):
        raise error("G4C-K002", f"nisa.nc_match_replace8: imm={imm!r}", "a compile-time number")
    values = step.read32(data)
    found = _matches(values, step.read32(vals), range(7, -1, -1))
    rows, columns = np.nonzero(found >= 0)
    result = values.copy()
    result[rows, found[rows, columns]] = np.float32(imm)
    step.write(dst, result)
    if dst_idx is not None:
        step.tiles("dst_idx")
        _check(step, "data", "dst_idx")
        _store_indices(step, dst_idx, found, "dst_idx")
    return step.done()


def topk(val_dst, idx_dst, src, n, name=None):
    """The K largest of n bf16 values laid out in snakes of 16 partitions: values ascending, and their indices."""
    step = Step("topk", name, GPSIMD, val_dst=val_dst, idx_dst=idx_dst, src=src)
    step.tiles("val_dst", "idx_dst", "src")
    step.check_dtype("src", ("bfloat16",))
    step.check_dtype("val_dst", ("bfloat16",))
    step.check_dtype("idx_dst", ("uint32",))
    rows, k = src.shape[0], val_dst.size // val_dst.shape[0]
    columns = src.size // rows
    if rows % 16 or val_dst.shape[0] != rows or idx_dst.shape[0] != rows or idx_dst.size != val_dst.size:
        raise error(
            "G4C-K017",
            f"nisa.topk: src {list(src.shape)}, val_dst {list(val_dst.shape)}, idx_dst {list(idx_dst.shape)}",
            "equal partitions, a multiple of 16, and equal results",
        )
    if not 8 <= n < 65536 or not 1 <= k < 32768 or k > n or columns * 16 < n:
        raise error(
            "G4C-K007", f"nisa.topk: n={n}, K={k}, {columns} columns", "8 <= n < 65536, K <= n, 16 * columns >= n"
        )
    values, known = step.take(src)
    if known is not None:
        step.undefined.append(np.repeat(known.reshape(rows // 16, -1).all(axis=1), 16)[:, None])
    best, where = np.empty((rows, k), values.dtype), np.empty((rows, k), np.uint32)
    for first in range(0, rows, 16):
        snake = dtypes.to_fp32(values[first : first + 16]).T.reshape(-1)[:n]
        order = np.argsort(-snake, kind="stable")[:k][::-1]
        best[first : first + 16] = snake[order].astype(values.dtype)
        where[first : first + 16] = order
    step.store(val_dst, best)
    step.store(idx_dst, where)
    return step.done(n=n, k=k)
