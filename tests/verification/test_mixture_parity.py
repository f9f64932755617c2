"""A small 26B-A4B, compiled, on XLA's CPU backend, against Hugging Face: logits of every position, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from g4c.cli.main import main
from g4c.frontend.config import ModelConfig, load_model_config
from g4c.frontend.variants import VARIANTS
from g4c.ir.types import DType
from g4c.runtime.bundle import open_bundle
from g4c.runtime.random_weights import RandomWeights
from g4c.runtime.session import Session
from g4c.runtime.weights import WeightStore
from g4c.verification.verify import Verification, stored_tensors, verify_layers, verify_session

LAYERS = 6
CHANGES = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "moe_intermediate_size": 48,
    "num_experts": 16,
    "top_k_experts": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "num_hidden_layers": LAYERS,
    "sliding_window": 32,
    "vocab_size": 512,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """2 of 16 experts: a decode step gathers them, a prefill computes all."""
    text = VARIANTS["26b-a4b"].config_json()["text_config"]
    text |= {"architectures": ["Gemma4ForCausalLM"], **CHANGES, "layer_types": text["layer_types"][:LAYERS]}
    path = tmp_path_factory.mktemp("mixture") / "config.json"
    path.write_text(json.dumps(text))
    return load_model_config(str(path))


def compiled(config: ModelConfig, path: Path, dtype: str) -> Path:
    arguments = ["--buckets", "64", "--max-context", "192", "--logit-rows", "64", "--dtype", dtype, "-q"]
    assert main(["compile", "--config", config.source, "-o", str(path / dtype), *arguments]) == 0
    return path / dtype


def verified(config: ModelConfig, path: Path, dtype: DType, lengths: tuple[int, ...]) -> Verification:
    bundle = open_bundle(path)
    session = Session(bundle, WeightStore(bundle.weights, RandomWeights(0)))
    return verify_session(session, stored_tensors(RandomWeights(0), config, dtype), config, lengths)


def test_f32_logits_of_every_position(config: ModelConfig, tmp_path: Path) -> None:
    path = compiled(config, tmp_path, "float32")
    result = verified(config, path, DType.F32, (1, 33, 65, 128))
    assert [row.positions for row in result.comparisons] == [65, 97, 129, 192]
    for row in result.comparisons:
        assert row.max_relative <= 1e-4, row
        assert row.contested == 0, row
        assert row.same_argmax == row.positions, row
    bundle = open_bundle(path)
    store = WeightStore(bundle.weights, RandomWeights(0))
    layers = verify_layers(bundle, store, stored_tensors(RandomWeights(0), config, DType.F32), config)
    assert [layer.layer for layer in layers] == list(range(LAYERS))
    assert max(layer.rms for layer in layers) < 1e-5


def test_bf16_error_is_that_of_bf16(config: ModelConfig, tmp_path: Path) -> None:
    """Now and then rounding chooses another expert, in Hugging Face's bf16 run as well."""
    result = verified(config, compiled(config, tmp_path, "bfloat16"), DType.BF16, (128,))
    (row,) = result.comparisons
    assert row.peer_rms is not None
    assert row.rms <= 1.5 * row.peer_rms, row
    assert result.passes
