"""The modelled cost of a kernel: what a run of it takes on a NeuronCore, and why.

In: a kernel (or a `KernelArtifact`), its arguments as arrays or as shapes, a target.
Out: a `Profile`: time, per engine busy time and instructions, DMA bytes, peaks of SBUF and PSUM, the critical path.
Invariant: nothing here was measured; every text says "modelled". The figures are in assumptions.py.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import ml_dtypes  # noqa: F401  (teaches numpy bfloat16)
import numpy as np

from g4c.errors import G4cError
from g4c.ir.types import TensorType
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.cost.assumptions import MACHINES, Machine
from g4c.lowering.nki.cost.critical_path import PathStep, critical_path
from g4c.lowering.nki.cost.recorder import CostRecorder
from g4c.lowering.nki.cost.timeline import Timeline, timelines
from g4c.lowering.nki.simulator.generation import from_target
from g4c.lowering.nki.simulator.kernel import Kernel
from g4c.lowering.nki.simulator.program import NoValuesError
from g4c.lowering.nki.simulator.source import load

COMPUTE = ("pe", "vector", "scalar", "gpsimd")
TITLES = {"pe": "PE", "vector": "Vector", "scalar": "Scalar", "gpsimd": "GpSimd", "dma": "DMA"}
# An engine that is busy for less of the time than this does not bound the kernel: waiting does.
BOUND_SHARE = 0.6


@dataclass(frozen=True)
class EngineUse:
    """Of one engine: instructions, cycles (0 for DMA) and busy time in us; for DMA the mean over its engines."""

    instructions: int
    cycles: float
    busy_us: float


@dataclass
class Profile:
    """What a kernel costs on one core, or of a pair on the core that ends last. Times in us, modelled.

    `pe_utilization`: array cycles of the useful multiply-adds (transposes are none) by the time; `hbm_utilization`:
    bytes read and written by what one core can stream in the time.
    """

    name: str
    machine: Machine
    cores: int
    us: float
    engines: dict[str, EngineUse]
    flops: int
    pe_utilization: float
    hbm_read: int
    hbm_written: int
    moved_on_chip: int
    instructions: int
    sbuf_peak: int
    sbuf_limit: int
    psum_peak: int
    path: tuple[PathStep, ...] = ()
    recorders: tuple[CostRecorder, ...] = field(default=(), repr=False)
    lines: tuple[Timeline, ...] = field(default=(), repr=False)

    @property
    def hbm_bytes(self) -> int:
        return self.hbm_read + self.hbm_written

    @cached_property
    def hbm_utilization(self) -> float:
        return self.hbm_bytes / (self.machine.hbm_bandwidth * self.us * 1000) if self.us else 0.0

    @cached_property
    def bound(self) -> str:
        """The busiest engine, or "latency" where none is busy most of the time."""
        engine = max(self.engines, key=lambda name: self.engines[name].busy_us)
        return engine if self.engines[engine].busy_us >= BOUND_SHARE * self.us else "latency"

    def share(self, engine: str) -> float:
        """The part of the time that an engine is busy."""
        return self.engines[engine].busy_us / self.us if self.us else 0.0

    def summary(self) -> dict[str, Any]:
        """The figures for programs, as JSON has them. Everything about time is modelled."""
        engines = {name: {**asdict(use), "share": self.share(name)} for name, use in self.engines.items()}
        return {
            "name": self.name,
            "generation": self.machine.number,
            "cores": self.cores,
            "modelled_us": self.us,
            "bound": self.bound,
            "engines": engines,
            "flops": self.flops,
            "pe_utilization": self.pe_utilization,
            "hbm_read_bytes": self.hbm_read,
            "hbm_written_bytes": self.hbm_written,
            "hbm_utilization": self.hbm_utilization,
            "on_chip_bytes": self.moved_on_chip,
            "instructions": self.instructions,
            "sbuf_peak_bytes": self.sbuf_peak,
            "psum_peak_banks": self.psum_peak,
            "critical_path": [asdict(step) for step in self.path],
        }

    def table(self) -> str:
        """One screen for people."""
        from g4c.lowering.nki.cost.report import table

        return table(self)


def profile(
    kernel: KernelArtifact | Kernel,
    arguments: Sequence[Any] | None = None,
    target: str = "trn2",
    dry: bool = True,
    grid: int | None = None,
) -> Profile:
    """The modelled cost of `kernel` on `target`.

    `arguments`: numpy arrays, `TensorType`s or (shape, dtype name) pairs for tensors, anything else as it is; None: the
    artifact's inputs. `dry`: nothing is computed (see simulator/dry.py); a kernel that looks at values is run in full,
    on zeros where only a shape was given. `grid`: 2 runs it on both cores of a logical core; None: on as
    many as share the work of the artifact, or one.
    Refusals: what the simulator refuses; G4C-K050: arguments are missing; G4C-K056: one core where two share the work.
    """
    name = kernel.name if isinstance(kernel, KernelArtifact) else kernel.__name__
    if isinstance(kernel, KernelArtifact):
        arguments = [kind for _, kind in kernel.inputs] if arguments is None else arguments
        grid = _grid(kernel, grid)
        kernel = load(kernel.source, kernel.name)
    if arguments is None:
        raise G4cError("G4C-K050", f"{name}: no arguments", help="a kernel's cost depends on the shapes of its inputs")
    made = kernel.specialize(target)
    made = made[grid] if grid is not None else made
    with _without_collection():
        try:
            run = made.run(*[_array(value, dry) for value in arguments], recorder=CostRecorder, dry=dry)
        except NoValuesError:
            run = made.run(*[_array(value, False) for value in arguments], recorder=CostRecorder)
        lines = timelines(run.recorders)
        return summarize(name, run, lines, from_target(target).number)


def _grid(kernel: KernelArtifact, grid: int | None) -> int | None:
    """On how many cores `kernel` is run where `grid` is wanted."""
    if kernel.cores == 1:
        return grid
    if grid == 1:
        raise G4cError("G4C-K056", f"{kernel.name} on one core", help="two cores share its work: leave --cores out")
    return kernel.cores


@contextmanager
def _without_collection() -> Iterator[None]:
    """Without the search for cyclic garbage: it would go through all rows again and again, which form no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _array(value: Any, dry: bool) -> Any:
    """A tensor argument as an array: memory that nobody touches when dry, else zeros."""
    if isinstance(value, TensorType):
        value = (value.shape, value.dtype.numpy)
    if not (isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], tuple)):
        return value
    try:
        return (np.empty if dry else np.zeros)(value[0], np.dtype(value[1]))
    except (MemoryError, ValueError) as problem:
        shape = "x".join(map(str, value[0]))
        raise G4cError("G4C-K052", f"a tensor of {shape} is too large for this machine") from problem


def summarize(name: str, run: Any, lines: list[Timeline], generation: int) -> Profile:
    """The profile of what was recorded, of two cores that of the one that ends last."""
    slower = max(range(len(lines)), key=lambda n: lines[n].time)
    machine = MACHINES[generation]
    us = max(line.time for line in lines) / 1000
    mine = _totals(run.recorders[slower])
    engines = {}
    for engine in (*COMPUTE, "dma"):
        count, cycles = mine.engines.get(engine, (0, 0.0))
        engines[engine] = EngineUse(count, cycles, lines[slower].busy.get(engine, 0.0) / 1000)
    work = mine.work / machine.pe / 1000
    sbuf, psum = run.peaks[slower]
    return Profile(
        name,
        machine,
        len(lines),
        us,
        engines,
        mine.flops,
        work / us if us else 0.0,
        mine.hbm_read,
        mine.hbm_written,
        mine.on_chip,
        run.instructions[slower],
        int(sbuf.amount),
        run.recorders[slower].sbuf_bytes,
        int(psum.amount),
        critical_path(run.recorders[slower], lines[slower]),
        tuple(run.recorders),
        tuple(lines),
    )


@dataclass
class _Totals:
    engines: dict[str, tuple[int, float]] = field(default_factory=dict)
    work: float = 0.0
    flops: int = 0
    hbm_read: int = 0
    hbm_written: int = 0
    on_chip: int = 0


def _totals(recorder: CostRecorder) -> _Totals:
    """Sums over the rows, by kind."""
    counts = [0] * len(recorder.kinds)
    for kind, _, _ in recorder.rows:
        counts[kind] += 1
    total = _Totals()
    for kind, count in zip(recorder.kinds, counts, strict=True):
        cost = kind.cost
        seen, cycles = total.engines.get(cost.engine, (0, 0.0))
        total.engines[cost.engine] = (seen + count, cycles + count * cost.cycles)
        total.work += count * cost.work
        total.flops += count * cost.flops
        total.hbm_read += count * cost.hbm_read
        total.hbm_written += count * cost.hbm_written
        if not cost.hbm_read and not cost.hbm_written:
            total.on_chip += count * cost.moved
    return total
