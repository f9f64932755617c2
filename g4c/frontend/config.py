"""Model configuration: a variant name, a config.json or a checkpoint directory becomes one description per layer.

In: what the user wrote (`load_model_config`). Out: a `ModelConfig`: per layer its kind, head dim, KV heads, window,
MLP width and donor, and a text config that Hugging Face's `Gemma4TextConfig(**json)` accepts and that describes the
same network. Both spellings are read: `global_head_dim` / `num_global_key_value_heads` of the published files, and
`per_layer_config` of files that transformers >= 5.15 saved. Nothing here imports torch or transformers.
Invariant: a config that g4c would compile wrongly is refused with one coded error (F001 to F016).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from g4c.errors import G4cError
from g4c.frontend.config_fields import Fields
from g4c.frontend.config_text import LayerConfig, MoeConfig, RopeConfig, TextArchitecture, read_text_config
from g4c.frontend.variants import VARIANTS, unknown_variant

__all__ = [
    "LayerConfig",
    "ModelConfig",
    "MoeConfig",
    "RopeConfig",
    "decoder_tensors",
    "load_model_config",
    "stored_kv_is_dead",
]

_ARCHITECTURES: dict[str, str] = {
    "Gemma4ForConditionalGeneration": "gemma4",
    "Gemma4ForCausalLM": "gemma4_text",
    "Gemma4UnifiedForConditionalGeneration": "gemma4_unified",
    "Gemma4UnifiedForCausalLM": "gemma4_unified_text",
}
_RELATIVES: dict[str, str] = {
    "gemma4_assistant": "a Gemma 4 drafter: it has no K/V of its own and runs only beside its target model",
    "gemma4_unified_assistant": "a Gemma 4 drafter: it has no K/V of its own and runs only beside its target model",
    "diffusion_gemma": "DiffusionGemma, a block diffusion model of 26B-A4B geometry",
    "embedding_gemma2": "EmbeddingGemma 2, an encoder with Gemma 4's vision tower",
    "gemma3n": "Gemma 3n, the predecessor with AltUp and Laurel blocks",
    "gemma3n_text": "Gemma 3n, the predecessor with AltUp and Laurel blocks",
    "gemma3": "Gemma 3",
    "gemma3_text": "Gemma 3",
    "gemma2": "Gemma 2",
    "gemma": "Gemma 1",
}
_RELATIVE_ARCHITECTURES: dict[str, str] = {
    "Gemma4AssistantForCausalLM": "gemma4_assistant",
    "Gemma4UnifiedAssistantForCausalLM": "gemma4_unified_assistant",
    "DiffusionGemmaForBlockDiffusion": "diffusion_gemma",
    "Gemma3nForConditionalGeneration": "gemma3n",
    "Gemma3nForCausalLM": "gemma3n",
    "Gemma3ForConditionalGeneration": "gemma3",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma2ForCausalLM": "gemma2",
    "GemmaForCausalLM": "gemma",
}
_DTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


@dataclass(frozen=True)
class ModelConfig:
    """One model, normalized. Dimensions are element counts; `dtype` is the checkpoint's: bf16, f16 or f32."""

    variant: str | None
    architecture: str
    source: str
    hidden_size: int
    num_heads: int
    vocab_size: int
    pad_token_id: int
    ple_width: int
    ple_vocab: int
    max_positions: int
    rms_norm_eps: float
    softcap: float | None
    dtype: str
    layers: tuple[LayerConfig, ...]
    rope: Mapping[str, RopeConfig]
    moe: MoeConfig | None
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    checkpoint: Path | None
    text_config_json: dict[str, Any] = field(repr=False, compare=False)
    config_json: dict[str, Any] = field(repr=False, compare=False)

    @property
    def unified(self) -> bool:
        """Whether this is the encoder-free (12B) form, whose Hugging Face classes are called Gemma4Unified*."""
        return "Unified" in self.architecture

    @property
    def donors(self) -> tuple[int, ...]:
        """Layers whose cache other layers read, in order."""
        return tuple(sorted({layer.donor for layer in self.layers if layer.donor is not None}))


def load_model_config(spec: str) -> ModelConfig:
    """Load and check a model: a variant name, a config.json, or a checkpoint directory.

    `checkpoint` is set only for a directory that holds safetensors files. Errors: G4C-F001 to F016.
    """
    if spec in VARIANTS:
        variant = VARIANTS[spec]
        return _build(
            variant.config_json(), f"variant {spec}", variant=spec, eos=variant.eos_token_ids, checkpoint=None
        )
    path = Path(spec).expanduser()
    try:
        is_directory, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise G4cError("G4C-F003", f"cannot be read: {error.strerror}", where=spec) from error
    if is_directory:
        config = path / "config.json"
        if not config.exists():
            raise G4cError("G4C-F005", "no config.json in this directory", where=str(path))
        eos: tuple[int, ...] = ()
        generation = path / "generation_config.json"
        if generation.exists():
            eos = Fields(_read_json(generation), str(generation)).token_ids("eos_token_id")
        weights = any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json"))
        return _build(_read_json(config), str(config), variant=None, eos=eos, checkpoint=path if weights else None)
    if exists:
        return _build(_read_json(path), str(path), variant=None, eos=(), checkpoint=None)
    explicit = path.is_absolute() or spec.startswith((".", "~")) or path.suffix == ".json"
    if explicit or (len(path.parts) > 1 and path.parent.is_dir()):
        raise G4cError("G4C-F002", "no such file or directory", where=spec)
    raise unknown_variant(spec)


def decoder_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Decoder-relative tensor name -> shape, as the model is traced.

    KV-shared layers have K/V tensors like all others (`stored_kv_is_dead` tells them); the tied head has none.
    """
    hidden, heads, width = config.hidden_size, config.num_heads, config.ple_width
    tensors: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (config.vocab_size, hidden)}
    if width:
        packed = len(config.layers) * width
        tensors["embed_tokens_per_layer.weight"] = (config.ple_vocab, packed)
        tensors["per_layer_model_projection.weight"] = (packed, hidden)
        tensors["per_layer_projection_norm.weight"] = (width,)
    for layer in config.layers:
        kv = layer.kv_heads * layer.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.weight": (heads * layer.head_dim, hidden),
            "self_attn.k_proj.weight": (kv, hidden),
            "self_attn.v_proj.weight": (kv, hidden),
            "self_attn.o_proj.weight": (hidden, heads * layer.head_dim),
            "self_attn.q_norm.weight": (layer.head_dim,),
            "self_attn.k_norm.weight": (layer.head_dim,),
            "mlp.gate_proj.weight": (layer.intermediate_size, hidden),
            "mlp.up_proj.weight": (layer.intermediate_size, hidden),
            "mlp.down_proj.weight": (hidden, layer.intermediate_size),
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "pre_feedforward_layernorm.weight": (hidden,),
            "post_feedforward_layernorm.weight": (hidden,),
            "layer_scalar": (1,),
        }
        if layer.k_eq_v:
            del shapes["self_attn.v_proj.weight"]
        if width:
            shapes["per_layer_input_gate.weight"] = (width, hidden)
            shapes["per_layer_projection.weight"] = (hidden, width)
            shapes["post_per_layer_input_norm.weight"] = (hidden,)
        if config.moe is not None:
            experts, expert_width = config.moe.num_experts, config.moe.intermediate_size
            shapes["router.scale"] = (hidden,)
            shapes["router.per_expert_scale"] = (experts,)
            shapes["router.proj.weight"] = (experts, hidden)
            shapes["experts.gate_up_proj"] = (experts, 2 * expert_width, hidden)
            shapes["experts.down_proj"] = (experts, hidden, expert_width)
            shapes["post_feedforward_layernorm_1.weight"] = (hidden,)
            shapes["post_feedforward_layernorm_2.weight"] = (hidden,)
            shapes["pre_feedforward_layernorm_2.weight"] = (hidden,)
        tensors.update({f"layers.{layer.index}.{name}": shape for name, shape in shapes.items()})
    tensors["norm.weight"] = (hidden,)
    return tensors


def stored_kv_is_dead(config: ModelConfig, name: str) -> bool:
    """Whether decoder tensor `name` is a K/V tensor of a KV-shared layer, which nothing reads and a file may lack."""
    parts = name.split(".")
    if len(parts) < 4 or parts[0] != "layers" or not parts[1].isdecimal() or parts[2] != "self_attn":
        return False
    index = int(parts[1])
    return (
        index < len(config.layers)
        and config.layers[index].donor is not None
        and parts[3] in ("k_proj", "v_proj", "k_norm")
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise G4cError("G4C-F003", f"cannot be read: {reason}", where=str(path)) from error
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise G4cError("G4C-F004", f"not JSON: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise G4cError("G4C-F004", f"a JSON object is expected, not {type(value).__name__}", where=str(path))
    return value


def _architecture(fields: Fields) -> str:
    listed = fields.values.get("architectures")
    model_type = fields.string("model_type", None)
    if listed is not None and (not isinstance(listed, list) or not all(isinstance(name, str) for name in listed)):
        raise fields.bad("architectures", "a list of names")
    name: str | None = listed[0] if listed else None
    relative = _RELATIVES.get(model_type or "") or _RELATIVES.get(_RELATIVE_ARCHITECTURES.get(name or "", ""))
    if relative is not None:
        raise G4cError(
            "G4C-F006", f"{name or model_type} is {relative}; g4c compiles Gemma 4 decoders only", where=fields.where
        )
    if name is None and model_type is not None:
        name = next((known for known, kind in _ARCHITECTURES.items() if kind == model_type), model_type)
    if name is None:
        raise G4cError("G4C-F006", "the config names neither architectures nor model_type", where=fields.where)
    if name not in _ARCHITECTURES or model_type not in (None, *_ARCHITECTURES.values()):
        raise G4cError(
            "G4C-F006",
            f"unsupported architecture {name} (model_type {model_type})",
            where=fields.where,
            help=f"supported: {', '.join(_ARCHITECTURES)}",
        )
    return name


def _build(
    config_json: dict[str, Any], source: str, *, variant: str | None, eos: tuple[int, ...], checkpoint: Path | None
) -> ModelConfig:
    top = Fields(config_json, source)
    architecture = _architecture(top)
    nested = top.mapping("text_config")
    if nested is None and architecture.endswith("ForConditionalGeneration"):
        raise G4cError("G4C-F007", "text_config is missing", where=source)
    text = top if nested is None else Fields(nested, source, "text_config")
    if not top.boolean("tie_word_embeddings", True):
        raise G4cError("G4C-F016", "tie_word_embeddings is false; Gemma 4's head is its embedding table", where=source)
    arch: TextArchitecture = read_text_config(text, unified="Unified" in architecture)
    dtype = next(
        (f.string(key, None) for f in (text, top) for key in ("dtype", "torch_dtype") if f.values.get(key)), "bfloat16"
    )
    if dtype not in _DTYPES:
        raise G4cError("G4C-F008", f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}", where=source)
    stops = {*eos, *text.token_ids("eos_token_id"), *top.token_ids("eos_token_id")}
    return ModelConfig(
        variant=variant,
        architecture=architecture,
        source=source,
        hidden_size=arch.hidden_size,
        num_heads=arch.num_heads,
        vocab_size=arch.vocab_size,
        pad_token_id=arch.pad_token_id,
        ple_width=arch.ple_width,
        ple_vocab=arch.ple_vocab,
        max_positions=arch.max_positions,
        rms_norm_eps=arch.rms_norm_eps,
        softcap=arch.softcap,
        dtype=_DTYPES[dtype],
        layers=arch.layers,
        rope=arch.rope,
        moe=arch.moe,
        bos_token_id=arch.bos_token_id,
        eos_token_ids=tuple(sorted(stops)),
        checkpoint=checkpoint,
        text_config_json={**arch.text_config_json, "dtype": dtype},
        config_json=config_json,
    )
