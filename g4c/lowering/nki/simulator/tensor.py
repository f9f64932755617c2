"""NkiTensor: a strided view of a storage, with indexing and access patterns.

In: a storage, a dtype, shape and strides in elements, an offset, optionally an index known at run time.
Out: views that share the storage; `address_of` turns them into bytes for the instructions.
Invariants: element (i, ...) of a tensor lies at offset + sum(strides[k] * i[k]); on chip, dimension 0 is the partition
dimension and its stride a multiple of the elements per partition; a static view never leaves its storage.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from g4c.lowering.nki.simulator import dtypes
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.indirection import Indirection
from g4c.lowering.nki.simulator.memory import Box, MemoryRegion, Storage
from g4c.lowering.nki.simulator.objects import NKIObject
from g4c.lowering.nki.simulator.registers import VirtualRegister
from g4c.lowering.nki.simulator.views import ViewPrimitives


class DynamicSlice:
    """`nl.ds(start, size)`: a slice whose start may be known at run time only."""

    __slots__ = ("size", "start")

    def __init__(self, start: Any, size: int) -> None:
        self.start = start
        self.size = int(size)


@dataclass(frozen=True, slots=True)
class Dynamic:
    """An offset known at run time: `source` (register, 1x1 tile or index tile) times `step` bytes.

    `vector`: one index per row of dimension 0, whose static stride is then ignored. `limit`: the first offset that
    leaves the dimension that is indexed, None where only the storage is a limit.
    """

    source: Any
    step: int
    vector: bool
    limit: int | None = None


class NkiTensor(ViewPrimitives, NKIObject):
    """A tensor on HBM, SBUF or PSUM, or a view of one."""

    __iter__ = None

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: str,
        storage: Storage | None,
        buffer: MemoryRegion = MemoryRegion.sbuf,
        name: str = "",
        *,
        strides: tuple[int, ...] | None = None,
        offset: int = 0,
        dynamic: Dynamic | None = None,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.storage = storage
        self.buffer = buffer
        self.name = name
        self.strides = contiguous_strides(shape) if strides is None else strides
        self.offset = offset
        self.dynamic = dynamic
        self.indirection: Indirection | None = None
        self.unchecked = False  # made by `ap`: bounds are checked when the view is used
        self._array: np.ndarray | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return dtypes.ITEMSIZE[self.dtype]

    @property
    def on_chip(self) -> bool:
        return self.buffer is MemoryRegion.sbuf or self.buffer is MemoryRegion.psum

    def __repr__(self) -> str:
        label = f" {self.name!r}" if self.name else ""
        return f"NkiTensor{label}({self.dtype}{list(self.shape)} in {self.buffer.value})"

    def __array__(self, *arguments: Any, **keywords: Any) -> np.ndarray:
        raise error("G4C-K001", "a tensor is used as a numpy array", "tensors are run-time data; use nisa instructions")

    def __setitem__(self, key: Any, value: Any) -> None:
        raise error("G4C-K020", "assignment to a tensor", "write with an instruction: nisa.tensor_copy, nisa.dma_copy")

    def with_layout(
        self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, dynamic: Dynamic | None = None
    ) -> NkiTensor:
        """A view of the same storage and dtype."""
        if self.indirection is not None:
            raise error("G4C-K023", f"a view of {self!r}, an indirect view", "index the tile, then select from it")
        view = NkiTensor(
            shape,
            self.dtype,
            self.storage,
            self.buffer,
            self.name,
            strides=strides,
            offset=offset,
            dynamic=dynamic or self.dynamic,
        )
        view.unchecked = self.unchecked
        return view

    # Indexing

    def __getitem__(self, key: Any) -> NkiTensor:
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in [k for k in keys if k is Ellipsis]:
            at = next(n for n, k in enumerate(keys) if k is Ellipsis)
            keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        if len(keys) > self.ndim:
            raise error(
                "G4C-K023", f"{len(keys)} indices for a tensor of rank {self.ndim}", "at most one per dimension"
            )
        keys += [slice(None)] * (self.ndim - len(keys))
        shape, strides, offset, dynamic = [], [], self.offset, self.dynamic
        for dim, k in enumerate(keys):
            if isinstance(k, slice):
                start, count, step = self._range(dim, k)
                offset += start * self.strides[dim]
                shape.append(count)
                strides.append(self.strides[dim] * step)
                continue
            if isinstance(k, DynamicSlice):
                if isinstance(k.start, VirtualRegister | NkiTensor):
                    dynamic = self._dynamic(dim, k.start, dynamic, k.size)
                else:
                    start, _, _ = self._range(dim, slice(k.start, operator.index(k.start) + k.size))
                    offset += start * self.strides[dim]
                shape.append(k.size)
                strides.append(self.strides[dim])
                continue
            if isinstance(k, VirtualRegister | NkiTensor):
                dynamic = self._dynamic(dim, k, dynamic)
            else:
                offset += self._index(dim, k) * self.strides[dim]
            if dim == 0 and self.on_chip:
                shape.append(1)
                strides.append(self.strides[0])
        minimum = 2 if self.on_chip else 1
        if len(shape) < minimum:
            shape.append(1)
            strides.append(1)
        return self.with_layout(tuple(shape), tuple(strides), offset, dynamic)

    def _index(self, dim: int, key: Any) -> int:
        try:
            index = operator.index(key)
        except TypeError:
            raise error(
                "G4C-K023", f"{type(key).__name__} cannot index a tensor", "use integers, slices, nl.ds, registers"
            ) from None
        self._static_dimension(dim)
        size = self.shape[dim]
        if not -size <= index < size:
            raise error(
                "G4C-K015", f"index {index} in dimension {dim} of size {size} ({self!r})", "-size <= index < size"
            )
        return index % size

    def _range(self, dim: int, key: slice) -> tuple[int, int, int]:
        """(start, count, step) of a slice."""
        size = self.shape[dim]
        step = 1 if key.step is None else operator.index(key.step)
        start = 0 if key.start is None else operator.index(key.start)
        stop = size if key.stop is None else operator.index(key.stop)
        if (start, stop, step) == (0, size, 1):
            return 0, size, 1
        self._static_dimension(dim)
        start = start + size if start < 0 else start
        stop = stop + size if stop < 0 else stop
        if step < 1:
            raise error("G4C-K023", f"a slice with step {step}", "steps are positive")
        if not 0 <= start < stop <= size:
            raise error(
                "G4C-K015",
                f"slice [{start}:{stop}] in dimension {dim} of size {size} ({self!r})",
                "0 <= start < stop <= size: clamp the bounds of tails",
            )
        return start, -(-(stop - start) // step), step

    def _static_dimension(self, dim: int) -> None:
        if dim == 0 and self.dynamic is not None and self.dynamic.vector:
            raise error(
                "G4C-K023", "the dimension of a vector offset is sliced or selected", "slice before vector_offset"
            )

    def _dynamic(self, dim: int, source: Any, other: Dynamic | None, size: int = 1) -> Dynamic:
        """An index of `size` elements of `dim` that is known at run time; `other`: one that the view has already."""
        if other is not None:
            raise error(
                "G4C-K023", "a view has at most one index known at run time", "add up the indices on the device"
            )
        if dim == 0 and self.on_chip:
            raise error("G4C-K023", "the partition dimension is indexed at run time", "select along a free dimension")
        check_scalar_offset(source)
        if not 1 <= size <= self.shape[dim]:
            raise error(
                "G4C-K015",
                f"{size} elements of dimension {dim} of size {self.shape[dim]} ({self!r})",
                "what is selected fits into the dimension",
            )
        return Dynamic(source, self.strides[dim] * self.itemsize, vector=False, limit=self.shape[dim] - size + 1)

    # Access patterns

    def ap(
        self,
        pattern: list[list[int]],
        offset: int | None = None,
        scalar_offset: Any = None,
        vector_offset: Any = None,
        indirect_dim: int = 0,
        dtype: Any = None,
    ) -> NkiTensor:
        """The storage addressed by [[step, count], ...] in elements of `dtype`, from this view's offset plus `offset`.

        The documentation is of two minds on `offset` of a view that has an offset of its own; this is the method's.
        """
        target = self.dtype if dtype is None else dtypes.canonical(dtype)
        itemsize = dtypes.ITEMSIZE[target]
        pairs = [(operator.index(step), operator.index(count)) for step, count in pattern]
        if self.on_chip and pairs[0][0] * itemsize == self.size // self.shape[0] * self.itemsize:
            # AWS's kernels count the elements of the view, also of a slice of a tile: the next partition is meant.
            pairs[0] = (self.storage.row_bytes // itemsize, pairs[0][1])
        start = self.offset * self.itemsize // itemsize + (0 if offset is None else operator.index(offset))
        if scalar_offset is not None and vector_offset is not None:
            raise error("G4C-K023", "scalar_offset and vector_offset are given", "at most one offset is dynamic")
        dynamic = None
        if scalar_offset is not None or vector_offset is not None:
            step = self.itemsize
            for length in self.shape[indirect_dim + 1 :]:
                step *= length
            if vector_offset is not None:
                if self.on_chip or indirect_dim != 0:
                    raise error(
                        "G4C-K023", "vector_offset", "only dimension 0 of HBM tensors takes a vector of indices"
                    )
                check_vector_offset(vector_offset)
            else:
                check_scalar_offset(scalar_offset)
            source = scalar_offset if vector_offset is None else vector_offset
            dynamic = Dynamic(source, step, vector=vector_offset is not None)
        view = NkiTensor(
            tuple(count for _, count in pairs),
            target,
            self.storage,
            self.buffer,
            self.name,
            strides=tuple(step for step, _ in pairs),
            offset=start,
            dynamic=dynamic,
        )
        view.unchecked = True
        return view

    def check_bounds(self) -> None:
        """Refuse a static view that leaves its storage, or on chip its partitions."""
        if min(self.shape) < 1:
            raise error("G4C-K023", f"a view of shape {self.shape} is empty", "every count is at least 1")
        row = self.row_elements
        if self.on_chip:
            stride = self.strides[0]
            if self.shape[0] > 1 and stride not in (row, 0):
                raise error(
                    "G4C-K023",
                    f"the partition step of an access pattern is {stride}, a partition has {row} elements",
                    "the first pair is the partition: its step is the elements per partition",
                )
        box = self.box()
        if box.p0 < 0 or box.p1 > self.storage.partitions or box.b0 < 0 or box.b1 > self.storage.row_bytes:
            raise error(
                "G4C-K015",
                f"an access pattern reaches partitions {box.p0}..{box.p1 - 1}, bytes {box.b0}..{box.b1 - 1} of "
                f"{self.storage.partitions} partitions of {self.storage.row_bytes} bytes ({self!r})",
                "offset, steps and counts, in elements, stay within the storage",
            )

    @property
    def row_elements(self) -> int:
        """Elements of this view's dtype per partition of the storage (of the whole storage in HBM)."""
        return self.storage.row_bytes // self.itemsize

    def box(self, first: int = 0) -> Box:
        """Where the view, without its dynamic offset, may touch the storage; in HBM from dimension `first` on."""
        if self.indirection is not None:
            return self.indirection.base.box()
        low = high = 0
        begin = 1 if self.on_chip else first
        for count, stride in zip(self.shape[begin:], self.strides[begin:], strict=True):
            reach = (count - 1) * stride
            low, high = (low + reach, high) if reach < 0 else (low, high + reach)
        itemsize = self.itemsize
        if not self.on_chip:
            return Box(0, 1, (self.offset + low) * itemsize, (self.offset + high + 1) * itemsize)
        row = self.row_elements
        partition, free = divmod(self.offset, row)
        rows = (self.shape[0] - 1) * self.strides[0] // row
        return Box(partition, partition + rows + 1, (free + low) * itemsize, (free + high + 1) * itemsize)

    @property
    def first_row(self) -> int:
        """The row of the storage in which a view on chip starts."""
        return self.offset // self.row_elements

    @property
    def address(self) -> tuple[int, int] | None:
        """(partition, byte offset) at which the kernel placed the tile, None where it did not."""
        return None if self.storage.life is None else self.storage.life.placed_at

    @property
    def start_partition(self) -> int:
        """The physical partition of row 0."""
        return self.storage.origin + self.first_row


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * shape[dim + 1]
    return tuple(strides)


def check_scalar_offset(source: Any) -> None:
    """Refuse what cannot be a run-time index: it is a register or an integer tile of one element in SBUF."""
    if isinstance(source, VirtualRegister):
        return
    if not isinstance(source, NkiTensor):
        raise error(
            "G4C-K002", f"an index of type {type(source).__name__}", "a register, or a 1x1 integer tile in SBUF"
        )
    if source.buffer is not MemoryRegion.sbuf or source.size != 1 or source.dtype not in dtypes.INTEGERS:
        raise error("G4C-K002", f"the index is {source!r}", "a run-time index is a 1x1 integer tile in SBUF")


def check_vector_offset(source: Any) -> None:
    """Refuse what cannot be a vector of indices: an integer tile in SBUF."""
    if not isinstance(source, NkiTensor):
        raise error("G4C-K002", f"vector_offset of type {type(source).__name__}", "an integer tile (P, 1) in SBUF")
    if source.buffer is not MemoryRegion.sbuf or source.dtype not in dtypes.WIDE_INTEGERS:
        raise error(
            "G4C-K002", f"vector_offset is {source!r}", "a vector of indices is an int32 or uint32 tile in SBUF"
        )
