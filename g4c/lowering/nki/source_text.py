"""Python source, written line by line.

In: lines and blocks. Out: the text of a file. Invariant: what is written in a block is indented by four spaces more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import dedent


class SourceText:
    """Lines of a Python file, collected in order."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._depth = 0

    def add(self, text: str = "") -> None:
        """A line, or several in a string that is dedented, at the current depth."""
        for line in dedent(text).strip("\n").split("\n"):
            self._lines.append("    " * self._depth + line if line.strip() else "")

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """`head`, which ends in a colon, and what is added within, deeper."""
        self.add(head)
        self._depth += 1
        yield
        self._depth -= 1

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"
