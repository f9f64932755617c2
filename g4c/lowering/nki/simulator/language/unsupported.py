"""Functions of `nki.language` that the simulator refuses by name: random numbers."""

from __future__ import annotations

from typing import NoReturn

from g4c.lowering.nki.simulator.diagnostics import error

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
