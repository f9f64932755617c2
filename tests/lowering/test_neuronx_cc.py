"""The neuronx-cc command line: the options that shipped Neuron stacks use, per program kind and target."""

from __future__ import annotations

from pathlib import Path

import pytest

from g4c.lowering.neuron.neuronx_cc import TARGETS, neuronx_cc_command

HLO, NEFF = Path("/b/programs/p.hlo.pb"), Path("/b/programs/p.neff")


def test_decode_on_trn2() -> None:
    assert " ".join(neuronx_cc_command("decode", HLO, NEFF, TARGETS["trn2"])) == (
        "neuronx-cc compile --framework XLA /b/programs/p.hlo.pb --target trn2 --lnc 2 --model-type transformer"
        " --auto-cast none -O2 --internal-hlo2tensorizer-options=--verify-hlo=true"
        " --logfile /b/programs/p.log --output /b/programs/p.neff"
    )


@pytest.mark.parametrize("target", ["trn1", "inf2", "trn2", "trn3"])
def test_prefill_uses_the_modular_flow(target: str) -> None:
    command = neuronx_cc_command("prefill_128", HLO, NEFF, TARGETS[target])
    assert "-O1" in command
    assert "--internal-hlo2tensorizer-options=--modular-flow-mac-threshold=10 --verify-hlo=true" in command
    first_generation = target in ("trn1", "inf2")
    assert ("--lnc" not in command) == first_generation
    assert ("--enable-saturate-infinity" in command) == first_generation
    assert command[command.index("--target") + 1] == target


def test_the_cpu_target_has_no_neff() -> None:
    with pytest.raises(AssertionError, match="takes no NEFF"):
        neuronx_cc_command("decode", HLO, NEFF, TARGETS["cpu"])
