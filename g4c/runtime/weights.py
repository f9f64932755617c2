"""Weights of a program as arrays: fetched from a checkpoint or drawn, then transformed as the compiler recorded.

In: weight symbols (`Weight`: sources, constant, transforms) and a provider of stored tensors. Out: `WeightStore`, a
mapping from symbol to array that computes an entry when it is asked for and keeps none; `pack_weights` and
`open_packed`, which store its entries in one safetensors file and map that file.
Invariant: at any moment a store holds at most the tensor in work; a tensor that needs neither transform nor cast is the
provider's own array. A packed file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from g4c.errors import G4cError
from g4c.formats.safetensors import DTYPES, SafetensorsError, SafetensorsFile, plan_layout
from g4c.ir.types import TensorType
from g4c.ir.weights import Source, Weight
from g4c.runtime.aligned import aligned_empty

if TYPE_CHECKING:
    from g4c.ir.types import Array

_WRITE = 1 << 24


class Provider(Protocol):
    """Where stored tensors come from: a checkpoint index, random weights."""

    def stored(self, source: Source) -> Array:
        """The tensor of `source` in its shape; any float dtype."""
        ...


class WeightStore(Mapping[str, "Array"]):
    """Symbol -> array in the program's type. Nothing is cached: ask once per symbol, or iterate `items()`."""

    def __init__(self, weights: Mapping[str, Weight], provider: Provider) -> None:
        self.weights = weights
        self.provider = provider

    def __getitem__(self, name: str) -> Array:
        """The array of weight `name`; read-only where it is mapped. G4C-R001 where what is stored does not fit."""
        weight = self.weights[name]
        array = weight.materialize(self._fetch)
        if (array.shape, array.dtype) != (weight.type.shape, weight.type.dtype.numpy):
            raise G4cError(
                "G4C-R001",
                f"weight {name} came out as {array.dtype.name}{list(array.shape)}, the program wants {weight.type}",
            )
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def nbytes(self) -> int:
        """Bytes of all weights in the program's types."""
        return sum(weight.type.nbytes for weight in self.weights.values())

    def _fetch(self, source: Source) -> Array:
        array = self.provider.stored(source)
        if array.shape != source.type.shape:
            raise G4cError(
                "G4C-R001",
                f"tensor {source.key} has shape {list(array.shape)}, the program was compiled for {source.type}",
            )
        return cast(array, source.type)


def cast(array: Array, type: TensorType) -> Array:
    """`array` in the dtype of `type`: itself where it has it already, else one rounded, 64-byte aligned copy."""
    if array.dtype == type.dtype.numpy:
        return array
    result = aligned_empty(type)
    np.copyto(result, array, casting="unsafe")
    return result


def pack_weights(path: Path, store: WeightStore, metadata: Mapping[str, str] | None = None) -> int:
    """Write all weights of `store` to the safetensors file `path`, one tensor at a time; the file's size in bytes.

    Every tensor whose size is a multiple of 64 bytes starts 64-byte aligned in the file. The file is written beside its
    place and renamed. Errors: G4C-R002 disk full, G4C-R003 cannot be written; both leave what was there before.
    """
    header, order = plan_layout({name: weight.type for name, weight in store.weights.items()}, metadata or {})
    size = len(header) + store.nbytes
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb", buffering=0) as stream:
            _reserve(stream.fileno(), size)
            _write(stream.fileno(), memoryview(header))
            for name in order:
                _write(stream.fileno(), np.ascontiguousarray(store[name]).reshape(-1).view(np.uint8).data)
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise G4cError("G4C-R002", f"no space left for {size / 1e9:.2f} GB of weights", where=str(path)) from error
        raise G4cError("G4C-R003", f"cannot be written: {error.strerror}", where=str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return size


def _reserve(descriptor: int, size: int) -> None:
    """Claim `size` bytes at once, so that a full disk shows before the work; file systems that cannot are let be."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data[:_WRITE]) :]


class PackedWeights(Mapping[str, "Array"]):
    """Symbol -> read-only array on a mapped file that `pack_weights` wrote."""

    def __init__(self, file: SafetensorsFile) -> None:
        self._file = file

    def __getitem__(self, name: str) -> Array:
        return self._file.array(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.tensors)

    def __len__(self) -> int:
        return len(self._file.tensors)


def open_packed(path: Path, weights: Mapping[str, Weight] | None = None) -> PackedWeights:
    """Map the file `path`; with `weights`, check that it holds them in their types. Errors: G4C-R004, G4C-R005."""
    try:
        file = SafetensorsFile(path)
    except SafetensorsError as error:
        raise G4cError("G4C-R004", str(error), where=str(path), help="pack the weights again") from error
    for name, weight in (weights or {}).items():
        extent = file.tensors.get(name)
        if extent is None or (extent.shape, DTYPES.get(extent.dtype)) != (weight.type.shape, weight.type.dtype):
            held = "is not in the file" if extent is None else f"is {extent.dtype}{list(extent.shape)} in the file"
            raise G4cError(
                "G4C-R005",
                f"weight {name} {held}, the program wants {weight.type}",
                where=str(path),
                help="pack the weights again",
            )
    return PackedWeights(file)


class PackedTensors:
    """A provider of the model's tensors, made of those that a packed file holds.

    They give the packed weights, and so the same model; where a norm was folded into projections, the projections have
    it in them and the norm comes as ones.
    """

    def __init__(self, packed: Mapping[str, Array], weights: Mapping[str, Weight]) -> None:
        self._packed = packed
        self._weights: dict[str, list[Weight]] = {}
        for weight in weights.values():
            for key in dict.fromkeys(source.key for source in weight.sources):
                self._weights.setdefault(key, []).append(weight)

    def stored(self, source: Source) -> Array:
        """The tensor of `source`; G4C-R006 where the file does not say what it was."""
        arrays = [
            array
            for weight in self._weights.get(source.key, ())
            for part, array in zip(weight.sources, weight.sources_of(self._packed[weight.name]), strict=True)
            if part.key == source.key and array is not None
        ]
        if not arrays or not all(np.array_equal(array, arrays[0]) for array in arrays[1:]):
            raise G4cError(
                "G4C-R006",
                f"tensor {source.key} cannot be told from the packed weights",
                help="give --checkpoint DIR",
            )
        return arrays[0]
