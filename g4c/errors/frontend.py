"""Catalogue of frontend errors: F001-F019 configs, F020-F049 checkpoints, F050-F099 tracing."""

from __future__ import annotations

from g4c.errors import Entry

CATALOGUE: dict[str, Entry] = {
    "G4C-F001": Entry(
        "unknown variant",
        "The model argument is neither a known variant name nor an existing path. `g4c list` prints the variants; a"
        " path names a config.json or a checkpoint directory.",
        exit_code=2,
    ),
    "G4C-F002": Entry(
        "config not found",
        "The path given as model does not exist. Give a config.json, a checkpoint directory or a variant name.",
    ),
    "G4C-F003": Entry(
        "config cannot be read",
        "The operating system refused to read the config (permissions, a special file, bytes that are not UTF-8). "
        "The message quotes the reason.",
    ),
    "G4C-F004": Entry(
        "config is not a JSON object",
        "The config must be one JSON object in the format of Hugging Face's config.json. The message gives line and"
        " column of the first syntax error; an unresolved Git LFS pointer looks like this too.",
    ),
    "G4C-F005": Entry(
        "directory without config.json",
        "A checkpoint directory holds a config.json beside its *.safetensors files.",
    ),
    "G4C-F006": Entry(
        "unsupported architecture",
        "g4c compiles Gemma 4 decoders: Gemma4ForConditionalGeneration, Gemma4ForCausalLM and their Unified forms. "
        "Relatives that share parts with Gemma 4 (Gemma 3n, DiffusionGemma, EmbeddingGemma 2, the drafters) are "
        "other models and are refused by name.",
    ),
    "G4C-F007": Entry(
        "config field missing",
        "A field without which the architecture is unknown is absent; g4c guesses no dimensions.",
    ),
    "G4C-F008": Entry(
        "config field has a bad value",
        "The field has the wrong JSON type or lies outside its range: dimensions are positive integers, head dims "
        "are even, counts are not negative, the per-layer vocabulary covers the vocabulary.",
    ),
    "G4C-F009": Entry(
        "layer_types has the wrong length",
        "`layer_types` must have exactly `num_hidden_layers` entries.",
    ),
    "G4C-F010": Entry(
        "unknown layer type",
        "Entries of `layer_types` are `sliding_attention` or `full_attention`.",
    ),
    "G4C-F011": Entry(
        "KV-sharing donor does not exist",
        "The last `num_kv_shared_layers` layers read the cache of the last earlier layer of their own type. If no "
        "layer of that type comes before the first shared layer, there is nothing to read.",
    ),
    "G4C-F012": Entry(
        "unknown rope type",
        "g4c knows the rope types `default` and `proportional`. Scaled types (linear, dynamic, yarn, longrope, "
        "llama3) do not occur in Gemma 4 and would be compiled wrongly, so they are refused.",
    ),
    "G4C-F013": Entry(
        "rope parameters are incomplete",
        "`rope_parameters` is an object with one entry per layer type, each with `rope_type` and a positive "
        "`rope_theta`; `partial_rotary_factor` lies in (0, 1].",
    ),
    "G4C-F014": Entry(
        "head counts disagree",
        "The number of query heads must be a multiple of the number of KV heads in every layer.",
    ),
    "G4C-F015": Entry(
        "bad per_layer_config",
        "`per_layer_config` maps layer indices to overrides of `head_dim` and `num_key_value_heads`; layers of one "
        "type must agree, because they share a RoPE table. Other overrides have no meaning in Gemma 4.",
    ),
    "G4C-F016": Entry(
        "config asks for something Gemma 4 does not have",
        "A switch is set to a value that no published variant uses and that g4c would compile wrongly (attention "
        "biases, an untied head, another activation, bidirectional text).",
    ),
    "G4C-F020": Entry(
        "no weights in the checkpoint directory",
        "The directory holds neither *.safetensors files nor model.safetensors.index.json.",
    ),
    "G4C-F021": Entry(
        "bad safetensors index",
        "model.safetensors.index.json must be a JSON object with a `weight_map` from tensor name to file name.",
    ),
    "G4C-F022": Entry(
        "index names an absent file",
        "A shard that model.safetensors.index.json names is not in the directory: an incomplete download.",
    ),
    "G4C-F023": Entry(
        "bad safetensors header",
        "The file does not begin with a safetensors header: 8 bytes of length, then a JSON object of tensors with "
        "dtype, shape and data offsets that agree with each other. A Git LFS pointer or an HTML page saved under "
        "this name looks like this.",
    ),
    "G4C-F024": Entry(
        "truncated safetensors file",
        "The header promises more bytes than the file has: an interrupted download or copy.",
    ),
    "G4C-F025": Entry(
        "missing tensor",
        "The checkpoint lacks a tensor that the config's decoder needs. Only the K/V tensors of KV-shared layers "
        "and the tied lm_head may be absent.",
    ),
    "G4C-F026": Entry(
        "tensor has the wrong shape",
        "The checkpoint's tensor and the config disagree; they belong to different models.",
    ),
    "G4C-F027": Entry(
        "tensor has an unsupported dtype",
        "Decoder weights are bf16, f16 or f32. Quantized checkpoints need their own loader and are refused rather "
        "than misread.",
    ),
    "G4C-F028": Entry(
        "unexpected tensor",
        "Every tensor of a checkpoint is either used or on an explicit drop list (vision and audio towers, K/V of "
        "KV-shared layers, the tied head). One that is neither usually means that config and checkpoint do not "
        "belong together.",
    ),
    "G4C-F029": Entry(
        "no decoder in the checkpoint",
        "None of the known prefixes (model.language_model., model., language_model.model., language_model., none) "
        "leads to embed_tokens.weight, or more than one does.",
    ),
    "G4C-F030": Entry(
        "tensor stored twice",
        "Two files of the checkpoint hold a tensor of the same name, or the index and the file headers disagree.",
    ),
    "G4C-F031": Entry(
        "checkpoint file cannot be read",
        "The operating system refused to open or map the file. The message quotes the reason.",
    ),
    "G4C-F050": Entry(
        "Hugging Face refuses the config",
        "The model classes of the installed transformers could not be built from this config, although it passed "
        "g4c's own checks. The message quotes what they said.",
    ),
    "G4C-F051": Entry(
        "buffer without a value",
        "The model has a buffer that checkpoints do not store and that Hugging Face's initialization does not compute. "
        "Its value would be invented, so the model is refused. A newer transformers release may have added it.",
    ),
    "G4C-F052": Entry(
        "the model cannot be exported",
        "torch.export failed on Hugging Face's model code. The message quotes the reason.",
    ),
    "G4C-F053": Entry(
        "unsupported operation in the model",
        "The exported graph holds an ATen operation that the importer does not know. The message names it, the module "
        "that uses it and the source line. It appears when the model code changed, or when a config switches on a part "
        "of the model that g4c does not compile yet.",
    ),
    "G4C-F054": Entry(
        "unsupported form of an operation",
        "The importer knows the operation but not this form of it: an argument, an element type (64-bit integers never "
        "enter the IR) or an in-place update of a tensor that something else still reads.",
    ),
}
