"""What a program executes, recorded for the timeline: one row of small integers per instruction.

In: the simulator's steps, one by one. Out: columns: which instruction (`kinds`), which parts of which tiles it reads
and writes (`cells`), and of every tile its size and last use.
Invariant: equal instructions of one source line share a `Kind`, equal views of a tile share a cell.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from types import CodeType
from typing import Any

from g4c.lowering.nki import simulator
from g4c.lowering.nki.cost.assumptions import MACHINES
from g4c.lowering.nki.cost.instructions import DECISIVE, Cost, cost_of
from g4c.lowering.nki.cost.regions import Region, is_placed, overlap, region_of
from g4c.lowering.nki.simulator.dry import accesses
from g4c.lowering.nki.simulator.generation import PSUM_BANK_BYTES, QUADRANT
from g4c.lowering.nki.simulator.memory import MemoryRegion, Storage
from g4c.lowering.nki.simulator.program import Program
from g4c.lowering.nki.simulator.tensor import NkiTensor

_SIMULATOR = os.path.dirname(os.path.abspath(simulator.__file__)) + os.sep


@dataclass(frozen=True)
class Kind:
    """Equal instructions of one line of a kernel."""

    cost: Cost
    label: str
    path: str
    line: int
    function: str


class Tile:
    """A tile, an HBM tensor, or the memory of all tiles with an address, as instructions use it.

    `memory` and `amount`: what it takes while it lives: bytes per partition of sbuf, banks of psum; 0 for the others.
    `views`: cells by view; `last`: the row of the last use.
    """

    __slots__ = ("amount", "last", "memory", "read", "storage", "views", "written")

    def __init__(self, storage: Storage, placed: bool) -> None:
        self.views: dict[Any, int] = {}
        self.last = -1
        self.read = self.written = False
        self.memory = storage.region.value
        self.amount = 0
        self.storage = None if storage.on_chip else storage  # keeps its identity while the program runs
        if storage.on_chip and not placed:
            quadrants = -(-storage.partitions // QUADRANT)
            in_psum = storage.region is MemoryRegion.psum
            self.amount = -(-storage.row_bytes // PSUM_BANK_BYTES) if in_psum else storage.row_bytes * quadrants // 4


class CostRecorder:
    """Records the instructions of one program; made by the simulator with `Options.recorder`."""

    def __init__(self, program: Program) -> None:
        self.machine = MACHINES[program.generation.number]
        self.sbuf_bytes = program.generation.sbuf_usable
        self.rows: list[tuple[int, tuple[int, ...], tuple[int, ...]]] = []  # kind, cells read, cells written
        self.kinds: list[Kind] = []
        self.tiles: list[Tile] = []
        self.cells: list[tuple[int, Region]] = []  # tile, region
        self._kind_of: dict[Any, int] = {}
        self._shared: dict[Any, int] = {}
        self._regions: dict[Any, Region] = {}
        self._sites: dict[CodeType, bool] = {}

    def add(self, step: Any) -> None:
        """Record one instruction."""
        code, line = self._site()
        dma = step.name.startswith("dma_")
        key: list[Any] = [step.name, id(step.engine), code, line]
        for name, operand in step.operands.items():
            if isinstance(operand, NkiTensor):
                # a member of an enum is hashed slowly: its identity does
                key += (operand.shape, operand.strides, operand.dtype, id(operand.buffer), operand.dynamic is None)
                if dma and operand.on_chip:
                    key.append(operand.first_row)
            elif name in DECISIVE:
                key.append(operand)
        kind = self._kind_of.get(tuple(key))
        if kind is None:
            kind = self._kind_of[tuple(key)] = len(self.kinds)
            site = (code.co_filename, line, code.co_name)
            self.kinds.append(Kind(cost_of(step, self.machine), step.label or "", *site))
        reads, writes = accesses(step)
        number = len(self.rows)
        self.rows.append(
            (
                kind,
                tuple([self._cell(tensor, number, False) for tensor in reads]),
                tuple([self._cell(tensor, number, True) for tensor in writes]),
            )
        )

    def _site(self) -> tuple[CodeType, int]:
        """Code and line of the kernel's innermost frame."""
        frame = sys._getframe(2)
        while True:
            code = frame.f_code
            inside = self._sites.get(code)
            if inside is None:
                inside = self._sites[code] = code.co_filename.startswith(_SIMULATOR)
            if not inside or frame.f_back is None:
                return code, frame.f_lineno
            frame = frame.f_back

    def _cell(self, tensor: NkiTensor, row: int, writes: bool) -> int:
        """The number of the view's cell."""
        number = self._tile(tensor.storage)
        tile = self.tiles[number]
        tile.last = row
        if writes:
            tile.written = True
        else:
            tile.read = True
        view = (tensor.offset, tensor.shape, tensor.strides, tensor.dtype, tensor.dynamic is None, tensor.storage.base)
        cell = tile.views.get(view)
        if cell is None:
            cell = tile.views[view] = len(self.cells)
            self.cells.append((number, self._region(tensor, view)))
        return cell

    def _region(self, tensor: NkiTensor, view: Any) -> Region:
        """`region_of`, once for equal views of equal tiles."""
        storage = tensor.storage
        key = (view, storage.shape, storage.dtype, storage.on_chip, is_placed(storage), storage.origin)
        region = self._regions.get(key)
        if region is None:
            region = self._regions[key] = region_of(tensor)
        return region

    def _tile(self, storage: Storage) -> int:
        """The number of the tile that `storage` is; it is kept in the storage where no other program sees that."""
        if storage.number >= 0 and storage.on_chip:
            return storage.number
        placed = is_placed(storage)
        key = storage.region if placed else id(storage)
        number = -1 if storage.on_chip and not placed else self._shared.get(key, -1)
        if number < 0:
            number = len(self.tiles)
            self.tiles.append(Tile(storage, placed))
            if placed or not storage.on_chip:
                self._shared[key] = number
        if storage.on_chip:
            storage.number = number
        return number

    def overlaps(self) -> list[tuple[int, ...]]:
        """For each cell the cells of the same tile that share bytes with it, itself among them.

        Tensors in HBM that are only read, or only written, order nothing: their cells overlap nothing.
        """
        members: dict[int, list[int]] = {}
        for cell, (tile, _) in enumerate(self.cells):
            members.setdefault(tile, []).append(cell)
        result: list[tuple[int, ...]] = [()] * len(self.cells)
        for number, cells in members.items():
            tile = self.tiles[number]
            if tile.storage is not None and not (tile.read and tile.written):
                continue
            if len(cells) == 1:
                result[cells[0]] = (cells[0],)
                continue
            regions = [self.cells[cell][1] for cell in cells]
            for cell, region in zip(cells, regions, strict=True):
                result[cell] = tuple(c for c, other in zip(cells, regions, strict=True) if overlap(region, other))
        return result
