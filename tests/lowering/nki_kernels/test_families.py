"""From kernel functions to artefacts: what fits a function, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

import pytest

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.module import Function, Result
from g4c.ir.types import DType, TensorType
from g4c.lowering.nki import families
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.choose import Choice
from g4c.lowering.nki.families import artifact_of, cores_of, generation_of
from g4c.lowering.nki.simulator.source import load

CACHE = TensorType((1, 16, 1, 256), DType.F32)
ROW = TensorType((1, 1, 1, 256), DType.F32)


def decode_function(name: str = "decode_attention_d256_update", *, updates: bool = True) -> Function:
    """One row of 2 heads after a cache of 16 slots."""
    function = Function(name, "kernel")
    types = {
        "q": TensorType((1, 1, 2, 256), DType.F32),
        "past_keys": CACHE,
        "past_values": CACHE,
        "past_held": TensorType((1, 16), DType.S32),
        "chunk_keys": ROW,
        "chunk_values": ROW,
        "positions": TensorType((1, 1), DType.S32),
    }
    q, keys, values, held, k, v, positions = (function.add_param(name, type) for name, type in types.items())
    tiles = function.append(ops.SplitTilesOp(q, 128, "as the array takes it")).results
    attention = ops.TiledAttentionOp(
        tiles,
        (keys, k),
        (values, v),
        positions,
        (held, positions),
        scale=1.0,
        window=0,
        segments=("past 16 = 1*16", "chunk 1 = 1*1"),
        schedule=("q 0:1 | past * | chunk 0",),
    )
    function.results = [Result(function.append(attention).result, "y")]
    if updates:
        for name, cache, row in (("k_cache", keys, k), ("v_cache", values, v)):
            function.results.append(Result(function.append(ops.KvUpdateOp(cache, row, positions)).result, name))
    return function


@pytest.mark.parametrize("target", ["trn1", "inf2", "trn2", "trn3", "cpu"])
def test_an_artefact_has_the_operands_of_its_function(target: str) -> None:
    function = decode_function()
    artifact = artifact_of(function, target)
    assert [(name, type) for name, type in artifact.inputs] == [(p.name, p.type) for p in function.params]
    assert [type for _, type in artifact.outputs] == [result.value.type for result in function.results]
    assert artifact.aliases == ((1, 1), (2, 2))
    assert load(artifact.source, artifact.name).__name__ == artifact.name


def test_without_updates_nothing_is_written() -> None:
    artifact = artifact_of(decode_function(updates=False), "trn2")
    assert artifact.aliases == ()
    assert len(artifact.outputs) == 1


def test_generations() -> None:
    found = {target: generation_of(target) for target in ("trn1", "inf2", "trn2", "trn3", "cpu")}
    assert found == {"trn1": 2, "inf2": 2, "trn2": 3, "trn3": 4, "cpu": 3}
    assert {target: cores_of(target) for target in found} == {"trn1": 1, "inf2": 1, "trn2": 2, "trn3": 2, "cpu": 2}


def test_a_name_of_no_family() -> None:
    with pytest.raises(G4cError, match="no family of kernels is called as softmax_d256 is") as caught:
        artifact_of(decode_function("softmax_d256"), "trn2")
    assert caught.value.code == "G4C-K047"


def swapped(artifact: KernelArtifact) -> KernelArtifact:
    return replace(artifact, inputs=(artifact.inputs[1], artifact.inputs[0], *artifact.inputs[2:]))


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (swapped, "G4C-K049", r"takes tensor<1x16x1x256xf32>, tensor<1x1x2x256xf32>, "),
        (lambda made: replace(made, outputs=made.outputs[:2]), "G4C-K049", "gives tensor"),
        (lambda made: replace(made, aliases=((2, 1),)), "G4C-K049", "writes operand 2, which"),
        (lambda made: replace(made, aliases=((0, 0),)), "G4C-K049", "writes operand 0, which"),
    ],
)
def test_what_cannot_stand_for_the_function(
    change: Callable[[KernelArtifact], KernelArtifact], code: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = families.compare

    def changed(problem: Hashable, family: families.Family, generation: int, cores: int) -> Choice:
        choice = compare(problem, family, generation, cores)
        return replace(choice, artifact=change(choice.artifact))

    monkeypatch.setattr(families, "compare", changed)
    with pytest.raises(G4cError, match=words) as caught:
        artifact_of(decode_function(), "trn2")
    assert caught.value.code == code
