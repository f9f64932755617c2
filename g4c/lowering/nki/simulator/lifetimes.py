"""Capacity: which tiles live at the same time, and whether SBUF and PSUM hold them.

In: the lives of a program's tiles (first write to last use, in instruction numbers, per quadrant of 32 partitions).
Out: the peak of each memory with the tiles that make it; a refusal where it exceeds the memory.
Invariant: the peak is a lower bound of what any allocation needs in program order: in SBUF tiles of few partitions
share their bytes with others in full, a quadrant is free after its last use.
Tiles that the kernel places with `address=` may take turns in the same bytes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
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


@dataclass(frozen=True)
class _Span:
    """Bytes per partition (SBUF, the mean of all partitions) or banks (PSUM), taken from `first` to `last`."""

    first: int
    last: int
    amount: float


def _uses(life: Life) -> list[tuple[int, int, int]]:
    """(part, first, last) of the parts of a tile that are used: quadrants in SBUF, in PSUM all of it."""
    used = [(n, first, last) for n, (first, last) in enumerate(zip(life.first, life.last, strict=True)) if first >= 0]
    if life.region is MemoryRegion.sbuf or not used:
        return used
    return [(0, min(first for _, first, _ in used), max(last for _, _, last in used))]


def _spans(life: Life) -> list[_Span]:
    """What a tile takes that the compiler places."""
    sbuf = life.region is MemoryRegion.sbuf
    amount = life.row_bytes * QUADRANT / PARTITIONS if sbuf else -(-life.row_bytes // PSUM_BANK_BYTES)
    return [_Span(first, last, amount) for _, first, last in _uses(life)]


def _shared_spans(lives: list[Life]) -> list[_Span]:
    """What the tiles of one memory take that the kernel places: bytes that several have count once."""
    ends = {end for life in lives for end in (life.placed_at[1], life.placed_at[1] + life.row_bytes)}
    if lives and lives[0].region is MemoryRegion.psum:
        ends = set(range(0, PSUM_BANK_BYTES * (PSUM_BANKS + 1), PSUM_BANK_BYTES))
    edges = sorted(ends)
    taken: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for life in lives:
        start, offset = life.placed_at
        sbuf = life.region is MemoryRegion.sbuf
        for cell in range(bisect_right(edges, offset) - 1, bisect_left(edges, offset + life.row_bytes)):
            for part, first, last in _uses(life):
                taken.setdefault((start // QUADRANT + part if sbuf else 0, cell), []).append((first, last))
    spans = []
    for (_, cell), uses in taken.items():
        amount = 1.0
        if lives[0].region is MemoryRegion.sbuf:
            amount = (edges[cell + 1] - edges[cell]) * QUADRANT / PARTITIONS
        begin, end = -1, -2
        for first, last in sorted(uses):
            if first > end:
                if end >= 0:
                    spans.append(_Span(begin, end, amount))
                begin = first
            end = max(end, last)
        spans.append(_Span(begin, end, amount))
    return spans


def peak(lives: list[Life], region: MemoryRegion) -> Peak:
    """The largest sum over the tiles of `region` that live at one instruction."""
    own = [life for life in lives if life.region is region]
    spans = [span for life in own if life.placed_at is None for span in _spans(life)]
    spans += _shared_spans([life for life in own if life.placed_at is not None])
    events = [(span.first, 1, span.amount) for span in spans]
    events += [(span.last + 1, 0, -span.amount) for span in spans]
    total = best = 0.0
    at = 0
    for instruction, _, change in sorted(events):
        total += change
        if total > best:
            best, at = total, instruction
    alive = [life for life in own if any(first <= at <= last for _, first, last in _uses(life))]
    return Peak(best, at, tuple(alive))


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
