"""`neuronxcc.nki`, the package of the dialect before NKI 0.3: only its `typing` is left, for annotations."""

from __future__ import annotations

from typing import NoReturn

from g4c.lowering.nki.simulator.diagnostics import AbsentNameError, error


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(name)
    raise error(
        "G4C-K020", f"neuronxcc.nki.{name} is of the dialect before NKI 0.3", "import nki", kind=AbsentNameError
    )
