"""ALU operators: their meaning on numpy arrays and where they are legal.

In: an operator token (`nl.add`, ...). Out: an `Operator` with a numpy function, class, arity and reduction.
Invariant: arithmetic operators take and give fp32 (comparisons give 1.0 and 0.0); bitvec operators take and give the
integer type of their operands, as raw bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from g4c.lowering.nki.simulator.diagnostics import error

Binary = Callable[[Any, Any], np.ndarray]


@dataclass(frozen=True)
class Operator:
    """`identity` is the start of a reduction, None where the operator does not reduce; `since`: first generation."""

    name: str
    function: Binary
    bitvec: bool = False
    unary: bool = False
    identity: float | None = None
    since: int = 2


def _compare(function: Binary) -> Binary:
    return lambda a, b: function(a, b).astype(np.float32)


def _logical(function: Binary) -> Binary:
    return lambda a, b: function(np.asarray(a) != 0, np.asarray(b) != 0).astype(np.float32)


def _power(a: Any, b: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.power(a, b, dtype=np.float32)


def _unsigned(array: np.ndarray) -> np.ndarray:
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _left_shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.left_shift(_unsigned(a), _unsigned(b)).view(a.dtype)


def _right_shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Logical: zeros come in, also for negative numbers."""
    return np.right_shift(_unsigned(a), _unsigned(b)).view(a.dtype)


def _abs_max(a: Any, b: Any) -> np.ndarray:
    return np.where(np.abs(a) > np.abs(b), a, b)


def _abs_min(a: Any, b: Any) -> np.ndarray:
    return np.where(np.abs(a) < np.abs(b), a, b)


def _table() -> dict[str, Operator]:
    infinity = float("inf")
    entries = [
        Operator("bitwise_and", np.bitwise_and, bitvec=True, identity=-1),
        Operator("bitwise_or", np.bitwise_or, bitvec=True, identity=0),
        Operator("bitwise_xor", np.bitwise_xor, bitvec=True, identity=0),
        Operator("invert", lambda a, b: np.invert(a), bitvec=True, unary=True),
        Operator("left_shift", _left_shift, bitvec=True),
        Operator("right_shift", _right_shift, bitvec=True),
        Operator("add", np.add, identity=0.0),
        Operator("subtract", np.subtract, identity=0.0),
        Operator("multiply", np.multiply, identity=1.0),
        Operator("maximum", np.maximum, identity=-infinity),
        Operator("minimum", np.minimum, identity=infinity),
        Operator("logical_and", _logical(np.logical_and), identity=1.0),
        Operator("logical_or", _logical(np.logical_or), identity=0.0),
        Operator("logical_xor", _logical(np.logical_xor), identity=0.0),
        Operator("equal", _compare(np.equal)),
        Operator("not_equal", _compare(np.not_equal)),
        Operator("greater_equal", _compare(np.greater_equal)),
        Operator("greater", _compare(np.greater)),
        Operator("less_equal", _compare(np.less_equal)),
        Operator("less", _compare(np.less)),
        Operator("power", _power),
        Operator("abs_max", _abs_max, since=4),
        Operator("abs_min", _abs_min, since=4),
        Operator("abs", lambda a, b: np.abs(a), unary=True),
        Operator("square", lambda a, b: np.square(a), unary=True, since=4),
        Operator("relu", lambda a, b: np.maximum(a, np.float32(0)), unary=True, since=4),
        Operator("rsqrt", lambda a, b: np.float32(1) / np.sqrt(a), unary=True),
        Operator("reciprocal", lambda a, b: np.float32(1) / a, unary=True),
        Operator("bypass", lambda a, b: a, unary=True),
    ]
    return {entry.name: entry for entry in entries}


OPERATORS = _table()
COMPARISONS = frozenset({"equal", "not_equal", "greater_equal", "greater", "less_equal", "less"})
_NUMPY_NAMES = {"amax": "maximum", "max": "maximum", "min": "minimum", "amin": "minimum", "absolute": "abs"}


def find(token: Any, parameter: str, what: str, allowed: frozenset[str] | None = None) -> Operator:
    """The operator behind `token`; refused where it is none or not one of `allowed`."""
    name = getattr(token, "nki_name", None)
    if name is None and isinstance(token, np.ufunc):
        name = token.__name__
    name = _NUMPY_NAMES.get(str(name), name)
    operator = OPERATORS.get(str(name))
    if operator is None:
        raise error(
            "G4C-K021", f"nisa.{what}: {parameter}={token!r} is no ALU operator", f"one of: {', '.join(OPERATORS)}"
        )
    if allowed is not None and operator.name not in allowed:
        raise error(
            "G4C-K021",
            f"nisa.{what}: {parameter}=nl.{operator.name} is not allowed",
            f"allowed: {', '.join(sorted(allowed))}",
        )
    return operator


def apply(operator: Operator, a: Any, b: Any) -> np.ndarray:
    """The operator on arrays or numbers."""
    with np.errstate(all="ignore"):
        return operator.function(a, b)


def reduce(operator: Operator, values: np.ndarray) -> np.ndarray:
    """The reduction of `values` over its last axis, keeping it at size 1."""
    with np.errstate(all="ignore"):
        name = operator.name
        if name == "add":
            return values.sum(axis=-1, keepdims=True, dtype=values.dtype)
        if name == "subtract":
            return values[..., :1] - values[..., 1:].sum(axis=-1, keepdims=True, dtype=values.dtype)
        if name == "multiply":
            return values.prod(axis=-1, keepdims=True, dtype=values.dtype)
        if name.startswith("logical"):
            return getattr(np, name).reduce(values != 0, axis=-1, keepdims=True).astype(np.float32)
        ufunc = {"maximum": np.maximum, "minimum": np.minimum}.get(name) or getattr(np, name)
        return ufunc.reduce(values, axis=-1, keepdims=True)
