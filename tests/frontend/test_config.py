"""Configs: both spellings, all published variants, what Hugging Face builds from them, and every refusal."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from g4c.errors import G4cError
from g4c.frontend.config import ModelConfig, decoder_tensors, load_model_config, stored_kv_is_dead
from g4c.frontend.variants import VARIANTS

PUBLISHED = ("e2b", "e4b", "12b", "26b-a4b", "31b")
# (decoder layers + final norm + PLE projection, PLE table, token embedding), from the checkpoints' parameter counts.
PARAMETERS = {
    "e2b": (1_877_105_920, 2_348_810_240, 402_653_184),
    "e4b": (3_973_352_448, 2_818_572_288, 671_088_640),
    "12b": (10_900_717_312, 0, 1_006_632_960),
    "26b-a4b": (24_494_944_256, 0, 738_197_504),
    "31b": (29_288_059_136, 0, 1_409_286_144),
}
VISION_AND_AUDIO = {
    "e2b": 167_364_608 + 1_179_648 + 307_183_904,
    "e4b": 167_364_608 + 1_966_080 + 308_756_768,
    "12b": 49_922_304 + 2_457_600,
    "26b-a4b": 569_548_080 + 3_244_032,
    "31b": 569_548_080 + 6_193_152,
}
TOTAL = {
    "e2b": 5_104_297_504,
    "e4b": 7_941_100_832,
    "12b": 11_959_730_176,
    "26b-a4b": 25_805_933_872,
    "31b": 31_273_086_512,
}


def variant_json(name: str = "e2b") -> dict[str, Any]:
    return VARIANTS[name].config_json()


def load(config: object, tmp_path: Path) -> ModelConfig:
    path = tmp_path / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return load_model_config(str(path))


def refusal(config: object, tmp_path: Path) -> G4cError:
    with pytest.raises(G4cError) as caught:
        load(config, tmp_path)
    assert caught.value.where is not None
    return caught.value


def text_refusal(tmp_path: Path, **changes: Any) -> G4cError:
    config = variant_json()
    config["text_config"].update(changes)
    return refusal(config, tmp_path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    config = load_model_config(name)
    sizes = {
        tensor: math.prod(shape)
        for tensor, shape in decoder_tensors(config).items()
        if not stored_kv_is_dead(config, tensor) and not tensor.endswith("layer_scalar")
    }
    ple = sizes.pop("embed_tokens_per_layer.weight", 0)
    embedding = sizes.pop("embed_tokens.weight")
    assert (sum(sizes.values()), ple, embedding) == PARAMETERS[name]
    assert sum(sizes.values()) + ple + embedding + VISION_AND_AUDIO[name] == TOTAL[name]


def test_dead_kv_of_e2b() -> None:
    config = load_model_config("e2b")
    dead = {n: math.prod(s) for n, s in decoder_tensors(config).items() if stored_kv_is_dead(config, n)}
    assert len(dead) == 60
    assert sum(size for name, size in dead.items() if "proj" in name) == 18_874_368
    assert "layers.14.self_attn.k_norm.weight" not in dead
    assert not stored_kv_is_dead(config, "layers.15.self_attn.q_norm.weight")


@pytest.mark.parametrize(
    ("name", "donors", "first_shared", "layers"),
    [
        ("e2b", (13, 14), 15, 35),
        ("tiny-e2b", (13, 14), 15, 35),
        ("e4b", (22, 23), 24, 42),
        ("12b", (), 48, 48),
        ("26b-a4b", (), 30, 30),
        ("31b", (), 60, 60),
    ],
)
def test_layer_maps(name: str, donors: tuple[int, ...], first_shared: int, layers: int) -> None:
    config = load_model_config(name)
    period = 5 if "e2b" in name else 6
    assert len(config.layers) == layers
    assert config.donors == donors
    for layer in config.layers:
        full = layer.index % period == period - 1
        assert layer.attention == ("full" if full else "sliding")
        assert layer.head_dim == (512 if full else 256)
        assert (layer.window is None) == full
        assert (layer.donor is None) == (layer.index < first_shared)
        assert layer.donor is None or layer.donor == donors[full]


def test_four_kinds_of_e2b() -> None:
    kinds = {
        (layer.attention, layer.donor is None, layer.head_dim, layer.kv_heads, layer.window, layer.intermediate_size)
        for layer in load_model_config("e2b").layers
    }
    assert kinds == {
        ("sliding", True, 256, 1, 512, 6144),
        ("full", True, 512, 1, None, 6144),
        ("sliding", False, 256, 1, 512, 12288),
        ("full", False, 512, 1, None, 12288),
    }


@pytest.mark.parametrize(
    ("name", "sliding", "full", "k_eq_v"),
    [("e4b", 2, 2, False), ("12b", 8, 1, True), ("26b-a4b", 8, 2, True), ("31b", 16, 4, True)],
)
def test_kv_heads(name: str, sliding: int, full: int, k_eq_v: bool) -> None:
    layers = load_model_config(name).layers
    assert {(layer.attention, layer.kv_heads, layer.k_eq_v) for layer in layers} == {
        ("sliding", sliding, False),
        ("full", full, k_eq_v),
    }


def test_tiny_e2b_is_e2b_at_small_widths() -> None:
    tiny, real = load_model_config("tiny-e2b"), load_model_config("e2b")
    assert (tiny.hidden_size, tiny.vocab_size, tiny.max_positions) == (128, 1024, 8192)
    same = ("index", "attention", "head_dim", "kv_heads", "window", "donor")
    for small, large in zip(tiny.layers, real.layers, strict=True):
        assert [getattr(small, f) for f in same] == [getattr(large, f) for f in same]
        assert small.intermediate_size * 24 == large.intermediate_size
    assert (tiny.rope, tiny.softcap, tiny.num_heads, tiny.rms_norm_eps) == (real.rope, 30.0, 8, 1e-6)


def test_rope_and_scalars_of_e2b() -> None:
    config = load_model_config("e2b")
    sliding, full = config.rope["sliding_attention"], config.rope["full_attention"]
    assert (sliding.rope_type, sliding.theta, sliding.rotated_pairs, sliding.head_dim) == ("default", 1e4, 128, 256)
    assert (full.rope_type, full.theta, full.rotated_pairs, full.head_dim) == ("proportional", 1e6, 64, 512)
    assert (config.softcap, config.rms_norm_eps, config.ple_width, config.max_positions) == (30.0, 1e-6, 256, 131072)
    assert config.eos_token_ids == (1, 50, 106)
    assert config.dtype == "bf16"
    assert config.checkpoint is None


@pytest.mark.parametrize("name", [*PUBLISHED, "tiny-e2b"])
def test_hugging_face_sees_the_same_architecture(name: str) -> None:
    from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
    from transformers.models.gemma4_unified.configuration_gemma4_unified import Gemma4UnifiedTextConfig

    config = load_model_config(name)
    cls = Gemma4UnifiedTextConfig if config.unified else Gemma4TextConfig
    ours = cls(**copy.deepcopy(config.text_config_json))
    raw = variant_json(name)
    theirs = cls(**raw.get("text_config", raw))
    for index, layer in enumerate(config.layers):
        for hf in (ours, theirs):
            view = hf.per_layer_config[index]
            assert (view.head_dim, view.num_key_value_heads) == (layer.head_dim, layer.kv_heads)
            assert hf.layer_types[index] == f"{layer.attention}_attention"
            assert (hf.kv_sharing_modes[index] == "reuse") == (layer.donor is not None)
    fields = {field.name for field in dataclasses.fields(cls)} - {"architectures", "transformers_version", "dtype"}
    fields -= {"head_dim", "num_key_value_heads"}  # per layer, compared above; reading them here would raise
    assert {name for name in fields if getattr(ours, name) != getattr(theirs, name)} == set()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_spelling_of_new_transformers_reads_the_same(name: str, tmp_path: Path) -> None:
    """What transformers writes back has per_layer_config with zero-padded keys in place of global_head_dim."""
    from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig

    if name == "12b":
        from transformers.models.gemma4_unified.configuration_gemma4_unified import (
            Gemma4UnifiedTextConfig as Gemma4TextConfig,
        )
    raw = variant_json(name)
    Gemma4TextConfig(**raw["text_config"]).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert "global_head_dim" not in saved
    assert next(iter(saved["per_layer_config"])) == ("04" if name == "e2b" else "05")
    old = load_model_config(name)
    text_only = load_model_config(str(tmp_path))
    nested = load({**raw, "text_config": saved}, tmp_path)
    for new in (text_only, nested):
        assert (new.layers, new.rope, new.moe) == (old.layers, old.rope, old.moe)
        assert decoder_tensors(new) == decoder_tensors(old)
    assert nested.text_config_json == old.text_config_json
    assert text_only.architecture in ("Gemma4ForCausalLM", "Gemma4UnifiedForCausalLM")


def test_absent_layer_types_follow_the_default_rule(tmp_path: Path) -> None:
    from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig

    config = variant_json()
    del config["text_config"]["layer_types"]
    config["text_config"]["num_kv_shared_layers"] = 0
    loaded = load(config, tmp_path)
    full = [layer.index for layer in loaded.layers if layer.attention == "full"]
    assert full == [5, 11, 17, 23, 29, 34]
    hf = Gemma4TextConfig(**config["text_config"])
    assert [f"{layer.attention}_attention" for layer in loaded.layers] == hf.layer_types


def test_missing_global_head_dim_means_512(tmp_path: Path) -> None:
    config = variant_json()
    del config["text_config"]["global_head_dim"]
    assert load(config, tmp_path).layers == load_model_config("e2b").layers


def test_kv_head_override_needs_k_eq_v(tmp_path: Path) -> None:
    config = variant_json("31b")
    config["text_config"]["attention_k_eq_v"] = False
    assert {layer.kv_heads for layer in load(config, tmp_path).layers} == {16}


def test_eos_ids_are_the_union(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 106, 50]}')
    (tmp_path / "config.json").write_text(json.dumps(variant_json()))
    assert load_model_config(str(tmp_path)).eos_token_ids == (1, 50, 106)
    assert load_model_config(str(tmp_path / "config.json")).eos_token_ids == (1, 106)


@pytest.mark.parametrize(
    ("spec", "nearest"), [("e2", "e2b"), ("google/gemma-4-E2B-it", "e2b"), ("tiny_e2b", "tiny-e2b"), ("26b", "26b-a4b")]
)
def test_unknown_variant_names_the_nearest(spec: str, nearest: str) -> None:
    with pytest.raises(G4cError) as caught:
        load_model_config(spec)
    assert (caught.value.code, caught.value.exit_code) == ("G4C-F001", 2)
    assert f"did you mean {nearest}" in (caught.value.help or "")


def test_bad_paths(tmp_path: Path) -> None:
    def code(spec: object) -> str:
        with pytest.raises(G4cError) as caught:
            load_model_config(str(spec))
        return caught.value.code

    assert code(tmp_path / "absent") == "G4C-F002"
    assert code("absent.json") == "G4C-F002"
    assert code("x" * 5000) == "G4C-F003"
    assert code(tmp_path) == "G4C-F005"
    (tmp_path / "config.json").mkdir()
    assert code(tmp_path) == "G4C-F003"
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    assert code(binary) == "G4C-F003"


@pytest.mark.parametrize("text", ["", "{", "[1]", '"e2b"', "version https://git-lfs.github.com/spec/v1", "[" * 100_000])
def test_not_json(text: str, tmp_path: Path) -> None:
    assert refusal(text, tmp_path).code == "G4C-F004"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"architectures": ["Gemma3nForConditionalGeneration"], "model_type": "gemma3n"}, "Gemma 3n"),
        ({"architectures": ["DiffusionGemmaForBlockDiffusion"], "model_type": "diffusion_gemma"}, "DiffusionGemma"),
        ({"architectures": None, "model_type": "embedding_gemma2"}, "EmbeddingGemma 2"),
        ({"architectures": ["Gemma4AssistantForCausalLM"], "model_type": "gemma4_assistant"}, "drafter"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
        ({"architectures": [], "model_type": None}, "names neither"),
    ],
)
def test_other_models_are_refused_by_name(changes: dict[str, Any], word: str, tmp_path: Path) -> None:
    error = refusal({**variant_json(), **changes}, tmp_path)
    assert error.code == "G4C-F006"
    assert word in error.message


@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_missing_field(name: str, tmp_path: Path) -> None:
    config = variant_json()
    del config["text_config"][name]
    error = refusal(config, tmp_path)
    assert (error.code, error.message) == ("G4C-F007", f"text_config.{name} is missing")


def test_missing_text_config(tmp_path: Path) -> None:
    config = variant_json()
    del config["text_config"]
    assert refusal(config, tmp_path).code == "G4C-F007"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", -1536),
        ("hidden_size", "1536"),
        ("hidden_size", 1536.0),
        ("hidden_size", True),
        ("num_hidden_layers", 0),
        ("num_key_value_heads", 0),
        ("intermediate_size", -1),
        ("head_dim", 255),
        ("global_head_dim", 0),
        ("sliding_window", 0),
        ("vocab_size", 300_000),
        ("vocab_size_per_layer_input", 1000),
        ("pad_token_id", 262_144),
        ("hidden_size_per_layer_input", -1),
        ("rms_norm_eps", "small"),
        ("rms_norm_eps", 0),
        ("final_logit_softcapping", -30),
        ("use_double_wide_mlp", 1),
        ("rope_parameters", []),
        ("layer_types", "full_attention"),
        ("eos_token_id", [1, "2"]),
        ("max_position_embeddings", 0),
        ("dtype", "int4"),
    ],
)
def test_bad_value(name: str, value: object, tmp_path: Path) -> None:
    assert text_refusal(tmp_path, **{name: value}).code == "G4C-F008"


def test_layer_types_of_wrong_length(tmp_path: Path) -> None:
    error = text_refusal(tmp_path, layer_types=["sliding_attention"] * 34)
    assert error.code == "G4C-F009"
    assert "34 entries" in error.message
    assert "35" in error.message


def test_unknown_layer_type(tmp_path: Path) -> None:
    error = text_refusal(
        tmp_path, layer_types=["sliding_attention"] * 3 + ["linear_attention"] + ["full_attention"] * 31
    )
    assert error.code == "G4C-F010"
    assert "[3] is 'linear_attention'" in error.message


@pytest.mark.parametrize("shared", [31, 34, 35, 40])
def test_donor_that_does_not_exist(shared: int, tmp_path: Path) -> None:
    assert text_refusal(tmp_path, num_kv_shared_layers=shared).code == "G4C-F011"


def test_sliding_donor_that_does_not_exist(tmp_path: Path) -> None:
    types = ["full_attention"] * 15 + ["sliding_attention"] * 19 + ["full_attention"]
    error = text_refusal(tmp_path, layer_types=types)
    assert error.code == "G4C-F011"
    assert "layer 15 needs the K/V of a sliding_attention layer" in error.message


def rope(**full: object) -> dict[str, object]:
    return {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25, **full},
    }


@pytest.mark.parametrize("rope_type", ["yarn", "linear", "axial", "Proportional"])
def test_unknown_rope_type(rope_type: str, tmp_path: Path) -> None:
    error = text_refusal(tmp_path, rope_parameters=rope(rope_type=rope_type))
    assert error.code == "G4C-F012"
    assert repr(rope_type) in error.message


@pytest.mark.parametrize(
    "parameters",
    [
        {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}},
        {"rope_type": "default", "rope_theta": 10000.0},
        rope(rope_type=None),
        rope(rope_theta=None),
        rope(partial_rotary_factor=1.5),
        rope(factor=8.0),
    ],
)
def test_incomplete_rope(parameters: dict[str, object], tmp_path: Path) -> None:
    assert text_refusal(tmp_path, rope_parameters=parameters).code == "G4C-F013"


def test_inconsistent_head_counts(tmp_path: Path) -> None:
    assert text_refusal(tmp_path, num_key_value_heads=3).code == "G4C-F014"


@pytest.mark.parametrize(
    "overrides",
    [
        {"35": {"head_dim": 512}},
        {"x": {"head_dim": 512}},
        {"04": 512},
        {"04": {"head_dim": 512}},
        {"04": {"intermediate_size": 1}},
    ],
)
def test_bad_per_layer_config(overrides: dict[str, object], tmp_path: Path) -> None:
    assert text_refusal(tmp_path, per_layer_config=overrides).code == "G4C-F015"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention_bias", True),
        ("tie_word_embeddings", False),
        ("hidden_activation", "silu"),
        ("use_bidirectional_attention", "all"),
    ],
)
def test_unsupported_switch(name: str, value: object, tmp_path: Path) -> None:
    assert text_refusal(tmp_path, **{name: value}).code == "G4C-F016"


def test_loading_imports_neither_torch_nor_numpy() -> None:
    script = (
        "import sys; from g4c.frontend.config import load_model_config; load_model_config('e2b');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
