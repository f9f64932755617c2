"""Hugging Face's own model on given weights: the oracle that g4c's output is measured against.

In: a config, and arrays by decoder-relative tensor name. Out: a `Gemma4ForCausalLM` in eval mode with eager attention
and experts that shares memory with the arrays (nothing is copied, so a full-size model fits beside a running session).
Invariant: no parameter and no persistent buffer keeps a value that the arrays did not give.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.gemma4.modeling_gemma4 import (
    Gemma4ForCausalLM,
    Gemma4TextRotaryEmbedding,
    Gemma4TextScaledWordEmbedding,
)

from g4c.frontend.config import ModelConfig
from g4c.ir.types import DType

Tensors = Callable[[str], np.ndarray]


def build_oracle(
    config: ModelConfig, tensors: Tensors, dtype: DType, *, per_layer_table: np.ndarray | None = None
) -> Gemma4ForCausalLM:
    """HF's causal LM of `config` in `dtype` (BF16 or F32); `tensors(name)` gives each tensor in that dtype.

    `per_layer_table`: the table of per-layer embeddings, half of E2B's parameters, in the dtype that it is stored in;
    its rows are widened when they are looked up, so that the f32 model fits where the table in f32 would not.
    """
    text_config = Gemma4TextConfig(**config.text_config_json)
    text_config._attn_implementation = "eager"
    text_config._experts_implementation = "eager"
    with torch.device("meta"):
        model = Gemma4ForCausalLM(text_config)
    state = {
        name: _as_torch(tensors(name.removeprefix("model."))) for name in model.state_dict() if name != "lm_head.weight"
    }
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    model.model.rotary_emb = Gemma4TextRotaryEmbedding(text_config)
    for module in model.modules():
        if isinstance(module, Gemma4TextScaledWordEmbedding):
            module.embed_scale = torch.tensor(module.scalar_embed_scale)
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not left, f"tensors without a value: {left}"
    wrong = {tensor.dtype for tensor in model.parameters()} - {_TORCH[dtype]}
    assert not wrong, f"parameters of {wrong} in a {dtype.mlir} model"
    return model.eval().requires_grad_(False)


_TORCH = {DType.F32: torch.float32, DType.BF16: torch.bfloat16}


class _NarrowTable(torch.nn.Module):
    """HF's scaled embedding, for each call over the rows that the call looks up, widened to `dtype`."""

    def __init__(self, embedding: Gemma4TextScaledWordEmbedding, table: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = embedding.scalar_embed_scale
        self.rows = lambda ids: table[ids].to(dtype)  # not a parameter: it is not of the model's dtype

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        used, index = token_ids.unique(return_inverse=True)
        rows = self.rows(used)
        embedding = Gemma4TextScaledWordEmbedding(*rows.shape, padding_idx=None, embed_scale=self.scale)
        embedding.weight = torch.nn.Parameter(rows, requires_grad=False)
        return embedding(index)


@torch.no_grad()
def all_logits(model: Gemma4ForCausalLM, token_ids: np.ndarray) -> np.ndarray:
    """Logits [b, s, V] as f32 of one forward over `token_ids` [b, s], without a cache."""
    output = model(input_ids=torch.from_numpy(token_ids.astype(np.int64)), use_cache=False)
    return output.logits.float().numpy()


@torch.no_grad()
def layer_outputs(model: Gemma4ForCausalLM, token_ids: np.ndarray) -> list[np.ndarray]:
    """Hidden states [b, s, h] as f32 after every decoder layer, in layer order."""
    outputs: list[np.ndarray] = []
    with _observed(model, lambda hidden: outputs.append(hidden.float().numpy())):
        model(input_ids=torch.from_numpy(token_ids.astype(np.int64)), use_cache=False)
    return outputs


@contextmanager
def _observed(model: Gemma4ForCausalLM, observe: Callable[[torch.Tensor], None]) -> Iterator[None]:
    handles = [
        layer.register_forward_hook(lambda module, args, output: observe(output.clone()))
        for layer in model.model.layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _as_torch(array: np.ndarray) -> torch.Tensor:
    """A tensor over the memory of `array`; bf16 goes through its bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the arrays may be read-only maps; nothing here writes to them
        if array.dtype == DType.BF16.numpy:
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)
