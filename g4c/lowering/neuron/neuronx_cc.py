"""The neuronx-cc command line of one program.

In: program name, file names, target. Out: the argument list that compiles an HLO proto into a NEFF, as shipped Neuron
stacks call it. Invariant: only options that the compilers from SDK 2.30 on accept; nothing relies on a default that a
later SDK changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """What is compiled for. `family`: neuronx-cc's name for it; `logical_cores`: the LNC, None where it is fixed."""

    name: str
    family: str | None
    logical_cores: int | None
    description: str


TARGETS = {
    target.name: target
    for target in (
        Target("trn1", "trn1", None, "Trainium 1"),
        Target("inf2", "inf2", None, "Inferentia 2"),
        Target("trn2", "trn2", 2, "Trainium 2, two physical cores per logical core"),
        Target("trn3", "trn3", 2, "Trainium 3, two physical cores per logical core"),
        Target("cpu", None, None, "the embedded CPU backend only"),
    )
}


def neuronx_cc_command(program: str, hlo: Path, neff: Path, target: Target) -> list[str]:
    """Arguments, `neuronx-cc` first, that compile `hlo` (serialized HloModuleProto) to `neff`, for a Neuron `target`.

    Decode graphs are compiled at -O2. Prefill graphs are large: -O1 with the modular flow.
    """
    assert target.family is not None, f"{target.name} takes no NEFF"
    prefill = program.startswith("prefill")
    tensorizer = "--modular-flow-mac-threshold=10 --verify-hlo=true" if prefill else "--verify-hlo=true"
    command = ["neuronx-cc", "compile", "--framework", "XLA", str(hlo), "--target", target.family]
    if target.logical_cores is not None:
        command += ["--lnc", str(target.logical_cores)]
    command += ["--model-type", "transformer", "--auto-cast", "none", "-O1" if prefill else "-O2"]
    command.append(f"--internal-hlo2tensorizer-options={tensorizer}")
    if prefill and target.logical_cores is None:
        command.append("--enable-saturate-infinity")
    return [*command, "--logfile", f"{neff.with_suffix('')}.log", "--output", str(neff)]
