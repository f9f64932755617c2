"""Hugging Face's decoder, built without weights and rewired so that attention, experts and cache updates stay whole.

In: a `ModelConfig`. Out: a `Decoder`: Hugging Face's own module tree, and `Program`, its call as one function of
token ids, positions, logit rows and caches. What is rewired, all through Hugging Face's extension points: the
attention function and the experts function (registered under the name "g4c"), the cache object (`update` writes the
layer's own cache and returns the donor's), and the attention of every layer, which is the same class built from a
config without KV sharing, so that each layer has the K/V projections that the published checkpoints store for it.
Invariant: no formula of the model is restated here; which layer reads whose cache is what `config.kv_sharing_modes`
says.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from g4c.errors import G4cError
from g4c.frontend import custom_ops as _custom_ops  # noqa: F401  (registers torch.ops.g4c)
from g4c.frontend.config import ModelConfig

IMPLEMENTATION = "g4c"  # the name under which Hugging Face's models find the functions of this file


@dataclass(frozen=True)
class Decoder:
    """The rewired model (a `Gemma4ForCausalLM`) and what tracing must know of it.

    `donors`, `kv_shapes`: per layer the layer whose cache it reads, and its own cache's (kv_heads, head_dim).
    `constants`: buffers that no checkpoint stores (embedding scales, RoPE frequencies), by module path, with the
    values and dtypes that Hugging Face computes from the config. `tied`: parameters that are another one's alias.
    """

    model: nn.Module
    donors: tuple[int, ...]
    kv_shapes: tuple[tuple[int, int], ...]
    constants: dict[str, Tensor]
    tied: dict[str, str]
    dtype: torch.dtype

    @property
    def layers(self) -> nn.ModuleList:
        layers = self.model.get_submodule("model.layers")
        assert isinstance(layers, nn.ModuleList)
        return layers


def build_decoder(config: ModelConfig, dtype: torch.dtype, device: str = "meta") -> Decoder:
    """Build the decoder that `config` describes in `dtype`, with uninitialized parameters on `device`. Errors:
    G4C-F050, F051.
    """
    causal_lm, config_class = _classes(config.unified)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device), no_init_weights():
            hf_config = _hf_config(config_class, config.text_config_json)
            model: Any = causal_lm(hf_config)
            if any(mode == "reuse" for mode in hf_config.kv_sharing_modes):
                _unshare(model, _hf_config(config_class, {**config.text_config_json, "num_kv_shared_layers": 0}))
        constants = _unstored_buffers(model)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise G4cError("G4C-F050", f"{type(error).__name__}: {reason}", where=config.source) from error
    finally:
        torch.set_default_dtype(previous)
    for alias, path in model._tied_weights_keys.items():
        owner, _, name = alias.rpartition(".")
        setattr(model.get_submodule(owner), name, model.get_parameter(path))
    model.requires_grad_(False).eval()
    # No gradient is ever needed; each switch of the gradient mode inside the graph would make torch.export split it
    # twice.
    rotary = model.model.rotary_emb
    rotary.forward = types.MethodType(inspect.unwrap(type(rotary).forward), rotary)
    # Hugging Face loops over a set here; a fixed order makes the graph the same in every process.
    model.model.unique_layer_types = sorted(model.model.unique_layer_types)
    attentions = [layer.self_attn for layer in model.model.layers]
    kv_shapes = tuple((a.k_proj.out_features // a.head_dim, a.head_dim) for a in attentions)
    tied = dict(model._tied_weights_keys)
    return Decoder(model, _donors(hf_config), kv_shapes, constants, tied, dtype)


def _classes(unified: bool) -> tuple[Callable[..., nn.Module], Callable[..., Any]]:
    if unified:
        from transformers.models.gemma4_unified.configuration_gemma4_unified import Gemma4UnifiedTextConfig
        from transformers.models.gemma4_unified.modeling_gemma4_unified import Gemma4UnifiedForCausalLM

        return Gemma4UnifiedForCausalLM, Gemma4UnifiedTextConfig
    from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
    from transformers.models.gemma4.modeling_gemma4 import Gemma4ForCausalLM

    return Gemma4ForCausalLM, Gemma4TextConfig


def _hf_config(config_class: Callable[..., Any], text_config_json: dict[str, Any]) -> Any:
    hf_config = config_class(**copy.deepcopy(text_config_json))
    hf_config._attn_implementation = IMPLEMENTATION
    hf_config._experts_implementation = IMPLEMENTATION
    return hf_config


def _unshare(model: Any, config_without_sharing: Any) -> None:
    """Give every layer an attention with K/V projections. All layers get one, so that owners and sharers are built
    alike.
    """
    for index, layer in enumerate(model.model.layers):
        layer.self_attn = type(layer.self_attn)(config_without_sharing, index)


def _donors(hf_config: Any) -> tuple[int, ...]:
    modes, types = hf_config.kv_sharing_modes, hf_config.layer_types
    stored = {types[i]: i for i, mode in enumerate(modes) if mode == "store"}
    return tuple(stored[types[i]] if mode == "reuse" else i for i, mode in enumerate(modes))


def _unstored_buffers(model: Any) -> dict[str, Tensor]:
    """Values of the non-persistent buffers, computed on the CPU by Hugging Face's own `_init_weights`.

    The buffers are filled with NaN first: one that Hugging Face does not initialize there is refused (G4C-F051).
    """
    values: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        names = [name for name in module._buffers if name in module._non_persistent_buffers_set]
        if not names:
            continue
        saved = {name: module._buffers[name] for name in names}
        for name, buffer in saved.items():
            module._buffers[name] = torch.full(buffer.shape, float("nan"), dtype=buffer.dtype, device="cpu")
        model._init_weights(module)
        for name in names:
            value = module._buffers[name]
            if torch.isnan(value).any():
                raise G4cError("G4C-F051", f"no value for buffer {name}", where=path)
            values[f"{path}.{name}"] = value
            module._buffers[name] = saved[name] if saved[name].device.type == "meta" else value
    return values


class ProgramCache:
    """The cache object that Hugging Face's attention calls: explicit tensors, one K and one V per layer.

    `update` writes layer `i`'s own cache at `positions` and returns the cache that layer `i` attends to, its donor's.
    """

    def __init__(self, donors: tuple[int, ...], states: list[Tensor], positions: Tensor) -> None:
        self.donors = donors
        self.keys, self.values = states[0::2], states[1::2]
        self.positions = positions

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self.keys[layer_idx] = self._written(self.keys[layer_idx], key.transpose(1, 2))
        self.values[layer_idx] = self._written(self.values[layer_idx], value.transpose(1, 2))
        donor = self.donors[layer_idx]
        return self.keys[donor], self.values[donor]

    def _written(self, state: Tensor, x: Tensor) -> Tensor:
        return torch.ops.g4c.kv_update(state, x, self.positions)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        raise AssertionError("positions are explicit; nothing may derive them from the cache")

    def states(self) -> list[Tensor]:
        """Alternately K and V, in layer order: the same order as in the constructor."""
        return [state for pair in zip(self.keys, self.values, strict=True) for state in pair]


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    sliding_window: int | None = None,
    positions: Tensor,
    key_positions: Tensor,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Hugging Face's attention interface; query is [b, H, s, d], key and value are whole caches, the result is [b, s,
    H, d].
    """
    assert attention_mask is None, "masks are derived from positions, inside the op"
    assert module.is_causal, "bidirectional attention"
    assert not kwargs.get("softcap"), "softcapped attention"
    window = sliding_window or 0
    return torch.ops.g4c.attention(query, key, value, positions, key_positions, float(scaling), window), None


def _experts(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """Hugging Face's experts interface; hidden_states is [rows, h], the two others are [rows, k]."""
    form = module.has_gate, module.is_concatenated, module.has_bias, module.is_transposed, module.has_post_expert_norm
    assert form == (True, True, False, False, False), f"experts of another form: {form}"
    return torch.ops.g4c.experts(hidden_states, top_k_index, top_k_weights, module.gate_up_proj, module.down_proj)


ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _attention)
ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _experts)


class Program(nn.Module):
    """One entry point: Hugging Face's forward as a function of explicit tensors.

    forward(inputs, caches): inputs are token_ids [b, s], positions [b, s] and, if `select_rows`, rows [b, r]; caches
    are alternately K and V in layer order, all of as many slots. Returns (logits, updated caches). Padding has position
    -1, which Hugging Face's code never sees: its rotary embedding gets 0 there.
    """

    def __init__(self, decoder: Decoder, select_rows: bool) -> None:
        super().__init__()
        self.decoder = decoder.model
        self.donors = decoder.donors
        self.select_rows = select_rows

    def forward(self, inputs: list[Tensor], caches: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        token_ids, positions = inputs[:2]
        cache = ProgramCache(self.donors, caches, positions)
        head: Any = self.decoder.lm_head
        hook = head.register_forward_pre_hook(
            lambda _, args: (torch.ops.g4c.select_rows(args[0], inputs[2]),) if self.select_rows else None
        )
        try:
            output = self.decoder(
                input_ids=token_ids,
                position_ids=positions.clamp(min=0),
                past_key_values=cache,
                use_cache=True,
                attention_mask=dict.fromkeys(("full_attention", "sliding_attention")),
                positions=positions,
                key_positions=torch.ops.g4c.held_positions(positions, caches[0].shape[1]),
            )
        finally:
            hook.remove()
        return output.logits, cache.states()
