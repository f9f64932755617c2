"""Dry runs: a kernel's Python executes and its operands are checked, but nothing is computed.

In: instructions, each of which would read its operands' values.
Out: the same instructions, recorded, with the lives of the tiles that they use; no values, no marks.
Invariant: a dry run executes the same instructions as a full run of a kernel whose Python does not look at values.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from g4c.lowering.nki.simulator.diagnostics import ArgumentError, error
from g4c.lowering.nki.simulator.program import NoValuesError, running
from g4c.lowering.nki.simulator.tensor import NkiTensor

_RESULTS = frozenset({"dst", "val_dst", "idx_dst", "dst_idx", "reduce_res"})
_SHARED = frozenset({"core_barrier"})  # whose operand other programs write


def accesses(step: Any) -> tuple[list[NkiTensor], list[NkiTensor]]:
    """The tensors that an instruction reads and those that it writes, by what its parameters mean."""
    reads, writes = [], []
    for name, operand in step.operands.items():
        if isinstance(operand, NkiTensor):
            (writes if name in _RESULTS or step.name in _SHARED else reads).append(operand)
            if operand.dynamic is not None and isinstance(operand.dynamic.source, NkiTensor):
                reads.append(operand.dynamic.source)
            if operand.indirection is not None:
                reads.append(operand.indirection.index)
    return reads, writes


def instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which in a dry program ends where it first needs a value."""

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        program = running()
        if program is None or not program.dry:
            try:
                return function(*arguments, **keywords)
            except TypeError:
                _check_parameters(function, arguments, keywords)
                raise
        program.step = None
        try:
            return function(*arguments, **keywords)
        except NoValuesError:
            if program.step is None:
                raise
            return _record(program.step)

    return call


def _check_parameters(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    """Refuse arguments that the instruction has no parameters for, such as `mask=` of older dialects."""
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as problem:
        rule = f"nisa.{function.__name__}{signature}"
        raise error("G4C-K002", f"nisa.{function.__name__}: {problem}", rule, kind=ArgumentError) from problem


def _record(step: Any) -> Any:
    """What an instruction that has come to its values leaves behind: the uses of its tiles, and the record."""
    reads, writes = accesses(step)
    for tensor in reads + writes:
        if tensor.storage.life is not None:
            tensor.storage.life.touch(tensor.first_row, tensor.shape[0], step.program.instructions)
    return step.done()
