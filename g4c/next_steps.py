"""What a bundle is not yet, and what takes it there where the Neuron SDK is.

In: the path of a bundle. Out: lines for people. Invariant: no command is named that would fail on this bundle.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from g4c.errors import G4cError
from g4c.lowering.neuron.neuronx_cc import TARGETS, neuronx_cc_command
from g4c.runtime.bundle import Program, open_bundle


def next_steps(path: Path) -> list[str]:
    """The commands that make NEFFs of the bundle's programs, or why neuronx-cc cannot take them."""
    bundle = open_bundle(path)
    target = TARGETS[bundle.manifest["target"]]
    if target.family is None:
        return []
    left = f"not done here: NEFFs for {target.name}"
    try:
        commands = [_command(program, bundle.manifest["target"]) for program in bundle.programs.values()]
    except G4cError as error:
        return [f"{left}: {error.message} ({error.help})"]
    return [f"{left}. On a machine with the Neuron SDK (2.30 or later), continue with:", *commands]


def _command(program: Program, target: str) -> str:
    """G4C-N001 where the program's kernels are not compiled."""
    from g4c.lowering.neuron.kernel_calls import refuse_placeholders

    hlo = program.file.resolve()
    refuse_placeholders(hlo.read_bytes(), program.name)
    neff = hlo.with_name(hlo.name.removesuffix(".hlo.pb") + ".neff")
    return "  " + shlex.join(neuronx_cc_command(program.name, hlo, neff, TARGETS[target]))
