"""Capacity: which tiles live at the same time, and whether SBUF and PSUM hold them.

In: the lives of a program's tiles (first write to last use, in instruction numbers, per quadrant of 32 partitions).
Out: the peak of each memory with the tiles that make it; a refusal where it exceeds the memory.
Invariant: the peak is a lower bound of what any allocation needs in program order: in SBUF tiles of few partitions
share their bytes with others in full, a quadrant is free after its last use, loads happen when they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from g4c.lowering.nki.simulator.generation import PARTITIONS, PSUM_BANK_BYTES, PSUM_BANKS, QUADRANT
from g4c.lowering.nki.simulator.memory import Life, MemoryRegion
from g4c.lowering.nki.simulator.program import Program


@dataclass(frozen=True)
class Peak:
    """The most that lived at once: bytes per partition (SBUF) or banks (PSUM), at which instruction, which tiles."""

    amount: float
    instruction: int
    tiles: tuple[Life, ...]


def _spans(life: Life) -> list[tuple[int, int, float]]:
    """(first, last, amount) of the parts of a tile: quadrants in SBUF, in PSUM whole banks."""
    alive = [(first, last) for first, last in zip(life.first, life.last, strict=True) if first >= 0]
    if not alive:
        return []
    if life.region is MemoryRegion.sbuf:
        return [(first, last, life.row_bytes * QUADRANT / PARTITIONS) for first, last in alive]
    return [(min(f for f, _ in alive), max(n for _, n in alive), -(-life.row_bytes // PSUM_BANK_BYTES))]


def peak(lives: list[Life], region: MemoryRegion) -> Peak:
    """The largest sum over the tiles of `region` that live at one instruction."""
    spans = [(life, span) for life in lives if life.region is region for span in _spans(life)]
    events = [(first, 1, amount) for _, (first, _, amount) in spans]
    events += [(last + 1, 0, -amount) for _, (_, last, amount) in spans]
    total = best = 0.0
    at = 0
    for instruction, _, change in sorted(events):
        total += change
        if total > best:
            best, at = total, instruction
    tiles = {id(life): life for life, (first, last, _) in spans if first <= at <= last}
    return Peak(best, at, tuple(tiles.values()))


def check_capacity(program: Program) -> tuple[Peak, Peak]:
    """The peaks of SBUF and PSUM; refused where a memory is too small."""
    sbuf = peak(program.storages, MemoryRegion.sbuf)
    psum = peak(program.storages, MemoryRegion.psum)
    limit = program.generation.sbuf_usable
    for region, found, allowed, code, unit in (
        ("SBUF", sbuf, limit, "G4C-K003", "bytes per partition"),
        ("PSUM", psum, PSUM_BANKS, "G4C-K004", "banks"),
    ):
        if found.amount > allowed:
            largest = sorted(found.tiles, key=lambda life: -life.row_bytes)
            listing = "; ".join(
                f"[{life.partitions}, {life.row_bytes} bytes] from {life.site.path.rsplit('/', 1)[-1]}:{life.site.line}"
                for life in largest[:4]
            )
            program.refuse(
                code,
                f"{len(found.tiles)} tiles that live at instruction {found.instruction} need {found.amount:.0f} {unit} "
                f"of {region}, there are {allowed}: {listing}",
                f"{program.generation.name}: {allowed} {unit}",
                site=max(found.tiles, key=lambda life: max(life.first)).site,
            )
    return sbuf, psum
