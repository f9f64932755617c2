"""Named variants: what a user may write instead of a path.

In: a name. Out: the Hugging Face config of that variant, as a JSON object, and the token ids that end its generation.
Invariant: `tiny-e2b` differs from `e2b` in widths, vocabulary and context only; head dims, layer pattern, donors, PLE,
double-wide MLP, softcap and window are the real ones.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g4c.errors import G4cError

_CONFIGS = Path(__file__).with_name("configs")

# Widths only: everything that decides a graph's structure stays as in E2B.
_TINY_E2B_WIDTHS: dict[str, int] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "hidden_size_per_layer_input": 32,
    "vocab_size": 1024,
    "vocab_size_per_layer_input": 1024,
    "max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class Variant:
    """One named variant. `file` is its published config; `eos_token_ids` is what its generation config stops on."""

    name: str
    description: str
    file: str
    eos_token_ids: tuple[int, ...]

    def config_json(self) -> dict[str, Any]:
        """A fresh copy of the variant's config.json."""
        config: dict[str, Any] = json.loads((_CONFIGS / self.file).read_text(encoding="utf-8"))
        if self.name != "tiny-e2b":
            return config
        text: dict[str, Any] = config["text_config"]
        return {"architectures": ["Gemma4ForCausalLM"], **text, **_TINY_E2B_WIDTHS}


_INSTRUCTION_TUNED_EOS = (1, 50, 106)

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("e2b", "Gemma 4 E2B: 35 layers, PLE, 20 KV-shared layers", "e2b.json", _INSTRUCTION_TUNED_EOS),
        Variant("tiny-e2b", "E2B's structure at small widths, for tests and first steps", "e2b.json", (1,)),
        Variant("e4b", "Gemma 4 E4B: 42 layers, PLE, 18 KV-shared layers", "e4b.json", _INSTRUCTION_TUNED_EOS),
        Variant("12b", "Gemma 4 12B: 48 dense layers, K equals V on full layers", "12b.json", _INSTRUCTION_TUNED_EOS),
        Variant(
            "26b-a4b",
            "Gemma 4 26B-A4B: 30 layers, dense MLP beside 128 experts",
            "26b-a4b.json",
            _INSTRUCTION_TUNED_EOS,
        ),
        Variant("31b", "Gemma 4 31B: 60 dense layers, K equals V on full layers", "31b.json", _INSTRUCTION_TUNED_EOS),
    )
}


def unknown_variant(name: str) -> G4cError:
    """The error G4C-F001 for `name`, with the nearest variant names."""
    bare = name.lower().rsplit("/", 1)[-1].removeprefix("gemma-4-").removeprefix("gemma4-").removesuffix("-it")
    near = [known for known in VARIANTS if bare and (known == bare or known.startswith(f"{bare}-"))]
    near = near or difflib.get_close_matches(bare, VARIANTS, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    known = ", ".join(VARIANTS)
    return G4cError(
        "G4C-F001",
        f"unknown variant {name!r}",
        help=f"{hint}known variants: {known}; a path to a config.json or a checkpoint directory works too",
    )
