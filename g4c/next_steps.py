"""What a bundle is not yet, and what takes it there where the Neuron SDK is.

In: the path of a bundle. Out: lines for people. Invariant: no command is named that would fail on this bundle.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from g4c.errors import G4cError
from g4c.lowering.neuron.neuronx_cc import TARGETS, neuronx_cc_command
from g4c.runtime.bundle import Bundle, Program, open_bundle


def next_steps(path: Path) -> list[str]:
    """The commands that make NEFFs of the bundle's programs, or why neuronx-cc cannot take them."""
    bundle = open_bundle(path)
    target = TARGETS[bundle.manifest["target"]]
    if target.family is None:
        return []
    left = f"not done here: NEFFs for {target.name}"
    try:
        commands = [_command(bundle, program) for program in bundle.programs.values()]
    except G4cError as error:
        return [f"{left}: {error.message} ({error.help})"]
    linked = bundle.manifest.get("linked")
    sdk = f"neuronx-cc {linked['neuronx_cc']}" if linked else "the Neuron SDK (2.30 or later)"
    return [f"{left}. On a machine with {sdk}, continue with:", *commands]


def _command(bundle: Bundle, program: Program) -> str:
    """G4C-N001 where the program's kernels are not compiled, N008 where they were for another place."""
    from g4c.lowering.neuron.kernel_calls import refuse_placeholders

    root = bundle.path.resolve()
    hlo = (program.linked_file or program.file).resolve()
    refuse_placeholders(hlo.read_bytes(), program.name)
    neff = root / "programs" / f"{program.name}.neff"
    command = shlex.join(neuronx_cc_command(program.name, hlo, neff, TARGETS[bundle.manifest["target"]]))
    if program.linked_file is None:
        return f"  {command}"
    linked = bundle.manifest["linked"]
    if linked["path"] != str(root) or not all((root / name).is_file() for name in linked["artifacts"]):
        message = f"its kernels were compiled at {linked['path']}, and not all of their files are there any more"
        raise G4cError("G4C-N008", message, where=str(root), help=f"link it again: g4c link {shlex.quote(str(root))}")
    return f"  (cd {shlex.quote(str(root / 'kernels'))} && {command})"
