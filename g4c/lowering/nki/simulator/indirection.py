"""Tensor indirection (v4): views on chip whose elements an index tile selects along the free dimension.

In: a tile [P, F] and an index tile [P, K] of offsets into its F elements per partition.
Out: a view [P, n] that instructions gather from and scatter to, with the columns that each partition takes.
Invariants: partitions form groups, of 16 and for the Tensor Engine of 32, that have their own offsets: column i of the
group that starts at partition g is at the offset index[g + i % group, i // group]; every instruction that uses the view
reads the offsets anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from g4c.lowering.nki.simulator import dtypes
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.enums import Engine
from g4c.lowering.nki.simulator.memory import MemoryRegion
from g4c.lowering.nki.simulator.program import current

if TYPE_CHECKING:
    from g4c.lowering.nki.simulator.instruction import Step
    from g4c.lowering.nki.simulator.tensor import NkiTensor

_UNARY = frozenset({"dst", "data"})
_COPIED = frozenset({"dst", "src"})
_PARAMETERS = {
    "nc_matmul": frozenset({"dst", "stationary", "moving"}),
    "tensor_tensor": frozenset({"dst", "data1"}),
    "tensor_copy_predicated": frozenset({"dst", "predicate"}),
    **dict.fromkeys(("tensor_scalar", "tensor_reduce", "tensor_scalar_reduce"), _UNARY),
    **dict.fromkeys(("activation", "activation_reduce", "activate2"), _UNARY),
    **dict.fromkeys(("tensor_copy", "tensor_scalar_cumulative", "exponential"), _COPIED),
}
_MULTIPLIED = frozenset({"float16", "bfloat16"}) | dtypes.FP8
_RULE = "indirect operands: " + "; ".join(f"nisa.{name}: {', '.join(sorted(p))}" for name, p in _PARAMETERS.items())


@dataclass(frozen=True, slots=True)
class Indirection:
    """What an indirect view selects from and by; `columns` [P, n]: the offsets, None until an instruction uses them."""

    base: NkiTensor
    index: NkiTensor
    columns: np.ndarray | None = None


def indirect_view(tensor: NkiTensor, index: NkiTensor, count: int | None) -> NkiTensor:
    """The view [P, count] of `tensor` at the offsets of `index`."""
    program = current()
    if program.generation.number < 4:
        program.refuse("G4C-K019", f"indirect on {program.generation.name}", "available from NeuronCore-v4 on")
    if not tensor.on_chip or tensor.is_indirect():
        raise error("G4C-K023", f"indirect of {tensor!r}", "a tile in SBUF or PSUM without another run-time index")
    rows = tensor.shape[0]
    if getattr(index, "dtype", None) not in dtypes.INTEGERS or index.buffer is not MemoryRegion.sbuf:
        raise error("G4C-K002", f"indirect: index is {index!r}", "an integer tile in SBUF")
    if index.ndim != 2 or index.shape[0] != rows:
        raise error("G4C-K017", f"indirect: index is {list(index.shape)}, the tile {list(tensor.shape)}", "[P, K]")
    flat = tensor.reshape((rows, tensor.size // rows))
    view = flat.with_layout((rows, index.size if count is None else count), (flat.strides[0], 0), flat.offset)
    view.indirection = Indirection(flat, index)
    return view


def check(step: Step, parameter: str, tensor: NkiTensor) -> None:
    """Refuse an indirect operand where the instruction has none, and where its tiles are placed wrongly."""
    indirection = tensor.indirection
    assert indirection is not None
    if parameter not in _PARAMETERS.get(step.name, ()):
        step.refuse("G4C-K002", f"{parameter} is an indirect view", _RULE)
    if step.name == "tensor_copy" and step.engine is Engine.gpsimd:
        step.refuse("G4C-K018", f"{parameter} is an indirect view, engine gpsimd", "the Vector or the Scalar Engine")
    scatters = parameter == "dst"
    if scatters and step.engine is Engine.scalar and tensor.buffer is MemoryRegion.psum:
        step.refuse("G4C-K008", f"dst is {tensor!r}, an indirect view", "the Scalar Engine scatters to SBUF only")
    if step.engine is Engine.tensor:
        if not scatters and tensor.dtype not in _MULTIPLIED:
            step.refuse("G4C-K010", f"{parameter} is {tensor.dtype}, an indirect view", "fp16, bf16 or fp8")
        if step.operands["is_transpose"] and parameter == "moving":
            step.refuse("G4C-K002", "moving is an indirect view of a transpose", "moving is the identity matrix")
        if any(step.operands["tile_position"]):
            step.refuse("G4C-K007", f"tile_position={step.operands['tile_position']}", "no tiling with indirect views")
    step.check_partitions(f"the index of {parameter}", indirection.index)
    source = indirection.base if not scatters else _source(step)
    if source is not None and not _aligned(source, indirection.index):
        step.refuse(
            "G4C-K006",
            f"the index of {parameter} starts at partition {indirection.index.start_partition}, "
            f"{source!r} at {source.start_partition}",
            "a gathered operand starts at the partition of its index; the index of a scattered one at that of the data",
        )


def _source(step: Step) -> NkiTensor | None:
    """The operand with whose partitions the index of a scattered dst is aligned, if any is."""
    names = ("stationary", "data1", "data", "src", "predicate")
    name = next(n for n in names if n in step.operands and (n != "src" or step.name != "tensor_copy_predicated"))
    source = step.tensor(name)
    if source.buffer is MemoryRegion.sbuf:
        return source
    return None if source.indirection is None else source.indirection.index


def _aligned(first: NkiTensor, second: NkiTensor) -> bool:
    """Whether two tiles start at one partition; where the compiler places one of them, it sees to that."""
    lives = [tensor.storage.life for tensor in (first, second)]
    if any(life is None or life.placed_at is None for life in lives):
        return True
    return first.start_partition == second.start_partition


def resolve(step: Step, tensor: NkiTensor) -> NkiTensor:
    """An indirect view with the columns that its index selects now; any other tensor as it is."""
    indirection = tensor.indirection
    if indirection is None or indirection.columns is not None:
        return tensor
    if step.name not in _PARAMETERS:
        raise error("G4C-K002", f"nisa.{step.name}: {tensor!r} is an indirect view", _RULE)
    base, group = indirection.base, 32 if step.engine is Engine.tensor else 16
    rows, count = tensor.shape
    held = group * indirection.index.shape[1]
    if rows % group or not 1 <= count <= held:
        raise error(
            "G4C-K017",
            f"nisa.{step.name}: {count} columns of {rows} partitions, each group of {group} holds {held} offsets",
            f"a multiple of {group} partitions, and at most as many columns as a group has offsets: pass num_elem",
        )
    offsets = step.read_exactly(indirection.index).astype(np.int64).reshape(rows // group, group, -1)
    chosen = offsets.transpose(0, 2, 1).reshape(rows // group, held)[:, :count]
    if chosen.min() < 0 or chosen.max() >= base.shape[1]:
        bad = int(chosen[(chosen < 0) | (chosen >= base.shape[1])][0])
        raise error(
            "G4C-K015", f"nisa.{step.name}: offset {bad} of {base.shape[1]} elements", "offsets are of one partition"
        )
    view = base.with_layout(tensor.shape, tensor.strides, tensor.offset)
    view.indirection = replace(indirection, columns=np.repeat(chosen, group, axis=0))
    return view
