"""Activation functions of the Scalar Engine: their mathematical meaning and the range in which the engine has it.

In: a function token (`nl.exp`, ...). Out: an `Activation` with a numpy function on fp32 and its valid input range.
The engine evaluates piecewise polynomials of undocumented accuracy; the simulator computes the mathematical function in
fp32, and for `sin` the documented cubic outside of [-pi, pi].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from g4c.lowering.nki.simulator.diagnostics import error

_SQRT_2 = math.sqrt(2.0)
_TANH_SCALE = math.sqrt(2.0 / math.pi)
_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)
_SIGMOID_SCALE = 1.702
# Chebyshev fit of erfc, relative error below 1.2e-7 (Numerical Recipes, section 6.2), highest power first.
_ERFC = (
    0.17087277,
    -0.82215223,
    1.48851587,
    -1.13520398,
    0.27886807,
    -0.18628806,
    0.09678418,
    0.37409196,
    1.00002368,
    -1.26551223,
)
# The Taylor series of erf(x) / x in x^2, highest power first.
_ERF = tuple(_TWO_OVER_SQRT_PI * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(10, -1, -1))


@dataclass(frozen=True)
class Activation:
    """`low` <= |x| or x <= `high`, see `magnitude`: whether the range is of |x|."""

    name: str
    function: Callable[[np.ndarray], np.ndarray]
    low: float | None = None
    high: float | None = None
    magnitude: bool = False


def _erfc(x: np.ndarray) -> np.ndarray:
    """1 - erf(x) in fp64, with a small relative error in the tail."""
    t = 1.0 / (1.0 + 0.5 * np.abs(x, dtype=np.float64))
    complement = t * np.exp(-np.square(x, dtype=np.float64) + np.polyval(_ERFC, t))
    return np.where(x < 0, 2.0 - complement, complement)


def _erf(x: np.ndarray) -> np.ndarray:
    """Near 0 the Taylor series, where 1 - erfc(x) cancels."""
    near = np.clip(x.astype(np.float64), -0.5, 0.5)
    series = near * np.polyval(_ERF, np.square(near))
    return np.where(np.abs(x) < 0.5, series, 1.0 - _erfc(x)).astype(np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.float32(1) / (np.float32(1) + np.exp(-x))


def _normal(x: np.ndarray) -> np.ndarray:
    """The distribution function of the standard normal distribution, fp64."""
    return 0.5 * _erfc(x / np.float32(-_SQRT_2))


def _gelu(x: np.ndarray) -> np.ndarray:
    return (x * _normal(x)).astype(np.float32)


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(np.float32(-0.5) * x * x) * np.float32(1 / math.sqrt(2 * math.pi))


def _gelu_dx(x: np.ndarray) -> np.ndarray:
    return (_normal(x) + x * _density(x)).astype(np.float32)


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    """x / 2 * (1 + tanh(u)) as x * sigmoid(2 u), which does not cancel."""
    return x * _sigmoid(np.float32(2 * _TANH_SCALE) * (x + np.float32(0.044715) * x * x * x))


def _gelu_sigmoid(x: np.ndarray) -> np.ndarray:
    return x * _sigmoid(np.float32(_SIGMOID_SCALE) * x)


def _gelu_sigmoid_dx(x: np.ndarray) -> np.ndarray:
    s = _sigmoid(np.float32(_SIGMOID_SCALE) * x)
    return s + np.float32(_SIGMOID_SCALE) * x * s * (np.float32(1) - s)


def _silu_dx(x: np.ndarray) -> np.ndarray:
    s = _sigmoid(x)
    return s + x * s * (np.float32(1) - s)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, np.float32(0))


def _sin(x: np.ndarray) -> np.ndarray:
    """sin inside [-pi, pi], outside the cubic Taylor polynomial at the near end: sin(9.0) = 27.65, as documented."""
    beyond = np.abs(x) - np.float32(math.pi)
    cubic = np.copysign(np.float32(1), x) * (beyond**3 / np.float32(6) - beyond)
    return np.where(beyond <= 0, np.sin(x), cubic)


def _table() -> dict[str, Activation]:
    entries = [
        Activation("copy", lambda x: x),
        Activation("square", np.square),
        Activation("sigmoid", _sigmoid),
        Activation("relu", lambda x: np.maximum(x, np.float32(0))),
        Activation("gelu", _gelu),
        Activation("gelu_dx", _gelu_dx),
        Activation("gelu_apprx_tanh", _gelu_tanh),
        Activation("gelu_apprx_sigmoid", _gelu_sigmoid),
        Activation("gelu_apprx_sigmoid_dx", _gelu_sigmoid_dx),
        Activation("silu", lambda x: x * _sigmoid(x)),
        Activation("silu_dx", _silu_dx),
        Activation("tanh", np.tanh),
        Activation("softplus", _softplus),
        Activation("mish", lambda x: x * np.tanh(_softplus(x))),
        Activation("erf", _erf),
        Activation("erf_dx", lambda x: np.float32(_TWO_OVER_SQRT_PI) * np.exp(-x * x)),
        Activation("exp", np.exp),
        Activation("log", np.log, 2.0**-64, 2.0**64),
        Activation("sin", _sin, -math.pi, math.pi),
        Activation("arctan", np.arctan, -math.pi / 2, math.pi / 2),
        Activation("sqrt", np.sqrt, 2.0**-116, 2.0**118),
        Activation("rsqrt", lambda x: np.float32(1) / np.sqrt(x), 2.0**-87, 2.0**97),
        Activation("reciprocal", lambda x: np.float32(1) / x, 2.0**-42, 2.0**42, magnitude=True),
        Activation("sign", np.sign),
        Activation("abs", np.abs),
        Activation("prelu", lambda x: x),  # the slope is an argument of activate2
    ]
    return {entry.name: entry for entry in entries}


ACTIVATIONS = _table()


def find(token: Any, what: str) -> Activation:
    """The activation behind `token`; refused where it is none."""
    activation = ACTIVATIONS.get(getattr(token, "nki_name", ""))
    if activation is None:
        raise error(
            "G4C-K021", f"nisa.{what}: op={token!r} is no activation function", f"one of: {', '.join(ACTIVATIONS)}"
        )
    return activation


def first_outside(activation: Activation, inputs: np.ndarray) -> float | None:
    """The first input outside of the valid range, if any; NaN passes."""
    if activation.low is None:
        return None
    values = np.abs(inputs) if activation.magnitude else inputs
    low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    slack = 1e-6 * max(abs(activation.low), abs(activation.high or 0.0)) if activation.low < 0 else 0.0
    if not low < activation.low - slack and not high > activation.high + slack:
        return None
    outside = (values < activation.low - slack) | (values > activation.high + slack)
    return float(inputs[outside][0])


def evaluate(activation: Activation, inputs: np.ndarray) -> np.ndarray:
    """The function of fp32 `inputs`, in fp32."""
    with np.errstate(all="ignore"):
        return activation.function(inputs)
