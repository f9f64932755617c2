"""The text section of a config: checked field by field and normalized to one description per layer.

In: the JSON object that holds the decoder's fields, in either spelling. Out: a `TextArchitecture`.
The rules (defaults, donors, which layers are full, when the KV-head override applies) are those of Gemma4TextConfig in
transformers; where Hugging Face would go on silently with a value that Gemma 4 does not have, this refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from g4c.errors import G4cError
from g4c.frontend.config_fields import Fields

SLIDING, FULL = "sliding_attention", "full_attention"
_MAX_LAYERS = 1000
_OVERRIDES = ("head_dim", "num_key_value_heads")
_DEFAULT_ROPE: dict[str, dict[str, Any]] = {
    SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}


@dataclass(frozen=True)
class LayerConfig:
    """One decoder layer.

    `donor` is the layer whose cache it reads, None where it owns its K/V; `k_eq_v`: V is the raw k_proj output.
    """

    index: int
    attention: Literal["sliding", "full"]
    head_dim: int
    kv_heads: int
    window: int | None
    intermediate_size: int
    donor: int | None
    k_eq_v: bool = False


@dataclass(frozen=True)
class RopeConfig:
    """RoPE of one layer type.

    Dims i and i + head_dim / 2 are a pair; the first `rotated_pairs` pairs turn, the others have frequency 0.
    """

    rope_type: Literal["default", "proportional"]
    theta: float
    head_dim: int
    rotated_pairs: int


@dataclass(frozen=True)
class MoeConfig:
    """Mixture of experts beside the dense MLP: `top_k` of `num_experts` per token, each `intermediate_size` wide."""

    num_experts: int
    top_k: int
    intermediate_size: int


@dataclass(frozen=True)
class TextArchitecture:
    """The decoder as the config's text section describes it; see `ModelConfig` for the fields."""

    hidden_size: int
    num_heads: int
    vocab_size: int
    pad_token_id: int
    bos_token_id: int | None
    ple_width: int
    ple_vocab: int
    max_positions: int
    rms_norm_eps: float
    softcap: float | None
    layers: tuple[LayerConfig, ...]
    rope: Mapping[str, RopeConfig]
    moe: MoeConfig | None
    text_config_json: dict[str, Any]


def read_text_config(text: Fields, *, unified: bool) -> TextArchitecture:
    """Read, check and normalize. `unified` selects the defaults of Gemma4UnifiedTextConfig. Errors: F007 to F016."""
    _refuse_unsupported(text)
    num_layers = text.integer("num_hidden_layers", maximum=_MAX_LAYERS)
    hidden = text.integer("hidden_size")
    heads = text.integer("num_attention_heads")
    vocab = text.integer("vocab_size")
    intermediate = text.integer("intermediate_size")
    window = text.integer("sliding_window", 1024 if unified else 512)
    k_eq_v = text.boolean("attention_k_eq_v", False)
    double_wide = text.boolean("use_double_wide_mlp", False)
    ple_width = 0 if unified else text.integer("hidden_size_per_layer_input", 256, minimum=0)
    ple_vocab = text.integer("vocab_size_per_layer_input", 262_144)
    if ple_width and ple_vocab < vocab:
        raise text.bad("vocab_size_per_layer_input", f"at least vocab_size ({vocab})")
    pad = text.integer("pad_token_id", 0, minimum=0)
    if pad >= vocab:
        raise text.bad("pad_token_id", f"below vocab_size ({vocab})")

    types = _layer_types(text, num_layers)
    shared = text.integer("num_kv_shared_layers", 0, minimum=0)
    donors = _donors(text, types, shared)
    heads_of = _head_shapes(text, types, k_eq_v)
    for index, (_, kv_heads) in enumerate(heads_of):
        if heads % kv_heads:
            raise G4cError(
                "G4C-F014",
                f"layer {index}: num_attention_heads is {heads}, not a multiple of its {kv_heads} KV heads",
                where=text.where,
            )
    layers = tuple(
        LayerConfig(
            index=index,
            attention="sliding" if types[index] == SLIDING else "full",
            head_dim=heads_of[index][0],
            kv_heads=heads_of[index][1],
            window=window if types[index] == SLIDING else None,
            intermediate_size=intermediate * (2 if double_wide and donors[index] is not None else 1),
            donor=donors[index],
            k_eq_v=k_eq_v and types[index] == FULL,
        )
        for index in range(num_layers)
    )
    rope_json = text.mapping("rope_parameters") or _DEFAULT_ROPE
    rope = {kind: _rope(text, rope_json, kind, heads_of[types.index(kind)][0]) for kind in sorted(set(types))}
    moe = _moe(text, unified)
    eps = text.number("rms_norm_eps", 1e-6)
    assert eps is not None
    softcap = text.number("final_logit_softcapping")
    max_positions = text.integer("max_position_embeddings", 262_144 if unified else 131_072)
    base_head_dim, base_kv_heads = text.integer("head_dim", 256), text.integer("num_key_value_heads")
    bos = text.values.get("bos_token_id", 2)
    if bos is not None and (type(bos) is not int or bos < 0):
        raise text.bad("bos_token_id", "a token id")
    normalized: dict[str, Any] = {
        "model_type": "gemma4_unified_text" if unified else "gemma4_text",
        "hidden_size": hidden,
        "num_hidden_layers": num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": base_kv_heads,
        "head_dim": base_head_dim,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": max_positions,
        "rms_norm_eps": eps,
        "final_logit_softcapping": softcap,
        "sliding_window": window,
        "layer_types": list(types),
        "rope_parameters": {kind: dict(rope_json[kind]) for kind in sorted(set(types))},
        "attention_k_eq_v": k_eq_v,
        "num_kv_shared_layers": shared,
        "use_double_wide_mlp": double_wide,
        "use_bidirectional_attention": text.values.get("use_bidirectional_attention", "vision" if unified else None),
        "pad_token_id": pad,
        "bos_token_id": bos,
        "eos_token_id": text.values.get("eos_token_id", 1),
        "tie_word_embeddings": True,
        "per_layer_config": {
            str(index): {"head_dim": head_dim, "num_key_value_heads": kv_heads}
            for index, (head_dim, kv_heads) in enumerate(heads_of)
            if (head_dim, kv_heads) != (base_head_dim, base_kv_heads)
        },
    }
    if not unified:
        normalized |= {"hidden_size_per_layer_input": ple_width, "vocab_size_per_layer_input": ple_vocab}
        normalized |= {"enable_moe_block": moe is not None}
        if moe is not None:
            normalized |= {
                "num_experts": moe.num_experts,
                "top_k_experts": moe.top_k,
                "moe_intermediate_size": moe.intermediate_size,
            }
    return TextArchitecture(
        hidden_size=hidden,
        num_heads=heads,
        vocab_size=vocab,
        pad_token_id=pad,
        bos_token_id=bos,
        ple_width=ple_width,
        ple_vocab=ple_vocab,
        max_positions=max_positions,
        rms_norm_eps=eps,
        softcap=softcap,
        layers=layers,
        rope=rope,
        moe=moe,
        text_config_json=normalized,
    )


def _refuse_unsupported(text: Fields) -> None:
    refused = (
        (text.boolean("attention_bias", False), "attention_bias", "attention projections have no biases"),
        (not text.boolean("tie_word_embeddings", True), "tie_word_embeddings", "the head is the embedding table"),
        (
            text.string("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh",
            "hidden_activation",
            "the activation is gelu_pytorch_tanh",
        ),
        (
            text.string("use_bidirectional_attention", None) not in (None, "vision"),
            "use_bidirectional_attention",
            "text is causal; only null and 'vision' occur",
        ),
    )
    for bad, name, rule in refused:
        if bad:
            raise G4cError(
                "G4C-F016", f"{text.label(name)} is {text.values[name]!r}; in Gemma 4 {rule}", where=text.where
            )


def _layer_types(text: Fields, num_layers: int) -> tuple[str, ...]:
    listed = text.values.get("layer_types")
    if listed is None:
        listed = [SLIDING if (index + 1) % 6 else FULL for index in range(num_layers)]
    if not isinstance(listed, list):
        raise text.bad("layer_types", "a list of layer types")
    if len(listed) != num_layers:
        raise G4cError(
            "G4C-F009",
            f"{text.label('layer_types')} has {len(listed)} entries, num_hidden_layers is {num_layers}",
            where=text.where,
        )
    for index, kind in enumerate(listed):
        if kind not in (SLIDING, FULL):
            raise G4cError(
                "G4C-F010",
                f"{text.label('layer_types')}[{index}] is {kind!r}",
                where=text.where,
                help=f"known layer types: {SLIDING}, {FULL}",
            )
    # Hugging Face makes the last layer a full one whatever the file says.
    return (*listed[:-1], FULL)


def _donors(text: Fields, types: tuple[str, ...], shared: int) -> tuple[int | None, ...]:
    first_shared = len(types) - shared
    if first_shared < 1 and shared:
        raise G4cError(
            "G4C-F011",
            f"{text.label('num_kv_shared_layers')} is {shared} of {len(types)} layers; no layer is left to own K/V",
            where=text.where,
        )
    last_owner = {kind: index for index, kind in enumerate(types[:first_shared])}
    for index, kind in enumerate(types):
        if kind not in last_owner:
            raise G4cError(
                "G4C-F011",
                f"layer {index} needs the K/V of a {kind} layer, but none of layers 0 to {first_shared - 1} is one",
                where=text.where,
                help=f"check {text.label('num_kv_shared_layers')} ({shared}) against {text.label('layer_types')}",
            )
    return tuple(last_owner[kind] if index >= first_shared else None for index, kind in enumerate(types))


def _head_shapes(text: Fields, types: tuple[str, ...], k_eq_v: bool) -> tuple[tuple[int, int], ...]:
    """(head_dim, KV heads) of every layer."""
    base = (text.integer("head_dim", 256), text.integer("num_key_value_heads"))
    if "per_layer_config" in text.values:
        shapes = _per_layer_shapes(text, len(types), base)
    else:
        # The published files: one override for all full layers; the KV-head override counts only where V is taken from
        # K.
        full_kv = text.integer("num_global_key_value_heads", base[1]) if k_eq_v else base[1]
        full = (text.integer("global_head_dim", 512), full_kv)
        shapes = tuple(full if kind == FULL else base for kind in types)
    for index, (head_dim, _) in enumerate(shapes):
        if head_dim % 2:
            raise G4cError("G4C-F008", f"layer {index}: head_dim must be even, not {head_dim}", where=text.where)
        first = types.index(types[index])
        if head_dim != shapes[first][0]:
            raise G4cError(
                "G4C-F015",
                f"{types[index]} layers {first} and {index} have head dims {shapes[first][0]} and {head_dim}",
                where=text.where,
            )
    return shapes


def _per_layer_shapes(text: Fields, num_layers: int, base: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    label = text.label("per_layer_config")
    shapes = [base] * num_layers
    for key, overrides in (text.mapping("per_layer_config") or {}).items():
        # Keys are decimal strings, zero-padded to the width of the last index.
        if not key.isdecimal() or int(key) >= num_layers:
            raise G4cError(
                "G4C-F015", f"{label} has the key {key!r}; layers are 0 to {num_layers - 1}", where=text.where
            )
        if not isinstance(overrides, dict):
            raise G4cError("G4C-F015", f"{label}.{key} must be an object, not {overrides!r}", where=text.where)
        for name, value in overrides.items():
            if name not in _OVERRIDES and text.values.get(name) != value:
                raise G4cError(
                    "G4C-F015",
                    f"{label}.{key} overrides {name}; only {' and '.join(_OVERRIDES)} vary per layer in Gemma 4",
                    where=text.where,
                )
        layer = Fields(overrides, text.where, f"{label}.{key}")
        shapes[int(key)] = (layer.integer("head_dim", base[0]), layer.integer("num_key_value_heads", base[1]))
    return tuple(shapes)


def _rope(text: Fields, rope_json: Mapping[str, Any], kind: str, head_dim: int) -> RopeConfig:
    label = text.label("rope_parameters")
    entry = rope_json.get(kind)
    if not isinstance(entry, dict):
        raise G4cError("G4C-F013", f"{label} has no entry for {kind}", where=text.where)
    rope = Fields(entry, text.where, f"{label}.{kind}")
    rope_type = rope.string("rope_type", None)
    if rope_type is None:
        raise G4cError("G4C-F013", f"{rope.label('rope_type')} is missing", where=text.where)
    if rope_type not in ("default", "proportional"):
        raise G4cError(
            "G4C-F012",
            f"{rope.label('rope_type')} is {rope_type!r}",
            where=text.where,
            help="known rope types: default, proportional",
        )
    theta = rope.number("rope_theta")
    if theta is None:
        raise G4cError("G4C-F013", f"{rope.label('rope_theta')} is missing", where=text.where)
    fraction = rope.number("partial_rotary_factor", 1.0)
    assert fraction is not None
    if fraction > 1 or rope.number("factor", 1.0) != 1.0:
        raise G4cError(
            "G4C-F013",
            f"{label}.{kind}: partial_rotary_factor must lie in (0, 1] and factor, where given, must be 1",
            where=text.where,
        )
    if rope_type == "default":
        return RopeConfig("default", theta, head_dim, head_dim // 2)
    return RopeConfig("proportional", theta, head_dim, int(fraction * head_dim // 2))


def _moe(text: Fields, unified: bool) -> MoeConfig | None:
    if unified or not text.boolean("enable_moe_block", False):
        return None
    experts, top_k = text.integer("num_experts"), text.integer("top_k_experts")
    if top_k > experts:
        raise text.bad("top_k_experts", f"at most num_experts ({experts})")
    return MoeConfig(experts, top_k, text.integer("moe_intermediate_size"))
