"""Which part of a tile or tensor a view touches, and which parts overlap.

In: a NkiTensor. Out: a region: intervals over the partitions and over each dimension of the storage.
Invariant: a region contains every byte of its view; two views with disjoint regions share no byte. Slices of the
dimensions that a tile was allocated with are exact; other patterns are widened.
"""

from __future__ import annotations

from g4c.lowering.nki.simulator import dtypes
from g4c.lowering.nki.simulator.memory import Storage
from g4c.lowering.nki.simulator.tensor import NkiTensor

# Flat: p0, p1, then lo, hi for each dimension; the last dimension in bytes.
Region = tuple[int, ...]


def region_of(tensor: NkiTensor) -> Region:
    """The region of `tensor` in its storage; with an address known at run time, all of it."""
    storage = tensor.storage
    sizes, steps = _dimensions(tensor)
    if tensor.is_indirect():
        return _whole(tensor, sizes)
    box = tensor.box()
    if is_placed(storage):
        return (box.p0 + storage.origin, box.p1 + storage.origin, *_physical(tensor))
    lows = _digits(box.b0, steps)
    extents = [1] * len(steps)
    extents[-1] = tensor.itemsize
    first = 1 if tensor.on_chip else 0
    exact = True
    for count, stride in zip(tensor.shape[first:], tensor.strides[first:], strict=True):
        step = stride * tensor.itemsize
        if count == 1 or step == 0:
            continue
        at = next((n for n, width in enumerate(steps) if width <= step), None)
        if at is None or step % steps[at]:
            exact = False
            break
        extents[at] += (count - 1) * step // steps[at]
    exact = exact and all(low + extent <= size for low, extent, size in zip(lows, extents, sizes, strict=True))
    if exact:
        return (box.p0, box.p1, *(n for low, extent in zip(lows, extents, strict=True) for n in (low, low + extent)))
    return (box.p0, box.p1, *_hull(box.b0, box.b1, sizes, steps))


def is_placed(storage: Storage) -> bool:
    """Whether the tile has an address: then its region is one of the physical memory."""
    return storage.life is not None and storage.life.placed_at is not None


def _dimensions(tensor: NkiTensor) -> tuple[list[int], list[int]]:
    """Sizes and steps in bytes of the storage's free dimensions (all of them in HBM), the last in bytes."""
    storage = tensor.storage
    sizes = list(storage.shape[1:] if storage.on_chip else storage.shape) or [1]
    itemsize = dtypes.ITEMSIZE[storage.dtype]
    sizes[-1] *= itemsize
    steps = [1] * len(sizes)
    for dim in range(len(sizes) - 2, -1, -1):
        steps[dim] = steps[dim + 1] * sizes[dim + 1]
    return sizes, steps


def _whole(tensor: NkiTensor, sizes: list[int]) -> Region:
    """All of a storage."""
    storage = tensor.storage
    if is_placed(storage):
        start = storage.base % storage.pitch
        return (storage.origin, storage.origin + storage.partitions, start, start + storage.row_bytes)
    return (0, storage.partitions, *(n for size in sizes for n in (0, size)))


def _digits(offset: int, steps: list[int]) -> list[int]:
    """`offset` in the mixed radix of `steps`."""
    digits = []
    for step in steps:
        digit, offset = divmod(offset, step)
        digits.append(digit)
    return digits


def _hull(low: int, high: int, sizes: list[int], steps: list[int]) -> list[int]:
    """The smallest intervals per dimension that contain the bytes low to high - 1: one range, then all of the rest."""
    first, last = _digits(low, steps), _digits(high - 1, steps)
    intervals: list[int] = []
    split = False
    for a, b, size in zip(first, last, sizes, strict=True):
        intervals += (0, size) if split else (a, b + 1)
        split = split or a != b
    return intervals


def _physical(tensor: NkiTensor) -> tuple[int, int]:
    """Bytes of the physical memory's partitions that a view of a placed tile spans."""
    box, storage = tensor.box(), tensor.storage
    start = storage.base % storage.pitch
    return start + box.b0, start + box.b1


def overlap(a: Region, b: Region) -> bool:
    """Whether two regions of one storage share a byte."""
    return all(a[n] < b[n + 1] and b[n] < a[n + 1] for n in range(0, len(a), 2))


def row_bytes(tensor: NkiTensor) -> int:
    """Contiguous bytes of a view's rows: within a partition on chip, in memory order in HBM."""
    run = 1
    first = 1 if tensor.on_chip else 0
    for count, stride in zip(reversed(tensor.shape[first:]), reversed(tensor.strides[first:]), strict=True):
        if count == 1:
            continue
        if stride != run:
            break
        run *= count
    return run * tensor.itemsize


def is_contiguous(tensor: NkiTensor) -> bool:
    """Whether the free dimensions of a tile's view are packed."""
    return row_bytes(tensor) * tensor.shape[0] == tensor.size * tensor.itemsize


def inner_step_bytes(tensor: NkiTensor) -> int:
    """The step of the innermost free dimension that has more than one element."""
    pairs = [(c, s) for c, s in zip(tensor.shape[1:], tensor.strides[1:], strict=True) if c > 1]
    return abs(pairs[-1][1]) * tensor.itemsize if pairs else 0
