"""Calls of kernels in HLO: what neuronx-cc gets, what the CPU gets, and what is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cpu_execution import run as execute
from kernel_module import ARTIFACT, CACHE, ROW, SOURCE, kernel_module

from g4c.errors import G4cError
from g4c.ir.module import Result
from g4c.ir.ops import CallOp, NegOp
from g4c.lowering.neuron import legality
from g4c.lowering.neuron.hlo_proto import TUPLE, HloModule, shape_text
from g4c.lowering.neuron.kernel_calls import for_cpu, refuse_placeholders, sources
from g4c.lowering.neuron.lower import LoweredProgram, lower_program
from g4c.lowering.neuron.mlir_verifier import verify_hlo
from g4c.lowering.nki.simulator.source import load
from g4c.runtime.cpu_kernels import CpuKernel, raise_failure, register_kernel


def lowered(target: str = "trn2") -> LoweredProgram:
    return lower_program(kernel_module(), "decode", target=target, kernels={"negate": ARTIFACT})


def entry(proto: bytes) -> list[Any]:
    return list(HloModule.FromString(proto).computations[-1].instructions)


def calls(proto: bytes) -> list[Any]:
    return [instruction for instruction in entry(proto) if instruction.opcode == "custom-call"]


def test_one_call_per_layer() -> None:
    proto = lowered().hlo_proto
    assert {i.opcode for i in entry(proto)} == {"parameter", "custom-call", "get-tuple-element", "tuple"}
    assert [call.metadata.op_name for call in calls(proto)] == [f"model.layers.{n}.self_attn" for n in range(2)]
    assert [call.metadata.source_file for call in calls(proto)] == ["modeling.py"] * 2
    assert sources(proto) == [ARTIFACT.sha256] * 2


def test_what_a_call_says() -> None:
    proto = lowered().hlo_proto
    for call in calls(proto):
        assert call.custom_call_target == "AwsNeuronCustomNativeKernel"
        assert call.custom_call_api_version == 2
        assert json.loads(base64.b64decode(call.backend_config, validate=True)) == {
            "kernel_format": "g4c-source",
            "kernel_version": 1,
            "func_name": "negate_update",
            "grid": 1,
            "source_sha256": ARTIFACT.sha256,
            "artifact": f"kernels/{ARTIFACT.sha256}/negate_update.py",
        }
        (alias,) = call.output_operand_aliasing
        assert (list(alias.output_shape_index), alias.operand_index, list(alias.operand_shape_index)) == ([1], 1, [])
        assert not call.called_computation_ids
        assert call.shape.element_type == TUPLE
        assert shape_text(call.shape) == "(f32[1,1,1,8], f32[1,4,1,8])"
        assert [list(s.layout.minor_to_major) for s in call.shape.tuple_shapes] == [[3, 2, 1, 0]] * 2


def test_a_cache_is_aliased_from_parameter_to_result() -> None:
    """Parameter, operand, call result and module result are one buffer, and named so."""
    lowering = lowered()
    module = HloModule.FromString(lowering.hlo_proto)
    by_id = {i.id: i for i in entry(lowering.hlo_proto)}
    root = by_id[module.computations[-1].root_id]
    for alias in module.input_output_alias.entries:
        element = by_id[root.operand_ids[alias.output_shape_index[0]]]
        call = by_id[element.operand_ids[0]]
        parameter = by_id[call.operand_ids[call.output_operand_aliasing[0].operand_index]]
        assert (element.opcode, element.tuple_index, call.opcode) == ("get-tuple-element", 1, "custom-call")
        assert parameter.parameter_number == alias.parameter_number
        assert parameter.frontend_attributes.map["neff_input_names"].endswith(".must_alias_input")
    assert len(module.input_output_alias.entries) == 2


@pytest.mark.parametrize("target", ["trn1", "inf2", "trn2", "trn3", "cpu"])
def test_modules_with_calls_verify_and_are_legal(target: str) -> None:
    lowering = lowered(target)
    assert not lowering.findings
    verify_hlo(lowering.hlo_proto)


def test_without_an_artefact_a_kernel_is_what_its_body_says() -> None:
    lowering = lower_program(kernel_module(), "decode", target="trn2")
    opcodes = [i.opcode for i in entry(lowering.hlo_proto)]
    assert "custom-call" not in opcodes
    assert opcodes.count("negate") == 2
    assert (lowering.inputs, lowering.caches) == (lowered().inputs, lowered().caches)


def config(fields: object) -> bytes:
    return base64.b64encode(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("spoil", "detail"),
    [
        (lambda call: setattr(call, "backend_config", b"{}"), "backend_config names no kernel"),
        (lambda call: setattr(call, "backend_config", config([])), "backend_config names no kernel"),
        (lambda call: setattr(call, "backend_config", config({"kernel_format": "bir"})), "names no kernel"),
        (lambda call: setattr(call, "custom_call_api_version", 0), "API version 0, not 2"),
        (lambda call: setattr(call.output_operand_aliasing[0], "operand_index", 7), "operand 7 and result 1 do not"),
        (lambda call: setattr(call.output_operand_aliasing[0], "operand_index", 0), "are one, of shapes f32[1,1,1,8]"),
        (lambda call: call.output_operand_aliasing[0].output_shape_index.__setitem__(0, 2), "result 2 do not both"),
    ],
)
def test_the_lint_knows_calls(spoil: Callable[[Any], object], detail: str) -> None:
    module = HloModule.FromString(lowered().hlo_proto)
    spoil(next(i for i in module.computations[-1].instructions if i.opcode == "custom-call"))
    (finding,) = legality.check(module.SerializeToString(), target="trn2")
    assert (finding.rule.code, finding.path) == ("kernel-call", "model.layers.0.self_attn")
    assert detail in finding.detail
    assert finding.is_error


def test_a_compiled_kernel_is_legal() -> None:
    """What the SDK puts in the place of the placeholder is not ours to read."""
    module = HloModule.FromString(lowered().hlo_proto)
    for call in module.computations[-1].instructions:
        if call.opcode == "custom-call":
            call.backend_config = config({"func_name": "negate_update", "kernel_format": "bir", "later": 1})
    proto = module.SerializeToString()
    assert not legality.check(proto, target="trn2")
    refuse_placeholders(proto, "decode")


def test_placeholders_are_not_for_neuronx_cc() -> None:
    with pytest.raises(G4cError, match="decode calls a kernel that is there as source only, negate_update") as caught:
        refuse_placeholders(lowered().hlo_proto, "decode")
    assert (caught.value.code, caught.value.exit_code) == ("G4C-N001", 3)
    refuse_placeholders(lower_program(kernel_module(), "decode", target="trn2").hlo_proto, "decode")


def test_the_form_for_the_cpu_differs_in_its_calls_only() -> None:
    proto = lowered().hlo_proto
    found = for_cpu(proto, {ARTIFACT.sha256: 3})
    for call in calls(found):
        assert call.custom_call_api_version == 4
        assert call.backend_config == b"{kernel_id = 3 : i64}"
        assert call.constrain_layout
        assert [shape_text(shape) for shape in call.operand_shapes_with_layout] == [
            "f32[1,1,1,8]",
            "f32[1,4,1,8]",
            "s32[1,1]",
        ]
    wanted, module = HloModule.FromString(proto), HloModule.FromString(found)
    for given, call in zip(wanted.computations[-1].instructions, module.computations[-1].instructions, strict=True):
        if call.opcode == "custom-call":
            call.custom_call_api_version, call.backend_config = given.custom_call_api_version, given.backend_config
            call.constrain_layout = given.constrain_layout
            del call.operand_shapes_with_layout[:]
    assert module == wanted
    with pytest.raises(KeyError):
        for_cpu(proto, {})


def test_a_kernel_with_one_result_is_no_tuple() -> None:
    module = kernel_module()
    del module.functions["negate"].results[0]
    layer = module.functions["decode.layer"]
    (old,) = layer.ops_of(CallOp)
    layer.ops = [CallOp(old.args, old.callee, (CACHE,), loc=old.loc), NegOp(layer.param("x"))]
    layer.results = [Result(layer.ops[1].result, "y"), Result(layer.ops[0].results[0], "cache")]
    artifact = replace(ARTIFACT, outputs=ARTIFACT.outputs[1:], aliases=((1, 0),))
    proto = lower_program(module, "decode", target="trn2", kernels={"negate": artifact}).hlo_proto
    assert len(calls(proto)) == 2
    for call in calls(proto):
        assert shape_text(call.shape) == "f32[1,4,1,8]"
        assert not call.output_operand_aliasing[0].output_shape_index


@pytest.mark.parametrize("position", [0, 4])
def test_the_simulator_in_the_place_of_the_device(position: int) -> None:
    """The device's HLO with its calls bound to the simulator is what the bodies say."""
    run = load(SOURCE, ARTIFACT.name).specialize("trn2")
    number = register_kernel(CpuKernel(ARTIFACT.name, run, ARTIFACT.aliases))
    caches = [np.random.default_rng(n).normal(size=CACHE.shape).astype(np.float32) for n in range(2)]
    inputs = [np.arange(8, dtype=np.float32).reshape(ROW.shape), np.full((1, 1), position, np.int32)]
    reference = lower_program(kernel_module(), "decode", target="cpu").hlo_proto
    found = execute(for_cpu(lowered().hlo_proto, {ARTIFACT.sha256: number}), [*inputs, *caches])
    raise_failure()
    for one, other in zip(found, execute(reference, [*inputs, *caches]), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found[1][0, 0, 0], inputs[0][0, 0, 0])
