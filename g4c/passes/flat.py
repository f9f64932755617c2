"""What a pass over whole programs asks for first: programs that call nothing.

In: a module. Out: nothing, or G4C-P042. Invariant: such a pass sees every use of a value in the program that holds it.
"""

from __future__ import annotations

from g4c.errors import G4cError
from g4c.ir.module import Module
from g4c.ir.ops import CallOp


def require_flat(module: Module, name: str) -> None:
    """G4C-P042 where a program calls a layer function. `name`: the pass that asks."""
    for program in module.programs:
        if any(True for _ in program.ops_of(CallOp)):
            raise G4cError(
                "G4C-P042",
                f"{name} works on whole programs, this one calls layer functions",
                where=program.name,
                help=f"put {name} before specialize-layers, or inline-layers before {name}",
            )
