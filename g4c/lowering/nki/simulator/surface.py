"""The top level of the `nki` package."""

from __future__ import annotations

from g4c.lowering.nki.simulator import collectives, isa, language, typing
from g4c.lowering.nki.simulator.kernel import jit, simulate

VERSION = "0.6.0+g4c"
__version__ = VERSION
__g4c_simulator__ = True
__path__: list[str] = []  # `import nki.language` needs a package

__all__ = ["collectives", "isa", "jit", "language", "simulate", "typing"]
