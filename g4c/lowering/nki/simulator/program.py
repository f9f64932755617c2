"""The state of a running kernel: one `Program` per core, one `Launch` for what an LNC pair shares.

In: a generation, strict or lenient, the number of programs.
Out: what views, allocations and instructions consult: `current()` is the program of the executing thread.
Invariant: outside of a kernel `current()` is a fresh default, so that module-level code of kernels sees the target.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from g4c.lowering.nki.simulator import diagnostics
from g4c.lowering.nki.simulator.generation import INSTRUCTION_LIMIT, PARTITIONS, REGISTERS, Generation, from_target

if TYPE_CHECKING:
    from g4c.lowering.nki.simulator.diagnostics import Site
    from g4c.lowering.nki.simulator.memory import Storage

# What the documented simulator does not check.
STRICT_ONLY = frozenset(
    {
        "G4C-K001",
        "G4C-K003",
        "G4C-K004",
        "G4C-K005",
        "G4C-K006",
        "G4C-K011",
        "G4C-K012",
        "G4C-K013",
        "G4C-K014",
        "G4C-K016",
        "G4C-K022",
        "G4C-K026",
        "G4C-K027",
        "G4C-K029",
    }
)


class NoValuesError(Exception):
    """A dry program came to where it needs the values of a tensor."""


class Recorder(Protocol):
    """Who wants to know of every instruction: the cost model."""

    def add(self, step: Any) -> None: ...


class Meeting(Protocol):
    """How the programs of a pair wait for each other."""

    def exchange(self, program: Program, what: tuple[Any, ...], payload: Any) -> Any: ...

    def keep_pace(self, program: Program) -> None: ...


@dataclass
class Accumulators:
    """The fp32 registers of one engine, one per partition, and which reduction which of them hold."""

    values: np.ndarray = field(default_factory=lambda: np.zeros((PARTITIONS, 1), np.float32))
    defined: np.ndarray = field(default_factory=lambda: np.ones((PARTITIONS, 1), bool))
    source: Any = None  # where undefined values come from
    chain: tuple[str, str] | None = None  # (instruction, operator) of the open chain
    held: np.ndarray = field(default_factory=lambda: np.zeros(PARTITIONS, bool))  # partitions that it has values for
    set_at: Site | None = None


@dataclass
class Launch:
    """What the programs of one launch share."""

    programs: int
    grid: bool = False
    shared: list[Storage] = field(default_factory=list)
    meeting: Meeting | None = None
    ordinal: int = 0


@dataclass
class Program:
    """One core running the kernel."""

    generation: Generation
    strict: bool = True
    number: int = 0
    launch: Launch = field(default_factory=lambda: Launch(1))
    instructions: int = 0
    storages: list[Any] = field(default_factory=list)  # lifetimes of tiles, see lifetimes.py
    placed: dict[str, list[Any]] = field(default_factory=dict)  # weak references to tiles with an address, by memory
    memories: dict[str, np.ndarray] = field(default_factory=dict)
    vector: Accumulators = field(default_factory=Accumulators)
    scalar: Accumulators = field(default_factory=Accumulators)
    identities: dict[tuple[int, str], Any] = field(default_factory=dict)
    shared_allocations: int = 0
    registers: int = 0
    order_depth: int = 0
    turns: list[object] = field(default_factory=list)  # of the run-time loops that are executing, outermost first
    recorder: Recorder | None = None
    dry: bool = False  # nothing is computed, see dry.py
    step: Any = None  # the instruction that a dry program is at

    def refuse(self, code: str, message: str, rule: str | None = None, site: Site | None = None) -> None:
        """Raise the error; a lenient program lets pass what the documented simulator does not check."""
        if self.strict or code not in STRICT_ONLY:
            raise diagnostics.error(code, message, rule, site)

    def count_instruction(self, name: str) -> int:
        """The number of the instruction that starts."""
        self.instructions += 1
        if self.instructions > INSTRUCTION_LIMIT:
            self.refuse(
                "G4C-K016",
                f"nisa.{name} is instruction {self.instructions:,}",
                f"a program has at most about {INSTRUCTION_LIMIT:,} instructions; loops are unrolled",
            )
        return self.instructions

    def take_register(self) -> None:
        """Count the registers that are alive."""
        self.registers += 1
        if self.registers > REGISTERS:
            self.refuse("G4C-K025", f"{self.registers} registers are alive", f"a sequencer has {REGISTERS} registers")


class _Current(threading.local):
    program: Program | None = None


_current = _Current()


def current() -> Program:
    """The program that this thread runs, or a fresh one for the environment's target outside of kernels."""
    return _current.program or Program(from_target(None))


def running() -> Program | None:
    """The program that this thread runs, if any."""
    return _current.program


class activate:  # noqa: N801
    """Context: this thread runs `program`."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def __enter__(self) -> Program:
        self._outer = _current.program
        _current.program = self._program
        return self._program

    def __exit__(self, *error: object) -> None:
        _current.program = self._outer
