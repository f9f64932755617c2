"""Tiles: how an extent is cut, which tiles of keys a tile of queries visits, and how both are written.

In: extents, what is known of a segment of keys, a window. Out: `Cut`, `QueryTile`; `plan` makes a schedule, `check`
refuses one that leaves out what a query may see. Invariant: `parse_cut(str(cut)) == cut`, and so for query tiles.

A cut is written `k 4224 = 33*128` or, with a shorter last tile, `k 704 = 5*128 + 64`. A query tile with the tiles of
every segment that it visits, in order, and those that it skips:

    q 640:768 | past - (* old) | chunk 1~ 2:5 5~ (0 old, 6:8 ahead)

`~`: masked, where not every query of the tile sees every key. `*`: all tiles of the segment; visited, they are masked.
`-`: none is visited. Skipped tiles say why: `ahead` of every query, `old`: behind every query's window.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from g4c.ir.op import require

# What is known of a segment of keys. past: every key that a slot holds comes before the first query; chunk: key j is
# that of query row j; mixed: nothing.
KINDS = ("past", "chunk", "mixed")
REASONS = ("ahead", "old")
_CUT = re.compile(r"(\w+) (\d+) = (\d+)\*(\d+)(?: \+ (\d+))?(?: (\w+))?")
_QUERIES = re.compile(r"q (\d+):(\d+)")
_SEGMENT = re.compile(r"(\w+) ([-*\d:~ ]+?)(?: \(([^()]+)\))?")
_TILES = re.compile(r"(\d+)(?::(\d+))?")


@dataclass(frozen=True)
class Cut:
    """`extent` in tiles of `width`, the last one perhaps shorter. `role`: what the tiles are to the tensor engine."""

    name: str
    extent: int
    width: int
    role: str = ""

    @staticmethod
    def of(name: str, extent: int, width: int, role: str = "") -> Cut:
        """Tiles of `width`, or one of all where there is less."""
        return Cut(name, extent, max(1, min(width, extent)), role)

    @property
    def count(self) -> int:
        return -(-self.extent // self.width)

    @property
    def tail(self) -> int:
        """Length of a shorter last tile; 0 where there is none."""
        return self.extent % self.width

    def bounds(self, tile: int) -> tuple[int, int]:
        return tile * self.width, min(self.extent, (tile + 1) * self.width)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return (self.bounds(tile) for tile in range(self.count))

    def __str__(self) -> str:
        tail = f" + {self.tail}" if self.tail else ""
        return f"{self.name} {self.extent} = {self.extent // self.width}*{self.width}{tail} {self.role}".rstrip()


def parse_cut(text: str) -> Cut:
    """The cut that is written `text`. InvalidOpError where there is none."""
    match = _CUT.fullmatch(text)
    require(match is not None, f"malformed cut {text!r}; one is written like 'k 704 = 5*128 + 64'")
    assert match is not None
    extent, full, width, tail = (int(number or 0) for number in match.groups()[1:5])
    cut = Cut(match[1], extent, max(1, width), match[6] or "")
    require(str(cut) == text, f"{text!r} does not add up: {full * width + tail} of {extent}")
    return cut


@dataclass(frozen=True)
class Run:
    """Tiles start <= t < limit of a segment: visited, `masked` or not, or skipped for a `reason`."""

    start: int
    limit: int
    masked: bool = False
    reason: str = ""

    def text(self, count: int) -> str:
        everything = (self.start, self.limit) == (0, count) and (self.masked or self.reason)
        single = self.limit == self.start + 1
        tiles = "*" if everything else str(self.start) if single else f"{self.start}:{self.limit}"
        return f"{tiles} {self.reason}" if self.reason else tiles + ("~" if self.masked and not everything else "")


@dataclass(frozen=True)
class Visits:
    """What a query tile does with one segment of keys: runs of tiles that it visits, in order, and that it skips."""

    kind: str
    count: int
    visited: tuple[Run, ...] = ()
    skipped: tuple[Run, ...] = ()

    def tiles(self) -> Iterator[tuple[int, bool]]:
        """The visited tiles in order, each with whether it is masked."""
        return ((tile, run.masked) for run in self.visited for tile in range(run.start, run.limit))

    def __str__(self) -> str:
        visited = " ".join(run.text(self.count) for run in self.visited) or "-"
        skipped = ", ".join(run.text(self.count) for run in self.skipped)
        return f"{self.kind} {visited} ({skipped})" if skipped else f"{self.kind} {visited}"


@dataclass(frozen=True)
class QueryTile:
    """Rows start <= i < limit of the queries and the tiles of each segment that they visit."""

    start: int
    limit: int
    segments: tuple[Visits, ...] = field(default=())

    def __str__(self) -> str:
        return " | ".join([f"q {self.start}:{self.limit}", *map(str, self.segments)])


def parse_query_tile(text: str, segments: Sequence[Cut]) -> QueryTile:
    """The query tile that is written `text`, over segments cut like this. InvalidOpError where there is none."""
    head, *parts = text.split(" | ")
    match = _QUERIES.fullmatch(head)
    found = [_SEGMENT.fullmatch(part) for part in parts]
    whole = match is not None and all(found) and len(found) == len(segments)
    require(whole, f"malformed query tile {text!r} over {len(segments)} segments")
    assert match is not None
    visits = []
    for part, cut in zip(found, segments, strict=True):
        assert part is not None
        items = [] if part[2] == "-" else part[2].split(" ")
        visited = tuple(_run(item, cut.count, text) for item in items)
        skipped = tuple(_run(item, cut.count, text) for item in (part[3].split(", ") if part[3] else ()))
        visits.append(Visits(part[1], cut.count, visited, skipped))
    tile = QueryTile(int(match[1]), int(match[2]), tuple(visits))
    require(str(tile) == text, f"{text!r} is written {str(tile)!r}")
    return tile


def _run(item: str, count: int, text: str) -> Run:
    tiles, _, reason = item.partition(" ")
    require(not reason or reason in REASONS, f"{text!r}: tiles are skipped as {' or '.join(REASONS)}, not {reason!r}")
    if tiles == "*":
        return Run(0, count, masked=not reason, reason=reason)
    match = _TILES.fullmatch(tiles.removesuffix("~"))
    require(match is not None and not (reason and tiles.endswith("~")), f"malformed tiles {item!r} in {text!r}")
    assert match is not None
    return Run(int(match[1]), int(match[2] or int(match[1]) + 1), tiles.endswith("~"), reason)


def sees(kind: str, rows: tuple[int, int], keys: tuple[int, int], window: int) -> str:
    """What query rows start <= i < limit may see of keys start <= j < limit of a segment.

    "all": every query every key, save where padding is one of the two; "some"; "ahead" or "old": nothing, and why.
    Positions of a chunk are consecutive, so that row i sees row j iff 0 <= i - j and, with a window, i - j < window.
    The last key of the past is one position before row 0.
    """
    (first, limit), (low, high) = rows, keys
    if kind == "past":
        return "old" if window and first + 1 >= window else "some"
    if kind == "mixed":
        return "some"
    nearest, farthest = first - (high - 1), limit - 1 - low  # the range of i - j
    if farthest < 0:
        return "ahead"
    if window and nearest >= window:
        return "old"
    return "all" if nearest >= 0 and (not window or farthest < window) else "some"


def plan(rows: Cut, segments: Sequence[Cut], window: int) -> tuple[QueryTile, ...]:
    """The schedule that visits exactly the tiles that a query may see something of; segments are named by kind."""
    return tuple(QueryTile(*bounds, tuple(_visits(cut, bounds, window) for cut in segments)) for bounds in rows)


def _visits(cut: Cut, rows: tuple[int, int], window: int) -> Visits:
    visited: list[Run] = []
    skipped: list[Run] = []
    for tile, keys in enumerate(cut):
        seen = sees(cut.name, rows, keys, window)
        runs = skipped if seen in REASONS else visited
        run = Run(tile, tile + 1, seen == "some", seen if seen in REASONS else "")
        if runs and runs[-1] == Run(runs[-1].start, tile, run.masked, run.reason):
            run = Run(runs.pop().start, tile + 1, run.masked, run.reason)
        runs.append(run)
    return Visits(cut.name, cut.count, tuple(visited), tuple(skipped))


def check(schedule: Sequence[QueryTile], rows: int, segments: Sequence[Cut], window: int) -> None:
    """InvalidOpError unless all queries are in tiles, and each visits or skips every tile of keys as `sees` allows."""
    starts = [0, *(tile.limit for tile in schedule)]
    gapless = all(tile.start == start < tile.limit for tile, start in zip(schedule, starts, strict=False))
    require(gapless and starts[-1] == rows, f"query tiles do not cover rows 0:{rows} in order")
    for tile in schedule:
        for visits, cut in zip(tile.segments, segments, strict=True):
            require(visits.kind == cut.name, f"{tile}: the segment is {cut.name}, not {visits.kind}")
            _check_visits(visits, cut, tile, window)


def _check_visits(visits: Visits, cut: Cut, tile: QueryTile, window: int) -> None:
    named = [t for run in (*visits.visited, *visits.skipped) for t in range(run.start, run.limit)]
    once = sorted(named) == list(range(cut.count))
    require(once, f"{tile}: of {cut.count} tiles of {cut.name}, each must be visited or skipped once")
    for run in (*visits.visited, *visits.skipped):
        for t in range(run.start, run.limit):
            seen = sees(cut.name, (tile.start, tile.limit), cut.bounds(t), window)
            if run.reason:
                require(run.reason == seen, f"{tile}: {cut.name} tile {t} is skipped as {run.reason}, {_SAYS[seen]}")
            elif not run.masked:
                require(seen == "all", f"{tile}: {cut.name} tile {t} is visited without a mask, {_SAYS[seen]}")


_SAYS = {
    "all": "every query sees every key of it",
    "some": "some query may see some key of it",
    "ahead": "all of it is ahead of the queries",
    "old": "all of it is behind their windows",
}
