"""Tracing: the module has the promised interface, says what Hugging Face computes, is the same however it is traced."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small_model import (
    LAYERS,
    generated_logits,
    hf_logits,
    random_arrays,
    relative_error,
    small_config,
    token_ids,
)

from g4c.errors import G4cError
from g4c.frontend import hf_model
from g4c.frontend.config import ModelConfig, decoder_tensors, load_model_config
from g4c.frontend.hf_model import Program, build_decoder
from g4c.frontend.layer_repetition import layer_kinds, repeated_layers
from g4c.frontend.raising import raise_module
from g4c.frontend.trace import TraceOptions, program_shapes, trace_programs
from g4c.ir.module import Module
from g4c.ir.op import Value
from g4c.ir.ops import AttentionOp, EmbeddingOp, HeldPositionsOp, KvUpdateOp, LinearOp, LoadWeightOp, MulOp
from g4c.ir.printer import print_module
from g4c.ir.types import DType, TensorType
from g4c.ir.verifier import verify_module

BUCKET, CONTEXT = 48, 72


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return small_config(tmp_path_factory.mktemp("small"))


def options(**changes: object) -> TraceOptions:
    base = TraceOptions(max_context=CONTEXT, buckets=(BUCKET,), logit_rows=BUCKET, dtype=DType.F32)
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def traced(config: ModelConfig) -> Module:
    return trace_programs(config, options())


@pytest.fixture(scope="module")
def unraised(config: ModelConfig) -> Module:
    return trace_programs(config, options(raised=False))


# -- what is computed -----------------------------------------------------------------------------------------------
def test_logits_are_those_of_hugging_face(config: ModelConfig) -> None:
    """Three windows of prefill, one more of decode, two sequences; every position, before and after raising."""
    module = trace_programs(config, options(batch=2, raised=False))
    ids = token_ids(2, CONTEXT)
    weights = random_arrays(module)
    wanted = hf_logits(config, weights, DType.F32, ids)
    assert relative_error(generated_logits(module, weights, ids, BUCKET), wanted) < 1e-4
    assert sum(raise_module(module).values()) > 100
    assert relative_error(generated_logits(module, weights, ids, BUCKET), wanted) < 1e-4


def test_bf16_errs_no_more_than_hugging_face(config: ModelConfig) -> None:
    module = trace_programs(config, options(dtype=DType.BF16))
    weights = random_arrays(module)
    ids = token_ids(1, CONTEXT)
    exact = hf_logits(config, weights, DType.F32, ids)
    theirs = hf_logits(config, weights, DType.BF16, ids)
    ours = generated_logits(module, weights, ids, BUCKET)
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 1.5 * np.sqrt(np.mean((theirs - exact) ** 2))


def test_the_rewired_model_runs_eagerly_and_agrees(config: ModelConfig, traced: Module) -> None:
    """What is traced is Hugging Face's model: on the CPU the program gives the logits of the original."""
    weights = random_arrays(traced)
    decoder = build_decoder(config, torch.float32, device="cpu")
    state = {name: torch.from_numpy(weights[name]) for name in decoder_tensors(config)}
    model = decoder.model.get_submodule("model")
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == ([], [])
    ids = token_ids(1, BUCKET)
    positions = torch.arange(BUCKET, dtype=torch.int32)[None]
    caches = [torch.zeros(1, CONTEXT, *shape) for shape in decoder.kv_shapes for _ in range(2)]
    program = Program(decoder, select_rows=True)
    with torch.no_grad():
        logits, caches = program([torch.from_numpy(ids), positions, positions.flip(1)], caches)
    wanted = hf_logits(config, weights, DType.F32, ids)
    assert relative_error(logits.flip(1).numpy(), wanted) < 1e-4
    assert all(bool((cache[:, :BUCKET] != 0).all()) and not cache[:, BUCKET:].any() for cache in caches)


def test_the_last_bucket_positions_may_be_padding(config: ModelConfig, traced: Module) -> None:
    """Logits of a 30-token prompt do not depend on what pads it to the bucket."""
    weights = random_arrays(traced)
    ids = token_ids(1, BUCKET)
    other = ids.copy()
    other[:, 30:] = 0
    first, second = (generated_logits(traced, weights, tokens, BUCKET)[:, :30] for tokens in (ids, other))
    assert np.array_equal(first, second)


# -- one layer per kind ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_one_layer_per_kind_gives_the_full_trace(config: ModelConfig, dtype: DType) -> None:
    texts = [
        print_module(trace_programs(config, options(dtype=dtype, raised=False, every_layer=every)))
        for every in (False, True)
    ]
    assert texts[0] == texts[1]


def test_one_layer_per_kind_gives_the_full_trace_of_e2b() -> None:
    decode = TraceOptions(buckets=())
    config = load_model_config("e2b")
    fast = trace_programs(config, decode)
    full = trace_programs(config, dataclasses.replace(decode, every_layer=True))
    assert print_module(fast) == print_module(full)
    assert sum(1 for _ in fast.functions["decode"].ops_of(LinearOp)) == 317
    assert sum(1 for _ in fast.functions["decode"].ops_of(AttentionOp)) == 35


def test_e2b_has_four_kinds_of_layers() -> None:
    decoder = build_decoder(load_model_config("e2b"), torch.bfloat16)
    kinds = layer_kinds(decoder)
    assert kinds == tuple(
        (19 if index % 5 == 4 else 15) if index >= 15 else (4 if index % 5 == 4 else 0) for index in range(35)
    )
    assert decoder.donors == (*range(15), *([13, 13, 13, 13, 14] * 4))


def test_a_layer_that_differs_in_any_attribute_is_its_own_kind(config: ModelConfig) -> None:
    decoder = build_decoder(config, torch.float32)
    assert layer_kinds(decoder) == (0, 0, 0, 0, 4, 5, 5, 5, 5, 9)
    decoder.layers[2].self_attn.scaling = 0.5
    decoder.layers[6].mlp.gate_proj = torch.nn.Linear(64, 512, device="meta")
    assert layer_kinds(decoder) == (0, 0, 2, 0, 4, 5, 6, 5, 5, 9)


def test_the_layers_are_back_after_tracing(config: ModelConfig) -> None:
    decoder = build_decoder(config, torch.float32)
    before = list(decoder.layers)
    with pytest.raises(KeyboardInterrupt), repeated_layers(decoder):
        raise KeyboardInterrupt
    assert [*decoder.layers] == before
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in before)


# -- the interface --------------------------------------------------------------------------------------------------
def test_parameters_and_results(traced: Module) -> None:
    caches = [f"layers.{i}.{part}" for i in range(LAYERS) for part in "kv"]
    assert list(traced.caches) == caches
    assert traced.caches["layers.4.k"].type == TensorType((1, CONTEXT, 1, 512), DType.F32)
    assert traced.caches["layers.5.v"].type == TensorType((1, CONTEXT, 1, 256), DType.F32)
    for name, length, inputs in (
        (f"prefill_{BUCKET}", BUCKET, ["token_ids", "positions", "rows"]),
        ("decode", 1, ["token_ids", "positions"]),
    ):
        program = traced.functions[name]
        assert [(p.name, p.cache) for p in program.params] == [(n, None) for n in inputs] + [(c, c) for c in caches]
        assert all(program.param(n).type == TensorType((1, length), DType.S32) for n in inputs)
        assert [(r.name, r.cache) for r in program.results] == [("logits", None)] + [(c, c) for c in caches]
        assert program.results[0].value.type == TensorType((1, length, 256), DType.F32)
        for result in program.results[1:]:
            assert isinstance(result.value.owner, KvUpdateOp)


def test_only_the_wanted_rows_reach_the_head(config: ModelConfig) -> None:
    module = trace_programs(config, options(batch=2, logit_rows=3))
    (head,) = (op for op in module.functions[f"prefill_{BUCKET}"].ops_of(LinearOp) if op.loc.path == "lm_head")
    assert head.x.shape == (2, 3, 64)


def test_windows_and_positions(traced: Module) -> None:
    for program in traced.programs:
        attentions = list(program.ops_of(AttentionOp))
        assert [op.window for op in attentions] == [16, 16, 16, 16, 0] * 2
        assert {op.scale for op in attentions} == {1.0}
        (held,) = program.ops_of(HeldPositionsOp)
        assert (held.positions, held.slots, held.updated) == (program.param("positions"), CONTEXT, True)
        assert {op.key_positions for op in attentions} == {(held.result,)}
        assert {op.positions for op in attentions} == {program.param("positions")}


def test_padding_is_at_position_0_for_hugging_face(traced: Module) -> None:
    """What comes of the positions elsewhere than in caches and masks goes through max(positions, 0)."""
    for program in traced.programs:
        users = program.users()[program.param("positions")]
        others = [op for op in users if not isinstance(op, AttentionOp | HeldPositionsOp | KvUpdateOp)]
        assert [op.mnemonic for op in others] == ["g4.max"]


def test_shared_layers_attend_to_their_donor_and_write_their_own_cache(traced: Module) -> None:
    program = traced.functions["decode"]
    updates = {op.cache: op.result for op in program.ops_of(KvUpdateOp)}
    attentions = list(program.ops_of(AttentionOp))
    for layer, attention in enumerate(attentions):
        donor = layer if layer < 5 else (4 if layer == 9 else 3)
        assert attention.keys == (updates[program.param(f"layers.{donor}.k")],)
        assert attention.values == (updates[program.param(f"layers.{donor}.v")],)


def test_weights_are_the_decoders_tensors(config: ModelConfig, traced: Module) -> None:
    stored = {name: weight.type for name, weight in traced.weights.items() if weight.sources}
    assert stored == {name: TensorType(shape, DType.F32) for name, shape in decoder_tensors(config).items()}
    assert all(w.sources[0].key == name for name, w in traced.weights.items() if w.sources)
    constants = sorted(name for name, weight in traced.weights.items() if not weight.sources)
    assert constants == ["rope.full_attention.inv_freq", "rope.sliding_attention.inv_freq"]


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_rope_frequencies(config: ModelConfig, dtype: DType) -> None:
    module = trace_programs(config, options(buckets=(), dtype=dtype))
    sliding, full = (
        module.weights[f"rope.{kind}_attention.inv_freq"].value.array().astype(np.float64)  # type: ignore[union-attr]
        for kind in ("sliding", "full")
    )
    assert np.allclose(sliding, 1e4 ** (-2 * np.arange(128) / 256), rtol=1e-6)
    assert np.allclose(full[:64], 1e6 ** (-2 * np.arange(64) / 512), rtol=1e-6)
    assert full.shape == (256,)
    assert not full[64:].any()


@pytest.mark.parametrize(("dtype", "scale"), [(DType.F32, np.float32(np.sqrt(96))), (DType.BF16, 9.8125)])
def test_embedding_scales_are_rounded_to_the_tables_dtype(tmp_path: Path, dtype: DType, scale: float) -> None:
    module = trace_programs(small_config(tmp_path, hidden_size=96), options(buckets=(), dtype=dtype))
    tokens, per_layer = module.functions["decode"].ops_of(EmbeddingOp)
    assert np.float32(tokens.scale) == scale
    assert np.float32(per_layer.scale) == {DType.F32: np.float32(np.sqrt(32)), DType.BF16: 5.65625}[dtype]


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, np.float32(np.sqrt(1536))), (torch.bfloat16, 39.25)])
def test_embedding_scales_of_e2b(dtype: torch.dtype, scale: float) -> None:
    constants = build_decoder(load_model_config("e2b"), dtype).constants
    assert constants["model.embed_tokens.embed_scale"].item() == scale
    assert constants["model.embed_tokens_per_layer.embed_scale"].item() == 16


def test_layer_scalars_are_weights(traced: Module) -> None:
    def is_scalar(value: Value) -> bool:
        return isinstance(value.owner, LoadWeightOp) and value.owner.weight.name.endswith(".layer_scalar")

    scaled = [op for op in traced.functions["decode"].ops_of(MulOp) if any(map(is_scalar, op.operands))]
    assert [op.loc.path for op in scaled] == [f"model.layers.{i}" for i in range(LAYERS)]


def test_every_op_knows_its_module_and_source_line(config: ModelConfig, traced: Module, unraised: Module) -> None:
    modules = {path for path, _ in build_decoder(config, torch.float32).model.named_modules()}
    for module in (traced, unraised):
        for op in (op for function in module.functions.values() for op in function.ops):
            assert op.loc.path in modules
            if op.loc.path or op.mnemonic not in ("g4.max", "g4.constant", "g4.held_positions"):
                assert op.loc.file.startswith("modeling_"), op.loc
            assert op.loc.line > 0
    linears = list(traced.functions["decode"].ops_of(LinearOp))
    for op in linears:
        assert isinstance(op.w.owner, LoadWeightOp)
        name = "embed_tokens" if op.loc.path == "lm_head" else op.loc.path.removeprefix("model.")
        assert op.w.owner.weight.name == f"{name}.weight"


def test_no_64_bit_integers_and_well_formed(traced: Module, unraised: Module) -> None:
    for module in (traced, unraised):
        verify_module(module)
        assert "i64>" not in print_module(module).replace("array<i64", "")


def test_programs_of_options() -> None:
    shapes = program_shapes(TraceOptions(buckets=(128, 512), max_context=2048, logit_rows=4))
    assert [dataclasses.astuple(shape) for shape in shapes] == [
        ("prefill_128", 128, 4),
        ("prefill_512", 512, 4),
        ("decode", 1, 0),
    ]


@pytest.mark.parametrize("variant", ["e4b", "12b", "31b"])
def test_other_variants_trace(variant: str) -> None:
    module = trace_programs(load_model_config(variant), TraceOptions(buckets=()))
    verify_module(module)
    config = load_model_config(variant)
    stored = {name: weight.type.shape for name, weight in module.weights.items() if weight.sources}
    assert stored == decoder_tensors(config)


# -- refusals -------------------------------------------------------------------------------------------------------
def refused(config: ModelConfig, code: str) -> str:
    with pytest.raises(G4cError) as caught:
        trace_programs(config, options(buckets=()))
    assert caught.value.code == code
    return str(caught.value)


def test_a_config_that_hugging_face_refuses(config: ModelConfig) -> None:
    broken = dataclasses.replace(config, text_config_json={**config.text_config_json, "hidden_size": "wide"})
    assert "hidden_size" in refused(broken, "G4C-F050")


def test_a_buffer_that_nothing_initializes(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.gemma4.modeling_gemma4 import Gemma4TextRotaryEmbedding

    make = Gemma4TextRotaryEmbedding.__init__

    def with_buffer(self: torch.nn.Module, *args: object, **kwargs: object) -> None:
        make(self, *args, **kwargs)
        self.register_buffer("new", torch.zeros(2), persistent=False)

    monkeypatch.setattr(Gemma4TextRotaryEmbedding, "__init__", with_buffer)
    assert "no value for buffer new" in refused(config, "G4C-F051")


def patched_mlp(monkeypatch: pytest.MonkeyPatch, change: object) -> None:
    from transformers.models.gemma4.modeling_gemma4 import Gemma4TextMLP

    forward = Gemma4TextMLP.forward
    monkeypatch.setattr(Gemma4TextMLP, "forward", lambda self, x: change(forward(self, x)))  # type: ignore[operator]


def test_a_model_that_cannot_be_exported(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    patched_mlp(monkeypatch, lambda y: y if y.sum() > 0 else -y)
    assert "decode" in refused(config, "G4C-F052")


def test_an_unknown_operation_is_named_with_module_and_line(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    patched_mlp(monkeypatch, torch.erf)
    text = refused(config, "G4C-F053")
    assert "aten.erf.default" in text
    assert "decode  model.layers.0.mlp (" in text
    assert ".py:" in text


def test_64_bit_integers_are_refused(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    patched_mlp(monkeypatch, lambda y: y * y.long())
    assert "int64" in refused(config, "G4C-F054")


def test_attention_without_positions_of_its_own_is_never_built() -> None:
    cache = hf_model.ProgramCache((0,), [torch.zeros(1), torch.zeros(1)], torch.zeros(1))
    with pytest.raises(AssertionError, match="positions are explicit"):
        cache.get_seq_length()
