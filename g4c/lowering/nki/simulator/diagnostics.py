"""Refusals and warnings of the simulator: coded, with the kernel's own source line.

In: a code of the catalogue (K), what is wrong, and the rule in one line.
Out: a `SimulationError` whose location is the innermost stack frame outside of the simulator, or a `SimulationWarning`.
Invariant: a location never points into the simulator.
"""

from __future__ import annotations

import linecache
import os
import sys
import traceback
import warnings
from dataclasses import dataclass

import numpy as np

from g4c.errors import G4cError

_NUMPY = os.path.dirname(os.path.abspath(np.__file__)) + os.sep
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class NkiValidationError(Exception):
    """Raised when hardware constraints are violated (the name that `nki.isa` exports)."""


class SimulationError(G4cError, NkiValidationError):
    """A kernel breaks a rule; `site` is the line that does."""

    site: Site | None = None


class ArgumentError(SimulationError, TypeError):
    """What Python and NKI's tracer raise a TypeError for: unknown parameters, a register in a Python expression."""


class AbsentNameError(SimulationError, AttributeError):
    """A name that a module of `nki` does not have: an AttributeError, so that `hasattr` answers."""


class SimulationWarning(UserWarning):
    """A kernel does what may be wrong on the device."""


@dataclass(frozen=True)
class Site:
    """A line of a kernel: absolute path, line number, name of the function."""

    path: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} ({self.function})"

    def excerpt(self) -> str | None:
        """The source line as errors quote it, or None where the file cannot be read."""
        text = linecache.getline(self.path, self.line).rstrip()
        return f"  > {self.line:4d} | {text.strip()}" if text else None


def kernel_site() -> Site:
    """The line of the kernel that is executing: the innermost frame that is neither the simulator's nor numpy's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_PACKAGE, _NUMPY)):
        frame = frame.f_back
    return Site(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def error(
    code: str,
    message: str,
    rule: str | None = None,
    site: Site | None = None,
    kind: type[SimulationError] = SimulationError,
) -> SimulationError:
    """The error for `site`, by default the line that is executing."""
    site = site or kernel_site()
    raised = kind(code, message, where=str(site), excerpt=site.excerpt(), help=rule)
    raised.site = site
    return raised


def as_refusal(problem: Exception) -> SimulationError | None:
    """The refusal behind a Python exception: of arguments that a function of NKI cannot take, of a tensor or register
    in an expression. None where the exception is the kernel's own affair."""
    site = called = None
    for frame, line in traceback.walk_tb(problem.__traceback__):
        code = frame.f_code
        if code.co_filename.startswith((_PACKAGE, _NUMPY)):
            called = code.co_name if called in (None, "call") else called  # call: around every instruction
        else:
            site, called = Site(code.co_filename, line, code.co_name), None
    if site is None:
        return None
    if called is not None:
        rule = "the arguments are of the types that the function documents"
        return error("G4C-K002", f"{called}: {problem}", rule, site, ArgumentError)
    kind = AbsentNameError if isinstance(problem, AttributeError) else ArgumentError
    if "VirtualRegister" in str(problem):
        return error("G4C-K025", str(problem), "a register's value is not known to Python", site, kind)
    if "NkiTensor" in str(problem):
        return error("G4C-K001", str(problem), "tensors are run-time data; use nisa instructions", site, kind)
    return None


def warn(code: str, message: str, site: Site | None = None) -> None:
    """Warn at `site`; Python shows one warning per text and place."""
    site = site or kernel_site()
    warnings.warn_explicit(f"{code}: {message}", SimulationWarning, site.path, site.line)
