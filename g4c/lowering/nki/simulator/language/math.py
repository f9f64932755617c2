"""What the tokens of `nki.language` do when they are called on tiles, and its other elementwise functions.

In: tiles in SBUF or PSUM, numbers. Out: a new tile in SBUF, of the first tile's type unless `dtype` says otherwise.
Each is one instruction of the simulator, or, where the package composes several, the exact function rounded once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from g4c.lowering.nki.simulator import access, dtypes
from g4c.lowering.nki.simulator.activations import ACTIVATIONS
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.enums import Engine
from g4c.lowering.nki.simulator.isa import activation, reciprocal, tensor_copy, tensor_scalar, tensor_tensor
from g4c.lowering.nki.simulator.language.creation import allocate
from g4c.lowering.nki.simulator.memory import MemoryRegion
from g4c.lowering.nki.simulator.operators import COMPARISONS, OPERATORS
from g4c.lowering.nki.simulator.program import current
from g4c.lowering.nki.simulator.tensor import NkiTensor
from g4c.lowering.nki.simulator.tokens import TOKENS

_SBUF = MemoryRegion.sbuf


def _new(x: NkiTensor, dtype: Any) -> NkiTensor:
    return allocate(x.shape, x.dtype if dtype is None else dtype, _SBUF)


def _binary(name: str) -> Callable[..., Any]:
    token = TOKENS[name]
    truth = name in COMPARISONS or name.startswith("logical")

    def function(x: Any, y: Any, dtype: Any = None) -> NkiTensor:
        reverse = not isinstance(x, NkiTensor)
        tile, other = (y, x) if reverse else (x, y)
        result = _new(tile, "bool" if truth and dtype is None else dtype)
        if isinstance(other, NkiTensor) and other.size == tile.size:
            tensor_tensor(result, tile, other, token)
        else:
            tensor_scalar(result, tile, token, other, reverse0=reverse)
        return result

    return function


def _unary(name: str) -> Callable[..., Any]:
    token = TOKENS[name]

    def function(x: NkiTensor, dtype: Any = None) -> NkiTensor:
        result = _new(x, dtype)
        if name in ACTIVATIONS:
            activation(result, token, x)
        else:
            tensor_scalar(result, x, token, None)
        return result

    return function


def _copy(x: NkiTensor, dtype: Any = None) -> NkiTensor:
    """By the Vector Engine, bit-exact where the type stays."""
    result = _new(x, dtype)
    tensor_copy(result, x)
    return result


def _reciprocal(x: NkiTensor, dtype: Any = None) -> NkiTensor:
    """By the Vector Engine, the more precise one."""
    result = _new(x, dtype)
    reciprocal(result, x)
    return result


def _rsqrt(x: NkiTensor, dtype: Any = None) -> NkiTensor:
    """By the GpSimd Engine, the more precise one; no input in PSUM."""
    result = _new(x, dtype)
    tensor_scalar(result, x, TOKENS["rsqrt"], 0.0, engine=Engine.gpsimd)
    return result


def _composed(x: NkiTensor, dtype: Any, function: Callable[[np.ndarray], np.ndarray]) -> NkiTensor:
    """A function that the package composes of several instructions: exact, rounded once."""
    program = current()
    program.count_instruction("composed")
    result = _new(x, dtype)
    with np.errstate(all="ignore"):
        values = function(dtypes.to_fp32(access.read(program, x)))
    access.write(program, result, dtypes.cast(values.astype(np.float32), result.dtype))
    return result


for _name, _operator in OPERATORS.items():
    if _name != "bypass":
        TOKENS[_name].function = _unary(_name) if _operator.unary else _binary(_name)
for _name in ACTIVATIONS:
    if _name not in OPERATORS and _name != "prelu":
        TOKENS[_name].function = _unary(_name)
TOKENS["copy"].function = _copy
TOKENS["reciprocal"].function = _reciprocal
TOKENS["rsqrt"].function = _rsqrt
TOKENS["sin"].function = lambda x, dtype=None: _composed(x, dtype, np.sin)


def cos(x, dtype=None):
    """cos(x), with range reduction."""
    return _composed(x, dtype, np.cos)


def tan(x, dtype=None):
    """tan(x), with range reduction."""
    return _composed(x, dtype, np.tan)


def ceil(x, dtype=None):
    """The smallest integer not below x."""
    return _composed(x, dtype, np.ceil)


def floor(x, dtype=None):
    """The largest integer not above x."""
    return _composed(x, dtype, np.floor)


def trunc(x, dtype=None):
    """x without its fraction."""
    return _composed(x, dtype, np.trunc)


def negative(x, dtype=None):
    """-x."""
    result = _new(x, dtype)
    tensor_scalar(result, x, TOKENS["multiply"], -1.0)
    return result


def logical_not(x, dtype=None):
    """1 where x is 0, else 0."""
    result = _new(x, dtype or "bool")
    tensor_scalar(result, x, TOKENS["equal"], 0.0)
    return result


def divide(x, y, dtype=None):
    """Refused: does not compile for a device."""
    raise error("G4C-K020", "nl.divide does not compile for a device", "multiply by nl.reciprocal")


def fmod(x, y, dtype=None):
    """Refused: does not compile for a device."""
    raise error("G4C-K020", "nl.fmod does not compile for a device", "there is no remainder on the engines")


mod = fmod
