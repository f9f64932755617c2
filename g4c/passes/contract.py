"""What a pass is: a frozen dataclass whose fields are its options, run on a module that it edits in place.

In: a verified module. Out: `PassResult`, which says whether the module changed and what was done, in numbers.
Invariant: a pass either returns with a module that verifies and means the same, or raises a `G4cError` and its result
is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from g4c.ir.module import Module
from g4c.ir.op import Level


@dataclass(frozen=True)
class PassResult:
    """What a pass did. `modified`: the module's text, locations aside, is another one. `stats`: counts by name."""

    modified: bool
    stats: dict[str, int] = field(default_factory=dict)


def _silent(_: str) -> None:
    return


@dataclass(frozen=True)
class PassContext:
    """What a pass may know about the run: which passes ran before it, and where remarks to the user go."""

    history: tuple[str, ...] = ()
    remark: Callable[[str], None] = _silent


@dataclass(frozen=True)
class Pass:
    """Base of all passes. Subclasses are frozen dataclasses; fields have defaults and are options in pipelines.

    `runs_after`: in a pipeline that has both, a pass of each of these names comes first. `level_before` None: runs at
    any level; `level_after` None: the level stays.
    """

    name: ClassVar[str] = ""
    runs_after: ClassVar[tuple[str, ...]] = ()
    level_before: ClassVar[Level | None] = Level.GRAPH
    level_after: ClassVar[Level | None] = None

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        """Edit `module` in place. G4cError (a P code) where the pass cannot prove what it needs."""
        raise NotImplementedError

    @classmethod
    def summary(cls) -> str:
        """First line of the docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]
