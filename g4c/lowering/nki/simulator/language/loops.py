"""Ranges, run-time loops, program identity and ordering."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.program import current
from g4c.lowering.nki.simulator.registers import VirtualRegister


def static_range(start, stop=None, step=1):
    """`range`; the loop is unrolled."""
    return range(start) if stop is None else range(start, stop, step)


affine_range = sequential_range = static_range


def dynamic_range(start, stop=None, step=1):
    """A loop of the running program; yields registers."""
    if stop is None:
        start, stop = 0, start
    yield from _iterate(start, stop, step)


def _iterate(lower: Any, upper: Any, step: Any) -> Iterator[VirtualRegister]:
    if not isinstance(step, int) or step < 1:
        raise error("G4C-K025", f"step={step!r} of a run-time loop", "a positive compile-time integer")
    if current().order_depth:
        raise error("G4C-K025", "a run-time loop inside nl.no_reorder()", "put no_reorder inside of the loop")
    bounds = [int(b.read()) if isinstance(b, VirtualRegister) else int(b) for b in (lower, upper)]
    for value in range(bounds[0], bounds[1], step):
        with _turn():
            yield VirtualRegister(value, frozen=True)


@contextmanager
def _turn() -> Iterator[None]:
    """One turn of a run-time loop: tensors that it makes are there as long as it lasts."""
    turns, turn = current().turns, object()
    turns.append(turn)
    try:
        yield
    finally:
        turns.remove(turn)


def fori_loop(lower, upper, body_fun: Callable[[VirtualRegister], None], step=1):
    """body(i) for i in range(lower, upper, step), where i is a register."""
    for register in _iterate(lower, upper, step):
        body_fun(register)


def while_loop(init, body_fun: Callable[[VirtualRegister], VirtualRegister]):
    """register = body(register) while the register is not zero."""
    if not isinstance(init, VirtualRegister):
        raise error("G4C-K025", f"while_loop starts with {type(init).__name__}", "a register")
    if current().order_depth:
        raise error("G4C-K025", "a run-time loop inside nl.no_reorder()", "put no_reorder inside of the loop")
    register = init
    while register.read() != 0:
        with _turn():
            register = body_fun(VirtualRegister(register.read()))
        if not isinstance(register, VirtualRegister):
            raise error("G4C-K025", "the body of while_loop returns no register", "it returns the next condition")


def program_id(axis=0):
    """Which of the cooperating programs this is."""
    return current().number


def num_programs(axes=0):
    """How many programs cooperate."""
    return current().launch.programs


def program_ndim():
    """Dimensions of the launch grid; 0 without one."""
    return 1 if current().launch.grid else 0


@contextmanager
def no_reorder() -> Iterator[None]:
    """Instructions inside run in program order; the simulator always does that."""
    program = current()
    program.order_depth += 1
    try:
        yield
    finally:
        program.order_depth -= 1
