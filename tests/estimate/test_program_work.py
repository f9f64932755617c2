"""Counting and liveness on programs small enough to count by hand."""

from __future__ import annotations

import pytest

from g4c.estimate.liveness import peak_activation_bytes
from g4c.estimate.timing import plan_chunks
from g4c.estimate.walk import measure
from g4c.estimate.work import OUTSIDE, Attending
from g4c.ir.builder import Builder
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Loc, SymbolRef, Value
from g4c.ir.ops import (
    AttentionOp,
    CallOp,
    EmbeddingOp,
    HeldPositionsOp,
    KvUpdateOp,
    LinearOp,
    MatmulOp,
    NegOp,
    ReshapeOp,
    SelectRowsOp,
)
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Cache, Weight
from g4c.runtime.engine import Engine

BF16 = DType.BF16


def tensor(*shape: int, dtype: DType = BF16) -> TensorType:
    return TensorType(shape, dtype)


def empty(name: str = "prefill_4") -> tuple[Module, Function, Builder]:
    module = Module("m")
    function = module.add_function(Function(name, "program"))
    return module, function, Builder(function, Loc())


def finish(function: Function, *values: Value) -> None:
    function.results = [Result(value, f"y{i}") for i, value in enumerate(values)]


def test_a_weight_counts_once_and_a_table_by_its_rows() -> None:
    module, function, b = empty()
    table = module.add_weight(Weight.stored("embed_tokens.weight", tensor(10, 8)))
    other = module.add_weight(Weight.stored("embed_tokens_per_layer.weight", tensor(10, 6)))
    ids = function.add_param("token_ids", tensor(1, 4, dtype=DType.S32))
    x = b.emit(EmbeddingOp(ids, b.load(table), 1.0))
    ple = b.emit(EmbeddingOp(ids, b.load(other), 1.0))
    finish(function, b.emit(LinearOp(x, b.load(table))), b.emit(LinearOp(x, b.load(table))), ple)
    (work,) = measure(module).values()
    assert work.tokens == 4
    assert work.weights_read == {"embed_tokens.weight": 160, "embed_tokens_per_layer.weight": 4 * 6 * 2}
    assert work.looked_up == 48
    assert work.matmul_weights == 80
    assert work.components == {"head": 2 * 2 * 4 * 8 * 10}


def attention_program(tokens: int, slots: int, window: int, chunked: bool = False) -> tuple[Module, Function]:
    """Two layers: one that writes its caches and reads them, and one that reads them, too."""
    module, function, b = empty("p")
    caches = []
    for part in "kv":
        cache = module.add_cache(Cache(f"layers.0.{part}", tensor(2, slots, 1, 8)))
        caches.append(function.add_param(cache.name, cache.type, cache.name))
    positions = function.add_param("positions", tensor(2, tokens, dtype=DType.S32))
    q = function.add_param("q", tensor(2, tokens, 4, 8))
    x = function.add_param("x", tensor(2, tokens, 1, 8))
    held = b.emit(HeldPositionsOp(positions, slots, not chunked))
    results = []
    for layer in range(2):
        inner = Builder(function, Loc(f"model.layers.{layer}.self_attn"))
        if layer == 0:
            updated = [inner.emit(KvUpdateOp(cache, x, positions)) for cache in caches]
        keys, values = ((old, x) if chunked else (new,) for old, new in zip(caches, updated, strict=True))
        at = (held, positions) if chunked else (held,)
        results.append(inner.emit(AttentionOp(q, keys, values, positions, at, 1.0, window)))
    finish(function, *results)
    function.results += [
        Result(value, f"layers.0.{p}", f"layers.0.{p}") for p, value in zip("kv", updated, strict=True)
    ]
    return module, function


def test_caches_count_once_per_layer_that_reads_them() -> None:
    module, function = attention_program(tokens=4, slots=16, window=0)
    (work,) = measure(module).values()
    both = 2 * 2 * 16 * 8 * 2
    assert work.kv_read == 2 * both
    assert work.kv_written == 2 * 2 * 4 * 8 * 2
    assert work.flops == work.attention_flops == 2 * (4 * 2 * 4 * 8 * 4 * 16)
    assert {section.name: section.layers for section in work.sections()} == {
        OUTSIDE: 0,
        "full_own": 1,
        "full_shared": 1,
    }
    held, rows = 2 * 16 * 4, 2 * 4 * 8 * 2
    inputs = 2 * 4 * 4 + 4 * rows + rows
    assert peak_activation_bytes(module, function) == inputs + held + 2 * 4 * rows


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("window", [0, 1, 3, 5, 100])
def test_what_queries_see(window: int, chunked: bool) -> None:
    """Pair by pair, key by key."""
    tokens, cached, slots = 4, 9, 16
    module, _ = attention_program(tokens, slots, window, chunked)
    (work,) = measure(module).values()
    for n in range(1, tokens + 1):
        pairs = {
            (query, key)
            for query in range(cached, cached + n)
            for key in range(cached + n)
            if key <= query and (not window or key > query - window)
        }
        assert work.seen_flops(n, cached) == 2 * 4 * 2 * 4 * 8 * len(pairs)
        keys = {key for _, key in pairs if not chunked or key < cached}
        assert sum(a.seen_bytes(n, cached) for a in work.attendings) == 2 * len(keys) * (2 * 2 * 8 * 2)


def test_fewer_queries_than_tokens_are_the_last() -> None:
    attending = Attending(rows=2, window=3, flops=0, pair_flops=10, key_bytes=1, kv_heads=1, apart=False)
    assert attending.seen_flops(5, 0) == 10 * (3 + 3)
    assert attending.seen_bytes(5, 0) == 4  # positions 1 to 4
    assert attending.seen_flops(1, 0) == 10


def test_a_product_of_activations_is_attention_only_where_attention_is() -> None:
    module, function, _ = empty()
    x, y = (function.add_param(name, tensor(4, 4)) for name in "xy")
    results = [Builder(function, Loc(path)).emit(MatmulOp(x, y)) for path in ("model.layers.0.self_attn", "model")]
    finish(function, *results)
    (work,) = measure(module).values()
    assert work.components == {"attention": 128, "other": 128}


def test_liveness_frees_what_is_used_no_more() -> None:
    module, function, b = empty()
    x = function.add_param("x", tensor(1, 4, 8))
    value: Value = x
    for _ in range(5):
        value = b.emit(NegOp(value))
    finish(function, value)
    assert peak_activation_bytes(module, function) == 64 + 2 * 64
    finish(function, value, x)
    assert peak_activation_bytes(module, function) == 64 + 2 * 64


def test_a_reshape_is_the_same_memory() -> None:
    module, function, b = empty()
    x = function.add_param("x", tensor(1, 4, 8))
    y = b.emit(NegOp(x))
    flat = b.emit(ReshapeOp(y, tensor(1, 32)))
    last = b.emit(NegOp(flat))
    finish(function, last)
    assert peak_activation_bytes(module, function) == 3 * 64
    finish(function, last, b.emit(NegOp(y)))  # y, by both names, lives to the end
    assert peak_activation_bytes(module, function) == 4 * 64


def test_cores_split_what_has_heads() -> None:
    module, function, b = empty()
    x = function.add_param("x", tensor(1, 4, 2, 8))
    b.loc = Loc("model.layers.0.self_attn.k_norm")
    y = b.emit(NegOp(x))
    b.loc = Loc("model")
    finish(function, b.emit(NegOp(y)))
    assert [peak_activation_bytes(module, function, tp) for tp in (1, 2, 4)] == [3 * 128, 2 * 128 + 64, 2 * 128 + 64]


def called_twice() -> tuple[Module, Function, Module, Function]:
    """The same program with and without layer functions; the layer needs more inside than at its borders."""
    whole, flat, b = empty("p")
    x: Value = flat.add_param("x", tensor(1, 4, 8))
    wide = whole.add_weight(Weight.stored("layers.0.mlp.up_proj.weight", tensor(100, 8)))
    narrow = whole.add_weight(Weight.stored("layers.0.mlp.down_proj.weight", tensor(8, 100)))
    for layer in range(2):
        b.loc = Loc(f"model.layers.{layer}.mlp")
        up = b.emit(LinearOp(x, b.load(wide)))
        x = b.emit(LinearOp(b.emit(NegOp(up)), b.load(narrow)))
    finish(flat, x)
    cut, program, b = empty("p")
    cut.weights.update(whole.weights)
    layer = cut.add_function(Function("p.layer", "layer"))
    hidden = layer.add_param("hidden", tensor(1, 4, 8))
    weights = [layer.add_param(w.name, w.type) for w in (wide, narrow)]
    inner = Builder(layer, Loc("model.layers.*.mlp"))
    up = inner.emit(LinearOp(hidden, weights[0]))
    layer.results = [Result(inner.emit(LinearOp(inner.emit(NegOp(up)), weights[1])), "hidden")]
    x = program.add_param("x", tensor(1, 4, 8))
    for index in range(2):
        b.loc = Loc(f"model.layers.{index}")
        (x,) = program.append(
            CallOp((x, b.load(wide), b.load(narrow)), SymbolRef("p.layer"), (tensor(1, 4, 8),), loc=b.loc)
        ).results
    finish(program, x)
    return whole, flat, cut, program


def test_layer_functions_cost_what_they_do() -> None:
    whole, flat, cut, program = called_twice()
    (one,), (two,) = measure(whole).values(), measure(cut).values()
    assert one.flops == two.flops == 2 * 2 * (2 * 4 * 8 * 100)
    assert one.weight_bytes == two.weight_bytes == 2 * 1600
    assert one.components == two.components == {"mlp": one.flops}
    assert [(s.name, s.layers) for s in two.sections()] == [("layer", 2)]
    wide, thin = 4 * 100 * 2, 64
    assert peak_activation_bytes(whole, flat) == peak_activation_bytes(cut, program) == thin + 2 * wide


def test_rows_that_are_selected_are_all_that_is_read() -> None:
    module, function, b = empty()
    x = function.add_param("x", tensor(1, 4, 8))
    rows = function.add_param("rows", tensor(1, 1, dtype=DType.S32))
    finish(function, b.emit(SelectRowsOp(x, rows)))
    (work,) = measure(module).values()
    assert work.activation_traffic == 4 + 16 + 16
    assert work.weight_bytes == work.kv_read == 0


class Buckets:
    """As much of a session as says which programs a prompt runs."""

    def __init__(self, *buckets: int) -> None:
        self.buckets = buckets


@pytest.mark.parametrize("buckets", [(16,), (4, 16), (4, 8, 16)])
def test_chunks_are_those_of_the_engine(buckets: tuple[int, ...]) -> None:
    engine = Engine(Buckets(*buckets))  # type: ignore[arg-type]
    for prompt in range(1, 50):
        chunks = plan_chunks(prompt, tuple(reversed(buckets)))
        assert sum(chunk.tokens for chunk in chunks) == prompt
        assert [chunk.cached for chunk in chunks] == list(range(0, prompt, buckets[-1]))
        assert (*dict.fromkeys(chunk.program for chunk in chunks), "decode") == engine.programs(prompt)
