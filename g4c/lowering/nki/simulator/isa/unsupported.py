"""Instructions that the simulator refuses by name: MX formats and random numbers."""

from __future__ import annotations

from typing import NoReturn

from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.enums import Engine


def _refuse(name: str, what: str) -> NoReturn:
    raise error("G4C-K020", f"nisa.{name} is not simulated", f"{what} are outside of what the simulator implements")


def nc_matmul_mx(
    dst,
    stationary,
    moving,
    stationary_scale,
    moving_scale,
    tile_position=None,
    tile_size=None,
    accumulate=None,
    name=None,
) -> NoReturn:
    """Refused: a matmul of MX formats."""
    _refuse("nc_matmul_mx", "MX formats")


def quantize_mx(dst, src, dst_scale, name=None) -> NoReturn:
    """Refused: quantization to MX formats."""
    _refuse("quantize_mx", "MX formats")


def rng(dst, engine=Engine.vector, name=None) -> NoReturn:
    """Refused: random bits."""
    _refuse("rng", "random numbers")


def dropout(dst, data, prob, name=None) -> NoReturn:
    """Refused: random zeros."""
    _refuse("dropout", "random numbers")


def set_rng_seed(src_seeds, name=None) -> NoReturn:
    """Refused: the seed of random numbers."""
    _refuse("set_rng_seed", "random numbers")


def rand_set_state(src_seeds, engine=Engine.gpsimd, name=None) -> NoReturn:
    """Refused: the state of random numbers."""
    _refuse("rand_set_state", "random numbers")


def rand_get_state(dst, engine=Engine.gpsimd, name=None) -> NoReturn:
    """Refused: the state of random numbers."""
    _refuse("rand_get_state", "random numbers")


def rand2(dst, min, max, name=None) -> NoReturn:
    """Refused: uniform random numbers."""
    _refuse("rand2", "random numbers")
