"""When every instruction runs: in-order engines that wait for their data, and DMA engines that share bandwidth.

In: what one program executed (`CostRecorder`), or two. Out: a `Timeline` per core: start and end of each instruction in
nanoseconds, and what it waited for.

The model. PE, Vector, Scalar and GpSimd execute their instructions in program order, side by side. DMA triggers are
issued in order by three streams (loads from HBM, stores to HBM, moves within SBUF; others where the kernel names the
engine). An instruction starts when its engine is free and
- what it reads is there (RAW: the writer's end plus the latency of its engine),
- what it overwrites has been read (WAR) and was written (WAW), by overlapping parts of tiles,
- a tile that is written for the first time has room: SBUF and PSUM are handed out in program order, the bytes (banks)
  that became free first are taken first. Tiles with an address wait for who used the address.
A transfer waits for the fixed start time, then takes what its DMA engines have free, also between other transfers.
Invariant: a row never starts before the rows that it depends on; engines never run two instructions at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from g4c.lowering.nki.cost import assumptions as a
from g4c.lowering.nki.cost.instructions import Cost
from g4c.lowering.nki.cost.recorder import CostRecorder
from g4c.lowering.nki.simulator.generation import PSUM_BANKS


@dataclass
class Timeline:
    """Per row of the recorder: `start` and `end` in ns, and the row it waited for last (-1: none).

    For DMA `start` is when the trigger was issued. `busy`: ns per engine; for dma the mean over the DMA engines.
    """

    start: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)
    cause: list[int] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=dict)

    @property
    def time(self) -> float:
        """The end of the last instruction, in ns."""
        return max(self.end, default=0.0)


class _Lane:
    """One DMA engine: when it is busy. Transfers take free time from their ready time on, in pieces if need be."""

    __slots__ = ("busy", "frontier", "gaps")
    KEPT = 32  # gaps that are remembered

    def __init__(self) -> None:
        self.frontier = 0.0
        self.busy = 0.0
        self.gaps: deque[tuple[float, float]] = deque()

    def take(self, ready: float, amount: float) -> float:
        """When a transfer of `amount` ns that is ready at `ready` ends."""
        self.busy += amount
        end = ready
        if self.gaps and self.gaps[-1][1] > ready:
            kept: deque[tuple[float, float]] = deque(maxlen=self.KEPT)
            for low, high in self.gaps:
                if amount <= 0.0 or high <= ready:
                    kept.append((low, high))
                    continue
                begin = max(low, ready)
                used = min(amount, high - begin)
                amount -= used
                end = begin + used
                if begin > low:
                    kept.append((low, begin))
                if end < high:
                    kept.append((end, high))
            self.gaps = kept
        if amount > 0.0:
            begin = max(self.frontier, ready)
            if begin > self.frontier:
                self.gaps.append((self.frontier, begin))
                if len(self.gaps) > self.KEPT:
                    self.gaps.popleft()
            self.frontier = end = begin + amount
        return end


class _Pool:
    """A memory whose room is handed out oldest first: what was never used, then what became free first."""

    def __init__(self, amount: int) -> None:
        self.free: deque[tuple[int, float, int]] = deque([(amount, 0.0, -1)])

    def take(self, amount: int) -> tuple[float, int]:
        """When `amount` is free, and after which row. Room that is not there is not waited for: the simulator's own
        capacity check refuses programs that need more than the memory."""
        time, cause = 0.0, -1
        while amount > 0 and self.free:
            size, since, row = self.free.popleft()
            if since > time:
                time, cause = since, row
            if size > amount:
                self.free.appendleft((size - amount, since, row))
            amount -= size
        return time, cause

    def give(self, amount: int, time: float, row: int) -> None:
        self.free.append((amount, time, row))


class _Core:
    """One program's walk over its rows."""

    def __init__(self, recorder: CostRecorder) -> None:
        self.recorder = recorder
        self.machine = recorder.machine
        self.timeline = Timeline()
        self.row = 0
        self.overlaps = recorder.overlaps()
        cells = len(recorder.cells)
        self.visible, self.written, self.read = [0.0] * cells, [0.0] * cells, [0.0] * cells
        self.writer, self.reader = [-1] * cells, [-1] * cells
        self.free: dict[str, tuple[float, int]] = {}
        self.lanes = [_Lane() for _ in range(a.DMA_ENGINES)]
        self.pools = {"sbuf": _Pool(recorder.sbuf_bytes), "psum": _Pool(PSUM_BANKS)}
        self.last = [tile.last for tile in recorder.tiles]
        self.last_transfer = -1
        self.placed = [tile.amount == 0 for tile in recorder.tiles]
        clocks = {engine: self.machine.clock(engine) for engine in a.RESULT_LATENCY_CYCLES}
        self.latency = {engine: a.RESULT_LATENCY_CYCLES[engine] / clock for engine, clock in clocks.items()}

    def run(self, met: float = -1.0) -> float | None:
        """Walk until a row meets the other core: when that row is ready. None at the end. `met`: when both were."""
        rows, kinds = self.recorder.rows, self.recorder.kinds
        while self.row < len(rows):
            kind, reads, writes = rows[self.row]
            cost = kinds[kind].cost
            ready, cause = self._ready(reads, writes)
            if cost.meets and met < 0.0:
                return ready
            ready, met = max(ready, met), -1.0
            if cost.engine == "dma":
                start, end, cause = self._transfer(cost, ready, cause)
                visible = end
            else:
                start, end, cause = self._execute(cost, ready, cause)
                visible = end + self.latency[cost.engine]
            self._finish(reads, writes, end, visible)
            self.timeline.start.append(start)
            self.timeline.end.append(end)
            self.timeline.cause.append(cause)
            self.row += 1
        self.timeline.busy["dma"] = sum(lane.busy for lane in self.lanes) / a.DMA_ENGINES
        return None

    def _ready(self, reads: tuple[int, ...], writes: tuple[int, ...]) -> tuple[float, int]:
        """When the data are there, and which row made it so late."""
        overlaps, visible, written, read = self.overlaps, self.visible, self.written, self.read
        ready, cause = 0.0, -1
        for cell in reads:
            for other in overlaps[cell]:
                if visible[other] > ready:
                    ready, cause = visible[other], self.writer[other]
        for cell in writes:
            for other in overlaps[cell]:
                if written[other] > ready:
                    ready, cause = written[other], self.writer[other]
                if read[other] > ready:
                    ready, cause = read[other], self.reader[other]
            number = self.recorder.cells[cell][0]
            if not self.placed[number]:
                self.placed[number] = True
                tile = self.recorder.tiles[number]
                time, row = self.pools[tile.memory].take(tile.amount)
                if time > ready:
                    ready, cause = time, row
        return ready, cause

    def _execute(self, cost: Cost, ready: float, cause: int) -> tuple[float, float, int]:
        """Occupy a compute engine."""
        for name in self._exclusive(cost):
            time, row = self.free.get(name, (0.0, -1))
            if time >= ready:
                ready, cause = time, row if row >= 0 else cause
        end = ready + cost.ns
        for name in self._exclusive(cost):
            self.free[name] = (end, self.row)
        self.timeline.busy[cost.engine] = self.timeline.busy.get(cost.engine, 0.0) + cost.ns
        return ready, end, cause

    def _exclusive(self, cost: Cost) -> tuple[str, ...]:
        """What the instruction has for itself: its engine, on v2 also a port."""
        if not self.machine.shared_ports or cost.engine == "pe":
            return (cost.engine,)
        ports = [cost.engine]
        if cost.sbuf and cost.engine in ("vector", "gpsimd"):
            ports.append("port of sbuf")
        if cost.psum and cost.engine in ("vector", "scalar"):
            ports.append("port of psum")
        return tuple(ports)

    def _transfer(self, cost: Cost, ready: float, cause: int) -> tuple[float, float, int]:
        """Issue a DMA and move its bytes."""
        if cost.gpsimd_ns:
            time, row = self.free.get("gpsimd", (0.0, -1))
            if time > ready:
                ready, cause = time, row
            ready += cost.gpsimd_ns
            self.free["gpsimd"] = (ready, self.row)
            self.timeline.busy["gpsimd"] = self.timeline.busy.get("gpsimd", 0.0) + cost.gpsimd_ns
        time, row = self.free.get(cost.stream, (0.0, -1))
        if time > ready:
            ready, cause = time, row
        self.free[cost.stream] = (ready + cost.issue_ns, self.row)
        end = max(lane.take(ready + a.DMA_START_NS, cost.ns) for lane in self.lanes[cost.first : cost.last])
        if end > ready + a.DMA_START_NS + cost.ns * 1.001 and self.last_transfer >= 0:
            cause = self.last_transfer
        self.last_transfer = self.row
        return ready, end, cause

    def _finish(self, reads: tuple[int, ...], writes: tuple[int, ...], end: float, visible: float) -> None:
        """Note when cells were read and written, and free the tiles that nobody uses any more."""
        row, cells, tiles = self.row, self.recorder.cells, self.recorder.tiles
        for cell in reads:
            if end > self.read[cell]:
                self.read[cell], self.reader[cell] = end, row
        for cell in writes:
            if end > self.written[cell]:
                self.written[cell], self.visible[cell], self.writer[cell] = end, visible, row
        for cell in (*reads, *writes):
            number = cells[cell][0]
            tile = tiles[number]
            if self.last[number] == row and tile.amount:
                self.pools[tile.memory].give(tile.amount, end, row)
                self.last[number] = -1


def timelines(recorders: list[CostRecorder]) -> list[Timeline]:
    """The timelines of one program, or of two that meet."""
    cores = [_Core(recorder) for recorder in recorders]
    waiting = [core.run() for core in cores]
    while all(time is not None for time in waiting):
        met = max(time for time in waiting if time is not None)
        waiting = [core.run(met) for core in cores]
    return [core.timeline for core in cores]
