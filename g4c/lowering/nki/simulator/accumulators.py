"""The accumulator registers of Vector and Scalar Engine: one fp32 per partition, kept between instructions.

In: the values of an instruction and its reduce command.
Out: the registers' new contents, and their copy in `reduce_res`.
Invariant: a chain that continues (`reduce`) belongs to the same engine, operator and kind of instruction as what the
registers hold; anything else is refused.
"""

from __future__ import annotations

import numpy as np

from g4c.lowering.nki.simulator import operators
from g4c.lowering.nki.simulator.diagnostics import error, kernel_site
from g4c.lowering.nki.simulator.enums import ReduceCommand
from g4c.lowering.nki.simulator.instruction import Step
from g4c.lowering.nki.simulator.operators import Operator
from g4c.lowering.nki.simulator.program import Accumulators

_ACTIVATIONS = frozenset({"activation", "activation_reduce"})
_DATA = ("data", "src", "on_true_tile", "on_true")


def combine(operator: Operator, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One step of a reduction; `subtract` adds up what is subtracted."""
    return operators.apply(operators.OPERATORS["add"] if operator.name == "subtract" else operator, a, b)


def registers(step: Step, engine: str) -> Accumulators:
    """The registers of the engine."""
    return step.program.vector if engine == "vector" else step.program.scalar


def _kind(step: Step) -> str:
    return "activation" if step.name in _ACTIVATIONS else step.name


def _partitions(step: Step) -> slice:
    """The registers that the instruction uses: those of the partitions that its data come from."""
    data = step.tensor(next(name for name in _DATA if name in step.operands))
    return slice(data.start_partition, data.start_partition + data.shape[0])


def _check_held(step: Step, held: Accumulators, what: str) -> None:
    """Refuse registers that the chain has no values for."""
    used = _partitions(step)
    if not held.held[used].all():
        step.refuse(
            "G4C-K027",
            f"{what} of partitions {used.start} to {used.stop - 1}, but the chain is one of "
            f"{int(held.held.sum())} partitions from {int(held.held.argmax())}",
            "a chain starts with reset_reduce on all partitions that it goes on with",
        )


def start(
    step: Step, engine: str, operator: Operator, command: ReduceCommand, rows: int, initial: np.ndarray | None = None
) -> np.ndarray:
    """The registers' value before this instruction's own values, fp32 [rows, 1]."""
    held = registers(step, engine)
    if command is ReduceCommand.load_reduce:
        if initial is None:
            raise error("G4C-K002", f"nisa.{step.name}: load_reduce without an initial value", "give the value to load")
        return np.broadcast_to(initial.astype(np.float32), (rows, 1))
    if command in (ReduceCommand.reset_reduce, ReduceCommand.reset):
        assert operator.identity is not None
        return np.full((rows, 1), operator.identity, np.float32)
    chain = (_kind(step), operator.name)
    if held.chain != chain:
        what = "nothing" if held.chain is None else f"a reduction of nisa.{held.chain[0]} with nl.{held.chain[1]}"
        by = f", since {held.set_at}" if held.set_at is not None else ""
        step.refuse(
            "G4C-K027",
            f"reduce_cmd.reduce continues nl.{operator.name}, but the accumulators hold {what}{by}",
            "start a chain with reset_reduce, and let no other user of the registers come between",
        )
    _check_held(step, held, "reduce_cmd.reduce")
    return held.values[_partitions(step)]


def keep(step: Step, engine: str, operator: Operator, values: np.ndarray, defined: np.ndarray | None = None) -> None:
    """Store the registers after this instruction."""
    held, used, chain = registers(step, engine), _partitions(step), (_kind(step), operator.name)
    held.values[used] = values
    held.defined[used] = True if defined is None else defined
    held.source = step.source if defined is not None else None
    if held.chain != chain:
        held.held[:] = False
    held.held[used] = True
    held.chain = chain
    held.set_at = kernel_site() if step.program.strict else None


def disturb(step: Step, engine: str) -> None:
    """The instruction may change the registers although it does not reduce."""
    held = registers(step, engine)
    held.chain, held.set_at = None, kernel_site() if step.program.strict else None


def accumulate(
    step: Step,
    engine: str,
    operator: Operator,
    values: np.ndarray,
    command: ReduceCommand,
    initial: np.ndarray | None = None,
    defined: np.ndarray | None = None,
) -> None:
    """Reduce `values` [P, N] over their free dimension into the registers, as `command` says.

    `defined`: which values are, beside what the step's operands say.
    """
    if not isinstance(command, ReduceCommand):
        raise error("G4C-K002", f"nisa.{step.name}: reduce_cmd={command!r}", "a member of nisa.reduce_cmd")
    if command is ReduceCommand.idle:
        return
    before = start(step, engine, operator, command, len(values), initial)
    if command is not ReduceCommand.reset:
        before = combine(operator, before, operators.reduce(operator, values))
    masks = [mask for mask in (defined, step.defined(*values.shape)) if mask is not None]
    held = registers(step, engine)
    if command is ReduceCommand.reset:
        masks = []
    elif command is ReduceCommand.reduce and not held.defined[_partitions(step)].all():
        masks.append(held.defined[_partitions(step)])
        step.source = step.source or held.source
    rows = None
    for mask in masks:
        whole = mask.all(axis=1, keepdims=True)
        rows = whole if rows is None else rows & whole
    keep(step, engine, operator, before, rows)


def read_out(step: Step, engine: str, parameter: str, negate: bool = False) -> None:
    """Copy the registers into the tile `parameter`, one element per partition."""
    tile = step.tensor(parameter)
    step.tiles(parameter)
    if tile.size != tile.shape[0]:
        step.refuse("G4C-K017", f"{parameter} is {list(tile.shape)}", "one element per partition")
    held = registers(step, engine)
    if held.chain is None:
        step.refuse("G4C-K027", f"{parameter} reads accumulators that nothing has set", "reduce_cmd.reset_reduce")
    rows = _partitions(step)
    if tile.shape[0] != rows.stop - rows.start:
        step.refuse("G4C-K017", f"{parameter} is {list(tile.shape)}", f"{rows.stop - rows.start} partitions, as data")
    _check_held(step, held, parameter)
    defined = None if held.defined[rows].all() else held.defined[rows]
    step.undefined = []
    step.source = held.source
    step.write(tile, -held.values[rows] if negate else held.values[rows], defined=defined)
