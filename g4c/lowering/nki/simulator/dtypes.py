"""NKI's data types: names, numpy storage, and the casts between them.

In: dtype names (`"bfloat16"`), numpy dtypes or scalar types, arrays.
Out: canonical names, numpy dtypes, and arrays cast as the engines cast: to fp32 exactly, from fp32 rounded once to
nearest even, to integers saturated.
Invariant: `cast` is the only place where a computed value loses precision.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from g4c.errors.suggest import nearest
from g4c.lowering.nki.simulator.diagnostics import error

NUMPY: dict[str, np.dtype[Any]] = {
    "bool": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "tfloat32": np.dtype(np.float32),
    "float32": np.dtype(np.float32),
    "float8_e4m3": np.dtype(ml_dtypes.float8_e4m3),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
    "float8_e5m2_x4": np.dtype(np.uint32),
    "float8_e4m3fn_x4": np.dtype(np.uint32),
    "float4_e2m1fn_x4": np.dtype(np.uint16),
}
ITEMSIZE = {name: dtype.itemsize for name, dtype in NUMPY.items()}
INTEGERS = frozenset({"bool", "int8", "int16", "int32", "uint8", "uint16", "uint32"})
WIDE_INTEGERS = frozenset({"int32", "uint32"})
FLOATS = frozenset({"float16", "bfloat16", "tfloat32", "float32", "float8_e4m3", "float8_e4m3fn", "float8_e5m2"})
FP8 = frozenset({"float8_e4m3", "float8_e4m3fn", "float8_e5m2"})
PACKED = frozenset({"float8_e5m2_x4", "float8_e4m3fn_x4", "float4_e2m1fn_x4"})
_ALIASES = {"bool_": "bool", "float8e4": "float8_e4m3", "float8e5": "float8_e5m2"}
_FP32 = np.dtype(np.float32)


@lru_cache(maxsize=256)
def _known(value: Any) -> str | None:
    text = value if isinstance(value, str) else None
    if text is None:
        try:
            text = np.dtype(value).name
        except TypeError:
            text = str(value)
    text = text.removeprefix("torch.")
    text = _ALIASES.get(text, text)
    return text if text in NUMPY else None


def canonical(value: Any) -> str:
    """The NKI name of a dtype given as a name, a numpy dtype or a scalar type."""
    try:
        name = _known(value)
    except TypeError:  # not hashable
        name = None
    if name is None:
        close = nearest(str(value), NUMPY)
        hint = f"did you mean {close!r}? " if close else ""
        raise error("G4C-K010", f"{value!r} is no NKI data type", f"{hint}types: {', '.join(NUMPY)}")
    return name


def to_fp32(array: np.ndarray) -> np.ndarray:
    """`array` as fp32: exact for every type of at most 24 significant bits; an fp32 array is returned as it is."""
    return array if array.dtype == _FP32 else array.astype(np.float32)


def to_tf32(array: np.ndarray) -> np.ndarray:
    """fp32 values rounded to the 10 mantissa bits of tfloat32, nearest even."""
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(array), rounded.view(np.float32), array)


def cast(values: np.ndarray, dtype: str) -> np.ndarray:
    """fp32 `values` as `dtype`, rounded once; integers: nearest even, saturated, NaN to 0."""
    target = NUMPY[dtype]
    if dtype == "tfloat32":
        return to_tf32(values)
    if values.dtype == target:
        return values
    if dtype not in INTEGERS:
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(target)
    limits = np.iinfo(target)
    wide = np.rint(values.astype(np.float64))
    np.nan_to_num(wide, copy=False, nan=0.0, posinf=float(limits.max), neginf=float(limits.min))
    return np.clip(wide, limits.min, limits.max).astype(target)


def convert(array: np.ndarray, source: str, target: str) -> np.ndarray:
    """`array` of type `source` as `target`: bit-exact for equal types, through fp32 otherwise."""
    return array if source == target else cast(to_fp32(array), target)


def fits(value: float, dtype: str) -> bool:
    """Whether the integer `value` is representable in the integer type `dtype`."""
    limits = np.iinfo(NUMPY[dtype])
    return limits.min <= value <= limits.max
