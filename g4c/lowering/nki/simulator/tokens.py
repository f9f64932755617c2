"""Tokens: the functions of `nki.language` that instructions take as operators.

In: the names of ALU operators and activation functions.
Out: one `Token` per name, the same object for `op=` arguments and for calls on tiles.
Invariant: a token's meaning as an operator is its name; what it does when called is set by `language.math`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from g4c.lowering.nki.simulator.activations import ACTIVATIONS
from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.operators import OPERATORS


class Token:
    """`nl.<name>`."""

    def __init__(self, name: str) -> None:
        self.nki_name = self.__name__ = self.__qualname__ = name
        self.__doc__ = f"{name}: an operator of instructions."
        self.function: Callable[..., Any] | None = None

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if self.function is None:
            raise error("G4C-K020", f"nl.{self.nki_name} is called", "it is only an operator of instructions")
        return self.function(*arguments, **keywords)

    def __repr__(self) -> str:
        return f"nl.{self.nki_name}"


TOKENS = {name: Token(name) for name in sorted({*OPERATORS, *ACTIVATIONS, "average"})}
