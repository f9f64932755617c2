"""Data movement by index on chip: stream shuffle, gathers, nonzero_with_count, sequence_bounds."""

from __future__ import annotations

import numpy as np

from g4c.lowering.nki.simulator import dtypes
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.generation import PARTITIONS
from g4c.lowering.nki.simulator.instruction import GPSIMD, VECTOR, Step

_QUADRANT = 32
_GROUP = 16
_UNCHANGED = 255
_ELEMENTS_PER_INDEX = (1, 2, 4, 8, 16, 32)


def nc_stream_shuffle(dst, src, shuffle_mask, name=None):
    """In each quadrant of 32 partitions: dst[i] = src[mask[i]]; 255 leaves dst[i] alone."""
    step = Step("nc_stream_shuffle", name, VECTOR, dst=dst, src=src)
    if len(shuffle_mask) != _QUADRANT or any(not (0 <= m < _QUADRANT or m == _UNCHANGED) for m in shuffle_mask):
        raise error(
            "G4C-K002", f"nisa.nc_stream_shuffle: shuffle_mask={list(shuffle_mask)}", "32 integers: 0 to 31, or 255"
        )
    step.tiles("dst", "src")
    active = -(-max(src.shape[0], dst.shape[0]) // _QUADRANT) * _QUADRANT
    for parameter in ("dst", "src"):
        start = step.tensor(parameter).start_partition
        if start + active > PARTITIONS or (active > _QUADRANT and start % active) or (active > 64 and start):
            step.refuse(
                "G4C-K006",
                f"{parameter} starts at partition {start}, {active} partitions are shuffled",
                "32 partitions start at 0, 32, 64 or 96; 64 at 0 or 64; more at 0",
            )
    if dst.dtype != src.dtype:
        step.refuse("G4C-K010", f"dst is {dst.dtype}, src is {src.dtype}", "the shuffle does not cast")
    if dst.size // dst.shape[0] != src.size // src.shape[0]:
        step.refuse("G4C-K017", f"dst is {list(dst.shape)}, src is {list(src.shape)}", "equal elements per partition")
    rows_in, rows_out = src.shape[0], dst.shape[0]
    mask = np.array(shuffle_mask)
    moved: np.ndarray = np.array([row for row in range(rows_out) if mask[row % _QUADRANT] != _UNCHANGED])
    if moved.size:
        sources = moved // _QUADRANT * _QUADRANT + mask[moved % _QUADRANT]
        if sources.max() >= rows_in:
            step.refuse(
                "G4C-K015",
                f"dst takes partition {int(sources.max())} of src, which has {rows_in}",
                "the mask is the same in every quadrant",
            )
            moved, sources = moved[sources < rows_in], sources[sources < rows_in]
        values, defined = step.take(src)
        values = values[sources]
        kept = None if defined is None else defined[sources]
        if len(moved) == rows_out:
            step.store(dst, values, defined=kept)
        else:
            for at, row in enumerate(moved):
                mark = None if kept is None else kept[at : at + 1]
                step.store(dst[int(row) : int(row) + 1], values[at : at + 1], defined=mark)
    return step.done()


def nc_n_gather(dst, data, indices, name=None):
    """dst[p, i] = data[p].flat[indices[p, i]]."""
    step = Step("nc_n_gather", name, GPSIMD, dst=dst, data=data, indices=indices)
    step.tiles("dst", "data", "indices")
    step.same_layout("dst", "indices")
    if data.shape[0] != dst.shape[0]:
        step.refuse("G4C-K017", f"data is {list(data.shape)}, dst is {list(dst.shape)}", "equal partitions")
    if dst.dtype != data.dtype:
        step.refuse("G4C-K010", f"dst is {dst.dtype}, data is {data.dtype}", "the gather does not cast")
    step.check_dtype("indices", ("uint32",))
    values, known = step.take(data)
    chosen, valid = step.take(indices)
    chosen = np.where(True if valid is None else valid, chosen, 0).astype(np.int64)
    _check_range(step, chosen, values.shape[1])
    defined = valid
    if known is not None:
        reached = np.take_along_axis(known, chosen, axis=1)
        defined = reached if defined is None else defined & reached
    step.store(dst, np.take_along_axis(values, chosen, axis=1), defined=defined)
    return step.done()


def _check_range(step: Step, indices: np.ndarray, size: int) -> None:
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        bad = int(indices[(indices < 0) | (indices >= size)].reshape(-1)[0])
        raise error("G4C-K015", f"nisa.{step.name}: index {bad} of {size} elements", "out of range is undefined")


def local_gather(dst, src_buffer, index, num_elem_per_idx=1, num_valid_indices=None, name=None):
    """Per 16 partitions: their indices, partition first, select runs of elements in all 16."""
    step = Step("local_gather", name, GPSIMD, dst=dst, src_buffer=src_buffer, index=index)
    step.tiles("dst", "src_buffer", "index")
    step.check_dtype("index", ("uint16",))
    partitions = src_buffer.shape[0]
    if partitions % _GROUP or index.shape[0] != partitions or dst.shape[0] != partitions:
        raise error(
            "G4C-K017",
            f"nisa.local_gather: partitions of src {partitions}, index {index.shape[0]}, dst {dst.shape[0]}",
            "equal, and a multiple of 16",
        )
    if dst.dtype != src_buffer.dtype:
        step.refuse("G4C-K010", f"dst is {dst.dtype}, src_buffer is {src_buffer.dtype}", "the gather does not cast")
    if num_elem_per_idx not in _ELEMENTS_PER_INDEX:
        step.refuse("G4C-K002", f"num_elem_per_idx={num_elem_per_idx}", f"one of {_ELEMENTS_PER_INDEX}")
    available = index.size // (partitions // _GROUP)
    count = available if num_valid_indices is None else num_valid_indices
    if count > min(available, 4096):
        step.refuse(
            "G4C-K007", f"{count} indices per core, {available} are given", "at most 4096, and what index holds"
        )
    if dst.size // partitions != count * num_elem_per_idx:
        step.refuse(
            "G4C-K017",
            f"dst has {dst.size // partitions} elements per partition",
            f"{count} indices x {num_elem_per_idx}",
        )
    values, chosen = step.read(src_buffer), step.read_exactly(index).astype(np.int64)
    result = np.empty((partitions, count * num_elem_per_idx), values.dtype)
    for first in range(0, partitions, _GROUP):
        group = slice(first, first + _GROUP)
        flat = chosen[group].T.reshape(-1)[:count]
        runs = (flat[:, None] + np.arange(num_elem_per_idx)).reshape(-1)
        _check_range(step, runs, values.shape[1])
        result[group] = values[group][:, runs]
    step.store(dst, result)
    return step.done(count=count, per_index=num_elem_per_idx)


def nonzero_with_count(dst, src, index_offset=0, padding_val=-1, name=None):
    """On partitions 0, 16, 32, ...: the indices of the nonzero elements, padding, and their count (v3+)."""
    step = Step("nonzero_with_count", name, GPSIMD, dst=dst, src=src)
    step.requires_generation(3, "nonzero_with_count")
    step.tiles("dst", "src")
    step.check_dtype("src", ("float32", "int32"))
    step.check_dtype("dst", ("int32",))
    count = src.size // src.shape[0]
    if dst.shape[0] != src.shape[0] or dst.size // dst.shape[0] != count + 1:
        step.refuse("G4C-K017", f"src is {list(src.shape)}, dst is {list(dst.shape)}", "dst has one element more")
    for row in range(0, src.shape[0], _GROUP):
        values, defined = step.take(src[row : row + 1])
        found = np.flatnonzero(values[0])
        result = np.full(count + 1, padding_val, np.int32)
        result[: len(found)] = found + index_offset
        result[-1] = len(found)
        kept = None if defined is None else np.full((1, count + 1), False)
        step.store(dst[row : row + 1], result.reshape(1, -1), defined=kept)
    return step.done()


def sequence_bounds(dst, segment_ids, name=None):
    """For every element: where its segment starts and ends; padding (id 0) gets (n, -1)."""
    step = Step("sequence_bounds", name, GPSIMD, dst=dst, segment_ids=segment_ids)
    step.tiles("dst", "segment_ids")
    for parameter in ("dst", "segment_ids"):
        step.check_dtype(parameter, ("float32", "int32"))
    count = segment_ids.size
    if segment_ids.shape[0] != 1 or dst.shape[0] != 1 or dst.size != 2 * count:
        step.refuse(
            "G4C-K017", f"segment_ids is {list(segment_ids.shape)}, dst is {list(dst.shape)}", "(1, n), (1, 2, n)"
        )
    ids = step.read_exactly(segment_ids)[0]
    edges = np.flatnonzero(np.diff(ids)) + 1
    firsts, lasts = np.concatenate([[0], edges]), np.concatenate([edges, [count]])
    run = np.searchsorted(firsts, np.arange(count), side="right") - 1
    starts = np.where(ids != 0, firsts[run], count)
    ends = np.where(ids != 0, lasts[run], -1)
    step.store(dst, np.stack([starts, ends]).astype(dtypes.NUMPY[dst.dtype]).reshape(1, -1))
    return step.done()
