"""A small-width E2B with all 35 layers, real head dims and the real window: the bundle's programs against Hugging Face.

Logits of every position: prompts below, at, past and far past buckets and window, then 64 decode steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from g4c.cli.main import main
from g4c.frontend.config import ModelConfig, load_model_config
from g4c.frontend.oracle import Tensors, all_logits, build_oracle
from g4c.frontend.variants import VARIANTS
from g4c.ir.types import DType
from g4c.runtime.bundle import open_bundle
from g4c.runtime.random_weights import RandomWeights
from g4c.runtime.session import Session
from g4c.runtime.weights import WeightStore
from g4c.verification.verify import default_lengths, stored_tensors, verify_layers, verify_session

LENGTHS = (1, 127, 129, 512, 513, 1300)
CONFIG: ModelConfig = load_model_config("tiny-e2b")


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("parity") / "f32", "float32")


def compiled(path: Path, dtype: str) -> Path:
    assert main(["compile", "tiny-e2b", "-o", str(path), "--dtype", dtype, "--logit-rows", "128", "-q"]) == 0
    return path


def session(path: Path) -> Session:
    bundle = open_bundle(path)
    return Session(bundle, WeightStore(bundle.weights, RandomWeights(0)))


def tensors(stored: DType) -> Callable[[DType], Tensors]:
    return stored_tensors(RandomWeights(0), CONFIG, stored)


@pytest.mark.slow
def test_f32_logits_of_every_position(f32: Path) -> None:
    result = verify_session(session(f32), tensors(DType.F32), CONFIG, LENGTHS)
    assert [row.positions for row in result.comparisons] == [length + 64 for length in LENGTHS]
    for row in result.comparisons:
        assert row.max_relative <= 1e-4, row
        assert row.contested == 0, row
        assert row.same_argmax == row.positions, row
    assert result.passes


@pytest.mark.slow
def test_bf16_error_is_that_of_bf16(tmp_path: Path) -> None:
    """Rounding alone costs this random model far more than a cosine of 0.9999, Hugging Face's own bf16 run included."""
    bundle = session(compiled(tmp_path / "bf16", "bfloat16"))
    result = verify_session(bundle, tensors(DType.BF16), CONFIG, (1, 129, 600))
    for row in result.comparisons:
        assert row.contested == 0, row
        assert row.peer_rms is not None
        assert row.rms <= 1.5 * row.peer_rms, row
    assert result.passes


def test_bf16_cosine_where_the_model_is_shallow(tmp_path: Path) -> None:
    """One layer of each kind, so few roundings that a cosine of 0.9999 over all logits is there to be had."""
    shape = VARIANTS["tiny-e2b"].config_json()
    shape |= {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "hidden_size": 512}
    shape["layer_types"] = ["sliding_attention", "full_attention"] * 2
    (tmp_path / "config.json").write_text(json.dumps(shape))
    arguments = ["compile", "--config", str(tmp_path / "config.json"), "-o", str(tmp_path / "bundle"), "-q"]
    assert main([*arguments, "--logit-rows", "128"]) == 0
    config = load_model_config(str(tmp_path / "config.json"))
    held = stored_tensors(RandomWeights(0), config, DType.BF16)
    result = verify_session(session(tmp_path / "bundle"), held, config, (1, 513))
    for row in result.comparisons:
        assert 1 - row.rms**2 / 2 > 0.9999, row
        assert row.contested == 0, row
    assert result.passes


def test_the_hlo_for_neuronx_cc_gives_the_same_logits(tmp_path: Path) -> None:
    """The CPU runs its own form of a bf16 program; this runs the one that neuronx-cc gets."""
    shape = VARIANTS["tiny-e2b"].config_json()
    shape |= {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "hidden_size": 512}
    shape["layer_types"] = ["sliding_attention", "full_attention"] * 2
    (tmp_path / "config.json").write_text(json.dumps(shape))
    arguments = ["compile", "--config", str(tmp_path / "config.json"), "-o", str(tmp_path / "bundle"), "-q"]
    assert main([*arguments, "--buckets", "128", "--max-context", "256", "--logit-rows", "128"]) == 0
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.program("decode").cpu_file != bundle.program("decode").file
    device = {name: replace(program, cpu_file=program.file) for name, program in bundle.programs.items()}
    weights = WeightStore(bundle.weights, RandomWeights(0))
    config = load_model_config(str(tmp_path / "config.json"))
    held = stored_tensors(RandomWeights(0), config, DType.BF16)
    result = verify_session(Session(replace(bundle, programs=device), weights), held, config, (1, 129))
    for row in result.comparisons:
        assert 1 - row.rms**2 / 2 > 0.9999, row
        assert row.contested == 0, row


@pytest.mark.slow
def test_another_model_does_not_pass(f32: Path) -> None:
    """The same programs on weights that differ in one norm of one layer."""
    bundle = open_bundle(f32)
    weights = dict(WeightStore(bundle.weights, RandomWeights(0)))
    weights["layers.9.self_attn.q_norm.weight"] = weights["layers.9.self_attn.q_norm.weight"] * np.float32(1.05)
    changed = verify_session(Session(bundle, weights), tensors(DType.F32), CONFIG, (129,))
    assert not changed.passes


@pytest.mark.slow
def test_layer_by_layer(f32: Path) -> None:
    bundle = open_bundle(f32)
    store = WeightStore(bundle.weights, RandomWeights(0))
    layers = verify_layers(bundle, store, tensors(DType.F32), CONFIG)
    assert [layer.layer for layer in layers] == list(range(35))
    assert max(layer.rms for layer in layers) < 1e-4
    assert layers[0].rms < 5e-6


def test_the_oracle_may_keep_its_per_layer_table_narrow() -> None:
    """Looking rows up in bf16 and widening them is the f32 model, bit for bit."""
    tokens = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 20))
    get = tensors(DType.BF16)
    table = get(DType.BF16)("embed_tokens_per_layer.weight")
    wide = build_oracle(CONFIG, get(DType.F32), DType.F32)
    narrow = build_oracle(CONFIG, get(DType.F32), DType.F32, per_layer_table=table)
    np.testing.assert_array_equal(all_logits(narrow, tokens), all_logits(wide, tokens))


def test_default_lengths_lie_around_buckets_and_window() -> None:
    bundle: Any = SimpleNamespace(prefill_buckets=(128, 512), max_context=2048)
    lengths = default_lengths(bundle, 512)
    assert lengths == (1, 127, 128, 129, 511, 512, 513, 1300)
