"""The critical path: the chain of instructions, each waiting for the one before, that ends last.

In: what a program executed and its timeline. Out: the lines of the kernel that the chain consists of, most time first.
Invariant: the times of all lines add up to the end of the timeline: an instruction on the path counts from the end of
the one that it waited for until its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from g4c.lowering.nki.cost.recorder import CostRecorder, Kind
from g4c.lowering.nki.cost.timeline import Timeline


@dataclass(frozen=True)
class PathStep:
    """A line of the kernel on the critical path: how often, and how many us of it."""

    engine: str
    name: str
    path: str
    line: int
    count: int
    us: float


def rows_on_path(timeline: Timeline) -> list[int]:
    """The rows of the path, first to last."""
    if not timeline.end:
        return []
    row = max(range(len(timeline.end)), key=timeline.end.__getitem__)
    rows = [row]
    while timeline.cause[row] >= 0:
        row = timeline.cause[row]
        rows.append(row)
    return rows[::-1]


def critical_path(recorder: CostRecorder, timeline: Timeline) -> tuple[PathStep, ...]:
    """The path by line of the kernel, the line with the most time first."""
    rows = rows_on_path(timeline)
    counts: dict[Kind, int] = {}
    times: dict[Kind, float] = {}
    until = timeline.time
    for row in reversed(rows):
        kind = recorder.kinds[recorder.rows[row][0]]
        cause = timeline.cause[row]
        since = min(until, timeline.end[cause] if cause >= 0 else 0.0)
        counts[kind] = counts.get(kind, 0) + 1
        times[kind] = times.get(kind, 0.0) + until - since
        until = since
    merged: dict[tuple[str, str, str, int], list[float]] = {}
    for kind, time in times.items():
        entry = merged.setdefault((kind.cost.engine, kind.cost.name, kind.path, kind.line), [0, 0.0])
        entry[0] += counts[kind]
        entry[1] += time
    steps = [PathStep(*key, int(count), time / 1000) for key, (count, time) in merged.items()]
    return tuple(sorted(steps, key=lambda step: (-step.us, step.path, step.line)))
