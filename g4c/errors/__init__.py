"""Coded errors: every way in which g4c refuses, one class, one catalogue.

A refusal is a `G4cError` with a code (`G4C-F001`), one line saying what is wrong, and as far as known where it is and
what to do. The catalogue (`entry(code)`) is split by stage: F frontend, V verifier, P pass, L lowering, N neuronx-cc,
R runtime, K NKI simulator, C command line.
Invariant: no error is raised with a code that `g4c explain` cannot explain.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

_STAGE_MODULES = {
    "F": "frontend",
    "V": "verifier",
    "P": "passes",
    "L": "lowering",
    "N": "compiler",
    "R": "runtime",
    "K": "nki",
    "C": "command_line",
}


@dataclass(frozen=True)
class Entry:
    """One catalogue page. `exit_code`: 1 user error, 2 usage, 3 backend compiler, 4 verification."""

    title: str
    explanation: str
    exit_code: int = 1


def catalogue() -> dict[str, Entry]:
    """Every code with its entry, sorted by code."""
    merged: dict[str, Entry] = {}
    for stage in _STAGE_MODULES.values():
        merged.update(importlib.import_module(f"g4c.errors.{stage}").CATALOGUE)
    return dict(sorted(merged.items()))


def entry(code: str) -> Entry | None:
    """The catalogue page of `code` ("G4C-F001"), or None where no such code exists."""
    stage = _STAGE_MODULES.get(code.removeprefix("G4C-")[:1])
    if stage is None:
        return None
    page: Entry | None = importlib.import_module(f"g4c.errors.{stage}").CATALOGUE.get(code)
    return page


class G4cError(Exception):
    """A refusal: `code` names the catalogue page, `message` says what, `where` says where, `help` says what to do."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: str | None = None,
        help: str | None = None,
        excerpt: str | None = None,
    ) -> None:
        page = entry(code)
        assert page is not None, f"{code} is not in the catalogue"
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = where
        self.help = help
        self.excerpt = excerpt
        self.exit_code = page.exit_code

    def __str__(self) -> str:
        lines = [f"error[{self.code}]: {self.message}"]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.excerpt:
            lines.append(self.excerpt.rstrip("\n"))
        if self.help:
            lines.append(f"  = help: {self.help}")
        return "\n".join(lines)
