"""The transforms of weights: steps from what a checkpoint stores to what a program loads.

In: the entries that a step takes, as types or as arrays. Out: one entry. Invariant: `apply` gives what `infer` says.
All but Scale and Cast, which round once, and RopeTable only move data.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from g4c.ir.op import require
from g4c.ir.transform import Transform
from g4c.ir.types import Array, DType, TensorType

_SCALED_ELEMENTS = 1 << 20  # how much of a matrix is held in f32 at a time


def _single(types: tuple[TensorType, ...], name: str) -> TensorType:
    require(len(types) == 1, f"{name} takes one tensor, got {len(types)}; concat comes first")
    return types[0]


def _resized(type: TensorType, axis: int, extent: int) -> TensorType:
    """`type` with `extent` along `axis`."""
    return type.with_shape((*type.shape[:axis], extent, *type.shape[axis + 1 :]))


def _along(axis: int, start: int, limit: int) -> tuple[slice, ...]:
    """The index of `start` <= i < `limit` along `axis`."""
    return (*(slice(None),) * axis, slice(start, limit))


def _check_axis(name: str, type: TensorType, axis: int) -> None:
    require(0 <= axis < type.rank, f"{name}: axis {axis} of a rank-{type.rank} tensor")


@dataclass(frozen=True)
class Concat(Transform):
    """Join `count` entries along `axis`; count = 0: all entries from `at` on."""

    name: ClassVar[str] = "concat"
    axis: int
    count: int = 0

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        first = types[0]
        _check_axis(self.name, first, self.axis)
        for other in types[1:]:
            same = other.dtype == first.dtype and other.rank == first.rank
            same = same and all(
                a == b for i, (a, b) in enumerate(zip(first.shape, other.shape, strict=True)) if i != self.axis
            )
            require(same, f"concat: {first} and {other} differ outside axis {self.axis}")
        return _resized(first, self.axis, sum(t.shape[self.axis] for t in types))

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        return np.concatenate(arrays, axis=self.axis)

    def undo(self, array: Array, types: tuple[TensorType, ...]) -> Sequence[Array | None]:
        limits = itertools.accumulate(type.shape[self.axis] for type in types)
        return [
            array[_along(self.axis, limit - type.shape[self.axis], limit)]
            for type, limit in zip(types, limits, strict=True)
        ]

    def arity(self, entries: int) -> int:
        return self.count or entries - self.at

    def moved(self, by: int, entries: int) -> Transform:
        return dataclasses.replace(self, at=self.at + by, count=self.arity(entries))


@dataclass(frozen=True)
class Transpose(Transform):
    """Reorder the axes; `permutation` as in numpy.transpose."""

    name: ClassVar[str] = "transpose"
    permutation: tuple[int, ...]

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        source = _single(types, self.name)
        require(
            sorted(self.permutation) == list(range(source.rank)),
            f"transpose: {self.permutation} does not permute the axes of {source}",
        )
        return source.with_shape(tuple(source.shape[i] for i in self.permutation))

    def apply(self, arrays: Sequence[Array]) -> Array:
        return arrays[0].transpose(self.permutation).copy()

    def undo(self, array: Array, types: tuple[TensorType, ...]) -> Sequence[Array | None]:
        return [array.transpose([self.permutation.index(i) for i in range(array.ndim)])]


@dataclass(frozen=True)
class Reshape(Transform):
    """Same elements, row-major, in another shape."""

    name: ClassVar[str] = "reshape"
    shape: tuple[int, ...]

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        source = _single(types, self.name)
        require(all(n >= 0 for n in self.shape), f"reshape: negative extent in {self.shape}")
        target = source.with_shape(self.shape)
        require(target.size == source.size, f"reshape: {source} has {source.size} elements, {target} has {target.size}")
        return target

    def apply(self, arrays: Sequence[Array]) -> Array:
        return arrays[0].reshape(self.shape)

    def undo(self, array: Array, types: tuple[TensorType, ...]) -> Sequence[Array | None]:
        return [array.reshape(types[0].shape)]


@dataclass(frozen=True)
class Slice(Transform):
    """The elements at `start` <= i < `limit` along `axis`."""

    name: ClassVar[str] = "slice"
    axis: int
    start: int
    limit: int

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        source = _single(types, self.name)
        _check_axis(self.name, source, self.axis)
        fits = 0 <= self.start < self.limit <= source.shape[self.axis]
        require(fits, f"slice: {self.start} to {self.limit} along axis {self.axis} of {source}")
        return _resized(source, self.axis, self.limit - self.start)

    def apply(self, arrays: Sequence[Array]) -> Array:
        return arrays[0][_along(self.axis, self.start, self.limit)]


@dataclass(frozen=True)
class Take(Transform):
    """Of every block of `block` elements along `axis` the `ranges`, one after the other: 64:256+0:64 swaps two parts.

    Permutes head_dim in the rows of a projection (a block per head), in o_proj's columns, in a norm's weight.
    """

    name: ClassVar[str] = "take"
    axis: int
    block: int
    ranges: tuple[tuple[int, int], ...]

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        source = _single(types, self.name)
        _check_axis(self.name, source, self.axis)
        extent = source.shape[self.axis]
        fits = self.block > 0 and extent % self.block == 0
        require(fits, f"take: axis {self.axis} of {source} is not made of blocks of {self.block}")
        for start, limit in self.ranges:
            require(0 <= start < limit <= self.block, f"take: {start}:{limit} of a block of {self.block}")
        width = sum(limit - start for start, limit in self.ranges)
        require(width > 0, "take: no ranges")
        return _resized(source, self.axis, extent // self.block * width)

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        shape, axis = arrays[0].shape, self.axis
        blocks = arrays[0].reshape((*shape[:axis], shape[axis] // self.block, self.block, *shape[axis + 1 :]))
        before = (slice(None),) * (axis + 1)
        parts = [blocks[(*before, slice(start, limit))] for start, limit in self.ranges]
        return np.concatenate(parts, axis + 1).reshape((*shape[:axis], -1, *shape[axis + 1 :]))

    def undo(self, array: Array, types: tuple[TensorType, ...]) -> Sequence[Array | None]:
        limits = list(itertools.accumulate(limit - start for start, limit in self.ranges))
        held = sorted(zip(self.ranges, zip([0, *limits], limits, strict=False), strict=True))
        if [start for (start, _), _ in held] != [0, *(limit for (_, limit), _ in held[:-1])] or limits[
            -1
        ] != self.block:
            return [None]
        return [Take(self.axis, self.block, tuple(place for _, place in held)).apply([array])]


@dataclass(frozen=True)
class Pad(Transform):
    """Zeros after the end of `axis`, up to the extent `to`."""

    name: ClassVar[str] = "pad"
    axis: int
    to: int

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        source = _single(types, self.name)
        _check_axis(self.name, source, self.axis)
        require(self.to >= source.shape[self.axis], f"pad: axis {self.axis} of {source} is longer than {self.to}")
        return _resized(source, self.axis, self.to)

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        missing = self.to - arrays[0].shape[self.axis]
        return np.pad(arrays[0], [(0, missing if i == self.axis else 0) for i in range(arrays[0].ndim)])

    def undo(self, array: Array, types: tuple[TensorType, ...]) -> Sequence[Array | None]:
        return [array[_along(self.axis, 0, types[0].shape[self.axis])]]


@dataclass(frozen=True)
class Scale(Transform):
    """Entry `at` times the vector in entry `at` + 1 along `axis`: the f32 product, rounded once to the entry's type."""

    name: ClassVar[str] = "scale"
    axis: int

    def arity(self, entries: int) -> int:
        return 2

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        require(len(types) == 2, f"scale takes a tensor and a vector, got {len(types)} tensors")
        source, vector = types
        _check_axis(self.name, source, self.axis)
        require(source.dtype.is_float and vector.dtype.is_float, f"scale: {source} by {vector}: both are floats")
        fits = vector.shape == (source.shape[self.axis],)
        require(fits, f"scale: {vector} does not fit axis {self.axis} of {source}")
        return source

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        source, vector = arrays
        shape = tuple(n if i == self.axis else 1 for i, n in enumerate(source.shape))
        factors = np.broadcast_to(vector.astype(np.float32).reshape(shape), source.shape)
        result = np.empty(source.shape, source.dtype)
        rows = max(1, _SCALED_ELEMENTS * len(source) // max(1, source.size))
        for start in range(0, len(source), rows):
            part = slice(start, start + rows)
            result[part] = source[part].astype(np.float32) * factors[part]
        return result

    def undo(self, array: Array, types: tuple[TensorType, ...]) -> Sequence[Array | None]:
        """The product, and a vector of ones: the factors are in the product."""
        import numpy as np

        return [array, np.ones(types[1].shape, types[1].dtype.numpy)]


@dataclass(frozen=True)
class Cast(Transform):
    """Round to another element type."""

    name: ClassVar[str] = "cast"
    dtype: DType

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        return _single(types, self.name).with_dtype(self.dtype)

    def apply(self, arrays: Sequence[Array]) -> Array:
        return arrays[0].astype(self.dtype.numpy)

    def undo(self, array: Array, types: tuple[TensorType, ...]) -> Sequence[Array | None]:
        return [array.astype(types[0].dtype.numpy)]


@dataclass(frozen=True)
class RopeTable(Transform):
    """table[p, i] = fn(p * inv_freq[i]) for positions p < length; all in f32, as Hugging Face computes it."""

    name: ClassVar[str] = "rope_table"
    function: str
    length: int

    def infer(self, types: tuple[TensorType, ...]) -> TensorType:
        source = _single(types, self.name)
        require(source.rank == 1 and source.dtype == DType.F32, f"rope_table: inv_freq must be f32[n], got {source}")
        require(self.function in ("cos", "sin"), f"rope_table: function must be cos or sin, got {self.function}")
        require(self.length >= 0, f"rope_table: length must be >= 0, got {self.length}")
        return TensorType((self.length, source.shape[0]), DType.F32)

    def apply(self, arrays: Sequence[Array]) -> Array:
        import numpy as np

        angles = np.arange(self.length, dtype=np.float32)[:, None] * arrays[0][None, :]
        table: Array = np.cos(angles) if self.function == "cos" else np.sin(angles)
        return table
