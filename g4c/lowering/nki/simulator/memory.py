"""Storage of tensors: bytes in HBM, SBUF or PSUM, and what has been written where.

In: a shape, a dtype, a memory region, an optional physical address.
Out: a `Storage` whose bytes views address, with marks that say of every element whether it was written, and in PSUM
whether by a matmul.
Invariants: tiles placed with `address=` share one physical memory per program, all others have bytes of their own;
writing a placed tile erases the marks of every other placed tile that shares the bytes.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from g4c.lowering.nki.simulator import dtypes
from g4c.lowering.nki.simulator.diagnostics import Site, kernel_site
from g4c.lowering.nki.simulator.generation import PARTITIONS, PSUM_BANK_BYTES, PSUM_BYTES, QUADRANT
from g4c.lowering.nki.simulator.program import Program


class MemoryRegion(Enum):
    """Memory region constants for NKI tensors."""

    sbuf = "sbuf"
    psum = "psum"
    private_hbm = "private_hbm"
    shared_hbm = "shared_hbm"


# Marks of elements. ACCUMULATED: written by a matmul; LEFTOVER: computed from elements that nothing has written.
UNWRITTEN, WRITTEN, ACCUMULATED, LEFTOVER = 0, 1, 2, 3
ON_CHIP = frozenset({MemoryRegion.sbuf, MemoryRegion.psum})


@dataclass(slots=True)
class Life:
    """When a tile was alive, in instruction numbers, per quadrant of 32 partitions.

    `first`: the first use, which is a write; -1 where there is none. `last`: the last use.
    """

    region: MemoryRegion
    partitions: int
    row_bytes: int
    site: Site
    name: str
    placed_at: tuple[int, int] | None
    first: list[int] = field(init=False)
    last: list[int] = field(init=False)

    def __post_init__(self) -> None:
        quadrants = -(-self.partitions // QUADRANT)
        self.first, self.last = [-1] * quadrants, [-1] * quadrants

    def touch(self, start: int, count: int, instruction: int) -> None:
        """Partitions start..start + count - 1 of the tile are used by an instruction."""
        for quadrant in range(start // QUADRANT, (start + count - 1) // QUADRANT + 1):
            if self.first[quadrant] < 0:
                self.first[quadrant] = instruction
            self.last[quadrant] = instruction


def defined_marks(marks: np.ndarray) -> np.ndarray:
    """Which elements are defined: WRITTEN or ACCUMULATED."""
    return ((marks + np.uint8(1)) & np.uint8(2)) != 0


@dataclass(frozen=True)
class Leftovers:
    """Where undefined elements come from: the refusal that their use gives."""

    code: str
    text: str
    rule: str
    site: Site | None = None


@dataclass(slots=True)
class Box:
    """Where an access may touch a storage: partitions [p0, p1) and bytes [b0, b1) of each, relative to the storage."""

    p0: int
    p1: int
    b0: int
    b1: int

    def meets(self, other: Box) -> bool:
        return self.p0 < other.p1 and other.p0 < self.p1 and self.b0 < other.b1 and other.b0 < self.b1


class Storage:
    """The bytes of an allocation: `partitions` rows of `row_bytes`, `pitch` bytes apart, from byte `base` of `data`."""

    __slots__ = (
        "__weakref__",
        "base",
        "borrowed",
        "clobbered_by",
        "data",
        "dtype",
        "leftovers",
        "life",
        "marks",
        "neighbors",
        "number",
        "origin",
        "partitions",
        "pitch",
        "region",
        "row_bytes",
        "shape",
        "shared",
        "site",
        "turn",
        "uniform",
        "unit",
        "writers",
    )

    def __init__(
        self, region: MemoryRegion, shape: tuple[int, ...], dtype: str, data: np.ndarray | None = None
    ) -> None:
        itemsize = dtypes.ITEMSIZE[dtype]
        self.region = region
        self.shape = shape
        self.dtype = dtype
        self.site = kernel_site()
        on_chip = region in ON_CHIP
        self.partitions = shape[0] if on_chip else 1
        self.row_bytes = math.prod(shape[1:] if on_chip else shape) * itemsize
        self.pitch = self.row_bytes
        self.base = 0
        self.origin = 0  # physical partition of row 0
        self.data = np.empty(self.partitions * self.row_bytes, np.uint8) if data is None else data
        self.borrowed = not self.data.flags.writeable  # a caller's array: copied before the first write
        self.uniform: int | None = UNWRITTEN  # the mark of every element, or None: look into `marks`
        self.marks: np.ndarray | None = None  # [partitions, row_bytes // unit]
        self.unit = itemsize
        self.neighbors: list[weakref.ref[Storage]] = []
        self.clobbered_by: Site | None = None
        self.leftovers: Leftovers | None = None  # where elements marked LEFTOVER come from
        self.shared = False  # by the two programs of a pair
        self.writers: np.ndarray | None = None  # who wrote what since the last barrier; None: nobody wrote
        self.number = -1
        self.turn: object = None  # the turn of a run-time loop that made it, outside of which it is not there
        self.life: Life | None = None

    @property
    def on_chip(self) -> bool:
        return self.region in ON_CHIP

    def mark_array(self, itemsize: int) -> np.ndarray:
        """The marks in units of at most `itemsize` bytes, materialized."""
        if self.marks is None or self.unit > itemsize:
            unit = min(self.unit, itemsize)
            shape = (self.partitions, self.row_bytes // unit)
            if self.marks is None or self.uniform is not None:
                self.marks = np.full(shape, self.uniform or UNWRITTEN, np.uint8)
            else:
                self.marks = np.repeat(self.marks, self.unit // unit, axis=1)
            self.unit = unit
        elif self.uniform is not None:
            self.marks.fill(self.uniform)
        self.uniform = None
        return self.marks

    def before_write(self) -> None:
        """Copy what is borrowed; have room for signatures where two programs write."""
        if self.borrowed:
            self.data, self.borrowed = self.data.copy(), False
        if self.shared and self.writers is None:
            self.writers = np.zeros((1, self.row_bytes), np.uint8)

    def erase(self, box: Box, site: Site) -> None:
        """Another tile at the same address was written: what this one held in `box` is gone."""
        marks = self.mark_array(self.unit)
        marks[box.p0 : box.p1, box.b0 // self.unit : -(-box.b1 // self.unit)] = UNWRITTEN
        self.clobbered_by = site

    def written_through(self, box: Box) -> None:
        """`box` of this placed tile was written: erase the marks of the tiles that share its bytes."""
        for reference in self.neighbors:
            other = reference()
            if other is None:
                continue
            rows, columns = self.origin - other.origin, self.base % self.pitch - other.base % other.pitch
            shared = Box(
                max(box.p0 + rows, 0),
                min(box.p1 + rows, other.partitions),
                max(box.b0 + columns, 0),
                min(box.b1 + columns, other.row_bytes),
            )
            if shared.p0 < shared.p1 and shared.b0 < shared.b1:
                other.erase(shared, kernel_site())


def place(program: Program, storage: Storage, address: tuple[int, int]) -> None:
    """Put `storage` at (partition, byte offset) of the physical SBUF or PSUM."""
    start, offset = address
    name = storage.region.value
    if storage.region is MemoryRegion.psum:
        size = PSUM_BYTES
        if offset % PSUM_BANK_BYTES:
            program.refuse(
                "G4C-K005",
                f"a PSUM tile is placed at byte {offset}",
                f"PSUM tiles start at a bank: a multiple of {PSUM_BANK_BYTES} bytes",
            )
    else:
        size = program.generation.sbuf_usable
    if start < 0 or start + storage.partitions > PARTITIONS:
        program.refuse(
            "G4C-K007", f"a tile of {storage.partitions} partitions is placed at partition {start}", "there are 128"
        )
        return
    if offset < 0 or offset + storage.row_bytes > size:
        program.refuse(
            "G4C-K004" if storage.region is MemoryRegion.psum else "G4C-K003",
            f"a tile of {storage.row_bytes} bytes per partition at byte {offset} ends past {name} ({size} bytes)",
            f"{program.generation.name} has {size} usable bytes per partition of {name.upper()}",
        )
        return
    pitch = PSUM_BYTES if storage.region is MemoryRegion.psum else program.generation.sbuf_bytes
    memory = program.memories.get(name)
    if memory is None:
        memory = program.memories[name] = np.zeros(PARTITIONS * pitch, np.uint8)
    storage.data, storage.pitch, storage.origin = memory, pitch, start
    storage.base = start * pitch + offset
    placed = program.placed.setdefault(name, [])
    alive = []
    for reference in placed:
        other = reference()
        if other is None:
            continue
        alive.append(reference)
        low, high = other.base % pitch, other.base % pitch + other.row_bytes
        rows = other.origin < start + storage.partitions and start < other.origin + other.partitions
        if rows and low < offset + storage.row_bytes and offset < high:
            other.neighbors.append(weakref.ref(storage))
            storage.neighbors.append(reference)
    alive.append(weakref.ref(storage))
    program.placed[name] = alive
