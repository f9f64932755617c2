"""26B-A4B: what is traced is Hugging Face's mixture of experts, in the form that lowering and passes expect."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_model import generated_logits, hf_logits, random_arrays, relative_error, token_ids

from g4c.frontend.config import ModelConfig, decoder_tensors, load_model_config
from g4c.frontend.hf_model import Program, build_decoder
from g4c.frontend.layer_repetition import layer_kinds
from g4c.frontend.raising import raise_module
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.frontend.variants import VARIANTS
from g4c.ir import ops
from g4c.ir.module import Module
from g4c.ir.op import Cost
from g4c.ir.printer import print_module
from g4c.ir.types import Array, DType
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import DEFAULT_PIPELINE

BUCKET, CONTEXT, LAYERS = 48, 64, 6
SMALL = {
    "num_hidden_layers": LAYERS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 48,
    "num_experts": 8,
    "top_k_experts": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "sliding_window": 16,
    "vocab_size": 256,
    "max_position_embeddings": 512,
}


def small_mixture(directory: Path) -> ModelConfig:
    """Five sliding layers and a full one with K equal to V, head dims 256 and 512, 2 of 8 experts."""
    text = VARIANTS["26b-a4b"].config_json()["text_config"]
    text |= {"architectures": ["Gemma4ForCausalLM"], **SMALL, "layer_types": text["layer_types"][:LAYERS]}
    (directory / "config.json").write_text(json.dumps(text))
    return load_model_config(str(directory / "config.json"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return small_mixture(tmp_path_factory.mktemp("mixture"))


def options(**changes: object) -> TraceOptions:
    base = TraceOptions(max_context=CONTEXT, buckets=(BUCKET,), logit_rows=BUCKET, dtype=DType.F32)
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def traced(config: ModelConfig) -> Module:
    return trace_programs(config, options())


@pytest.fixture(scope="module")
def weights(traced: Module) -> dict[str, Array]:
    return random_arrays(traced)


@pytest.fixture(scope="module")
def wanted(config: ModelConfig, weights: dict[str, Array]) -> Array:
    """Hugging Face's logits of one prompt."""
    return hf_logits(config, weights, DType.F32, token_ids(1, BUCKET))


# -- what is computed ---
def test_logits_are_those_of_hugging_face(config: ModelConfig) -> None:
    """Three windows of prefill, one more of decode, two sequences; every position, before and after raising."""
    module = trace_programs(config, options(batch=2, raised=False))
    ids = token_ids(2, CONTEXT)
    weights = random_arrays(module)
    wanted = hf_logits(config, weights, DType.F32, ids)
    assert relative_error(generated_logits(module, weights, ids, BUCKET), wanted) < 1e-4
    raise_module(module)
    assert relative_error(generated_logits(module, weights, ids, BUCKET), wanted) < 1e-4


def test_bf16_errs_no_more_than_hugging_face(config: ModelConfig) -> None:
    """Both take another expert now and then: its score and the right one's are closer than bf16 can tell."""
    module = trace_programs(config, options(dtype=DType.BF16))
    weights = random_arrays(module)
    ids = token_ids(1, CONTEXT)
    exact = hf_logits(config, weights, DType.F32, ids)
    theirs = hf_logits(config, weights, DType.BF16, ids)
    ours = generated_logits(module, weights, ids, BUCKET)
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 1.5 * np.sqrt(np.mean((theirs - exact) ** 2))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("router.scale", lambda w: np.roll(w, 1)),
        ("router.proj.weight", lambda w: w[::-1].copy()),
        ("router.per_expert_scale", lambda w: np.roll(w, 1)),  # a common factor would be undone by the norm
        ("experts.gate_up_proj", lambda w: np.roll(w, 48, axis=1)),  # gate and up exchanged
        ("experts.down_proj", lambda w: w[::-1].copy()),
        ("pre_feedforward_layernorm_2.weight", lambda w: np.roll(w, 1)),
        ("post_feedforward_layernorm_1.weight", lambda w: np.roll(w, 1)),
        ("post_feedforward_layernorm_2.weight", lambda w: np.roll(w, 1)),
    ],
)
def test_every_tensor_of_the_mixture_counts(
    traced: Module, weights: dict[str, Array], wanted: Array, name: str, change: Callable[[Array], Array]
) -> None:
    """A layer with one tensor changed is told from the right one: the comparison could have failed."""
    key = f"layers.3.{name}"
    changed = {**weights, key: change(weights[key])}
    assert relative_error(generated_logits(traced, changed, token_ids(1, BUCKET), BUCKET), wanted) > 1e-3


def test_the_rewired_model_runs_eagerly_and_agrees(
    config: ModelConfig, weights: dict[str, Array], wanted: Array
) -> None:
    decoder = build_decoder(config, torch.float32, device="cpu")
    state = {name: torch.from_numpy(weights[name]) for name in decoder_tensors(config)}
    assert decoder.model.get_submodule("model").load_state_dict(state, strict=False) == ([], [])
    positions = torch.arange(BUCKET, dtype=torch.int32)[None]
    caches = [torch.zeros(1, CONTEXT, *shape) for shape in decoder.kv_shapes for _ in range(2)]
    inputs = [torch.from_numpy(token_ids(1, BUCKET)), positions]
    with torch.no_grad():
        logits, _ = Program(decoder, select_rows=False)(inputs, caches)
    assert relative_error(logits.numpy(), wanted) < 1e-4


# -- its form ---
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_each_layer_in_its_ops(config: ModelConfig, dtype: DType) -> None:
    """Norms are recognized, the router's without weight too; sequences stay apart; the softmax is elementary.

    In f32 router.scale counts as the weight of the router's norm, in bf16 it multiplies what was rounded.
    """
    function = trace_programs(config, options(dtype=dtype)).functions[f"prefill_{BUCKET}"]
    for layer in range(LAYERS):
        mine = [op for op in function.ops if f"{op.loc.path}.".startswith(f"model.layers.{layer}.")]
        counts = Counter(type(op) for op in mine)
        assert (counts[ops.ExpertsOp], counts[ops.TopKOp], counts[ops.GatedGeluOp]) == (1, 1, 1)
        assert (counts[ops.PowOp], counts[ops.GeluOp], counts[ops.ReduceOp]) == (0, 0, 3)
        assert counts[ops.RmsNormOp] == 4 + 3 + 3 + 1, "of the layer, of attention, of the mixture, of the router"
        router = [op for op in mine if ".router" in op.loc.path and not isinstance(op, ops.LoadWeightOp)]
        (norm,) = (op for op in router if isinstance(op, ops.RmsNormOp))
        assert (norm.w is None) == (dtype == DType.BF16)
        shapes = {value.shape for op in router for value in op.results if value.type.rank}
        assert {shape[:-1] for shape in shapes} == {(1, BUCKET)}
        (experts,) = (op for op in mine if isinstance(op, ops.ExpertsOp))
        assert experts.x.shape == (1, BUCKET, 64)
        assert experts.indices.shape == experts.weights.shape == (1, BUCKET, 2)
        assert experts.weights.dtype == DType.F32


def test_weights_are_those_of_the_checkpoint(config: ModelConfig, traced: Module) -> None:
    shapes = {name: weight.type.shape for name, weight in traced.weights.items() if weight.value is None}
    assert shapes == decoder_tensors(config)


def test_one_layer_per_kind_gives_the_full_trace(config: ModelConfig) -> None:
    assert layer_kinds(build_decoder(config, torch.bfloat16)) == (0, 0, 0, 0, 0, 5)
    one, all_layers = (trace_programs(config, options(dtype=DType.BF16, every_layer=every)) for every in (False, True))
    assert print_module(one) == print_module(all_layers)


def test_every_pass_keeps_the_logits(traced: Module, wanted: Array) -> None:
    """Those of Hugging Face, after each pass of the default pipeline."""
    module = traced.copy()
    for step in parse_pipeline(DEFAULT_PIPELINE).entries:
        if run_pipeline(module, parse_pipeline(str(step)), PipelineOptions(repro_dir=None)).modified:
            arrays = random_arrays(module)
            found = generated_logits(module, arrays, token_ids(1, BUCKET), BUCKET)
            assert relative_error(found, wanted) < 1e-4, str(step)
    kinds = {function.name.partition(".")[2] for function in module.functions.values()}
    assert kinds == {"", "sliding_own", "full_own"}


# -- at full size ---
def test_26b_a4b() -> None:
    """Traced and taken through the passes; every parameter is there; a decode step does the published work."""
    module = trace_programs(load_model_config("26b-a4b"), TraceOptions(buckets=()))
    stored = {name: w.type.size for name, w in module.weights.items() if w.value is None and "layer_scalar" not in name}
    vision = 569_548_080 + 3_244_032
    assert sum(stored.values()) + vision == 25_805_933_872
    assert sum(size for name, size in stored.items() if ".experts." in name) == 22_837_985_280
    experts = list(module.functions["decode"].ops_of(ops.ExpertsOp))
    assert len(experts) == 30
    active, hidden = 47_579_136, 2816
    assert experts[0].cost() == Cost(2 * active, 2 * active + 2 * hidden + 8 * 8, 2 * hidden)
    linear = sum(op.cost().flops for op in module.functions["decode"].ops_of(ops.LinearOp))
    assert linear + 30 * 2 * active == 2 * 3_821_830_144
    report = run_pipeline(module, parse_pipeline(DEFAULT_PIPELINE), PipelineOptions(repro_dir=None))
    assert report.stats("specialize-layers") == {"layers": 30, "kinds": 2}
    assert len(module.caches) == 60
