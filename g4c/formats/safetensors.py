"""Safetensors files: headers read without the data, arrays mapped without a copy, layouts planned before writing.

In: a path, or names with types. Out: `SafetensorsFile` (header, mapped arrays), `plan_layout` (header, data order).
The format: 8 bytes of little-endian header length, a JSON header, then the tensors without gaps. `plan_layout` pads the
header with spaces to a multiple of 64 bytes and puts tensors whose size is a multiple of 64 first, so that each of
these starts 64-byte aligned.
Invariant: every extent of a `SafetensorsFile` lies inside its file and has exactly the bytes that its shape needs.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeGuard

from g4c.ir.types import DType, TensorType

if TYPE_CHECKING:
    from g4c.ir.types import Array

ALIGNMENT = 64
_MAX_HEADER = 100_000_000
_ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip
DTYPES: Mapping[str, DType] = {
    "F32": DType.F32,
    "BF16": DType.BF16,
    "F16": DType.F16,
    "I32": DType.S32,
    "I8": DType.S8,
    "BOOL": DType.PRED,
    "F8_E4M3": DType.F8E4M3FN,
    "F8_E5M2": DType.F8E5M2,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class SafetensorsError(Exception):
    """A file that cannot be used: its header is malformed, it is shorter than promised, or the system refuses it."""

    def __init__(self, kind: Literal["header", "truncated", "unreadable"], message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Extent:
    """One tensor of a file: dtype by its safetensors name; offsets in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """An opened file: `tensors` from its header; `array` maps the data on first use and never copies it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                self.tensors = _read_header(stream.read(8), stream.read, size)
        except OSError as error:
            raise SafetensorsError("unreadable", error.strerror or str(error)) from error

    @cached_property
    def _data(self) -> mmap.mmap:
        try:
            with self.path.open("rb") as stream:
                return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise SafetensorsError("unreadable", error.strerror or str(error)) from error

    def array(self, name: str) -> Array:
        """Tensor `name` as a read-only array on the mapped file. KeyError: no such tensor, or a dtype the IR lacks."""
        import numpy as np

        extent = self.tensors[name]
        dtype = DTYPES[extent.dtype].numpy
        count = math.prod(extent.shape)
        if count == 0:
            return np.empty(extent.shape, dtype)
        return np.frombuffer(self._data, dtype, count, extent.begin).reshape(extent.shape)


def _read_header(prefix: bytes, read: Callable[[int], bytes], size: int) -> dict[str, Extent]:
    if len(prefix) < 8:
        raise SafetensorsError("header", f"{size} bytes are too few for a safetensors file")
    length = int.from_bytes(prefix, "little")
    if length > _MAX_HEADER:
        raise SafetensorsError("header", "it does not begin with a safetensors header")
    text = read(length)
    if len(text) < length:
        raise SafetensorsError("truncated", f"the header should have {length} bytes, the file ends after {len(text)}")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SafetensorsError("header", f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise SafetensorsError("header", "the header is not a JSON object")
    header.pop("__metadata__", None)
    tensors = {name: _extent(name, entry, 8 + length) for name, entry in header.items()}
    position = 8 + length
    for name, extent in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if extent.begin != position:
            raise SafetensorsError("header", f"the data of {name} does not follow the data before it")
        position = extent.end
    if size < position:
        raise SafetensorsError("truncated", f"{position:,} bytes are promised, the file has {size:,}")
    if size > position:
        raise SafetensorsError("header", f"{size - position:,} bytes follow the last tensor")
    return tensors


def _extent(name: str, entry: object, start: int) -> Extent:
    bad = SafetensorsError("header", f"the entry of {name} is malformed")
    if not isinstance(entry, dict):
        raise bad
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not _is_naturals(shape) or not _is_naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise bad
    if dtype not in _ITEM_BITS:
        raise SafetensorsError("header", f"{name} has the unknown dtype {dtype!r}")
    if offsets[1] - offsets[0] != math.prod(shape) * _ITEM_BITS[dtype] // 8:
        raise SafetensorsError("header", f"{name}: {offsets[1] - offsets[0]:,} bytes do not hold {dtype} {shape}")
    return Extent(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _is_naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def plan_layout(types: Mapping[str, TensorType], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """(header bytes, names in the order of their data). KeyError for a dtype that safetensors cannot hold."""
    order = sorted(types, key=lambda name: -min(_alignment(types[name].nbytes), ALIGNMENT))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name in order:
        end = position + types[name].nbytes
        header[name] = {
            "dtype": _NAMES[types[name].dtype],
            "shape": list(types[name].shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, order


def _alignment(nbytes: int) -> int:
    """The largest power of two that divides `nbytes`; ALIGNMENT for 0."""
    return nbytes & -nbytes or ALIGNMENT
