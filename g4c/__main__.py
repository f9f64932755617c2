"""`python -m g4c` is the command `g4c`."""

from __future__ import annotations

from g4c.cli.main import command

command()
