"""Reading and writing tensors: what is defined, in what order the programs of a pair see it, how long tiles live.

In: a NkiTensor, for writes the values and how they were produced.
Out: numpy arrays in the tensor's storage type with the elements that are defined; bytes and marks updated.
Invariants: every read and write of elements goes through here. An element is defined when something wrote it that was
computed from defined elements only; what is not defined may be moved and computed with, as on the device, but it never
becomes an index, a register, or part of an output.
"""

from __future__ import annotations

import numpy as np

from g4c.lowering.nki.simulator import dtypes
from g4c.lowering.nki.simulator.addressing import array_of, at_index, covers, marks_of, put, put_marks, selectable_rows
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.memory import (
    LEFTOVER,
    UNWRITTEN,
    WRITTEN,
    Leftovers,
    MemoryRegion,
    Storage,
    defined_marks,
)
from g4c.lowering.nki.simulator.program import NoValuesError, Program
from g4c.lowering.nki.simulator.registers import VirtualRegister
from g4c.lowering.nki.simulator.tensor import NkiTensor

Taken = tuple[np.ndarray, np.ndarray | None]

# Run-time indices


def scalar_value(program: Program, source: VirtualRegister | NkiTensor) -> int:
    """The value of a run-time index."""
    value = source.read() if isinstance(source, VirtualRegister) else read(program, source).reshape(-1)[0]
    if float(value) != int(value):
        raise error("G4C-K015", f"a run-time index is {value}", "indices are integers")
    return int(value)


def vector_values(program: Program, source: NkiTensor, count: int) -> np.ndarray:
    """The first `count` indices of an index tile, partitions first."""
    flat = read(program, source).reshape(source.shape[0], -1).T.reshape(-1).astype(np.int64)
    if flat.size < count:
        raise error("G4C-K017", f"{flat.size} indices for {count} rows", "one index per row")
    return flat[:count]


def resolve(program: Program, tensor: NkiTensor, skip: bool = False) -> NkiTensor | None:
    """`tensor` with a scalar run-time offset made static; None where it is out of bounds and `skip` says leave it."""
    if tensor.dynamic is None or tensor.dynamic.vector:
        return tensor
    return at_index(tensor, scalar_value(program, tensor.dynamic.source), skip)


def check_turn(program: Program, storage: Storage) -> None:
    """Refuse tensors of a turn of a run-time loop that has ended."""
    if storage.turn is not None and storage.turn not in program.turns:
        program.refuse(
            "G4C-K025",
            f"a tensor of a run-time loop, made at {storage.site.path}:{storage.site.line}, is used outside it",
            "state of a run-time loop is in tensors that are allocated before it",
        )


def _static(program: Program, tensor: NkiTensor) -> NkiTensor:
    """The static view that is accessed now."""
    check_turn(program, tensor.storage)
    if tensor.indirection is not None and tensor.indirection.columns is None:
        raise error("G4C-K002", f"{tensor!r} is an indirect view", "instructions of compute engines take such views")
    if tensor.dynamic is None:
        return tensor
    if tensor.dynamic.vector:
        raise error("G4C-K002", "a vector of indices is used outside of a DMA", "gather with nisa.dma_copy")
    resolved = resolve(program, tensor)
    assert resolved is not None
    return resolved


# Reads


def take(program: Program, tensor: NkiTensor) -> Taken:
    """The elements of `tensor`, in its storage type (not a copy), and which of them are defined (None: all)."""
    if program.dry:
        raise NoValuesError
    tensor = _static(program, tensor)
    storage, values = tensor.storage, array_of(tensor)
    if storage.life is not None:
        storage.life.touch(tensor.first_row, tensor.shape[0], program.instructions)
    ordered = None if storage.writers is None or not program.strict else ~_foreign(program, tensor)
    if ordered is not None and not ordered.all():
        return values, ordered
    if not program.strict or storage.uniform not in (None, UNWRITTEN):
        return values, None
    marks = marks_of(tensor, storage.mark_array(tensor.itemsize), storage.unit)
    if storage.leftovers is None and marks.all():
        if storage.region is not MemoryRegion.psum and not storage.neighbors and covers(tensor):
            storage.uniform = WRITTEN
        return values, None
    defined = defined_marks(marks)
    if marks.ndim != tensor.ndim:
        defined = defined.all(axis=-1)
    return values, None if defined.all() else defined


def read(program: Program, tensor: NkiTensor) -> np.ndarray:
    """The elements of `tensor` for a use that cannot take undefined ones: they are refused."""
    values, defined = take(program, tensor)
    if defined is not None:
        refuse_leftovers(program, leftovers(tensor, defined))
    return values


def leftovers(tensor: NkiTensor, defined: np.ndarray) -> Leftovers:
    """Where the undefined elements of `tensor` come from."""
    storage = tensor.storage
    if storage.leftovers is not None:
        return storage.leftovers
    if storage.writers is not None and storage.writers.any():
        return Leftovers(
            "G4C-K029",
            f"{tensor!r} is read, and elements of it are not written by this program, nor before a barrier",
            "nisa.core_barrier on the tensor orders the two programs",
        )
    missing = np.argwhere(~defined)
    first = [int(n) for n in missing[0][: tensor.ndim]]
    what = f"element {first} of {tensor!r}, allocated at {storage.site.path}:{storage.site.line},"
    if storage.clobbered_by is not None:
        by = f"{storage.clobbered_by.path}:{storage.clobbered_by.line}"
        text = f"{what} was overwritten through another tile at the same address, at {by}"
        return Leftovers("G4C-K022", text, "tiles that live at the same time have disjoint addresses")
    text = f"{what} is read but was never written ({len(missing)} such elements)"
    return Leftovers("G4C-K011", text, "memory holds leftovers until it is written")


def refuse_leftovers(program: Program, found: Leftovers, why: str = "") -> None:
    """Refuse a use of undefined elements."""
    program.refuse(found.code, found.text + why, found.rule, found.site)


def _foreign(program: Program, tensor: NkiTensor) -> np.ndarray:
    """Which elements the other program of a pair alone has written since the last barrier: here they are undefined."""
    writers = marks_of(tensor, tensor.storage.writers, 1) == 2 - program.number  # bit 0: program 0, bit 1: program 1
    return writers if writers.ndim == tensor.ndim else writers.any(axis=-1)


# Writes


def write(
    program: Program,
    tensor: NkiTensor,
    values: np.ndarray,
    mark: int = WRITTEN,
    defined: np.ndarray | None = None,
    source: Leftovers | None = None,
) -> None:
    """Store `values` (already of the tensor's type, any shape of the same size) and mark what was written.

    `defined`: which of the values are, None: all; `source`: where those that are not come from.
    """
    if program.dry:
        if tensor.storage.life is not None:
            tensor.storage.life.touch(tensor.first_row, tensor.shape[0], program.instructions)
        return
    tensor = _static(program, tensor)
    storage = tensor.storage
    _keep_pace(program, storage)
    storage.before_write()
    values = values if values.shape == tensor.shape else values.reshape(tensor.shape)
    if storage.writers is not None:
        _sign(program, marks_of(tensor, storage.writers, 1), array_of(tensor), values)
    put(tensor, values)
    if storage.life is not None:
        storage.life.touch(tensor.first_row, tensor.shape[0], program.instructions)
    if defined is not None:
        chosen = np.where(defined.reshape(tensor.shape), mark, LEFTOVER)
        put_marks(tensor, storage.mark_array(tensor.itemsize), storage.unit, chosen)
        storage.leftovers = source
    elif storage.uniform != mark:
        if covers(tensor):
            storage.uniform, storage.leftovers = mark, None
        else:
            put_marks(tensor, storage.mark_array(tensor.itemsize), storage.unit, mark)
    if storage.neighbors:
        storage.written_through(tensor.box())


def _sign(program: Program, writers: np.ndarray, held: np.ndarray, values: np.ndarray) -> None:
    """Note who writes `values` over `held`: this program, or both where the other has written the same."""
    bits = np.dtype(f"u{held.itemsize}")
    same = held.view(bits) == np.asarray(values, held.dtype).view(bits)
    same = same if writers.ndim == same.ndim else same[..., None]
    if ((writers == 2 - program.number) & ~same).any():
        program.refuse(
            "G4C-K029",
            f"program {program.number} overwrites what program {1 - program.number} wrote",
            "nisa.core_barrier on the tensor orders the two programs; else they write disjoint parts",
        )
    writers[...] = np.where(same, writers, 0) | np.uint8(program.number + 1)


def _keep_pace(program: Program, storage: Storage) -> None:
    """Writes to memory that both programs of a pair see happen in lockstep."""
    if storage.shared and program.launch.meeting is not None:
        program.launch.meeting.keep_pace(program)


# Rows selected by a vector of indices


def select_rows(program: Program, tensor: NkiTensor, skip: bool) -> tuple[np.ndarray, np.ndarray]:
    """The indices of a vector view and which of them are in bounds; others are refused unless `skip`."""
    check_turn(program, tensor.storage)
    indices = vector_values(program, tensor.dynamic.source, tensor.shape[0])
    inner = tensor.box(first=1)
    count = max(0, (tensor.storage.row_bytes - inner.b1) // tensor.dynamic.step + 1)
    valid = (indices >= 0) & (indices < count)
    if not skip and not valid.all():
        bad = int(indices[~valid][0])
        raise error(
            "G4C-K015",
            f"index {bad} of a vector of indices; {tensor!r} has {count} rows",
            "indices are checked on the device: clamp them, or use oob_mode.skip",
        )
    return indices, valid


def gather(program: Program, tensor: NkiTensor, indices: np.ndarray) -> Taken:
    """Rows `indices` of a vector view, a copy [len(indices), ...], and which elements are defined (None: all)."""
    storage, itemsize = tensor.storage, tensor.itemsize
    defined = None
    if program.strict and storage.uniform in (None, UNWRITTEN):
        table = storage.mark_array(itemsize)
        defined = defined_marks(selectable_rows(tensor, table, storage.unit)[indices]).all(axis=-1)
    if program.strict and storage.writers is not None:
        ordered = (selectable_rows(tensor, storage.writers, 1)[indices] != 2 - program.number).all(axis=-1)
        defined = ordered if defined is None else defined & ordered
    data = storage.data[storage.base : storage.base + storage.row_bytes].view(dtypes.NUMPY[tensor.dtype])
    values = selectable_rows(tensor, data, itemsize)[indices][..., 0]
    return values, None if defined is None or defined.all() else defined


def scatter(
    program: Program,
    tensor: NkiTensor,
    indices: np.ndarray,
    values: np.ndarray,
    defined: np.ndarray | None = None,
    source: Leftovers | None = None,
) -> None:
    """Store `values` [len(indices), ...] into rows `indices` of a vector view."""
    storage, itemsize = tensor.storage, tensor.itemsize
    _keep_pace(program, storage)
    storage.before_write()
    data = storage.data[storage.base : storage.base + storage.row_bytes].view(dtypes.NUMPY[tensor.dtype])
    rows = selectable_rows(tensor, data, itemsize)
    if storage.writers is not None:
        table = selectable_rows(tensor, storage.writers, 1)
        writers = table[indices]
        _sign(program, writers, rows[indices][..., 0], values)
        table[indices] = writers
    rows[indices] = values[..., None]
    if defined is not None:
        chosen = np.where(defined, WRITTEN, LEFTOVER).astype(np.uint8)[..., None]
        selectable_rows(tensor, storage.mark_array(itemsize), storage.unit)[indices] = chosen
        storage.leftovers = source
    elif storage.uniform != WRITTEN:
        selectable_rows(tensor, storage.mark_array(itemsize), storage.unit)[indices] = WRITTEN


def fill_with_sentinels(storage: Storage) -> None:
    """What the documented simulator puts into new memory: NaN, and 4 in integers."""
    target = dtypes.NUMPY[storage.dtype]
    value = 4 if target.kind in "iu" else np.nan
    rows = np.ndarray(
        (storage.partitions, storage.row_bytes // target.itemsize),
        target,
        storage.data,
        storage.base,
        (storage.pitch, target.itemsize),
    )
    rows[...] = value
