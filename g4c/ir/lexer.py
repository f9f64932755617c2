"""Text -> tokens, and errors that show where in the text they are.

In: text. Out: one token at a time, with what every recursive-descent parser needs: expect, accept, take, lists.
Invariant: every refusal is a G4cError with file, line, column and the line with a caret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import NoReturn

from g4c.errors import G4cError
from g4c.ir.spelling import unquote

_TOKEN = re.compile(
    r"""(?P<space>(?:\s+|//[^\n]*)+)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<value>%[A-Za-z0-9_$.-]+(?:\#\d+)?)
      | (?P<symbol>@(?:"(?:[^"\\\n]|\\.)*"|[A-Za-z_][A-Za-z0-9_$.]*))
      | (?P<type>tensor<[^>\n]*>)
      | (?P<arrow>->)
      | (?P<number>0x[0-9A-Fa-f]+|-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)
      | (?P<word>[A-Za-z_][A-Za-z0-9_$.]*)
      | (?P<mark>[(){}\[\]<>=:,])""",
    re.VERBOSE | re.ASCII,
)
_WIDTH = 160  # longest stretch of a line that an error shows


def nearest(name: object, options: Iterable[str]) -> str | None:
    """`did you mean X?` for the option most like `name`, or None where none is like it."""
    near = difflib.get_close_matches(str(name), list(options), n=1)
    return f"did you mean {near[0]}?" if near else None


class Lexer:
    """A cursor over `text`: `kind` and `token` are what comes next, `start` is where."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.position = 0
        self.kind = ""
        self.token = ""
        self.start = 0
        self.advance()

    def advance(self) -> str:
        """Move to the next token; returns the one left behind."""
        left = self.token
        while True:
            self.start = self.position
            if self.position >= len(self.text):
                self.kind, self.token = "end", ""
                return left
            match = _TOKEN.match(self.text, self.position)
            if match is None:
                char = self.text[self.position]
                self.fail("unterminated string" if char == '"' else f"unexpected character {char!r}")
            self.position = match.end()
            if match.lastgroup != "space":
                self.kind, self.token = str(match.lastgroup), match[0]
                return left

    def fail(self, message: str, *, code: str = "G4C-V010", at: int | None = None, help: str | None = None) -> NoReturn:
        """Refuse, pointing at offset `at` of the text (default: the next token)."""
        at = self.start if at is None else at
        line = self.text.count("\n", 0, at) + 1
        begin = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        source = self.text[begin : end if end >= 0 else len(self.text)]
        column = at - begin
        if len(source) > _WIDTH:
            cut = max(0, column - 60)
            source, column = source[cut : cut + _WIDTH], column - cut
        excerpt = f"{line:>6} | {source}\n       | {' ' * column}^"
        where = f"{self.file}:{line}:{at - begin + 1}"
        raise G4cError(code, message, where=where, excerpt=excerpt, help=help)

    @property
    def found(self) -> str:
        """The next token, for messages."""
        return repr(self.token) if self.kind != "end" else "the end of the text"

    def expect(self, token: str) -> str:
        if self.token != token:
            self.fail(f"expected {token!r}, found {self.found}")
        return self.advance()

    def accept(self, token: str) -> bool:
        if self.token == token:
            self.advance()
            return True
        return False

    def take(self, kind: str) -> str:
        if self.kind != kind:
            self.fail(f"expected a {kind}, found {self.found}")
        return self.advance()

    def integer(self) -> int:
        at, text = self.start, self.take("number")
        try:
            return int(text)
        except ValueError:
            self.fail(f"expected an integer, found {text!r}", at=at)

    def string(self) -> str:
        at, text = self.start, self.take("string")
        try:
            return unquote(text)
        except ValueError as error:
            self.fail(str(error), at=at)

    def listed(self, close: str, item: Callable[[], object]) -> None:
        """Comma-separated items up to `close`, which is consumed."""
        if self.accept(close):
            return
        while True:
            item()
            if self.accept(close):
                return
            self.expect(",")
