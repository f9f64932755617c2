"""Allocation of tensors, constants, and device_print."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from g4c.lowering.nki.simulator import access, dtypes, pairs
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.generation import PARTITIONS
from g4c.lowering.nki.simulator.isa.copies import memset
from g4c.lowering.nki.simulator.memory import ON_CHIP, WRITTEN, Life, MemoryRegion, Storage, place
from g4c.lowering.nki.simulator.program import current
from g4c.lowering.nki.simulator.tensor import NkiTensor

_REGIONS = {region.value: region for region in MemoryRegion} | {"hbm": MemoryRegion.private_hbm}


def ndarray(shape, dtype, buffer=MemoryRegion.sbuf, name="", address=None):
    """A new tensor of undefined contents. `address`: (partition, byte offset in the partition), on chip only."""
    return allocate(shape, dtype, buffer, name, address)


def allocate(shape: Any, dtype: Any, buffer: Any, name: str = "", address: Any = None) -> NkiTensor:
    """`ndarray`, for the simulator's own use."""
    program = current()
    if isinstance(buffer, str):
        buffer = _REGIONS.get(buffer, buffer)
    if not isinstance(buffer, MemoryRegion):
        raise error("G4C-K002", f"buffer={buffer!r}", "one of nl.sbuf, nl.psum, nl.hbm, nl.private_hbm, nl.shared_hbm")
    sizes = tuple(operator.index(n) for n in (shape if isinstance(shape, tuple | list) else (shape,)))
    kind = dtypes.canonical(dtype)
    if not sizes or min(sizes) < 1:
        raise error("G4C-K002", f"shape {sizes}", "every dimension has at least one element")
    if buffer not in ON_CHIP:
        if address is not None:
            raise error("G4C-K002", "address= for a tensor in HBM", "only tiles in SBUF and PSUM are placed")
        if buffer is MemoryRegion.shared_hbm and program.launch.programs > 1:
            storage = pairs.shared_storage(program, sizes, kind)
        else:
            storage = Storage(buffer, sizes, kind)
    else:
        if sizes[0] > PARTITIONS:
            program.refuse(
                "G4C-K007", f"a tile of {sizes[0]} partitions", f"a tile has at most {PARTITIONS} partitions"
            )
        storage = Storage(buffer, sizes, kind)
        if address is not None:
            start, offset = (operator.index(n) for n in address)
            place(program, storage, (start, offset))
            address = (start, offset)
        site = storage.site
        storage.life = Life(buffer, sizes[0], storage.row_bytes, site, name, address)
        program.storages.append(storage.life)
    if program.turns:
        storage.turn = program.turns[-1]
    if not program.strict and storage.uniform == 0:
        access.fill_with_sentinels(storage)
    return NkiTensor(sizes, kind, storage, buffer, name)


def full(shape, fill_value, dtype, buffer=MemoryRegion.sbuf, name=""):
    """A new tile filled with `fill_value`."""
    tile = allocate(shape, dtype, buffer, name)
    memset(tile, int(fill_value) if tile.dtype in dtypes.INTEGERS else float(fill_value))
    return tile


def zeros(shape, dtype, buffer=MemoryRegion.sbuf, name=""):
    """A new tile filled with zeros."""
    return full(shape, 0, dtype, buffer, name)


def ones(shape, dtype, buffer=MemoryRegion.sbuf, name=""):
    """A new tile filled with ones."""
    return full(shape, 1, dtype, buffer, name)


def zeros_like(x, dtype=None, buffer=None, name=""):
    """A new tile of zeros with the shape of `x`."""
    return full(x.shape, 0, dtype or x.dtype, buffer or x.buffer, name)


def empty_like(x, dtype=None, buffer=None, name=""):
    """A new tensor of undefined contents with the shape of `x`."""
    return allocate(x.shape, dtype or x.dtype, buffer or x.buffer, name)


def shared_constant(constant):
    """A constant array (or .npy file) in shared HBM; it is part of the compiled kernel."""
    array = np.load(constant) if isinstance(constant, str) else np.asarray(constant)
    return constant_tensor(array)


def constant_tensor(array: np.ndarray) -> NkiTensor:
    """A written tensor in shared HBM with the contents of `array`."""
    kind = dtypes.canonical(array.dtype)
    data = np.ascontiguousarray(array, dtype=dtypes.NUMPY[kind]).reshape(-1).view(np.uint8).copy()
    storage = Storage(MemoryRegion.shared_hbm, array.shape or (1,), kind, data)
    storage.uniform = WRITTEN
    return NkiTensor(storage.shape, kind, storage, MemoryRegion.shared_hbm)


def shared_identity_matrix(n, dtype="uint8", dst=None):
    """An n x n identity in SBUF, shared by all users of the dtype; with `dst`, written there."""
    program = current()
    kind = dtypes.canonical(dtype if dst is None else dst.dtype)
    values = np.eye(n, dtype=np.float32)
    if dst is not None:
        if dst.buffer is not MemoryRegion.sbuf:
            raise error("G4C-K008", f"nl.shared_identity_matrix: dst is {dst!r}", "an identity is made in SBUF")
        if dst.shape != (n, n):
            raise error("G4C-K017", f"nl.shared_identity_matrix: dst is {list(dst.shape)}", f"dst is [{n}, {n}]")
        access.write(program, dst, dtypes.cast(values, kind))
        return dst
    tile = program.identities.get((n, kind))
    if tile is None:
        tile = allocate((n, n), kind, MemoryRegion.sbuf, f"identity_{kind}")
        access.write(program, tile, dtypes.cast(values, kind))
        program.identities[(n, kind)] = tile
        tile.storage.turn = None
    return tile


def device_print(print_prefix, tensor):
    """Print the value of a tensor."""
    if tensor.buffer is MemoryRegion.psum:
        raise error("G4C-K008", f"device_print of {tensor!r}", "tensors in SBUF or HBM can be printed")
    print(print_prefix, access.read(current(), tensor))
