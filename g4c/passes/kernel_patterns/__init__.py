"""What kernels there are, as patterns: which ops of a function one kernel computes.

In: a function of a TILED module. Out: `Group`s of its ops, each of which outline-kernels makes a kernel function of.
`PATTERNS` by name, in the order in which they are tried. Invariant: finding changes nothing; groups of one function
share no op.

A pattern is entered here, and its family where artefacts are made (g4c/lowering/nki/families.py).
"""

from __future__ import annotations

from typing import Protocol

from g4c.ir.module import Function
from g4c.passes.kernel_patterns.attention import AttentionPattern
from g4c.passes.kernel_patterns.group import Group, StandIn
from g4c.passes.kernel_patterns.linear import HeadPattern, ProjectionPattern, ResidualPattern

__all__ = ["PATTERNS", "Group", "Pattern", "StandIn"]


class Pattern(Protocol):
    """Finds the ops of kernels of one kind."""

    def find(self, function: Function) -> list[Group]: ...


PATTERNS: dict[str, Pattern] = {
    "attention": AttentionPattern(),
    "residual": ResidualPattern(),
    "head": HeadPattern(),
    "projection": ProjectionPattern(),
}
