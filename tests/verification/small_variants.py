"""Small models with the structure of the published ones: real head dims and layer patterns, window 16, tiny widths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from g4c.frontend.config import ModelConfig, load_model_config
from g4c.frontend.variants import VARIANTS

WINDOW = 16
_WIDTHS: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "sliding_window": WINDOW,
}
_PLE: dict[str, Any] = {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 256}

# name -> variant that it is like, layers, and what else is smaller
_CHANGES: dict[str, tuple[str, int, dict[str, Any]]] = {
    # 5 owners, 5 that share; a double-wide MLP where they share
    "e2b-like": ("e2b", 10, {**_PLE, "num_kv_shared_layers": 5, "num_attention_heads": 4}),
    # two KV heads; 6 owners, 6 that share
    "e4b-like": ("e4b", 12, {**_PLE, "num_kv_shared_layers": 6, "num_attention_heads": 4}),
    # K equals V on full layers, other KV heads there, no sharing, no per-layer embeddings
    "31b-like": (
        "31b",
        6,
        {"num_attention_heads": 8, "num_key_value_heads": 4, "num_global_key_value_heads": 2},
    ),
}
SMALL_VARIANTS = tuple(_CHANGES)


def small_variant(name: str, directory: Path, **further: object) -> ModelConfig:
    """The config of a small variant with `further` changes, written to and loaded from `directory`."""
    variant, layers, changes = _CHANGES[name]
    text = VARIANTS[variant].config_json()["text_config"]
    text |= {"num_hidden_layers": layers, "layer_types": text["layer_types"][:layers]}
    path = directory / f"{name}.json"
    path.write_text(json.dumps({"architectures": ["Gemma4ForCausalLM"], **text, **_WIDTHS, **changes, **further}))
    return load_model_config(str(path))
