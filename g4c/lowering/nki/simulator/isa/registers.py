"""Register instructions."""

from __future__ import annotations

from typing import Any

import numpy as np

from g4c.lowering.nki.simulator import access, dtypes
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.memory import MemoryRegion
from g4c.lowering.nki.simulator.program import current
from g4c.lowering.nki.simulator.registers import UNKNOWN, VirtualRegister
from g4c.lowering.nki.simulator.tensor import NkiTensor


def _register(value: object, what: str) -> VirtualRegister:
    if not isinstance(value, VirtualRegister):
        raise error("G4C-K025", f"nisa.{what} on {type(value).__name__}", "a register from nisa.register_alloc")
    return value


def _one_element(tensor: object, what: str) -> NkiTensor:
    if not isinstance(tensor, NkiTensor) or tensor.size != 1:
        raise error("G4C-K002", f"nisa.{what}: {tensor!r}", "a tensor of one element")
    if tensor.buffer is MemoryRegion.psum:
        current().refuse("G4C-K008", f"nisa.{what}: {tensor!r}", "registers are loaded from and stored to HBM and SBUF")
    return tensor


def _value(source: object, what: str) -> Any:
    """What a register or a number holds, which a register of 32 bits can hold."""
    value = source.read() if isinstance(source, VirtualRegister) else source
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise error("G4C-K002", f"nisa.{what}: {source!r}", "an integer or a register")
    if not -(2**31) <= value < 2**32:
        raise error("G4C-K002", f"nisa.{what}: {source!r}", "registers have 32 bits")
    return value


def register_alloc(x=None):
    """A new register holding the integer `x`, the value of a register or of a 1x1 tile, or nothing."""
    if isinstance(x, NkiTensor):
        register = VirtualRegister()
        register_load(register, x)
        return register
    return VirtualRegister(None if x is None else _value(x, "register_alloc"))


def register_move(dst, src):
    """dst = src, an integer or a register."""
    program = current()
    program.count_instruction("register_move")
    _register(dst, "register_move").write(_value(src, "register_move"))


def register_load(dst, src):
    """dst = the element of a one-element tensor."""
    program = current()
    program.count_instruction("register_load")
    tensor = _one_element(src, "register_load")
    value = UNKNOWN if program.dry else access.read(program, tensor).reshape(-1)[0].item()
    _register(dst, "register_load").write(value)


def register_store(dst, src):
    """The element of a one-element tensor = src."""
    program = current()
    program.count_instruction("register_store")
    tensor = _one_element(dst, "register_store")
    value = src.read() if isinstance(src, VirtualRegister) else src
    if tensor.dtype in dtypes.INTEGERS:
        stored = np.array([[value]]).astype(dtypes.NUMPY[tensor.dtype])
    else:
        stored = dtypes.cast(np.array([[value]], np.float32), tensor.dtype)
    access.write(program, tensor, stored)
