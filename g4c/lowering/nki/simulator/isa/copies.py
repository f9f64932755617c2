"""Copies on chip: memset, tensor_copy, tensor_copy_predicated."""

from __future__ import annotations

import numpy as np

from g4c.lowering.nki.simulator import dtypes
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.enums import Engine
from g4c.lowering.nki.simulator.instruction import GPSIMD, SCALAR, VECTOR, Step
from g4c.lowering.nki.simulator.memory import MemoryRegion
from g4c.lowering.nki.simulator.tensor import NkiTensor


def _in_psum(*tensors: NkiTensor) -> bool:
    return any(tensor.buffer is MemoryRegion.psum for tensor in tensors)


def memset(dst, value, engine=Engine.unknown, name=None):
    """dst = value, a compile-time number of the tile's kind."""
    step = Step("memset", name, VECTOR, dst=dst, value=value)
    step.run_on(engine, (VECTOR, GPSIMD), VECTOR)
    step.tiles("dst")
    if isinstance(value, NkiTensor) or not isinstance(value, int | float | np.integer | np.floating):
        raise error("G4C-K002", f"nisa.memset: value={value!r}", "a compile-time number")
    if dst.dtype in dtypes.PACKED:
        if value != 0:
            step.refuse("G4C-K010", f"value={value} for {dst.dtype}", "packed types can only be set to 0")
        filled = np.zeros((), dtypes.NUMPY[dst.dtype])
    elif dst.dtype in dtypes.INTEGERS:
        if isinstance(value, float | np.floating) and value != 0:  # AWS's kernels clear integers with 0.0
            step.refuse("G4C-K010", f"value={value!r} for {dst.dtype}", "integer tiles are set to integers")
            value = int(value)
        if not dtypes.fits(value, dst.dtype):
            raise error("G4C-K010", f"nisa.memset: value={value} for {dst.dtype}", "the value must be representable")
        filled = np.array(value, dtypes.NUMPY[dst.dtype])
    else:
        filled = dtypes.cast(np.array(value, np.float32), dst.dtype)
    step.store(dst, np.broadcast_to(filled, dst.shape))
    return step.done(value=value)


def tensor_copy(dst, src, engine=Engine.unknown, name=None):
    """dst = src; bit-exact between equal types (not on v2's Scalar Engine), through fp32 otherwise."""
    step = Step("tensor_copy", name, VECTOR, dst=dst, src=src)
    engines = (VECTOR, GPSIMD) if step.program.generation.number < 3 else (VECTOR, SCALAR, GPSIMD)
    step.run_on(engine, engines, VECTOR)
    step.tiles("dst", "src")
    step.same_layout("dst", "src")
    if dst.dtype == src.dtype:
        step.store(dst, step.read(src))
    else:
        step.write(dst, step.read32(src))
    return step.done()


def tensor_copy_predicated(dst, src, predicate, reverse_pred=False, name=None):
    """dst[i] = src[i] where predicate[i] != 0 (where it is 0 with reverse_pred), unchanged elsewhere."""
    step = Step("tensor_copy_predicated", name, VECTOR, dst=dst, src=src, predicate=predicate)
    step.tiles("dst", "predicate")
    step.same_layout("dst", "predicate")
    step.check_dtype("predicate", ("uint8", "uint16", "uint32", "bool"))
    if isinstance(src, NkiTensor):
        step.tiles("src")
        step.same_layout("dst", "src")
        step.not_both_in_psum("src", "predicate")
        if src.dtype != dst.dtype:
            step.refuse("G4C-K010", f"src is {src.dtype}, dst is {dst.dtype}", "src and dst have the same type")
        values, defined = step.take(src)
        values = dtypes.convert(values, src.dtype, dst.dtype)
    else:
        values, defined = dtypes.cast(step.column("src", dst.shape[0]), dst.dtype), None
    chosen = (step.read(predicate) != 0) != bool(reverse_pred)
    if chosen.all():
        step.store(dst, np.broadcast_to(values, chosen.shape), defined=defined)
        return step.done()
    held, kept = step.take(dst)
    if defined is not None or kept is not None:
        defined = np.where(chosen, True if defined is None else defined, True if kept is None else kept)
    step.store(dst, np.where(chosen, values, held), defined=defined)
    return step.done()
