"""Virtual registers: 32-bit scalars of an engine's sequencer, known at run time."""

from __future__ import annotations

from typing import Any

from g4c.lowering.nki.simulator.diagnostics import ArgumentError, error
from g4c.lowering.nki.simulator.objects import NKIObject
from g4c.lowering.nki.simulator.program import NoValuesError, running

UNKNOWN = object()  # what a dry program loads


class VirtualRegister(NKIObject):
    """A register. `while register:` runs while it is not zero; no other Python expression may use it."""

    def __init__(self, state: Any = None, frozen: bool = False) -> None:
        self.state = state
        self.frozen = frozen
        program = running()
        if program is not None and not frozen:
            program.take_register()

    def __del__(self) -> None:
        program = running()
        if program is not None and not self.frozen:
            program.registers -= 1

    def read(self) -> Any:
        """The value; refused where none was loaded."""
        if self.state is UNKNOWN:
            raise NoValuesError
        if self.state is None:
            raise error("G4C-K011", "a register is read that nothing has loaded", "load it with nisa.register_load")
        return self.state

    def write(self, value: Any) -> None:
        """Load `value`; refused for the register of a loop."""
        if self.frozen:
            raise error("G4C-K025", "the register of a loop is written", "a loop controls its own register")
        self.state = value

    def __bool__(self) -> bool:
        return bool(self.read() != 0)

    def _in_python(self, *others: Any) -> Any:
        raise error(
            "G4C-K025",
            "a register is used in a Python expression",
            "its value is not known there",
            kind=ArgumentError,
        )

    __int__ = __index__ = __float__ = _in_python
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __floordiv__ = __mod__ = _in_python
    __lt__ = __le__ = __gt__ = __ge__ = _in_python

    def __repr__(self) -> str:
        return f"VirtualRegister({self.state})"
