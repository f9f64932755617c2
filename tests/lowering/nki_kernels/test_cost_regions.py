"""Regions against the bytes that views address."""

from __future__ import annotations

import random

import numpy as np
import pytest

from g4c.lowering.nki.cost import profile
from g4c.lowering.nki.cost.regions import inner_step_bytes, is_contiguous, overlap, region_of, row_bytes
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import jit
from g4c.lowering.nki.simulator import language as nl
from g4c.lowering.nki.simulator.addressing import array_of
from g4c.lowering.nki.simulator.generation import V3
from g4c.lowering.nki.simulator.program import Program, activate


@pytest.fixture(autouse=True)
def program():
    """Tiles are allocated as in a kernel."""
    with activate(Program(V3)) as running:
        yield running


def bytes_of(view):
    """Which bytes of its storage a view addresses."""
    array = array_of(view)
    storage = view.storage
    first = array.__array_interface__["data"][0] - storage.data.__array_interface__["data"][0]
    grid = np.zeros((), np.int64)
    for count, stride in zip(array.shape, array.strides, strict=True):
        grid = grid[..., None] + np.arange(count) * stride
    return {int(at) + first + n for at in grid.reshape(-1) for n in range(array.itemsize)}


def slices(rng, shape, step):
    """A random index of a tensor: slices and integers."""
    index = []
    for size in shape:
        start = rng.randrange(size)
        stop = rng.randrange(start, size) + 1
        choice = rng.random()
        index.append(start if choice < 0.25 else slice(start, stop, step if choice > 0.8 else 1))
    return tuple(index)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("shape", [(8, 12), (4, 3, 5), (2, 3, 4, 5), (6, 1, 7), (5,)])
@pytest.mark.parametrize("buffer", [nl.sbuf, nl.shared_hbm])
def test_views_that_share_bytes_have_regions_that_overlap(shape, step, buffer):
    """And for slices of step 1 the other way round: independent parts are seen as such."""
    rng = random.Random(f"{shape} {step}")
    tensor = nl.ndarray(shape, dtype=nl.bfloat16, buffer=buffer)
    for _ in range(150):
        first, second = (tensor[slices(rng, shape, step)] for _ in range(2))
        shared = bool(bytes_of(first) & bytes_of(second))
        found = overlap(region_of(first), region_of(second))
        assert found or not shared, (first.shape, first.strides, first.offset, second.shape, second.strides)
        if step == 1:
            assert found == shared, (first.shape, first.strides, first.offset, second.shape, second.strides)


def test_access_patterns_and_reshapes_are_covered():
    rng = random.Random(1)
    tensor = nl.ndarray((4, 24), dtype=nl.bfloat16, buffer=nl.sbuf)
    views = [tensor.ap([[24, 4], [2, rng.randrange(1, 6)], [1, 2]], offset=rng.randrange(12)) for _ in range(20)]
    views += [tensor[:, n : n + 6].reshape((4, 2, 3)) for n in range(18)]
    views += [tensor.reshape((4, 3, 8))[:, n, m : m + 2] for n in range(3) for m in range(6)]
    for first in views:
        for second in views:
            if bytes_of(first) & bytes_of(second):
                assert overlap(region_of(first), region_of(second))


def test_tiles_with_an_address_overlap_by_address():
    low = nl.ndarray((32, 64), dtype=nl.float32, buffer=nl.sbuf, address=(0, 0))
    high = nl.ndarray((32, 64), dtype=nl.bfloat16, buffer=nl.sbuf, address=(0, 128))
    other = nl.ndarray((32, 64), dtype=nl.bfloat16, buffer=nl.sbuf, address=(32, 128))
    assert overlap(region_of(low), region_of(high))
    assert not overlap(region_of(low[:, :32]), region_of(high))
    assert not overlap(region_of(high), region_of(other))


def test_rows_and_steps():
    tile = nl.ndarray((128, 4, 64), dtype=nl.bfloat16, buffer=nl.sbuf)
    assert row_bytes(tile) == 512
    assert row_bytes(tile[:, :, :32]) == 64
    assert row_bytes(tile[:, 1, :]) == 128
    assert row_bytes(tile[:, :, 3:4]) == 2
    assert is_contiguous(tile)
    assert is_contiguous(tile[:, 1, :])
    assert not is_contiguous(tile[:, :, :32])
    assert inner_step_bytes(tile) == 2
    assert inner_step_bytes(tile[:, :, 3:4]) == 128
    tensor = nl.ndarray((1000, 8, 256), dtype=nl.bfloat16, buffer=nl.shared_hbm)
    assert row_bytes(tensor[:128, 0, :]) == 512
    assert row_bytes(tensor[:128, :, :]) == 128 * 8 * 512


@jit
def same_shapes(x):
    """A tile in SBUF and a tensor in HBM of the same shape, both used in halves."""
    scratch = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.private_hbm)
    tile = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.sbuf)
    half = x.shape[1] // 2
    for start in (0, half):
        nisa.dma_copy(dst=tile[:, start : start + half], src=x[:, start : start + half])
        nisa.dma_copy(dst=scratch[:, start : start + half], src=tile[:, start : start + half])
        nisa.dma_copy(dst=tile[:, start : start + half], src=scratch[:, start : start + half])


def test_equal_shapes_in_different_memories_are_told_apart():
    found = profile(same_shapes, (((128, 512), "bfloat16"),))
    assert found.instructions == 6
    (line,) = found.lines
    assert line.start[1] == pytest.approx(line.end[0])
    assert line.start[2] == pytest.approx(line.end[1])
    assert line.start[3] == pytest.approx(line.start[2] + 53)  # the second half waits for nothing but the stream
    assert line.start[4] == pytest.approx(line.end[3])
