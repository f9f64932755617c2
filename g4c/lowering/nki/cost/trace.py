"""A modelled timeline as a trace that ui.perfetto.dev and chrome://tracing open.

In: a `Profile` that still has its timelines. Out: JSON in Chrome's trace event format: a process per core, a track per
engine and per DMA queue, an event per instruction with its source line, cycles and bytes.
Invariant: events of one track do not overlap; times are microseconds from the start of the kernel.
"""

from __future__ import annotations

import json
import linecache
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Any, TextIO

from g4c.lowering.nki.cost.profile import COMPUTE, TITLES, Profile
from g4c.lowering.nki.cost.recorder import CostRecorder, Kind
from g4c.lowering.nki.cost.timeline import Timeline

FIRST_QUEUE = 10


def write_trace(profile: Profile, file: TextIO) -> int:
    """Write the trace; returns the number of instructions in it."""
    count = 0
    note = {"kernel": profile.name, "time": f"{profile.us:.3f} us, modelled", "core": _core_name(profile)}
    file.write('{"displayTimeUnit": "ns", "otherData": ' + json.dumps(note) + ', "traceEvents": [\n')
    separator = ""
    for event in trace_events(profile):
        count += event["ph"] == "X"
        file.write(separator + json.dumps(event))
        separator = ",\n"
    file.write("\n]}\n")
    return count


def trace_events(profile: Profile) -> Iterator[dict[str, Any]]:
    """The events: names of processes and tracks, then the instructions of each core in program order."""
    for core, (recorder, timeline) in enumerate(zip(profile.recorders, profile.lines, strict=True)):
        yield _name("process_name", core, 0, f"core {core}: {_core_name(profile)}, modelled")
        tracks = tracks_of(recorder, timeline)
        engines = {number + 1: TITLES[name] for number, name in enumerate(COMPUTE)}
        queues = {FIRST_QUEUE + n: f"DMA queue {n}" for n in range(max(tracks, default=0) - FIRST_QUEUE + 1)}
        for number, title in {**engines, **queues}.items():
            yield _name("thread_name", core, number, title)
            yield {"ph": "M", "name": "thread_sort_index", "pid": core, "tid": number, "args": {"sort_index": number}}
        details = [_details(kind) for kind in recorder.kinds]
        for row, (kind, _, _) in enumerate(recorder.rows):
            start = timeline.start[row]
            yield {
                "ph": "X",
                "name": recorder.kinds[kind].label or recorder.kinds[kind].cost.name,
                "cat": recorder.kinds[kind].cost.engine,
                "pid": core,
                "tid": tracks[row],
                "ts": round(start / 1000, 4),
                "dur": round((timeline.end[row] - start) / 1000, 4),
                "args": {"instruction": row, **details[kind]},
            }


def _core_name(profile: Profile) -> str:
    return f"NeuronCore-v{profile.machine.number}"


def _name(what: str, core: int, track: int, title: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": core, "tid": track, "args": {"name": title}}


def _details(kind: Kind) -> dict[str, Any]:
    """What a click on an event shows."""
    cost = kind.cost
    shown: dict[str, Any] = {"source": f"{kind.path}:{kind.line} ({kind.function})"}
    text = linecache.getline(kind.path, kind.line).strip()
    if text:
        shown["line"] = text
    if cost.engine == "dma":
        shown |= {"bytes": cost.moved, "row bytes": cost.row_bytes, "issued by": cost.stream}
        shown |= {"HBM read": cost.hbm_read, "HBM written": cost.hbm_written}
    else:
        shown["cycles"] = round(cost.cycles, 1)
    if cost.flops:
        shown["FLOP"] = cost.flops
    return shown


def tracks_of(recorder: CostRecorder, timeline: Timeline) -> list[int]:
    """The track of each row: its engine, or for a transfer, from its trigger to its last byte, a free queue."""
    tracks = [0] * len(recorder.rows)
    transfers = []
    for row, (kind, _, _) in enumerate(recorder.rows):
        engine = recorder.kinds[kind].cost.engine
        if engine == "dma":
            transfers.append((timeline.start[row], row))
        else:
            tracks[row] = COMPUTE.index(engine) + 1
    busy: list[tuple[float, int]] = []
    idle: list[int] = []
    queues = 0
    for start, row in sorted(transfers):
        while busy and busy[0][0] <= start:
            heappush(idle, heappop(busy)[1])
        if not idle:
            heappush(idle, queues)
            queues += 1
        queue = heappop(idle)
        tracks[row] = FIRST_QUEUE + queue
        heappush(busy, (timeline.end[row], queue))
    return tracks
