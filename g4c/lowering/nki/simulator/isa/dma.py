"""DMA: copies between HBM and SBUF with casts, gathers and scatters; transposes; sums."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from g4c.lowering.nki.simulator import access, dtypes
from g4c.lowering.nki.simulator.diagnostics import error, kernel_site
from g4c.lowering.nki.simulator.enums import DgeMode, Engine, OobMode, member
from g4c.lowering.nki.simulator.instruction import DMA, SCALAR, Step
from g4c.lowering.nki.simulator.memory import WRITTEN, MemoryRegion
from g4c.lowering.nki.simulator.tensor import NkiTensor

_TRANSPOSES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}


def _check(step: Step, *parameters: str) -> None:
    """Operands of a DMA: tensors in HBM or SBUF."""
    for parameter in parameters:
        if step.tensor(parameter).buffer is MemoryRegion.psum:
            step.refuse("G4C-K008", f"{parameter} is in PSUM", "DMA cannot access PSUM; copy to SBUF with tensor_copy")


def _modes(step: Step, priority: int | None, oob_mode: Any, dge_mode: Any, engine: Any) -> tuple[bool, DgeMode]:
    """The arguments that all DMA instructions share: whether to skip out-of-bounds rows, and who makes descriptors."""
    given = {"oob_mode": (oob_mode, OobMode), "dge_mode": (dge_mode, DgeMode), "engine": (engine, Engine)}
    values = {name: member(kind, value) for name, (value, kind) in given.items()}
    for name, value in values.items():
        if value is None:
            raise error("G4C-K002", f"nisa.{step.name}: {name}={given[name][0]!r}", f"a member of nisa.{name}")
    oob_mode, dge_mode, engine = values.values()
    if priority is not None:
        step.requires_generation(4, f"priority={priority}")
        if priority not in (0, 1, 2, 3):
            step.refuse("G4C-K002", f"priority={priority}", "0 (highest) to 3")
    if dge_mode is DgeMode.hwdge:
        step.requires_generation(3, "dge_mode=hwdge")
    triggers = (Engine.unknown, Engine.sync, SCALAR, *(() if dge_mode is DgeMode.hwdge else (Engine.gpsimd, DMA)))
    if engine not in triggers:
        step.refuse("G4C-K018", f"engine {engine.name}", "the engines that trigger descriptors are sync and scalar")
    return oob_mode is OobMode.skip, dge_mode


def _vector(tensor: NkiTensor) -> bool:
    return tensor.dynamic is not None and tensor.dynamic.vector


def dma_copy(
    dst,
    src,
    priority=None,
    oob_mode=OobMode.error,
    dge_mode=DgeMode.unknown,
    engine=Engine.unknown,
    name=None,
):
    """dst = src in row-major order, cast through fp32 where the types differ."""
    step = Step("dma_copy", name, DMA, dst=dst, src=src, dge_mode=dge_mode, issued_by=engine)
    _check(step, "dst", "src")
    skip, dge_mode = _modes(step, priority, oob_mode, dge_mode, engine)
    if dst.size != src.size:
        raise error(
            "G4C-K017",
            f"nisa.dma_copy: dst is {list(dst.shape)}, src is {list(src.shape)}",
            "equal numbers of elements",
        )
    indirect = _vector(dst) or _vector(src)
    _check_cast(step, dst, src)
    if dge_mode is DgeMode.hwdge and dst.dtype != src.dtype:
        step.refuse("G4C-K010", f"dst is {dst.dtype}, src is {src.dtype}", "hwdge moves bytes: equal types, use .view")
    if dge_mode in (DgeMode.hwdge, DgeMode.none) and indirect:
        step.refuse("G4C-K002", f"dge_mode={dge_mode.name} with a vector of indices", "only swdge gathers and scatters")
    if dge_mode is DgeMode.none and (dst.dynamic or src.dynamic):
        step.refuse("G4C-K002", "dge_mode=none with a run-time address", "its descriptors are made before the run")
    if indirect:
        _copy_rows(step, dst, src, skip)
        return step.done(dge_mode=dge_mode)
    source = access.resolve(step.program, src, skip)
    target = access.resolve(step.program, dst, skip)
    if source is not None and target is not None:
        values, defined = step.take(source)
        _put(step, target, _cast(step, dst, src, values, defined), defined)
    return step.done(dge_mode=dge_mode)


def _check_cast(step: Step, dst: NkiTensor, src: NkiTensor) -> None:
    """Packed types are moved, not cast."""
    if dst.dtype != src.dtype and {dst.dtype, src.dtype} & dtypes.PACKED:
        step.refuse("G4C-K010", f"dst is {dst.dtype}, src is {src.dtype}", "packed types are moved, not cast")


def _cast(step: Step, dst: NkiTensor, src: NkiTensor, values: np.ndarray, defined: np.ndarray | None) -> np.ndarray:
    """`values` of `src` in the type of `dst`, through fp32."""
    if dst.dtype != src.dtype and src.dtype in dtypes.WIDE_INTEGERS:
        step.check_exact(src, values if defined is None else values[defined])
    return dtypes.convert(values, src.dtype, dst.dtype)


def _put(step: Step, dst: NkiTensor, values: np.ndarray, defined: np.ndarray | None = None) -> None:
    """Write with the marks of what was read."""
    step.writes.append(dst)
    access.write(step.program, dst, values, WRITTEN, defined, step.source)


def _rows_of(step: Step, src: NkiTensor, indices: np.ndarray) -> access.Taken:
    """A gather."""
    step.reads.append(src)
    values, defined = access.gather(step.program, src, indices)
    if defined is not None and step.source is None:
        step.source = replace(access.leftovers(src, defined), site=kernel_site())
    return values, defined


def _check_index(step: Step, *tensors: NkiTensor) -> None:
    """Every row of a vector view has its index on a partition of its own."""
    for tensor in tensors:
        if _vector(tensor) and tensor.dynamic.source.shape[0] < tensor.shape[0]:
            step.refuse(
                "G4C-K017",
                f"vector_offset is {tensor.dynamic.source!r} for {tensor.shape[0]} rows",
                "a vector of indices is [rows, 1]: one index per partition",
            )


def _copy_rows(step: Step, dst: NkiTensor, src: NkiTensor, skip: bool) -> None:
    """A gather and/or scatter of rows."""
    program = step.program
    rows = (src if _vector(src) else dst).shape[0]
    _check_index(step, dst, src)
    keep = np.ones(rows, bool)
    indices = targets = keep
    if _vector(src):
        indices, valid = access.select_rows(program, src, skip)
        keep &= valid
    if _vector(dst):
        targets, valid = access.select_rows(program, dst, skip)
        keep &= valid
    if _vector(src):
        values, defined = _rows_of(step, src, indices[keep])
    else:
        source = access.resolve(program, src, skip)
        if source is None:
            return
        values, defined = step.take(source)
        values = values.reshape(rows, -1)[keep]
        defined = None if defined is None else defined.reshape(rows, -1)[keep]
    values = _cast(step, dst, src, values, defined)
    if _vector(dst):
        step.writes.append(dst)
        shape = (int(keep.sum()), *dst.shape[1:])
        marks = None if defined is None else defined.reshape(shape)
        access.scatter(program, dst, targets[keep], values.reshape(shape), marks, step.source)
    elif keep.all():
        _put(step, dst, values, defined)
    elif dst.shape[0] == rows:
        for at, row in enumerate(np.flatnonzero(keep)):  # the other rows stay as they are
            view = dst.with_layout((1, *dst.shape[1:]), dst.strides, dst.offset + int(row) * dst.strides[0])
            _put(step, view, values[at], None if defined is None else defined[at])
    else:
        raise error("G4C-K017", f"nisa.dma_copy: {rows} gathered rows, dst is {list(dst.shape)}", "one row per index")


def dma_transpose(dst, src, axes=None, priority=None, dge_mode=DgeMode.unknown, oob_mode=OobMode.error, name=None):
    """dst = src with the outermost and the innermost dimension exchanged: [1,0], [2,1,0] or [3,1,2,0]."""
    step = Step("dma_transpose", name, DMA, dst=dst, src=src, dge_mode=dge_mode)
    _check(step, "dst", "src")
    skip, dge_mode = _modes(step, priority, oob_mode, dge_mode, Engine.unknown)
    if skip and src.dynamic is None:
        step.refuse("G4C-K002", "oob_mode=skip with static addresses", "only run-time addresses can be out of bounds")
    order = _TRANSPOSES.get(src.ndim)
    if order is None:
        raise error("G4C-K007", f"nisa.dma_transpose: src has rank {src.ndim}", "2, 3 or 4 dimensions")
    if axes is not None and tuple(axes) != order:
        step.refuse("G4C-K002", f"axes={tuple(axes)}", f"for rank {src.ndim} the only permutation is {order}")
    if dst.dtype != src.dtype:
        step.refuse("G4C-K010", f"dst is {dst.dtype}, src is {src.dtype}", "a transpose does not cast")
    if tuple(src.shape[axis] for axis in order) != dst.shape:
        raise error(
            "G4C-K017",
            f"nisa.dma_transpose: src is {list(src.shape)}, dst is {list(dst.shape)}",
            f"dst has exactly the permuted shape {[src.shape[axis] for axis in order]}",
        )
    # The documentation knows hwdge only, AWS's kernels also pass none, where addresses are static.
    others = (DgeMode.swdge,) if _vector(src) else (DgeMode.hwdge, *(() if src.dynamic else (DgeMode.none,)))
    if dge_mode not in (DgeMode.unknown, *others):
        step.refuse(
            "G4C-K002", f"dge_mode={dge_mode.name}", "unknown, hwdge without and swdge with a vector of indices"
        )
    if _vector(src):
        _check_indirect_transpose(step, src)
        indices, valid = access.select_rows(step.program, src, skip)
        values = np.zeros(src.shape, dtypes.NUMPY[src.dtype])
        defined = np.ones(src.shape, bool)
        if not valid.all():
            held, known = step.take(dst)
            values[...] = np.transpose(held.reshape(dst.shape), np.argsort(order))
            if known is not None:
                defined[...] = np.transpose(known.reshape(dst.shape), np.argsort(order))
        rows, known = _rows_of(step, src, indices[valid])
        values[valid] = rows
        defined[valid] = True if known is None else known
        _put(step, dst, np.transpose(values, order), None if defined.all() else np.transpose(defined, order))
        return step.done(dge_mode=dge_mode)
    if dge_mode is DgeMode.hwdge:
        _check_hardware_transpose(step, src)
    source = access.resolve(step.program, src, skip)
    if source is not None:
        values, known = step.take(source)
        marks = None if known is None else np.transpose(known.reshape(src.shape), order)
        _put(step, dst, np.transpose(values.reshape(src.shape), order), marks)
    return step.done(dge_mode=dge_mode)


def _check_hardware_transpose(step: Step, src: NkiTensor) -> None:
    rows, inner = src.shape[0], src.shape[-1]
    if dtypes.ITEMSIZE[src.dtype] != 2:
        step.refuse("G4C-K010", f"src is {src.dtype}", "hwdge transposes 2-byte types")
    if src.ndim == 2 and rows != 16:
        step.refuse("G4C-K007", f"src is {list(src.shape)}", "hwdge: dimension 0 of a 2-D source is 16")
    if src.ndim > 2 and (rows not in (1, 2, 4, 8, 16) or rows * src.shape[-2] % 16):
        step.refuse(
            "G4C-K007", f"src is {list(src.shape)}", "hwdge: shape[0] is 1, 2, 4, 8 or 16; shape[0]*shape[-2] % 16 == 0"
        )
    if inner > 128:
        step.refuse("G4C-K007", f"src is {list(src.shape)}", "hwdge: the last dimension is at most 128")


def _check_indirect_transpose(step: Step, src: NkiTensor) -> None:
    step.requires_generation(3, "a transpose with a vector of indices")
    index = src.dynamic.source
    rules = [
        (dtypes.ITEMSIZE[src.dtype] == 2, "2-byte types"),
        (src.shape[-1] <= 128, "the last dimension is at most 128"),
        (src.shape[0] % 16 == 0, "a multiple of 16 rows"),
        (src.ndim != 4 or 1 in src.shape[1:3], "one of the middle dimensions of a 4-D source is 1"),
        (index.ndim == 2 and index.shape[0] % 16 == 0, "a 2-D index of a multiple of 16 partitions"),
        (index.shape[1] == 1 or index.shape[0] == 128, "an index of several columns has 128 partitions"),
        (index.dtype == "uint32", "an index of uint32"),
    ]
    for holds, rule in rules:
        if not holds:
            step.refuse("G4C-K007", f"src is {src!r}, indexed by {index!r}", f"an indirect transpose needs {rule}")


def dma_compute(dst, srcs, reduce_op, scales=None, unique_indices=True, oob_mode=OobMode.error, name=None):
    """dst = sum of srcs, in fp32. With a vector of indices: dst[i] += src, or dst += src[i]."""
    step = Step("dma_compute", name, DMA, dst=dst, **{f"srcs[{n}]": src for n, src in enumerate(srcs)})
    names = [f"srcs[{n}]" for n in range(len(srcs))]
    _check(step, "dst", *names)
    skip, _ = _modes(step, None, oob_mode, DgeMode.unknown, Engine.unknown)
    if getattr(reduce_op, "nki_name", None) != "add":
        step.refuse("G4C-K021", f"reduce_op={reduce_op!r}", "only nl.add")
    if scales is not None and any(scale != 1.0 for scale in scales):
        step.refuse("G4C-K002", f"scales={scales}", "every scale is 1.0")
    if not 1 <= len(srcs) <= 16:
        step.refuse("G4C-K007", f"{len(srcs)} sources", "1 to 16 sources")
    for parameter in names:
        if step.tensor(parameter).size != dst.size:
            raise error(
                "G4C-K017",
                f"nisa.dma_compute: {parameter} is {list(step.tensor(parameter).shape)}, dst is {list(dst.shape)}",
                "equal numbers of elements",
            )
    if skip and dst.dynamic is None and all(src.dynamic is None for src in srcs):
        step.refuse("G4C-K002", "oob_mode=skip with static addresses", "only run-time addresses can be out of bounds")
    if not _vector(dst) and not any(_vector(src) for src in srcs):
        if any(tensor.dynamic for tensor in (dst, *srcs)):
            step.refuse("G4C-K002", "a scalar run-time address", "addresses are static or a vector of indices")
        total, defined = np.zeros(dst.size, np.float32), np.ones(dst.size, bool)
        for src in srcs:
            values, known = step.take32(src)
            total += values.reshape(-1)
            defined &= True if known is None else known.reshape(-1)
        _put(step, dst, dtypes.cast(total, dst.dtype), None if defined.all() else defined)
        return step.done()
    if len(srcs) != 2 or not unique_indices:
        step.refuse("G4C-K002", f"{len(srcs)} sources, unique_indices={unique_indices}", "two sources, unique indices")
    _accumulate_rows(step, dst, srcs, skip)
    return step.done()


def _accumulate_rows(step: Step, dst: NkiTensor, srcs: list[NkiTensor], skip: bool) -> None:
    """dst[i] += src, or dst += src[i]; every element must be defined."""
    program = step.program
    selected = dst if _vector(dst) else next(src for src in srcs if _vector(src))
    if sum(src.storage is dst.storage for src in srcs) != 1 or sum(_vector(src) for src in srcs) != 1:
        step.refuse("G4C-K002", f"dst is {dst!r}, srcs are {srcs}", "dst[i] += tile or tile += src[i]: dst is a source")
    _check_index(step, selected)
    indices, valid = access.select_rows(program, selected, skip)
    kept = indices[valid]
    if len(np.unique(kept)) != len(kept):
        step.refuse("G4C-K002", "an index appears twice", "sums over equal indices are undefined")
    values, defined = _rows_of(step, selected, kept)
    if defined is not None and step.source is not None:
        access.refuse_leftovers(program, step.source)
    held = dtypes.to_fp32(values)
    if _vector(dst):
        plain = next(src for src in srcs if not _vector(src))
        added = held + dtypes.to_fp32(step.read_exactly(plain)).reshape(selected.shape)[valid]
        step.writes.append(dst)
        access.scatter(program, dst, kept, dtypes.cast(added, dst.dtype))
        return
    total = dtypes.to_fp32(step.read_exactly(dst)).reshape(selected.shape).copy()
    total[valid] += held
    _put(step, dst, dtypes.cast(total, dst.dtype))
