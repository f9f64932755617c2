"""A decoder built by hand as a trace would give it: both attention kinds, donors, k_eq_v, PLE, tiny widths.

Every layer has its K/V projections and caches, as the trace of the model that the checkpoint stores has: shared layers
write K and V that nobody reads. Locations are Hugging Face's module paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from g4c.ir import ops
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Dense, Loc, Op, SymbolRef, Value
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Cache, Weight

HEAD_DIM = {"S": 256, "F": 512}
NAMES = {"S": "sliding_attention", "F": "full_attention"}


def inverse_frequencies(kind: str, dim: int | None = None) -> np.ndarray:
    """theta^(-2i/d) for i < d/2; on full-attention layers only the first quarter, 64 of 256, is not zero."""
    dim = HEAD_DIM[kind] if dim is None else dim
    theta, real = (1e4, dim // 2) if kind == "S" else (1e6, dim // 8)
    exponents = np.arange(0, dim, 2, dtype=np.float64) / dim
    frequencies = theta**-exponents
    frequencies[real:] = 0
    return frequencies.astype(np.float32)


@dataclass(frozen=True)
class GemmaLike:
    """Sizes of the model. `pattern`: one letter per layer, S or F; the last `shared` layers read their donor's cache.

    `donors`: which layer's cache each layer reads, where that is not the last own one of its kind. `windows`: of each
    layer, where that is not `window` on sliding layers and 0 on full ones. `shared_write`: shared layers write their
    own caches; without it what they compute for them is dead. `kv_heads`, `full_kv_heads`: on sliding and on full
    layers, 0: the same. `head_dims`: likewise. `ple`: 0 for none. `mlp_norms`: whether there are norms before and after
    the MLP and after the per-layer input, too; without them a deep model's values explode. `logit_rows`: how many rows
    a prefill gives logits of, 0: as many as it has. `k_eq_v`: kinds of layers whose V is k_proj's.
    """

    pattern: str = "SSFSF"
    shared: int = 2
    hidden: int = 32
    heads: int = 2
    kv_heads: int = 1
    full_kv_heads: int = 0
    head_dims: tuple[int, int] = (HEAD_DIM["S"], HEAD_DIM["F"])
    mlp: int = 24
    ple: int = 8
    vocabulary: int = 50
    batch: int = 1
    context: int = 24
    window: int = 6
    buckets: tuple[int, ...] = (8,)
    logit_rows: int = 1
    shared_write: bool = True
    k_eq_v: str = ""
    mlp_norms: bool = False
    donors: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()
    dtype: DType = DType.F32

    @property
    def layers(self) -> int:
        return len(self.pattern)

    def donor(self, layer: int) -> int:
        """The layer whose cache `layer` reads."""
        if self.donors:
            return self.donors[layer]
        if layer < self.layers - self.shared:
            return layer
        return max(i for i in range(self.layers - self.shared) if self.pattern[i] == self.pattern[layer])

    def shares(self, layer: int) -> bool:
        return self.donor(layer) != layer

    def window_of(self, layer: int) -> int:
        """0: the layer sees everything."""
        return self.windows[layer] if self.windows else self.window * (self.pattern[layer] == "S")

    def head_dim(self, kind: str) -> int:
        return self.head_dims["SF".index(kind)]

    def kv_heads_of(self, kind: str) -> int:
        return (kind == "F" and self.full_kv_heads) or self.kv_heads

    def module(self) -> Module:
        """The traced module: one prefill program per bucket, and decode."""
        module = Module("gemma_like", attributes={"max_context": self.context})
        for layer, kind in enumerate(self.pattern):
            shape = TensorType((self.batch, self.context, self.kv_heads_of(kind), self.head_dim(kind)), self.dtype)
            for part in "kv":
                module.add_cache(Cache(f"layers.{layer}.{part}", shape))
        for bucket in self.buckets:
            _Program(self, module, f"prefill_{bucket}", bucket).build()
        _Program(self, module, "decode", 1).build()
        return module


class _Program:
    def __init__(self, sizes: GemmaLike, module: Module, name: str, length: int) -> None:
        self.sizes = sizes
        self.module = module
        self.length = length
        self.prefill = length > 1
        self.function = module.add_function(Function(name, "program"))
        self.loc = Loc("model", "modeling_gemma4.py", 1)
        self.states: dict[str, Value] = {}

    def at(self, path: str) -> None:
        self.loc = Loc(path, "modeling_gemma4.py", 100 + len(path))

    def emit(self, op: Op) -> Value:
        op.loc = self.loc
        return self.function.append(op).result

    def weight(self, name: str, *shape: int) -> Value:
        weight = self.module.add_weight(Weight.stored(name, TensorType(shape, self.sizes.dtype)))
        return self.emit(ops.LoadWeightOp(SymbolRef(name), weight.type))

    def linear(self, x: Value, name: str, width: int) -> Value:
        return self.emit(ops.LinearOp(x, self.weight(f"{name}.weight", width, x.shape[-1])))

    def norm(self, x: Value, name: str | None) -> Value:
        w = None if name is None else self.weight(f"{name}.weight", x.shape[-1])
        return self.emit(ops.RmsNormOp(x, w, 1e-6))

    def reshape(self, x: Value, *shape: int) -> Value:
        return self.emit(ops.ReshapeOp(x, x.type.with_shape(shape)))

    def build(self) -> None:
        sizes, function = self.sizes, self.function
        tokens = TensorType((sizes.batch, self.length), DType.S32)
        ids = function.add_param("token_ids", tokens)
        self.positions = function.add_param("positions", tokens)
        chosen = TensorType((sizes.batch, sizes.logit_rows or self.length), DType.S32)
        rows = function.add_param("rows", chosen) if self.prefill else None
        for name, cache in self.module.caches.items():
            self.states[name] = function.add_param(name, cache.type, cache=name)
        self.at("model.embed_tokens")
        table = self.weight("embed_tokens.weight", sizes.vocabulary, sizes.hidden)
        x = self.emit(ops.EmbeddingOp(ids, table, 5.65625))
        ple = self.per_layer_inputs(ids, x) if sizes.ple else None
        angles = {kind: self.rope_tables(kind) for kind in dict.fromkeys(sizes.pattern)}
        self.at("model")
        self.held = self.emit(ops.HeldPositionsOp(self.positions, sizes.context, True))
        for layer, kind in enumerate(sizes.pattern):
            x = self.layer(layer, kind, x, ple, *angles[kind])
        self.at("model.norm")
        if rows is not None:
            x = self.emit(ops.SelectRowsOp(x, rows))
        x = self.norm(x, "norm")
        self.at("lm_head")
        logits = self.emit(ops.LinearOp(x, self.weight("embed_tokens.weight", sizes.vocabulary, sizes.hidden)))
        logits = self.emit(ops.SoftcapOp(logits, 30.0))
        function.results.append(Result(logits, "logits"))
        function.results += [Result(state, name, name) for name, state in self.states.items()]

    def per_layer_inputs(self, ids: Value, x: Value) -> Value:
        sizes = self.sizes
        self.at("model.embed_tokens_per_layer")
        table = self.weight("embed_tokens_per_layer.weight", sizes.vocabulary, sizes.layers * sizes.ple)
        shape = (sizes.batch, self.length, sizes.layers, sizes.ple)
        token = self.reshape(self.emit(ops.EmbeddingOp(ids, table, 16.0)), *shape)
        self.at("model.per_layer_model_projection")
        context = self.linear(x, "per_layer_model_projection", sizes.layers * sizes.ple)
        self.at("model.per_layer_projection_norm")
        context = self.norm(self.reshape(context, *shape), "per_layer_projection_norm")
        return self.emit(ops.PerLayerInputOp(context, token, 0.70710678))

    def rope_tables(self, kind: str) -> tuple[Value, Value]:
        """cos and sin [b, s, d/2] as Hugging Face computes them: a product over an axis of 1, doubled, halved."""
        self.at("model.rotary_emb")
        data = Dense.of(inverse_frequencies(kind, self.sizes.head_dim(kind)))
        weight = self.module.add_weight(Weight(f"rope.{NAMES[kind]}.inv_freq", value=data))
        count, batch, length = data.type.size, self.sizes.batch, self.length
        frequencies = self.emit(ops.LoadWeightOp(SymbolRef(weight.name), weight.type))
        frequencies = self.reshape(frequencies, 1, count, 1)
        frequencies = self.emit(ops.BroadcastOp(frequencies, frequencies.type.with_shape((batch, count, 1))))
        zero = self.emit(ops.ConstantOp(Dense.scalar(0, DType.S32)))
        positions = self.emit(ops.MaxOp(self.positions, zero))
        positions = self.emit(ops.ConvertOp(positions, TensorType((batch, length), DType.F32)))
        angles = self.emit(ops.MatmulOp(frequencies, self.reshape(positions, batch, 1, length)))
        angles = self.emit(ops.TransposeOp(angles, (0, 2, 1)))
        angles = self.emit(ops.ConcatOp((angles, angles), 2))
        return self.half(self.emit(ops.CosOp(angles))), self.half(self.emit(ops.SinOp(angles)))

    def half(self, table: Value) -> Value:
        one = self.emit(ops.ConstantOp(Dense.scalar(1.0, DType.F32)))
        table = self.emit(ops.MulOp(one, table))
        table = self.emit(ops.ConvertOp(table, table.type.with_dtype(self.sizes.dtype)))
        limits = (*table.shape[:2], table.shape[2] // 2)
        return self.emit(ops.SliceOp(table, (0, 0, 0), limits))

    def layer(self, layer: int, kind: str, x: Value, ple: Value | None, cos: Value, sin: Value) -> Value:
        sizes, path, name = self.sizes, f"model.layers.{layer}", f"layers.{layer}"
        self.at(f"{path}.input_layernorm")
        y = self.norm(x, f"{name}.input_layernorm")
        y = self.attention(layer, kind, y, cos, sin)
        self.at(f"{path}.post_attention_layernorm")
        y = self.norm(y, f"{name}.post_attention_layernorm")
        self.at(path)
        x = self.emit(ops.AddOp(x, y))
        y = self.mlp_norm(x, name, "pre_feedforward_layernorm")
        self.at(f"{path}.mlp")
        width = sizes.mlp * (2 if sizes.shares(layer) else 1)
        gate, up = (self.linear(y, f"{name}.mlp.{part}_proj", width) for part in ("gate", "up"))
        y = self.linear(self.emit(ops.GatedGeluOp(gate, up)), f"{name}.mlp.down_proj", sizes.hidden)
        y = self.mlp_norm(y, name, "post_feedforward_layernorm")
        self.at(path)
        x = self.emit(ops.AddOp(x, y))
        if ple is not None:
            x = self.add_per_layer_input(layer, x, ple)
        return self.emit(ops.MulOp(x, self.weight(f"{name}.layer_scalar", 1)))

    def mlp_norm(self, x: Value, name: str, norm: str) -> Value:
        self.at(f"model.{name}.{norm}")
        return self.norm(x, f"{name}.{norm}") if self.sizes.mlp_norms else x

    def add_per_layer_input(self, layer: int, x: Value, ple: Value) -> Value:
        sizes, path, name = self.sizes, f"model.layers.{layer}", f"layers.{layer}"
        shape = (sizes.batch, self.length, sizes.ple)
        own = self.emit(ops.SliceOp(ple, (0, 0, layer, 0), (*shape[:2], layer + 1, sizes.ple)))
        own = self.reshape(own, *shape)
        self.at(f"{path}.per_layer_input_gate")
        gate = self.linear(x, f"{name}.per_layer_input_gate", sizes.ple)
        y = self.linear(self.emit(ops.GatedGeluOp(gate, own)), f"{name}.per_layer_projection", sizes.hidden)
        y = self.mlp_norm(y, name, "post_per_layer_input_norm")
        self.at(path)
        return self.emit(ops.AddOp(x, y))

    def heads(self, y: Value, name: str, heads: int, dim: int) -> Value:
        self.at(f"model.{name}")
        return self.reshape(self.linear(y, name, heads * dim), *y.shape[:2], heads, dim)

    def attention(self, layer: int, kind: str, y: Value, cos: Value, sin: Value) -> Value:
        sizes, name = self.sizes, f"layers.{layer}.self_attn"
        dim, kv_heads = sizes.head_dim(kind), sizes.kv_heads_of(kind)
        q = self.norm(self.heads(y, f"{name}.q_proj", sizes.heads, dim), f"{name}.q_norm")
        q = self.emit(ops.RopeOp(q, cos, sin))
        projected = self.heads(y, f"{name}.k_proj", kv_heads, dim)
        k = self.emit(ops.RopeOp(self.norm(projected, f"{name}.k_norm"), cos, sin))
        if kind not in sizes.k_eq_v:
            projected = self.heads(y, f"{name}.v_proj", kv_heads, dim)
        v = self.norm(projected, None)
        self.at(f"model.{name}")
        donor = sizes.donor(layer)
        if donor == layer or sizes.shared_write:
            for part, new in (("k", k), ("v", v)):
                self.states[f"layers.{layer}.{part}"] = self.write(self.states[f"layers.{layer}.{part}"], new)
        k, v = (self.states[f"layers.{donor}.{part}"] for part in "kv")
        y = self.emit(ops.AttentionOp(q, (k,), (v,), self.positions, (self.held,), 1.0, sizes.window_of(layer)))
        self.at(f"model.{name}.o_proj")
        return self.linear(self.reshape(y, sizes.batch, self.length, sizes.heads * dim), f"{name}.o_proj", sizes.hidden)

    def write(self, cache: Value, x: Value) -> Value:
        return self.emit(ops.KvUpdateOp(cache, x, self.positions))


def function_of(*params: TensorType, name: str = "main") -> Function:
    """An empty program with parameters %a, %b, ..."""
    function = Function(name, "program")
    for letter, type in zip("abcdefgh", params, strict=False):
        function.add_param(letter, type)
    return function


def module_of(function: Function, results: Sequence[Value], weights: Sequence[Weight] = ()) -> Module:
    """A module that holds `function` alone, with these results."""
    module = Module("test")
    for weight in weights:
        module.add_weight(weight)
    module.add_function(function)
    set_results(function, *results)
    return module


def set_results(function: Function, *values: Value) -> None:
    """Let `function` return `values` as y0, y1, ..."""
    function.results = [Result(value, f"y{i}") for i, value in enumerate(values)]
