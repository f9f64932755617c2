"""Names of `nki.language` that the simulator refuses: random numbers, and what the dialect has no longer."""

from __future__ import annotations

from typing import NoReturn

from g4c.errors.suggest import nearest
from g4c.lowering.nki.simulator.diagnostics import AbsentNameError, error

_REMOVED = {
    "arange": "slices and nl.ds",
    "mgrid": "slices and nl.ds",
    "par_dim": "dimension 0, which is the partition",
    "block_dim": "a Python list of tiles",
    "spmd_dim": "the grid, kernel[2]",
}
_RULE = "random numbers are not simulated: pass them in as an argument"


def rand(shape, dtype, buffer=None, name="") -> NoReturn:
    """Refused: uniform random numbers."""
    raise error("G4C-K020", "nl.rand is not simulated", _RULE)


def random_seed(seed) -> NoReturn:
    """Refused: the seed of random numbers."""
    raise error("G4C-K020", "nl.random_seed is not simulated", _RULE)


def dropout(x, rate, dtype=None) -> NoReturn:
    """Refused: random zeros."""
    raise error("G4C-K020", "nl.dropout is not simulated", _RULE)


def absent(name: str, known: list[str]) -> AttributeError:
    """The refusal of a name that `nki.language` does not have; `known`: those that it has."""
    if name in _REMOVED:
        return error(
            "G4C-K020", f"nl.{name} is of the dialect before NKI 0.3", f"use {_REMOVED[name]}", kind=AbsentNameError
        )
    if name.startswith("_"):
        return AttributeError(f"nki.language has no {name}")
    close = nearest(name, known)
    hint = f"did you mean nl.{close}?" if close else "NKI 0.4 to 0.6 have no such name"
    return error("G4C-K020", f"nki.language has no {name}", hint, kind=AbsentNameError)
