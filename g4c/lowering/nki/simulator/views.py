"""View primitives of NkiTensor: new shapes and strides for the same bytes.

In: a view. Out: a view of the same storage. Nothing is copied.
Invariants: on chip the partition dimension stays first, whole and unbroadcast; a dimension that a vector of indices
selects is never moved, split or merged.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from g4c.lowering.nki.simulator import dtypes
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.indirection import indirect_view

if TYPE_CHECKING:
    from g4c.lowering.nki.simulator.tensor import NkiTensor


class ViewPrimitives:
    """What NkiTensor inherits."""

    def _refuse_first(self: NkiTensor, dim: int, what: str) -> None:
        """Refuse to change dimension 0 where it is the partition dimension or indexed by a vector."""
        if dim == 0 and self.on_chip:
            raise error("G4C-K023", f"{what} of the partition dimension of {self!r}", "partitions cannot be rearranged")
        if dim == 0 and self.dynamic is not None and self.dynamic.vector:
            raise error(
                "G4C-K023", f"{what} of the dimension that a vector of indices selects", "only other dimensions change"
            )

    def _dimension(self: NkiTensor, dim: int) -> int:
        if not -self.ndim <= dim < self.ndim:
            raise error("G4C-K023", f"dimension {dim} of a tensor of rank {self.ndim}", "-rank <= dimension < rank")
        return dim % self.ndim

    def is_indirect(self: NkiTensor) -> bool:
        """Whether the view has an index known at run time."""
        return self.dynamic is not None or self.indirection is not None

    def is_contiguous(self: NkiTensor) -> bool:
        """Whether the view covers its storage row-major without gaps; on chip per partition."""
        expected = 1
        for dim in range(self.ndim - 1, 0 if self.on_chip else -1, -1):
            if self.shape[dim] != 1:
                if self.strides[dim] != expected:
                    return False
                expected *= self.shape[dim]
        return True

    def get_pattern(self: NkiTensor) -> list[list[int]]:
        """The access pattern [[stride, count], ...]."""
        return [[stride, count] for stride, count in zip(self.strides, self.shape, strict=True)]

    def slice(self: NkiTensor, dim: int, start: int, end: int, step: int = 1) -> NkiTensor:
        """Elements start, start + step, ... below `end` of one dimension."""
        dim = self._dimension(dim)
        if start < 0 or end < 0:
            raise error("G4C-K015", f"slice({dim}, {start}, {end})", "0 <= start < end <= size")
        return self[tuple(slice(None) if d != dim else slice(start, end, step) for d in range(dim + 1))]

    def select(self: NkiTensor, dim: int, index: Any) -> NkiTensor:
        """One element of a dimension, which disappears; `index` may be a 1x1 tile."""
        dim = self._dimension(dim)
        return self[tuple(slice(None) if d != dim else index for d in range(dim + 1))]

    def vector_select(self: NkiTensor, dim: int, vector_offset: NkiTensor) -> NkiTensor:
        """Row vector_offset[p] of dimension 0 for every p."""
        if dim != 0 or self.on_chip:
            raise error("G4C-K023", "vector_select", "only dimension 0 of HBM tensors takes a vector of indices")
        if self.dynamic is not None:
            raise error(
                "G4C-K023", "a view has at most one index known at run time", "add up the indices on the device"
            )
        count = vector_offset.shape[0]
        pattern = [[self.strides[0], count], *self.get_pattern()[1:]]
        return self.ap(pattern, vector_offset=vector_offset)

    def permute(self: NkiTensor, dims: tuple[int, ...]) -> NkiTensor:
        """Dimension k of the result is dimension dims[k]."""
        if sorted(dims) != list(range(self.ndim)):
            raise error("G4C-K023", f"permute({tuple(dims)}) of rank {self.ndim}", "a permutation of all dimensions")
        if dims[0] != 0:
            self._refuse_first(0, "permute")
        return self.with_layout(tuple(self.shape[d] for d in dims), tuple(self.strides[d] for d in dims), self.offset)

    def broadcast(self: NkiTensor, dim: int, size: int) -> NkiTensor:
        """A dimension of size 1 repeated `size` times."""
        dim = self._dimension(dim)
        self._refuse_first(dim, "broadcast")
        if self.shape[dim] != 1:
            raise error("G4C-K023", f"broadcast of dimension {dim} of size {self.shape[dim]}", "only size 1")
        shape, strides = list(self.shape), list(self.strides)
        shape[dim], strides[dim] = size, 0
        return self.with_layout(tuple(shape), tuple(strides), self.offset)

    def expand_dim(self: NkiTensor, dim: int) -> NkiTensor:
        """A new dimension of size 1 at `dim`."""
        self._refuse_first(dim, "expand_dim")
        shape, strides = list(self.shape), list(self.strides)
        shape.insert(dim, 1)
        strides.insert(dim, 1)
        return self.with_layout(tuple(shape), tuple(strides), self.offset)

    def squeeze_dim(self: NkiTensor, dim: int) -> NkiTensor:
        """Without the dimension `dim` of size 1."""
        dim = self._dimension(dim)
        self._refuse_first(dim, "squeeze_dim")
        if self.shape[dim] != 1:
            raise error("G4C-K023", f"squeeze_dim of dimension {dim} of size {self.shape[dim]}", "only size 1")
        shape = self.shape[:dim] + self.shape[dim + 1 :]
        return self.with_layout(shape, self.strides[:dim] + self.strides[dim + 1 :], self.offset)

    def reshape_dim(self: NkiTensor, dim: int, shape: tuple[int, ...]) -> NkiTensor:
        """One dimension split into several; one of them may be -1."""
        dim = self._dimension(dim)
        sizes = list(shape)
        if sizes.count(-1) == 1:
            sizes[sizes.index(-1)] = self.shape[dim] // max(1, -math.prod(sizes))
        if math.prod(sizes) != self.shape[dim] or min(sizes) < 1:
            raise error(
                "G4C-K023", f"reshape_dim of size {self.shape[dim]} into {tuple(shape)}", "the product is the size"
            )
        if sizes == [self.shape[dim]]:
            return self
        self._refuse_first(dim, "reshape_dim")
        strides = [self.strides[dim] * math.prod(sizes[n + 1 :]) for n in range(len(sizes))]
        return self.with_layout(
            self.shape[:dim] + tuple(sizes) + self.shape[dim + 1 :],
            self.strides[:dim] + tuple(strides) + self.strides[dim + 1 :],
            self.offset,
        )

    def flatten_dims(self: NkiTensor, start_dim: int, end_dim: int) -> NkiTensor:
        """Dimensions start_dim..end_dim, contiguous among themselves, merged into one."""
        start_dim, end_dim = self._dimension(start_dim), self._dimension(end_dim)
        if end_dim > start_dim:
            self._refuse_first(start_dim, "flatten_dims")
        size = math.prod(self.shape[start_dim : end_dim + 1])
        strides = reshaped_strides(self.shape[start_dim : end_dim + 1], self.strides[start_dim : end_dim + 1], (size,))
        if strides is None:
            raise error("G4C-K023", f"flatten_dims({start_dim}, {end_dim}) of {self.get_pattern()}", "not contiguous")
        return self.with_layout(
            (*self.shape[:start_dim], size, *self.shape[end_dim + 1 :]),
            (*self.strides[:start_dim], *strides, *self.strides[end_dim + 1 :]),
            self.offset,
        )

    def reshape(self: NkiTensor, shape: tuple[int, ...]) -> NkiTensor:
        """The same elements in row-major order under another shape; on chip the partitions stay."""
        shape = tuple(operator.index(size) for size in shape)
        if shape.count(-1) == 1:
            at = shape.index(-1)
            shape = (*shape[:at], self.size // max(1, -math.prod(shape)), *shape[at + 1 :])
        if math.prod(shape) != self.size:
            raise error("G4C-K023", f"reshape of {self.shape} to {shape}", "the number of elements must stay")
        pinned = self.on_chip or (self.dynamic is not None and self.dynamic.vector)
        if pinned and shape[0] != self.shape[0]:
            raise error("G4C-K023", f"reshape of {self!r} to {shape}", "the first dimension must stay")
        first = 1 if pinned else 0
        strides = reshaped_strides(self.shape[first:], self.strides[first:], shape[first:])
        if strides is None:
            raise error(
                "G4C-K023", f"reshape of pattern {self.get_pattern()} to {shape}", "the layout does not allow it"
            )
        return self.with_layout(shape, (*self.strides[:first], *strides), self.offset)

    def rearrange(
        self: NkiTensor,
        src_pattern: tuple[Any, ...],
        dst_pattern: tuple[Any, ...],
        fixed_sizes: dict[str, int] | None = None,
    ) -> NkiTensor:
        """Dimensions split, reordered and merged by name: (("b", ("h", "w")), ("b", "w", "h"), {"h": 4})."""
        known = dict(fixed_sizes or {})
        view, names = self, []
        if len(src_pattern) != self.ndim:
            raise error("G4C-K023", f"pattern {src_pattern} for rank {self.ndim}", "one name or group per dimension")
        for group in src_pattern:
            members = (group,) if isinstance(group, str) else tuple(group)
            sizes = tuple(known.get(name, -1) for name in members)
            if len(members) > 1:
                view = view.reshape_dim(len(names), sizes)
            names += members
        order = [name for group in dst_pattern for name in ((group,) if isinstance(group, str) else group)]
        if sorted(order) != sorted(names):
            raise error("G4C-K023", f"rearrange {src_pattern} to {dst_pattern}", "both patterns have the same names")
        view = view.permute(tuple(names.index(name) for name in order))
        for at, group in enumerate(dst_pattern):
            if not isinstance(group, str) and len(group) > 1:
                view = view.flatten_dims(at, at + len(group) - 1)
        return view

    def view(self: NkiTensor, dtype: Any) -> NkiTensor:
        """The same bytes as another dtype; the last dimension scales with the size of the elements."""
        target = dtypes.canonical(dtype)
        old, new = self.itemsize, dtypes.ITEMSIZE[target]
        if self.dynamic is not None:
            raise error("G4C-K023", "view(dtype) of a view with an index known at run time", "view first, then select")
        shape, strides, offset = list(self.shape), list(self.strides), self.offset
        if old != new:
            if strides[-1] != 1 and shape[-1] != 1:
                raise error(
                    "G4C-K023", f"view({target}) of pattern {self.get_pattern()}", "the last dimension is contiguous"
                )
            spans = [shape[-1] * old, offset * old, *(stride * old for stride in strides[:-1])]
            if any(span % new for span in spans):
                raise error(
                    "G4C-K023", f"view({target}) of {self!r}", f"sizes and strides must be multiples of {new} bytes"
                )
            shape[-1], offset = shape[-1] * old // new, offset * old // new
            strides = [*(stride * old // new for stride in strides[:-1]), 1]
        result = self.with_layout(tuple(shape), tuple(strides), offset)
        result.dtype = target
        return result

    reinterpret_cast = view

    def indirect(self: NkiTensor, index: NkiTensor, num_elem: int | None = None) -> NkiTensor:
        """The elements at the offsets in `index` [P, K], per group of partitions, see indirection.py (v4)."""
        return indirect_view(self, index, num_elem)


def reshaped_strides(
    shape: tuple[int, ...], strides: tuple[int, ...], target: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The strides under which `target` walks the elements in the same order, or None where no strides do."""
    runs = merged(shape, strides)
    result = [1] * len(target)
    at = len(target) - 1
    for elements, stride in reversed(runs):
        covered = 1
        while covered < elements:
            if at < 0:
                return None
            result[at] = stride * covered
            covered *= target[at]
            at -= 1
        if covered != elements:
            return None
    return tuple(result)


def merged(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[list[int]]:
    """[elements, stride of the innermost] of the dimensions that cannot be one, outermost first."""
    runs: list[list[int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = [runs[-1][0] * size, stride]
        else:
            runs.append([size, stride])
    return runs
