"""Did you mean: the nearest of the values that would have been right."""

from __future__ import annotations

from collections.abc import Iterable

from g4c.errors import G4cError


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The entry of `known` that `word` was most likely meant to be, if any is close."""
    import difflib

    matches = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return matches[0] if matches else None


def unknown_value(what: str, value: str, known: Iterable[str]) -> G4cError:
    """The refusal (G4C-C002) of `value` where one of `known` was expected."""
    known = list(known)
    close = nearest(value, known)
    listing = "one of: " + ", ".join(known)
    return G4cError(
        "G4C-C002", f"unknown {what} {value!r}", help=f"did you mean {close!r}? {listing}" if close else listing
    )
