"""Arguments: an argparse parser whose refusals are coded errors with did-you-mean, and the types of our options.

In: argv. Out: a namespace, or a `G4cError` (C001, C002). Invariant: imports nothing but the standard library, so that
`g4c --help` starts no framework.
"""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from g4c.errors import G4cError
from g4c.errors.suggest import nearest, unknown_value

_MAX_THREADS = 256


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises G4cError instead of printing usage and exiting."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise G4cError("G4C-C001", f"{self.prog}: {message}", help=f"{self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = "verb" if action.dest == "verb" else "/".join(action.option_strings) or str(action.metavar)
            raise unknown_value(what, str(value), [str(choice) for choice in action.choices])

    def reject(self, extra: list[str]) -> NoReturn:
        """Refuse arguments that nothing took, with the nearest option of this verb."""
        options = [option for action in self._actions for option in action.option_strings]
        close = nearest(extra[0].partition("=")[0], options) if extra[0].startswith("-") else None
        hint = f"did you mean {close}? see {self.prog} --help" if close else f"{self.prog} --help"
        raise G4cError("G4C-C001", f"{self.prog}: unknown argument {extra[0]}", help=hint)


def positive(text: str) -> int:
    """An integer of at least 1."""
    value = integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def natural(text: str) -> int:
    """An integer of at least 0."""
    value = integer(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {value}")
    return value


def thread_count(text: str) -> int:
    """An integer from 1 to a number that any system can start."""
    value = positive(text)
    if value > _MAX_THREADS:
        raise argparse.ArgumentTypeError(f"must be at most {_MAX_THREADS}, got {value}")
    return value


def integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None


def integers(text: str) -> tuple[int, ...]:
    """Comma-separated integers: `128,512`."""
    try:
        return tuple(int(item) for item in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers separated by commas, got {text!r}") from None


def at_least_zero(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a finite number of at least 0, got {text}")
    return value


def fraction(text: str) -> float:
    """A number above 0 and at most 1."""
    value = at_least_zero(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return value


def add_kernel_option(parser: argparse.ArgumentParser) -> None:
    """--cpu-kernels, which verbs have that run a bundle's programs."""
    text = "kernels: reference: what they compute, by XLA (default); simulate: the kernels, in the NKI simulator (slow)"
    parser.add_argument("--cpu-kernels", choices=("reference", "simulate"), default="reference", help=text)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """-q, -v and --json, which every verb that works for more than a moment has."""
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, only errors and the product")
    parser.add_argument("-v", "--verbose", action="store_true", help="also details of each phase")
    parser.add_argument("--json", action="store_true", help="events on stdout, one JSON object per line")
