"""Checkpoints of a small Gemma 4 as Hugging Face saves them, in every form that g4c reads.

Out: `make_model` (Hugging Face's own classes, weights drawn so that nothing is hidden), `save` (single file or sharded,
with or without the leftover K/V of KV-shared layers).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.models.gemma4.configuration_gemma4 import (
    Gemma4AudioConfig,
    Gemma4Config,
    Gemma4TextConfig,
    Gemma4VisionConfig,
)
from transformers.models.gemma4.modeling_gemma4 import Gemma4ForCausalLM, Gemma4ForConditionalGeneration

from g4c.frontend.config import decoder_tensors, load_model_config, stored_kv_is_dead

WINDOW = 64
CONTEXT = 1024
VOCABULARY = 512


def text_config(**changes: object) -> Gemma4TextConfig:
    """E2B in ten layers: 0-3 and 5-8 slide, 4 and 9 are full; 5-9 share. Head dims 256 and 512, as published."""
    base = load_model_config("tiny-e2b").text_config_json
    layers = 10
    fields = {
        **base,
        "num_hidden_layers": layers,
        "num_kv_shared_layers": 5,
        "layer_types": base["layer_types"][:layers],
        "per_layer_config": {index: base["per_layer_config"][index] for index in ("4", "9")},
        "sliding_window": WINDOW,
        "hidden_size": 96,
        "intermediate_size": 128,
        "hidden_size_per_layer_input": 16,
        "num_attention_heads": 4,
        "vocab_size": VOCABULARY,
        "vocab_size_per_layer_input": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "dtype": "float32",
        **changes,
    }
    return Gemma4TextConfig(**fields)


def make_model(architecture: str, seed: int = 0) -> Any:
    """The model in f32, its decoder the same for both architectures.

    Norm weights, scalars and tables are away from the values that they begin with; q and k norms are small, because
    attention scores are unscaled.
    """
    if architecture == "Gemma4ForCausalLM":
        model = Gemma4ForCausalLM(text_config())
        decoder = model.model
    else:
        vision = Gemma4VisionConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            head_dim=16, position_embedding_size=16, use_clipped_linears=True, standardize=True,
        )  # fmt: skip
        audio = Gemma4AudioConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, output_proj_dims=32)
        model = Gemma4ForConditionalGeneration(
            Gemma4Config(text_config=text_config(), vision_config=vision, audio_config=audio, dtype="float32")
        )
        decoder = model.model.language_model
    model.config._attn_implementation = "eager"
    model.set_attn_implementation("eager")
    generator = torch.Generator().manual_seed(seed)
    persistent = decoder.state_dict()
    for name in sorted(persistent):
        _draw(name, persistent[name], generator)
    return model.eval().requires_grad_(False)


def _draw(name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        tensor.uniform_(0.1, 0.4, generator=generator)
    elif name.endswith("layer_scalar"):
        tensor.uniform_(0.2, 0.9, generator=generator)
    elif tensor.ndim == 1:
        tensor.uniform_(0.5, 1.5, generator=generator)
    else:
        packed = name.endswith("embed_tokens_per_layer.weight")
        tensor.normal_(0.0, 1 / 16 if packed else tensor.shape[-1] ** -0.5, generator=generator)


def save(model: Any, directory: Path, *, sharded: bool = False, leftovers: bool = False) -> Path:
    """`model.save_pretrained`; `leftovers`: shared layers have K/V tensors, as in the published files, of garbage."""
    model.save_pretrained(directory, max_shard_size="400KB" if sharded else "5GB")
    assert (directory / "model.safetensors").exists() != sharded
    if leftovers:
        _add_leftovers(directory)
    return directory


def _add_leftovers(directory: Path) -> None:
    config = load_model_config(str(directory))
    prefix = "model.language_model." if "text_config" in config.config_json else "model."
    index_file = directory / "model.safetensors.index.json"
    index = json.loads(index_file.read_text()) if index_file.exists() else None
    file = sorted(directory.glob("*.safetensors"))[0]
    tensors = load_file(file)
    dtype = tensors[next(iter(tensors))].dtype
    for number, (name, shape) in enumerate(decoder_tensors(config).items()):
        if stored_kv_is_dead(config, name):
            assert f"{prefix}{name}" not in tensors
            tensors[f"{prefix}{name}"] = torch.full(shape, 1000.0 + number, dtype=dtype)
            if index is not None:
                index["weight_map"][f"{prefix}{name}"] = file.name
    save_file(tensors, file, metadata={"format": "pt"})
    if index is not None:
        index_file.write_text(json.dumps(index))
