"""The closed forms of the Gemma 4 family, from nothing but the fields of a published config.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import g4c.frontend

CONFIGS = Path(g4c.frontend.__file__).with_name("configs")


@dataclass(frozen=True)
class Layer:
    """One layer. `d`: head dim, `k`: KV heads, `i`: MLP width, `n`: K/V projections that it needs, `window`: 0 none."""

    full: bool
    shared: bool
    d: int
    k: int
    i: int
    n: int
    window: int


class ClosedForms:
    """One variant, or the text section of another config."""

    def __init__(self, variant: str | dict[str, Any]) -> None:
        text = (
            json.loads((CONFIGS / f"{variant}.json").read_text())["text_config"]
            if isinstance(variant, str)
            else variant
        )
        self.text: dict[str, Any] = text
        self.h, self.heads, self.vocab = text["hidden_size"], text["num_attention_heads"], text["vocab_size"]
        self.ple = text["hidden_size_per_layer_input"]
        self.experts = text.get("num_experts") or 0
        self.top_k, self.expert_width = text.get("top_k_experts") or 0, text.get("moe_intermediate_size") or 0

    @cached_property
    def layers(self) -> list[Layer]:
        text = self.text
        owners = text["num_hidden_layers"] - text["num_kv_shared_layers"]
        equal = text["attention_k_eq_v"]
        layers = []
        for index, kind in enumerate(text["layer_types"]):
            full, shared = kind == "full_attention", index >= owners
            k = text["num_global_key_value_heads"] if full and equal else text["num_key_value_heads"]
            layers.append(
                Layer(
                    full,
                    shared,
                    d=text["global_head_dim"] if full else text["head_dim"],
                    k=k,
                    i=text["intermediate_size"] * (2 if shared and text["use_double_wide_mlp"] else 1),
                    n=0 if shared else 1 if full and equal else 2,
                    window=0 if full else text["sliding_window"],
                )
            )
        return layers

    @property
    def owners(self) -> list[Layer]:
        return [layer for layer in self.layers if not layer.shared]

    # -- parameters ----------------------------------------------------------------------------------------------------
    def kv_weights(self, layer: Layer, n: int | None = None) -> int:
        return self.h * (layer.n if n is None else n) * layer.k * layer.d

    def row_weights(self, layer: Layer) -> int:
        """Elements that every row of a layer is multiplied by, but for K and V; of the experts those of one token."""
        moe = self.h * self.experts + self.top_k * 3 * self.h * self.expert_width
        return 2 * self.h * self.heads * layer.d + 3 * self.h * layer.i + 2 * self.h * self.ple + moe

    def matmul_weights(self, layer: Layer) -> int:
        """All elements that a layer's contractions multiply by."""
        rest = (self.experts - self.top_k) * 3 * self.h * self.expert_width
        return self.row_weights(layer) + self.kv_weights(layer) + rest

    def norm_weights(self, layer: Layer) -> int:
        """q_norm, k_norm where there is one, the norms around attention, MLP and PLE, and what the experts add."""
        moe = 3 * self.h + self.h + self.experts if self.experts else 0
        return (2 if layer.n else 1) * layer.d + 4 * self.h + (self.h if self.ple else 0) + moe

    @property
    def ple_projection(self) -> int:
        return len(self.layers) * self.ple * self.h

    @property
    def head(self) -> int:
        return self.vocab * self.h

    @property
    def decoder_parameters(self) -> int:
        layers = sum(self.matmul_weights(layer) + self.norm_weights(layer) for layer in self.layers)
        return layers + self.h + self.ple_projection + self.ple

    @property
    def ple_table(self) -> int:
        return self.text["vocab_size_per_layer_input"] * len(self.layers) * self.ple if self.ple else 0

    @property
    def active_weights(self) -> int:
        """Elements that a decode step multiplies by."""
        layers = sum(self.row_weights(layer) + self.kv_weights(layer) for layer in self.layers)
        return layers + self.ple_projection + self.head

    # -- K and V -------------------------------------------------------------------------------------------------------
    @staticmethod
    def kv_bytes(layer: Layer, v_only: bool = False) -> int:
        """bf16 bytes of one position."""
        return 2 * (1 if v_only and layer.n == 1 else 2) * layer.k * layer.d

    def cache_bytes(self, context: int, *, owned: bool, windowed: bool) -> int:
        layers = self.owners if owned else self.layers
        return sum(self.kv_bytes(x) * (min(context, x.window) if windowed and x.window else context) for x in layers)

    # -- FLOPs ---------------------------------------------------------------------------------------------------------
    def pairs(self, layer: Layer, s: int, c: int = 0) -> int:
        """Pairs of a query and a key that it sees, s new rows after c cached ones; the window's closed form where it
        holds."""
        w = layer.window
        if not w or c + s <= w:
            return s * c + s * (s + 1) // 2
        if c == 0:
            return s * w - w * (w - 1) // 2
        return sum(min(w, c + i + 1) for i in range(s))

    def attention(self, layer: Layer, pairs: int) -> int:
        return 4 * self.heads * layer.d * pairs

    def matmuls(
        self, s: int, *, shared_rows: int | None = None, ple_rows: int | None = None, stored: bool = False
    ) -> int:
        """FLOPs of the layers and the PLE projection, without attention and head.

        Of shared layers, only `shared_rows` rows, and of their part of the PLE projection `ple_rows`. `stored`: shared
        layers have K/V projections like their owners, as checkpoints store them.
        """
        total = 0
        for layer in self.layers:
            total += 2 * (ple_rows if ple_rows is not None and layer.shared else s) * self.ple * self.h
            rows = s if shared_rows is None or not layer.shared else shared_rows
            n = 2 if layer.shared and stored else layer.n
            total += 2 * rows * self.row_weights(layer) + 2 * rows * self.kv_weights(layer, n)
        return total

    def prefill(self, s: int, *, shared_rows: int | None = None) -> int:
        """FLOPs of a prompt of s tokens, head on the last, attention exactly where a query sees a key.

        Of shared layers only `shared_rows` rows, with their part of the PLE projection.
        """
        total = self.matmuls(s, shared_rows=shared_rows, ple_rows=shared_rows) + 2 * self.head
        for layer in self.layers:
            rows = s if shared_rows is None or not layer.shared else shared_rows
            total += self.attention(layer, self.pairs(layer, rows, s - rows))
        return total

    def dense_attention(self, s: int, keys: Callable[[Layer], int]) -> int:
        return sum(self.attention(layer, s * keys(layer)) for layer in self.layers)
