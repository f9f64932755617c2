"""A model with every layer kind of E2B in ten layers and a window of 16, its weights, Hugging Face's logits for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from g4c.frontend.config import ModelConfig, load_model_config
from g4c.frontend.oracle import all_logits, build_oracle
from g4c.frontend.variants import VARIANTS
from g4c.ir.interpreter import interpret
from g4c.ir.module import Module
from g4c.ir.types import Array, DType
from g4c.runtime.random_weights import RandomWeights

WINDOW = 16
LAYERS = 10
SHARED = 5


def small_config(directory: Path, **changes: object) -> ModelConfig:
    """Layers 0-3 and 5-8 slide, 4 and 9 are full; 5-9 share, so 3 and 4 are the donors."""
    text = VARIANTS["tiny-e2b"].config_json()
    text |= {"layer_types": text["layer_types"][:LAYERS], "num_hidden_layers": LAYERS}
    text |= {"num_kv_shared_layers": SHARED, "sliding_window": WINDOW, "vocab_size": 256, "hidden_size": 64}
    text |= {"vocab_size_per_layer_input": 256, "max_position_embeddings": 512, **changes}
    path = directory / "config.json"
    path.write_text(json.dumps(text))
    return load_model_config(str(path))


def random_arrays(module: Module) -> dict[str, Array]:
    """Every weight of `module`, drawn so that no norm weight, scalar or table hides a mistake."""
    drawn = RandomWeights(0)
    return {name: weight.materialize(drawn.stored) for name, weight in module.weights.items()}


def hf_logits(config: ModelConfig, weights: dict[str, Array], dtype: DType, token_ids: Array) -> Array:
    """Logits [b, s, V] of Hugging Face's own model, eager, on the same weights."""
    model = build_oracle(config, lambda name: weights[name].astype(dtype.numpy), dtype)
    return all_logits(model, token_ids)


def token_ids(batch: int, length: int) -> Array:
    return np.random.default_rng(7).integers(0, 256, (batch, length)).astype(np.int32)


def generated_logits(module: Module, weights: dict[str, Array], ids: Array, bucket: int) -> Array:
    """Logits [b, n, V] of all positions of `ids` [b, n]: a prefill of `bucket` positions, then decode, one by one.

    The prefill program must return the logits of all its rows.
    """
    batch = ids.shape[0]
    state = {c.name: np.zeros(c.type.shape, c.type.dtype.numpy) for c in module.caches.values()}
    counted = np.tile(np.arange(bucket, dtype=np.int32), (batch, 1))
    inputs = {"token_ids": np.ascontiguousarray(ids[:, :bucket]), "positions": counted, "rows": counted}
    state = interpret(module, f"prefill_{bucket}", {**inputs, **state}, weights)
    logits = [state.pop("logits")]
    for position in range(bucket, ids.shape[1]):
        one = np.full((batch, 1), position, np.int32)
        inputs = {"token_ids": np.ascontiguousarray(ids[:, position : position + 1]), "positions": one}
        state = interpret(module, "decode", {**inputs, **state}, weights)
        logits.append(state.pop("logits"))
    return np.concatenate(logits, axis=1).astype(np.float32)


def relative_error(found: Array, wanted: Array) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
