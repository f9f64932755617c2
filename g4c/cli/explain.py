"""Explain an error code, or list all codes.

In: a code (`G4C-F001`, `F001`). Out: its catalogue page on stdout.
"""

from __future__ import annotations

import argparse
import textwrap

from g4c.errors import G4cError, catalogue
from g4c.errors.suggest import nearest

_EXITS = {1: "user error", 2: "usage", 3: "backend compiler", 4: "verification", 70: "internal bug"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("code", nargs="?", metavar="CODE", help="such as G4C-F001; none lists all codes")


def execute(options: argparse.Namespace) -> int:
    pages = catalogue()
    if options.code is None:
        for code, page in pages.items():
            print(f"{code}  {page.title}")
        return 0
    code = options.code.upper()
    code = code if code.startswith("G4C-") else f"G4C-{code}"
    if code not in pages:
        close = nearest(code.removeprefix("G4C-"), [known.removeprefix("G4C-").lower() for known in pages])
        hint = f"did you mean G4C-{close.upper()}? " if close else ""
        raise G4cError("G4C-C007", f"unknown error code {options.code!r}", help=f"{hint}g4c explain lists all codes")
    page = pages[code]
    print(f"{code}: {page.title}\n")
    print(textwrap.fill(page.explanation, 100))
    print(f"\nexit code {page.exit_code} ({_EXITS[page.exit_code]})")
    return 0
