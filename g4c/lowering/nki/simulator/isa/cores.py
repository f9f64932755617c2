"""Between the two cores of a logical core: sendrecv and core_barrier."""

from __future__ import annotations

import numpy as np

from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.enums import DmaEngine, Engine, member
from g4c.lowering.nki.simulator.instruction import DMA, GPSIMD, Step
from g4c.lowering.nki.simulator.memory import MemoryRegion
from g4c.lowering.nki.simulator.tensor import NkiTensor

_GPSIMD_LIMIT = {4: 1024, 2: 512, 1: 256}  # bytes per partition by element size


def _meeting(step: Step):
    step.requires_generation(3, step.name)
    meeting = step.program.launch.meeting
    if meeting is None:
        raise error("G4C-K024", f"nisa.{step.name} in a kernel of one program", "launch it with kernel[2]")
    return meeting


def sendrecv(src, dst, send_to_rank, recv_from_rank, pipe_id, dma_engine=DmaEngine.dma, name=None):
    """dst = the src of the other program, which gets this one's."""
    step = Step("sendrecv", name, DMA, dst=dst, src=src)
    meeting = _meeting(step)
    for parameter in ("src", "dst"):
        if step.tensor(parameter).buffer is not MemoryRegion.sbuf:
            step.refuse("G4C-K008", f"{parameter} is {step.tensor(parameter)!r}", "src and dst are in SBUF")
    if not isinstance(dma_engine, DmaEngine):
        raise error("G4C-K002", f"nisa.sendrecv: dma_engine={dma_engine!r}", "a member of nisa.dma_engine")
    other = 1 - step.program.number
    if send_to_rank != other or recv_from_rank != other:
        raise error(
            "G4C-K024",
            f"nisa.sendrecv: program {step.program.number} sends to {send_to_rank} and receives from {recv_from_rank}",
            "the two programs are 0 and 1 and exchange with each other",
        )
    if src.dtype != dst.dtype or src.shape != dst.shape:
        step.refuse("G4C-K017", f"src is {src!r}, dst is {dst!r}", "equal shapes and types")
    if dma_engine is DmaEngine.gpsimd_dma:
        size, limit = src.size // src.shape[0] * src.itemsize, _GPSIMD_LIMIT[src.itemsize]
        if size > limit:
            step.refuse("G4C-K007", f"{size} bytes per partition", f"gpsimd_dma moves at most {limit} for {src.dtype}")
    values, defined = step.take(src)
    posted = (np.array(values), src.dtype, defined, step.source)
    (theirs, dtype, defined, step.source), _ = meeting.exchange(step.program, ("sendrecv", pipe_id), posted)
    if theirs.shape != values.shape or dtype != dst.dtype:
        raise error(
            "G4C-K024",
            f"nisa.sendrecv: program {other} sends {dtype}{list(theirs.shape)}, this one {src!r}",
            "equal tiles",
        )
    step.store(dst, theirs, defined=defined)
    return step.done()


def core_barrier(data, cores, engine=Engine.gpsimd, name=None):
    """Wait for the other program; afterwards each sees what the other wrote to `data`, a tensor in shared HBM."""
    step = Step("core_barrier", name, GPSIMD, data=data)
    meeting = _meeting(step)
    if member(Engine, engine) is None:
        raise error("G4C-K002", f"nisa.core_barrier: engine={engine!r}", "a member of nisa.engine")
    if tuple(cores) != (0, 1):
        step.refuse("G4C-K002", f"cores={cores}", "(0, 1)")
    if not isinstance(data, NkiTensor) or data.buffer is not MemoryRegion.shared_hbm:
        step.refuse("G4C-K008", f"data is {data!r}", "the tensor in shared HBM that the barrier orders")
    theirs, first_there = meeting.exchange(step.program, ("core_barrier",), data.storage)
    if theirs is not data.storage:
        raise error(
            "G4C-K024", f"nisa.core_barrier: the programs wait on different tensors ({data!r})", "the same tensor"
        )
    if first_there:
        data.storage.writers = None
    return step.done()
