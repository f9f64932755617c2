"""What differs between NeuronCore generations, as far as a kernel can tell.

In: a target name (`trn1`, `inf2`, `gen2`, `trn2`, `gen3`, `trn3`, `gen4`...) or the environment's override.
Out: a `Generation` with memory sizes and instruction limits. Sources: `nki.language.tile_size`, `nki.isa`, and the
usable SBUF sizes that KLR and nkipy agree on.
Invariant: the tables are data; checks and the cost model read them, nothing else distinguishes generations by name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from g4c.errors.suggest import nearest
from g4c.lowering.nki.simulator.diagnostics import error

PARTITIONS = 128
QUADRANT = 32
PSUM_BANKS = 8
PSUM_BANK_BYTES = 2048
PSUM_BYTES = PSUM_BANKS * PSUM_BANK_BYTES
REGISTERS = 64
INSTRUCTION_LIMIT = 5_000_000
TARGET_VARIABLE = "NEURON_PLATFORM_TARGET_OVERRIDE"


@dataclass(frozen=True)
class Generation:
    """`number` as in nc_version; `sbuf_bytes` and `sbuf_usable` per partition; `moving_limit` in fp32 elements."""

    number: int
    sbuf_bytes: int
    sbuf_usable: int
    moving_limit: int
    smallest_row_tile: int

    @property
    def name(self) -> str:
        return f"NeuronCore-v{self.number}"


V2 = Generation(2, 192 * 1024, 180224, 512, 64)
V3 = Generation(3, 224 * 1024, 212984, 512, 32)
V4 = Generation(4, 256 * 1024, 245752, 4096, 32)

TARGETS = {"trn1": V2, "inf2": V2, "gen2": V2, "trn2": V3, "gen3": V3, "trn3": V4, "trn3pre": V4, "gen4": V4}
_DEFAULT = "trn3"


def from_target(target: str | None) -> Generation:
    """The generation of `target`; None: the environment's, else trn3, as `nki.simulate` documents."""
    name = target or os.environ.get(TARGET_VARIABLE) or _DEFAULT
    if name not in TARGETS:
        close = nearest(name, TARGETS)
        hint = f"did you mean {close!r}? " if close else ""
        raise error("G4C-K030", f"unknown target {name!r}", f"{hint}targets: {', '.join(TARGETS)}")
    return TARGETS[name]
