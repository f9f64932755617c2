"""From views to numpy arrays: which bytes a view addresses.

In: a NkiTensor. Out: numpy arrays over the storage's bytes, its marks, or its rows; views with run-time indices fixed.
Invariant: nothing here reads or writes elements; bounds are checked before an array exists.
"""

from __future__ import annotations

import numpy as np

from g4c.lowering.nki.simulator import dtypes
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.tensor import NkiTensor


def at_index(tensor: NkiTensor, value: int, skip: bool = False) -> NkiTensor | None:
    """`tensor` with its scalar run-time index fixed at `value`; None where that is out of bounds and `skip` is set."""
    dynamic = tensor.dynamic
    assert dynamic is not None
    static = tensor.with_layout(tensor.shape, tensor.strides, tensor.offset + value * dynamic.step // tensor.itemsize)
    static.dynamic = None
    box, storage = static.box(), tensor.storage
    rows = not tensor.on_chip or static.box().p0 == tensor.box().p0
    beyond = dynamic.limit is not None and value >= dynamic.limit
    if value < 0 or beyond or box.b0 < 0 or box.b1 > storage.row_bytes or not rows:
        if skip:
            return None
        where = f"indices are below {dynamic.limit}" if beyond else f"{storage.row_bytes} bytes"
        raise error(
            "G4C-K015",
            f"run-time index {value} leaves {tensor!r}: bytes {box.b0}..{box.b1 - 1}, {where}",
            "run-time addresses are checked on the device: clamp the index, or use oob_mode.skip on a DMA",
        )
    return static


def array_of(tensor: NkiTensor) -> np.ndarray:
    """The bytes of a static view as an array of its shape; a copy where the view is an indirect one."""
    if tensor.indirection is not None:
        return np.take_along_axis(array_of(tensor.indirection.base), tensor.indirection.columns, axis=1)
    if tensor._array is None:
        if tensor.unchecked:
            tensor.check_bounds()
        storage, itemsize = tensor.storage, tensor.itemsize
        if tensor.on_chip:
            row = storage.row_bytes // itemsize
            partition, free = divmod(tensor.offset, row)
            offset = storage.base + partition * storage.pitch + free * itemsize
            first = tensor.strides[0] // row * storage.pitch
            strides = (first, *(stride * itemsize for stride in tensor.strides[1:]))
        else:
            offset = storage.base + tensor.offset * itemsize
            strides = tuple(stride * itemsize for stride in tensor.strides)
        array = np.ndarray(tensor.shape, dtypes.NUMPY[tensor.dtype], storage.data, offset, strides)
        if storage.borrowed:  # the storage gets other data with its first write
            return array
        tensor._array = array
    return tensor._array


def marks_of(tensor: NkiTensor, table: np.ndarray, unit: int) -> np.ndarray:
    """The entries of `table`, a per-`unit`-bytes array of the storage, under a static view; a last axis where elements
    are larger than a unit. A copy where the view is an indirect one."""
    if tensor.indirection is not None:
        entries, columns = marks_of(tensor.indirection.base, table, unit), tensor.indirection.columns
        return np.take_along_axis(entries, columns.reshape(columns.shape + (1,) * (entries.ndim - 2)), axis=1)
    storage, factor = tensor.storage, tensor.itemsize // unit
    columns = storage.row_bytes // unit
    strides = tuple(stride * factor for stride in tensor.strides)
    if tensor.on_chip:
        row = storage.row_bytes // tensor.itemsize
        partition, free = divmod(tensor.offset, row)
        offset = partition * columns + free * factor
        strides = (tensor.strides[0] // row * columns, *strides[1:])
    else:
        offset = tensor.offset * factor
    if factor == 1:
        return np.ndarray(
            tensor.shape, table.dtype, table, offset * table.itemsize, tuple(s * table.itemsize for s in strides)
        )
    return np.ndarray(
        (*tensor.shape, factor),
        table.dtype,
        table,
        offset * table.itemsize,
        tuple(s * table.itemsize for s in (*strides, 1)),
    )


def put(tensor: NkiTensor, values: np.ndarray) -> None:
    """Store `values` [*shape] into the elements of a static view; of equal columns the last one counts."""
    if tensor.indirection is None:
        array_of(tensor)[...] = values
    else:
        np.put_along_axis(array_of(tensor.indirection.base), tensor.indirection.columns, values, axis=1)


def put_marks(tensor: NkiTensor, table: np.ndarray, unit: int, marks: np.ndarray | int) -> None:
    """Store `marks` [*shape] into the entries of `table` under a static view."""
    indirection = tensor.indirection
    entries = marks_of(tensor if indirection is None else indirection.base, table, unit)
    if not isinstance(marks, int) and entries.ndim != tensor.ndim:
        marks = marks[..., None]
    if indirection is None:
        entries[...] = marks
    else:
        columns = indirection.columns.reshape(indirection.columns.shape + (1,) * (entries.ndim - 2))
        np.put_along_axis(entries, columns, marks, axis=1)


def covers(tensor: NkiTensor) -> bool:
    """Whether a static view addresses every element of its storage exactly once."""
    if tensor.offset or tensor.size * tensor.itemsize != tensor.storage.partitions * tensor.storage.row_bytes:
        return False
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, count in sorted(zip(tensor.strides, tensor.shape, strict=True)):
        if count != 1:
            if stride != expected:
                return False
            expected *= count
    return True


def selectable_rows(tensor: NkiTensor, table: np.ndarray, unit: int) -> np.ndarray:
    """All rows that indices of `tensor` can select: [rows, inner dimensions] of `table` (units of `unit` bytes)."""
    storage, dynamic = tensor.storage, tensor.dynamic
    inner = tensor.box(first=1)
    count = max(0, (storage.row_bytes - inner.b1) // dynamic.step + 1)
    factor = tensor.itemsize // unit
    size = table.itemsize
    return np.ndarray(
        (count, *tensor.shape[1:], factor),
        table.dtype,
        table,
        tensor.offset * factor * size,
        (dynamic.step // unit * size, *(stride * factor * size for stride in tensor.strides[1:]), size),
    )
