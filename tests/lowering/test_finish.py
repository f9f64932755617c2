"""Finishing, linting and verifying HLO protos: what holds of a good module, what is refused of a damaged one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cpu_execution import run

from g4c.errors import G4cError
from g4c.ir.types import DType
from g4c.lowering.neuron import hlo_proto, legality, xla
from g4c.lowering.neuron.finish import Signature, finish
from g4c.lowering.neuron.hlo_proto import HloModule
from g4c.lowering.neuron.mlir_verifier import verify_hlo, verify_stablehlo

TEXT = """
module @decode {
  func.func private @layer(%x: tensor<2x3xbf16> loc("layers.0")) -> (tensor<2x3xbf16>, tensor<2x3xbf16>) {
    %0 = "stablehlo.add"(%x, %x) : (tensor<2x3xbf16>, tensor<2x3xbf16>) -> tensor<2x3xbf16>
      loc("layers.*.mlp"("m.py":12:0))
    "func.return"(%0, %x) : (tensor<2x3xbf16>, tensor<2x3xbf16>) -> ()
  }
  func.func public @main(%x: tensor<2x3xbf16>, %k: tensor<4x3xbf16>, %w: tensor<4x3xbf16>)
      -> (tensor<2x4xf32>, tensor<4x3xbf16>) {
    %1:2 = "func.call"(%x) {callee = @layer} : (tensor<2x3xbf16>)
      -> (tensor<2x3xbf16>, tensor<2x3xbf16>) loc("layers.0")
    %2:2 = "func.call"(%1#0) {callee = @layer} : (tensor<2x3xbf16>)
      -> (tensor<2x3xbf16>, tensor<2x3xbf16>) loc("layers.7")
    %3 = "stablehlo.dot_general"(%2#0, %w) {dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1],
      rhs_contracting_dimensions = [1]>} : (tensor<2x3xbf16>, tensor<4x3xbf16>) -> tensor<2x4xf32>
      loc("lm_head"("m.py":13:0))
    %4 = "stablehlo.add"(%w, %k) : (tensor<4x3xbf16>, tensor<4x3xbf16>) -> tensor<4x3xbf16> loc("cache"("m.py":14:0))
    "func.return"(%3, %4) : (tensor<2x4xf32>, tensor<4x3xbf16>) -> ()
  }
}
"""
SIGNATURE = Signature(("x",), ("logits",), ("layers.0.k",), ("w",))


@pytest.fixture(scope="module")
def converted() -> bytes:
    verify_stablehlo(TEXT)
    return xla.stablehlo_to_hlo(TEXT)


@pytest.fixture(scope="module")
def finished(converted: bytes) -> bytes:
    return finish(converted, "decode", SIGNATURE)


def edited(proto: bytes, edit: Callable[[Any], None]) -> bytes:
    module = HloModule.FromString(proto)
    edit(module)
    result: bytes = module.SerializeToString()
    return result


def instruction(module: Any, opcode: str) -> Any:
    return next(i for c in module.computations for i in c.instructions if i.opcode == opcode)


def rules_of(proto: bytes, target: str = "trn2") -> set[str]:
    return {finding.rule.code for finding in legality.check(proto, target=target)}


def test_unknown_fields_survive_a_round_trip(converted: bytes) -> None:
    again = HloModule.FromString(converted).SerializeToString()
    assert xla.hlo_text(again) == xla.hlo_text(converted)
    assert len(again) == len(converted)
    precision_config = b"\x9a\x03\x04\x0a\x02\x00\x00"  # field 51 of the dot, which the table does not declare
    assert "precision_config" not in hlo_proto.HloInstruction.DESCRIPTOR.fields_by_name
    assert precision_config in converted
    assert precision_config in again


def test_finished_module_is_clean_and_verifies(finished: bytes) -> None:
    assert legality.check(finished, target="trn2") == []
    verify_hlo(finished)


def test_ids_count_from_one(converted: bytes, finished: bytes) -> None:
    assert max(i.id for c in HloModule.FromString(converted).computations for i in c.instructions) > 2**31
    module = HloModule.FromString(finished)
    ids = [i.id for c in module.computations for i in c.instructions] + [c.id for c in module.computations]
    assert sorted(ids) == list(range(1, len(ids) + 1))


def test_calls_are_inlined_under_their_own_layer(finished: bytes) -> None:
    module = HloModule.FromString(finished)
    assert len(module.computations) == 1
    paths = [i.metadata.op_name for i in module.computations[0].instructions if i.opcode == "add"]
    assert paths == ["layers.0.mlp", "layers.7.mlp", "cache"]
    assert instruction(module, "add").metadata.source_file == "m.py"
    assert instruction(module, "add").metadata.source_line == 12


def test_calls_can_stay(converted: bytes) -> None:
    kept = finish(converted, "decode", SIGNATURE, flatten=False)
    verify_hlo(kept)
    assert rules_of(kept) == {"call-inlined"}
    assert legality.check(kept, target="cpu", allow_calls=True) == []


def test_names_and_aliases(finished: bytes) -> None:
    module = HloModule.FromString(finished)
    names = [i.frontend_attributes.map["neff_input_names"] for i in module.computations[0].instructions[:3]]
    assert names == ["x", "layers.0.k.must_alias_input", "w"]
    assert instruction(module, "tuple").frontend_attributes.map["neff_output_names"] == "logits,layers.0.k"
    (alias,) = module.input_output_alias.entries
    assert (alias.parameter_number, list(alias.output_shape_index), alias.kind) == (1, [1], 2)


def test_passthrough_and_single_result_get_a_copy() -> None:
    text = "module @m { func.func public @main(%x: tensor<2xf32>) -> tensor<2xf32> { func.return %x : tensor<2xf32> } }"
    proto = finish(xla.stablehlo_to_hlo(text), "m", Signature(("x",), ("y",)))
    module = HloModule.FromString(proto)
    assert [i.opcode for i in module.computations[0].instructions] == ["parameter", "copy"]
    assert legality.check(proto, target="trn1") == []
    verify_hlo(proto)


def test_equal_constants_are_kept_once() -> None:
    text = """module @m {
      func.func private @f(%x: tensor<f32>) -> tensor<f32> {
        %c = stablehlo.constant dense<2.0> : tensor<f32>
        %z = stablehlo.constant dense<3.0> : tensor<f32>
        %0 = stablehlo.add %x, %c : tensor<f32>
        %1 = stablehlo.add %0, %z : tensor<f32>
        func.return %1 : tensor<f32> }
      func.func public @main(%x: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
        %0 = func.call @f(%x) : (tensor<f32>) -> tensor<f32>
        %1 = func.call @f(%0) : (tensor<f32>) -> tensor<f32>
        %c = stablehlo.constant dense<3.0> : tensor<f32>
        %2 = stablehlo.add %1, %c : tensor<f32>
        func.return %1, %2 : tensor<f32>, tensor<f32> } }"""
    proto = finish(xla.stablehlo_to_hlo(text), "m", Signature(("x",), ("a", "b")))
    constants = [i for i in HloModule.FromString(proto).computations[-1].instructions if i.opcode == "constant"]
    assert sorted(str(list(i.literal.f32s)) for i in constants) == ["[2.0]", "[3.0]"]
    assert legality.check(proto, target="trn1") == []
    verify_hlo(proto)


def test_equal_combiners_are_kept_once() -> None:
    body = "%r = stablehlo.reduce(%x init: %c) applies stablehlo.add across dimensions = [0]"
    kind = "(tensor<2xf32>, tensor<f32>) -> tensor<f32>"
    text = f"""module @m {{ func.func public @main(
    %x: tensor<2xf32>) -> (tensor<f32>, tensor<f32>) {{
      %c = stablehlo.constant dense<0.0> : tensor<f32>
      {body} : {kind}
      {body.replace("%r", "%s")} : {kind}
      func.return %r, %s : tensor<f32>, tensor<f32> }} }}"""
    converted = xla.stablehlo_to_hlo(text)
    assert len(HloModule.FromString(converted).computations) == 3
    proto = finish(converted, "m", Signature(("x",), ("a", "b")))
    assert len(HloModule.FromString(proto).computations) == 2
    assert legality.check(proto, target="trn1") == []
    verify_hlo(proto)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (Signature(("x",), ("logits",), ("k",)), "3 parameters for 2 names"),
        (Signature(("x",), (), ("k",), ("w",)), "2 results for 1 names"),
        (Signature(("x",), ("logits",), ("k",), ("x",)), "'x' is used twice"),
        (Signature(("x" * 256,), ("logits",), ("k",), ("w",)), "256 characters"),
        (Signature(("x",), ("a,b",), ("k",), ("w",)), "contains a comma"),
    ],
)
def test_signature_that_does_not_fit(converted: bytes, signature: Signature, message: str) -> None:
    with pytest.raises(G4cError, match=message) as caught:
        finish(converted, "decode", signature)
    assert caught.value.code == "G4C-L007"


# -- damage that the verifiers must see ---


def wrong_dot_shape(module: Any) -> None:
    instruction(module, "dot").shape.dimensions[1] = 5


def wrong_operand_type(module: Any) -> None:
    instruction(module, "add").shape.element_type = 11


def drop_layouts(module: Any) -> None:
    for shape in module.host_program_shape.parameters:
        shape.ClearField("layout")


def duplicate_id(module: Any) -> None:
    for computation in module.computations:
        computation.instructions[1].id = computation.instructions[0].id


ARRAYS = [np.ones(shape, DType.BF16.numpy) for shape in ((2, 3), (4, 3), (4, 3))]


def test_xla_runs_the_undamaged_module(finished: bytes) -> None:
    logits, state = run(finished, ARRAYS)
    np.testing.assert_array_equal(logits, np.full((2, 4), 12, np.float32))
    np.testing.assert_array_equal(state.astype(np.float32), np.full((4, 3), 2))


@pytest.mark.parametrize("damage", [wrong_dot_shape, wrong_operand_type, drop_layouts, duplicate_id])
def test_xla_refuses_damage(finished: bytes, damage: Callable[[Any], None]) -> None:
    with pytest.raises(G4cError) as caught:
        run(edited(finished, damage), ARRAYS)
    assert caught.value.code == "G4C-R051"


@pytest.mark.parametrize("damage", [wrong_dot_shape, wrong_operand_type, duplicate_id])
def test_verifier_refuses_damage(finished: bytes, damage: Callable[[Any], None]) -> None:
    with pytest.raises(G4cError) as caught:
        verify_hlo(edited(finished, damage))
    assert caught.value.code in ("G4C-L003", "G4C-L004")


def big_id(module: Any) -> None:
    module.computations[-1].instructions[0].id = 1 << 33


def big_constant(module: Any) -> None:
    parameter = instruction(module, "parameter")
    constant = module.computations[-1].instructions.add(opcode="constant", name="c", id=99)
    constant.shape.CopyFrom(parameter.shape)
    constant.shape.dimensions[0] = 1 << 20


def set_field(which: str, **fields: object) -> Callable[[Any], None]:
    def edit(module: Any) -> None:
        target = instruction(module, which)
        for name, value in fields.items():
            setattr(target, name, value)

    return edit


def set_element_type(code: int) -> Callable[[Any], None]:
    def edit(module: Any) -> None:
        for i in module.computations[-1].instructions:
            if i.opcode == "add":
                i.shape.element_type = code

    return edit


def may_alias(module: Any) -> None:
    module.input_output_alias.entries[0].kind = 1


def no_alias(module: Any) -> None:
    del module.input_output_alias.entries[:]


def other_name(module: Any) -> None:
    module.computations[-1].instructions[1].frontend_attributes.map["neff_input_names"] = "layers.1.k.must_alias_input"


def unnamed(module: Any) -> None:
    module.computations[-1].instructions[0].frontend_attributes.map.clear()


def dynamic(module: Any) -> None:
    instruction(module, "dot").shape.is_dynamic_dimension[0] = True


def rank_five(module: Any) -> None:
    instruction(module, "dot").shape.dimensions[:] = [1, 1, 1, 2, 4]


def no_path(module: Any) -> None:
    instruction(module, "dot").metadata.op_name = ""


def wrong_program_shape(module: Any) -> None:
    module.host_program_shape.parameters[0].dimensions[0] = 7


def return_parameter(module: Any) -> None:
    instruction(module, "tuple").operand_ids[0] = instruction(module, "parameter").id


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (set_field("dot", opcode="cholesky"), "op-vocabulary"),
        (set_field("dot", opcode="while"), "call-inlined"),
        (set_field("dot", opcode="sort"), "sort"),
        (set_field("dot", opcode="custom-call", custom_call_target="Mine"), "custom-call-target"),
        (wrong_operand_type, "operand-type"),
        (drop_layouts, "layout"),
        (duplicate_id, "id-unique"),
        (big_id, "id-range"),
        (big_id, "operand-order"),
        (big_constant, "constant-size"),
        (set_field("dot", name=""), "name-unique"),
        (set_element_type(5), "no-64-bit"),
        (set_element_type(12), "no-64-bit"),
        (set_element_type(15), "element-type"),
        (set_element_type(25), "element-type"),
        (set_element_type(20), "fp8-of-target"),
        (may_alias, "alias"),
        (no_alias, "alias"),
        (other_name, "alias"),
        (unnamed, "tensor-name"),
        (dynamic, "static-shape"),
        (rank_five, "rank"),
        (no_path, "metadata"),
        (wrong_program_shape, "program-shape"),
        (return_parameter, "root"),
    ],
)
def test_lint_finds(finished: bytes, damage: Callable[[Any], None], rule: str) -> None:
    damaged = edited(finished, damage)
    assert rule in rules_of(damaged)
    findings = legality.check(damaged, target="trn2")
    if any(finding.is_error for finding in findings):
        with pytest.raises(G4cError) as caught:
            legality.refuse_errors(findings, program="decode")
        assert caught.value.code == "G4C-L006"


OPS = """
module @m {{ func.func public @main(
    %x: tensor<8x4xf32>, %i: tensor<3xi32>, %u: tensor<3x4xf32>, %p: tensor<8xi1>) -> {result} {{
  %zero = stablehlo.constant dense<0> : tensor<i32>
  {body}
  func.return %r : {result} }} }}
"""
SCATTER = """%r = "stablehlo.scatter"(%x, %i, %u) <{{
  scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1],
  inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = 1>}}> ({{
  ^bb0(%a: tensor<f32>, %b: tensor<f32>):
  {combine} }}) : (tensor<8x4xf32>, tensor<3xi32>, tensor<3x4xf32>) -> tensor<8x4xf32>"""
GATHER = """%j = {indices} : tensor<{n}xi32>
  %r = "stablehlo.gather"(%x, %j) <{{
  dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0],
  start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, 4>}}>
  : (tensor<8x4xf32>, tensor<{n}xi32>) -> tensor<{n}x4xf32>"""


@pytest.mark.parametrize(
    ("body", "result", "rule"),
    [
        (
            SCATTER.format(combine="%s = stablehlo.add %a, %b : tensor<f32> stablehlo.return %s : tensor<f32>"),
            "tensor<8x4xf32>",
            "scatter-assign",
        ),
        (SCATTER.format(combine="stablehlo.return %b : tensor<f32>"), "tensor<8x4xf32>", None),
        (GATHER.format(n=9, indices="stablehlo.iota dim = 0"), "tensor<9x4xf32>", "index-bounds"),
        (GATHER.format(n=8, indices="stablehlo.iota dim = 0"), "tensor<8x4xf32>", None),
        (GATHER.format(n=2, indices="stablehlo.constant dense<[0, 8]>"), "tensor<2x4xf32>", "index-bounds"),
        (
            "%r = stablehlo.dot_general %i, %i, contracting_dims = [0] x [0] "
            ": (tensor<3xi32>, tensor<3xi32>) -> tensor<i32>",
            "tensor<i32>",
            "integer-dot",
        ),
        ("%r = stablehlo.power %i, %i : tensor<3xi32>", "tensor<3xi32>", "integer-power"),
        ("%r = stablehlo.add %p, %p : tensor<8xi1>", "tensor<8xi1>", "boolean-add"),
        (
            "%s = stablehlo.slice %i [0:1] : (tensor<3xi32>) -> tensor<1xi32> "
            "%t = stablehlo.reshape %s : (tensor<1xi32>) -> tensor<i32> "
            "%r = stablehlo.dynamic_update_slice %x, %u, %t, %zero "
            ": (tensor<8x4xf32>, tensor<3x4xf32>, tensor<i32>, tensor<i32>) -> tensor<8x4xf32>",
            "tensor<8x4xf32>",
            "update-starts",
        ),
        ("%r = stablehlo.convert %i : (tensor<3xi32>) -> tensor<3xi64>", "tensor<3xi64>", "no-64-bit"),
    ],
)
def test_lint_of_ops(body: str, result: str, rule: str | None) -> None:
    text = OPS.format(body=body, result=result)
    verify_stablehlo(text)
    proto = finish(xla.stablehlo_to_hlo(text), "m", Signature(("x", "i", "u", "p"), ("r",)))
    assert rules_of(proto) == ({rule} if rule else set())


@pytest.mark.parametrize("proto", [b"\x0a\x01m", b"not a module"])
def test_unreadable_proto(proto: bytes) -> None:
    with pytest.raises(G4cError) as caught:
        verify_hlo(proto)
    assert caught.value.code == "G4C-L003"


def test_invalid_stablehlo_names_the_line() -> None:
    bad = TEXT.replace("tensor<2x4xf32>", "tensor<2x5xf32>")
    with pytest.raises(G4cError) as caught:
        verify_stablehlo(bad)
    assert caught.value.code == "G4C-L004"
    assert "lm_head" in str(caught.value)
