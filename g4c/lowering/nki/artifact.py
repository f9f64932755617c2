"""A kernel as g4c keeps it: generated source, and what it takes and returns.

In: what a generator of one family made for one shape and schedule.
Out: `KernelArtifact`: a Python file in the dialect nki >= 0.4, with one @nki.jit function; its digest names it.
Invariant: equal sources are equal kernels: a source has its shapes and schedule as literals and reads nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from g4c.ir.types import TensorType


@dataclass(frozen=True)
class KernelArtifact:
    """One generated kernel.

    `name` is the function in `source`; `inputs` are its parameters and `outputs` what it returns, in order, by name.
    `aliases` are pairs (input, output) of indices: the kernel returns that input, which it has written. `schedule` is
    one line for people. `generations` are the NeuronCore generations (2, 3, 4) whose rules the source follows. `cores`:
    2 where two programs of a logical core share the work, so that one alone would leave outputs unwritten; kernels of 1
    may be launched as two programs that do the same.
    """

    family: str
    name: str
    source: str
    inputs: tuple[tuple[str, TensorType], ...]
    outputs: tuple[tuple[str, TensorType], ...]
    aliases: tuple[tuple[int, int], ...] = ()
    schedule: str = ""
    generations: tuple[int, ...] = (2, 3, 4)
    cores: int = 1

    @property
    def sha256(self) -> str:
        """Of the source; hexadecimal."""
        return hashlib.sha256(self.source.encode()).hexdigest()
