"""Typed access to one JSON object of a config.

In: a JSON object and the name under which errors mention it. Out: checked Python values.
Invariant: what is returned has the type and range its accessor promises; all else is one coded error (F007, F008).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from g4c.errors import G4cError

REQUIRED = object()
MAX_DIMENSION = 2**24  # far above any model: a number with digits too many is refused before anything is built


@dataclass(frozen=True)
class Fields:
    """`values` is a config or one of its sections; `where` is what an error says about its place. A null counts as
    absent.
    """

    values: Mapping[str, Any]
    where: str
    section: str = ""

    def label(self, name: str) -> str:
        """The field's name as written in the file, section included."""
        return f"{self.section}.{name}" if self.section else name

    def bad(self, name: str, expected: str, code: str = "G4C-F008") -> G4cError:
        """The error for field `name`, whose value is not what was `expected`."""
        return G4cError(code, f"{self.label(name)} must be {expected}, not {self.values.get(name)!r}", where=self.where)

    def _get(self, name: str, default: object) -> Any:
        value = self.values.get(name)
        if value is not None:
            return value
        if default is REQUIRED:
            raise G4cError("G4C-F007", f"{self.label(name)} is missing", where=self.where)
        return default

    def integer(self, name: str, default: object = REQUIRED, *, minimum: int = 1, maximum: int = MAX_DIMENSION) -> int:
        """An integer from `minimum` to `maximum`."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.bad(name, "a positive integer" if minimum == 1 else f"an integer of at least {minimum}")
        if value > maximum:
            raise self.bad(name, f"at most {maximum}")
        return value

    def number(self, name: str, default: float | None = None) -> float | None:
        """A finite positive number as a float, or `default`."""
        value = self._get(name, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < sys.float_info.max:
            raise self.bad(name, "a positive number")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self.bad(name, "true or false")
        return value

    def string(self, name: str, default: str | None) -> str | None:
        """A string, or `default`."""
        value = self._get(name, default)
        if value is not None and not isinstance(value, str):
            raise self.bad(name, "a string")
        return value

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them; () where absent."""
        value = self._get(name, ())
        ids = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
            raise self.bad(name, "a token id or a list of token ids")
        return ids

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        """A JSON object, or None where absent."""
        value = self._get(name, None)
        if value is not None and not isinstance(value, dict):
            raise self.bad(name, "an object")
        return value
