"""Copies, gathers, shuffles, patterns and the eight largest against numpy, with their rules for ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from instruction_case import BF16, FP32, INT32, UINT32, Array, Example, cases, execute, integers, label, normal, single

from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl

X, Y = normal(128, 40), normal(128, 40, seed=1)
H = normal(128, 40, dtype=BF16, seed=3)
NUMBERS = integers(-(2**31), 2**31 - 1, 128, 40)
FLAGS = integers(0, 2, 128, 40, dtype=np.uint8)
FEW = integers(0, 6, 128, 40).astype(np.float32)  # many equal values
UINT16 = np.dtype(np.uint16)
EVERY_SECOND = [n ^ 1 for n in range(32)]
NOT_THREE = [255 if n == 3 else 0 for n in range(32)]


def shuffled(mask: list[int], a: Array, held: Array) -> Array:
    """nc_stream_shuffle, partition by partition."""
    rows = [held[p] if mask[p % 32] == 255 else a[p - p % 32 + mask[p % 32]] for p in range(len(a))]
    return np.stack(rows)


def local(a: Array, index: Array, each: int) -> Array:
    """local_gather, core by core."""
    parts = []
    for core in range(0, len(a), 16):
        flat = index[core : core + 16].T.reshape(-1).astype(np.int64)
        parts.append(np.concatenate([a[core : core + 16, i : i + each] for i in flat], axis=1))
    return np.concatenate(parts)


def largest(a: Array) -> Array:
    return -np.sort(-a, axis=1)[:, :8]


def positions(a: Array, values: Array) -> Array:
    """nc_find_index8: successive occurrences in ascending order for duplicates, all ones where there is none."""
    found = np.full(values.shape, 2**32 - 1, np.uint32)
    for p in range(len(a)):
        for n, value in enumerate(values[p]):
            places = np.flatnonzero(a[p] == value)
            before = int((values[p, :n] == value).sum())
            if before < len(places):
                found[p, n] = places[before]
    return found


def replaced(a: Array, values: Array, imm: float) -> Array:
    """nc_match_replace8: value 7 first, each the first match that is left."""
    result = a.copy()
    for p in range(len(a)):
        for value in values[p, ::-1]:
            places = np.flatnonzero((result[p] == value) & (result[p] != imm))
            if len(places):
                result[p, places[0]] = imm
    return result


EXAMPLES = [
    Example("memset", lambda d, a: nisa.memset(d, 2.5), (X,), lambda a: np.full_like(a, 2.5)),
    Example(
        "memset rounds",
        lambda d, a: nisa.memset(d, 1.00390625),
        (X,),
        lambda a: np.ones(a.shape, BF16),
        BF16,
    ),
    Example("tensor_copy of int32 is exact", lambda d, a: nisa.tensor_copy(d, a), (NUMBERS,), lambda a: a, INT32),
    Example(
        "tensor_copy by GpSimd",
        lambda d, a: nisa.tensor_copy(d, a, engine=nisa.engine.gpsimd),
        (X,),
        lambda a: a,
    ),
    Example(
        "tensor_copy of overlapping views",
        lambda d, a: (nisa.tensor_copy(d, a), nisa.tensor_copy(d[:, 1:], d[:, :-1])),
        (X,),
        lambda a: np.concatenate([a[:, :1], a[:, :-1]], axis=1),
    ),
    Example(
        "tensor_copy_predicated",
        lambda d, a, b, f: (nisa.tensor_copy(d, b), nisa.tensor_copy_predicated(d, a, f)),
        (X, Y, FLAGS),
        lambda a, b, f: np.where(f != 0, a, b),
    ),
    Example(
        "tensor_copy_predicated of a number, reversed",
        lambda d, b, f: (nisa.tensor_copy(d, b), nisa.tensor_copy_predicated(d, 3.0, f, reverse_pred=True)),
        (Y, FLAGS),
        lambda b, f: np.where(f == 0, np.float32(3), b),
    ),
    Example(
        "nc_stream_shuffle",
        lambda d, a: nisa.nc_stream_shuffle(d, a, EVERY_SECOND),
        (X,),
        lambda a: shuffled(EVERY_SECOND, a, a),
    ),
    Example(
        "nc_stream_shuffle leaves partitions alone",
        lambda d, a, b: (nisa.tensor_copy(d, b), nisa.nc_stream_shuffle(d, a, NOT_THREE)),
        (X, Y),
        lambda a, b: shuffled(NOT_THREE, a, b),
    ),
    Example(
        "nc_stream_shuffle in place: one row for all",
        lambda d, a: (nisa.tensor_copy(d, a), nisa.nc_stream_shuffle(d, d, [0] * 32)),
        (X,),
        lambda a: np.repeat(a[::32], 32, axis=0),
    ),
    Example(
        "nc_n_gather",
        lambda d, a, i: nisa.nc_n_gather(d, a, i),
        (X, integers(0, 40, 128, 7, dtype=UINT32)),
        lambda a, i: np.take_along_axis(a, i.astype(np.int64), axis=1),
        shape=(128, 7),
    ),
    *(
        Example(
            f"local_gather of runs of {each}",
            lambda d, a, i, each=each: nisa.local_gather(d, a, i, each, 48),
            (X[:64], integers(0, 32, 64, 3, dtype=UINT16)),
            lambda a, i, each=each: local(a, i, each),
            shape=(64, 48 * each),
        )
        for each in (1, 4)
    ),
    Example(
        "iota",
        lambda d, a: nisa.iota(d, [[100, 5], [3, 8]], offset=-7, channel_multiplier=1000),
        (X,),
        lambda a: (
            -7 + 1000 * np.arange(128)[:, None] + (100 * np.arange(5)[:, None] + 3 * np.arange(8)).reshape(-1)
        ).astype(np.int32),
        INT32,
    ),
    Example(
        "iota in bf16 rounds",
        lambda d, a: nisa.iota(d, [[1, 40]], channel_multiplier=40),
        (X,),
        lambda a: np.arange(128 * 40, dtype=np.float32).reshape(128, 40).astype(BF16),
        BF16,
    ),
    Example(
        "iota of a part of the partitions counts from there",
        lambda d, a: (nisa.memset(d, 0), nisa.iota(d[32:64, :], [[0, 40]], channel_multiplier=1)),
        (X,),
        lambda a: np.concatenate(
            [np.zeros((32, 40)), np.repeat(np.arange(32)[:, None], 40, 1), np.zeros((64, 40))]
        ).astype(np.int32),
        INT32,
    ),
    Example("max8", lambda d, a: nisa.max8(d, a), (X,), largest, shape=(128, 8)),
    Example("max8 with equal values", lambda d, a: nisa.max8(d, a), (FEW,), largest, shape=(128, 8)),
    Example(
        "nc_find_index8 of equal values: successive places",
        lambda d, a, v: nisa.nc_find_index8(d, a, v),
        (FEW, largest(FEW)),
        positions,
        UINT32,
        (128, 8),
    ),
    Example(
        "nc_find_index8 of values that are not there",
        lambda d, a, v: nisa.nc_find_index8(d, a, v),
        (X, Y[:, :8]),
        positions,
        UINT32,
        (128, 8),
    ),
    Example(
        "nc_find_index8 in uint16",
        lambda d, a, v: nisa.nc_find_index8(d, a, v),
        (X, largest(X)),
        lambda a, v: positions(a, v).astype(np.uint16),
        UINT16,
        (128, 8),
    ),
    Example(
        "nc_match_replace8",
        lambda d, a, v: nisa.nc_match_replace8(d, a, v, -99.0),
        (X, largest(X)),
        lambda a, v: replaced(a, v, np.float32(-99)),
    ),
    Example(
        "nc_match_replace8 of equal values",
        lambda d, a, v: nisa.nc_match_replace8(d, a, v, -99.0),
        (FEW, largest(FEW)),
        lambda a, v: replaced(a, v, np.float32(-99)),
    ),
    Example(
        "nonzero_with_count",
        lambda d, a: (nisa.memset(d, 0), nisa.nonzero_with_count(d, a, index_offset=5, padding_val=-2)),
        (integers(0, 2, 32, 12),),
        lambda a: np.stack(
            [
                np.array([*(np.flatnonzero(a[p]) + 5), *[-2] * int((a[p] == 0).sum()), int((a[p] != 0).sum())])
                if p % 16 == 0
                else np.zeros(13)
                for p in range(32)
            ]
        ).astype(np.int32),
        INT32,
        (32, 13),
        targets=("trn2", "trn3"),
    ),
    Example(
        "sequence_bounds",
        lambda d, ids: nisa.sequence_bounds(d, ids),
        (np.array([[1, 1, 1, 4, 4, 0, 0, 2]], np.int32),),
        lambda ids: np.array([[[0, 0, 0, 3, 3, 8, 8, 7], [3, 3, 3, 5, 5, -1, -1, 8]]], np.int32),
        INT32,
        (1, 2, 8),
    ),
]


@pytest.mark.parametrize(("example", "target"), cases(EXAMPLES), ids=label)
def test_against_numpy(example: Example, target: str) -> None:
    example.check(target)


def test_with_duplicates_the_earliest_place_lands_in_the_highest_column() -> None:
    """Values are matched from 7 down to 0."""

    def matched(d: Any, a: Any, v: Any) -> None:
        copy = nl.ndarray(a.shape, FP32, buffer=nl.sbuf)
        nisa.nc_match_replace8(copy, a, v, -1.0, dst_idx=d)

    a = np.array([[5, 1, 5, 2, 5, 3, 4, 0, 9, 8]], np.float32)
    v = np.array([[9, 8, 5, 5, 5, 4, 3, 2]], np.float32)
    found = execute(matched, a, v, shape=(1, 8), dtype=UINT32)
    np.testing.assert_array_equal(found, [[8, 9, 4, 2, 0, 6, 5, 3]])


def test_topk_walks_the_snake_and_gives_ascending_values() -> None:
    """Element i is in partition i % 16, column i // 16."""
    source = normal(32, 6, dtype=BF16)
    n, k = 90, 9

    def chosen(d: Any, s: Any) -> None:
        index = nl.ndarray((32, k), UINT32, buffer=nl.sbuf)
        values = nl.ndarray((32, k), BF16, buffer=nl.sbuf)
        nisa.topk(values, index, s, n)
        nisa.tensor_copy(d[:, :k], values)
        nisa.tensor_copy(d[:, k:], index)

    found = execute(chosen, source, shape=(32, 2 * k), dtype=FP32)
    for core in (0, 16):
        line = single(source[core : core + 16].T.reshape(-1)[:n])
        np.testing.assert_array_equal(found[core, :k], np.sort(line)[-k:])
        np.testing.assert_array_equal(line[found[core, k:].astype(int)], np.sort(line)[-k:])
