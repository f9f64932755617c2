"""Whole programs: calls, weights, caches, names and metadata, against the reference interpreter."""

from __future__ import annotations

import re

import numpy as np
import pytest
from cpu_execution import run

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Loc, Op, SymbolRef, Value
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Cache, Weight
from g4c.lowering.neuron import legality, xla
from g4c.lowering.neuron.finish import CACHE_INPUT_SUFFIX
from g4c.lowering.neuron.hlo_proto import HloModule
from g4c.lowering.neuron.lower import LoweredProgram, lower_program
from g4c.lowering.neuron.mlir_verifier import verify_hlo

BATCH, SLOTS, HEADS, WIDTH, HIDDEN, VOCABULARY, LAYERS = 2, 8, 2, 16, 24, 40, 3


def load(function: Function, weight: Weight, path: str) -> Value:
    return function.append(ops.LoadWeightOp(SymbolRef(weight.name), weight.type, loc=Loc(path))).result


def small_model(dtype: DType) -> Module:
    """A decoder of three equal layers, called; the rotary table is loaded inside the layer function."""
    module = Module("small")

    def weight(name: str, *shape: int) -> Weight:
        return module.add_weight(Weight.stored(name, TensorType(shape, dtype)))

    table = weight("rope.cos", SLOTS, WIDTH // 2)
    layer = module.add_function(Function("decode.full_own", "layer"))
    add_layer(layer, table, dtype)
    decode = module.add_function(Function("decode", "program"))
    ids = decode.add_param("token_ids", TensorType((BATCH, 1), DType.S32))
    positions = decode.add_param("positions", TensorType((BATCH, 1), DType.S32))
    embedding = weight("embed_tokens.weight", VOCABULARY, HIDDEN)
    h = decode.append(
        ops.EmbeddingOp(ids, load(decode, embedding, "embed_tokens"), 4.0, loc=Loc("embed_tokens"))
    ).result
    states = []
    for index in range(LAYERS):
        path = f"layers.{index}"
        weights = [
            load(decode, weight(f"{path}.self_attn.{name}.weight", *shape), path)
            for name, shape in (("q_proj", (HEADS * WIDTH, HIDDEN)), ("o_proj", (HIDDEN, HEADS * WIDTH)))
        ]
        cache = module.add_cache(Cache(f"{path}.k", TensorType((BATCH, SLOTS, 1, WIDTH), dtype)))
        k = decode.add_param(cache.name, cache.type, cache.name)
        call = ops.CallOp(
            (h, positions, k, *weights), SymbolRef(layer.name), (h.type, k.type), loc=Loc(path, "m.py", 7)
        )
        h, state = decode.append(call).results
        states.append(Result(state, cache.name, cache.name))
    logits = decode.append(ops.LinearOp(h, load(decode, embedding, "lm_head"), loc=Loc("lm_head", "m.py", 9))).result
    decode.results = [Result(logits, "logits"), *states]
    return module


def add_layer(layer: Function, table: Weight, dtype: DType) -> None:
    h = layer.add_param("h", TensorType((BATCH, 1, HIDDEN), dtype))
    positions = layer.add_param("positions", TensorType((BATCH, 1), DType.S32))
    k = layer.add_param("k", TensorType((BATCH, SLOTS, 1, WIDTH), dtype))
    wq = layer.add_param("wq", TensorType((HEADS * WIDTH, HIDDEN), dtype))
    wo = layer.add_param("wo", TensorType((HIDDEN, HEADS * WIDTH), dtype))
    path = "layers.*.self_attn"

    def append(op: Op) -> Value:
        op.loc = Loc(path, "m.py", 5)
        return layer.append(op).result

    cos = append(ops.GatherOp(load(layer, table, path), positions))
    q = append(ops.ReshapeOp(append(ops.LinearOp(h, wq)), TensorType((BATCH, 1, HEADS, WIDTH), dtype)))
    q = append(ops.RopeOp(q, cos, cos))
    row = append(ops.SliceOp(q, (0, 0, 0, 0), (BATCH, 1, 1, WIDTH)))
    cache = append(ops.KvUpdateOp(k, row, positions))
    held = append(ops.HeldPositionsOp(positions, SLOTS, True))
    y = append(ops.AttentionOp(q, (cache,), (cache,), positions, (held,), 0.5, 3))
    y = append(ops.LinearOp(append(ops.ReshapeOp(y, TensorType((BATCH, 1, HEADS * WIDTH), dtype))), wo))
    layer.results = [Result(append(ops.AddOp(h, y)), "h"), Result(cache, "k")]


def arrays_of(module: Module, lowered: LoweredProgram) -> dict[str, np.ndarray]:
    random = np.random.default_rng(11)
    arrays = {
        name: random.normal(0, 0.3, type.shape).astype(np.float32).astype(type.dtype.numpy)
        for name, type in (*lowered.caches, *lowered.weights)
    }
    arrays["token_ids"] = np.array([[3], [39]], np.int32)
    arrays["positions"] = np.array([[2], [5]], np.int32)
    return arrays


@pytest.mark.parametrize(("dtype", "tolerance"), [(DType.F32, 1e-4), (DType.BF16, 4e-2)])
def test_program_computes_what_the_interpreter_computes(dtype: DType, tolerance: float) -> None:
    module = small_model(dtype)
    lowered = lower_program(module, "decode", target="trn2")
    verify_hlo(lowered.hlo_proto)
    assert lowered.findings == ()
    arrays = arrays_of(module, lowered)
    order = [name for name, _ in (*lowered.inputs, *lowered.caches, *lowered.weights)]
    actual = run(lowered.hlo_proto, [arrays[name] for name in order])
    expected = interpret(module, "decode", arrays, arrays)
    names = [name for name, _ in (*lowered.outputs, *lowered.caches)]
    assert names == ["logits", "layers.0.k", "layers.1.k", "layers.2.k"]
    for name, array in zip(names, actual, strict=True):
        assert array.dtype == expected[name].dtype
        np.testing.assert_allclose(
            array.astype(np.float32), expected[name].astype(np.float32), rtol=tolerance, atol=tolerance
        )


@pytest.fixture(scope="module")
def lowered() -> LoweredProgram:
    return lower_program(small_model(DType.BF16), "decode", target="trn2")


def test_signature(lowered: LoweredProgram) -> None:
    assert [name for name, _ in lowered.inputs] == ["token_ids", "positions"]
    assert lowered.outputs == (("logits", TensorType((BATCH, 1, VOCABULARY), DType.BF16)),)
    assert [name for name, _ in lowered.weights][:3] == [
        "rope.cos",
        "embed_tokens.weight",
        "layers.0.self_attn.q_proj.weight",
    ]
    module = HloModule.FromString(lowered.hlo_proto)
    order = [*lowered.inputs, *((name + CACHE_INPUT_SUFFIX, type) for name, type in lowered.caches), *lowered.weights]
    assert list(module.host_program_shape.parameter_names) == [name for name, _ in order]
    shapes = [tuple(shape.dimensions) for shape in module.host_program_shape.parameters]
    assert shapes == [type.shape for _, type in order]
    aliases = [(e.parameter_number, list(e.output_shape_index), e.kind) for e in module.input_output_alias.entries]
    assert aliases == [(2, [1], 2), (3, [2], 2), (4, [3], 2)]


def test_cost_counts_every_call(lowered: LoweredProgram) -> None:
    layer = 2 * BATCH * HEADS * WIDTH * HIDDEN * 2 + 4 * BATCH * HEADS * WIDTH * SLOTS
    assert lowered.flops == LAYERS * layer + 2 * BATCH * HIDDEN * VOCABULARY


def test_stablehlo_has_one_function_per_layer_kind(lowered: LoweredProgram) -> None:
    assert re.findall(r"func\.func (\w+) @\"?([\w.]+)", lowered.stablehlo) == [
        ("private", "decode.full_own"),
        ("public", "main"),
    ]
    assert lowered.stablehlo.count('"func.call"') == LAYERS


def test_every_instruction_says_where_it_comes_from(lowered: LoweredProgram) -> None:
    module = HloModule.FromString(lowered.hlo_proto)
    for computation in module.computations:
        for instruction in computation.instructions:
            assert instruction.metadata.op_name, instruction
    entry = module.computations[-1].instructions
    dots = [(i.metadata.op_name, i.metadata.source_file, i.metadata.source_line) for i in entry if i.opcode == "dot"]
    assert [path for path, _, _ in dots] == [f"layers.{k}.self_attn" for k in (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2)] + [
        "lm_head"
    ]
    assert {(file, line) for _, file, line in dots} == {("m.py", 5), ("m.py", 9)}


def test_nothing_is_left_to_inline(lowered: LoweredProgram) -> None:
    module = HloModule.FromString(lowered.hlo_proto)
    used = {i.opcode for c in module.computations for i in c.instructions}
    assert "call" not in used
    assert "s64[" not in xla.hlo_text(lowered.hlo_proto)


def test_a_cache_that_is_only_read_keeps_its_state() -> None:
    module = Module("test")
    function = module.add_function(Function("decode", "program"))
    cache = module.add_cache(Cache("k", TensorType((1, 2, 1, 2), DType.F32)))
    k = function.add_param("k", cache.type, "k")
    function.results = [Result(function.append(ops.AddOp(k, k)).result, "y")]
    lowered = lower_program(module, "decode", target="cpu")
    state = np.arange(4, dtype=np.float32).reshape(1, 2, 1, 2)
    y, kept = run(lowered.hlo_proto, [state])
    np.testing.assert_array_equal(y, 2 * state)
    np.testing.assert_array_equal(kept, state)


@pytest.mark.invalid_ir
def test_op_without_a_rule() -> None:
    module = Module("test")
    function = module.add_function(Function("decode", "program"))
    x = function.add_param("x", TensorType((2,), DType.F32))

    class Unknown(ops.NegOp):
        """An op that the lowering does not know."""

        mnemonic = ""

    function.results = [Result(function.append(Unknown(x, loc=Loc("layers.3.mlp"))).result, "y")]
    with pytest.raises(G4cError, match=r"no lowering") as caught:
        lower_program(module, "decode", target="trn2")
    assert caught.value.code == "G4C-L005"
    assert "layers.3.mlp" in str(caught.value)


@pytest.mark.invalid_ir
def test_state_of_a_cache_that_is_not_taken() -> None:
    module = Module("test")
    function = module.add_function(Function("decode", "program"))
    x = function.add_param("x", TensorType((2,), DType.F32))
    function.results = [Result(x, "y"), Result(x, "k", "k")]
    with pytest.raises(G4cError) as caught:
        lower_program(module, "decode", target="trn2")
    assert caught.value.code == "G4C-L007"


def test_illegal_type_is_refused_with_the_path() -> None:
    module = Module("test")
    function = module.add_function(Function("decode", "program"))
    x = function.add_param("x", TensorType((2,), DType.F8E4M3FN))
    loc = Loc("layers.3.mlp")
    function.results = [Result(function.append(ops.ConvertOp(x, TensorType((2,), DType.F32), loc=loc)).result, "y")]
    with pytest.raises(G4cError, match="f8e4m3fn on trn2") as caught:
        lower_program(module, "decode", target="trn2")
    assert caught.value.code == "G4C-L006"
    assert legality.RULES["fp8-of-target"].diagnostic in str(caught.value)
    assert lower_program(module, "decode", target="trn3").findings == ()
