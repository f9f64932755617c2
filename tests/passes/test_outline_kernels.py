"""outline-kernels: a function for every kernel, the same numbers, and weights as kernels want them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from gemma_like import GemmaLike
from histories import chunked, results_of
from pass_testing import run_once

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Level, Op, SymbolRef, Value
from g4c.ir.printer import print_module
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Transpose, Weight
from g4c.passes import kernel_patterns
from g4c.passes.kernel_patterns import Group
from g4c.passes.manager import PassFailedError, PipelineOptions, run_pipeline
from g4c.passes.numerics import difference
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import KERNEL_PIPELINE, TILED_PIPELINE

ATTENTION = "outline-kernels{kernels=attention}"
SIZES = GemmaLike(pattern="SSFSF", shared=2, hidden=16, mlp=16, heads=4, context=48, window=6, buckets=(16,))


def tiled(sizes: GemmaLike = SIZES, pipeline: str = TILED_PIPELINE) -> Module:
    module = sizes.module()
    run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None, sink=lambda _: None))
    return module


def kernels(module: Module) -> list[Function]:
    return [function for function in module.functions.values() if function.role == "kernel"]


def of_kind(module: Module, kind: type[Op], *roles: str) -> list[Op]:
    return [op for function in module.functions.values() if function.role in roles for op in function.ops_of(kind)]


# -- attention ---------------------------------------------------------------------------------------------------------


def test_every_attention_becomes_a_call() -> None:
    module = tiled()
    attentions = of_kind(module, ops.TiledAttentionOp, "program", "layer")
    stats = run_once(module, ATTENTION)
    assert module.level is Level.NKI
    assert not of_kind(module, ops.TiledAttentionOp, "program", "layer")
    assert stats == {"calls": len(attentions), "kernels": len(kernels(module)), "transposed": 0, "kept": 0}
    assert {kernel.name for kernel in kernels(module)} == {
        "prefill_attention_d256_w6",
        "decode_attention_d512",
        "decode_attention_d256_w6",
        "decode_attention_d256_w6_update",
        "decode_attention_d512_update",
    }


def test_operands_and_results_of_kernels() -> None:
    """q whole, segments in order, held positions unless they are the queries' own, positions last."""
    module = tiled()
    run_once(module, ATTENTION)
    past = ["q", "past_keys", "past_values", "past_held", "chunk_keys", "chunk_values", "positions"]
    mixed = ["q", "mixed_keys", "mixed_values", "mixed_held", "positions"]
    for kernel in kernels(module):
        names = [param.name for param in kernel.params]
        assert names == (mixed if "mixed_keys" in names else past)
        updates = kernel.name.endswith("_update")
        assert [result.name for result in kernel.results] == (["y", "k_cache", "v_cache"] if updates else ["y"])
        assert kernel.results[0].value.type == kernel.param("q").type
        assert updates == ("decode" in kernel.name and names == past)


def test_equal_kernels_are_one_function() -> None:
    """In E2B's structure the decode steps of all layers of a kind, and of prefills that are down to one row."""
    module = tiled()
    run_once(module, ATTENTION)
    calls: dict[str, int] = {}
    for op in of_kind(module, ops.CallOp, "program", "layer"):
        assert isinstance(op, ops.CallOp)
        calls[op.callee.name] = calls.get(op.callee.name, 0) + 1
    assert calls["decode_attention_d512"] == 3  # of the layer whose prefill is pruned, and of those that share


def test_tiles_of_a_head_are_joined_once_they_are_rotated() -> None:
    module = tiled()
    run_once(module, ATTENTION)
    joined = [op.q for op in of_kind(module, ops.TiledAttentionOp, "kernel") if isinstance(op, ops.TiledAttentionOp)]
    assert all(isinstance(tile.owner, ops.SplitTilesOp) for tiles in joined for tile in tiles)
    layer = module.functions["decode.full_own"]
    (call,) = layer.ops_of(ops.CallOp)
    assert isinstance(call.args[0].owner, ops.ConcatOp)
    sliding = module.functions["decode.sliding_own"]
    (call,) = sliding.ops_of(ops.CallOp)
    assert isinstance(call.args[0].owner, ops.RopeOp)
    assert not list(sliding.ops_of(ops.SplitTilesOp)), "what was only split for the attention"


@pytest.mark.parametrize("flat", [False, True])
def test_numbers_over_histories(flat: bool) -> None:
    """Bit for bit what the tiled module gives, chunks and steps over the same caches, in layer functions or without."""
    pipeline = TILED_PIPELINE.replace("specialize-layers,", "") if flat else TILED_PIPELINE
    module = tiled(pipeline=pipeline)
    history = chunked(30, 16, decode=6)
    before = results_of(module, history)
    assert run_once(module, ATTENTION)["calls"] > 0
    after = results_of(module, history)
    assert len(after) == len(before) > 0
    for found, wanted in zip(after, before, strict=True):
        assert found.keys() == wanted.keys()
        assert all(difference(found[name], wanted[name]) == 0 for name in wanted)


def test_a_cache_that_others_read_as_it_was_is_not_updated_by_a_kernel() -> None:
    """Without layer functions a layer that shares reads its donor's old cache beside the donor's new rows."""
    module = tiled(pipeline=TILED_PIPELINE.replace("specialize-layers,", ""))
    run_once(module, ATTENTION)
    updates = [op for op in of_kind(module, ops.KvUpdateOp, "program") if op.loc.path]
    donors = {op.loc.path for op in updates if op in module.functions["decode"].ops}
    assert donors == {"model.layers.1.self_attn", "model.layers.2.self_attn"}
    assert any(kernel.name.endswith("_update") for kernel in kernels(module)), "layer 0 is nobody's donor"


def test_nothing_to_cut_out() -> None:
    """Only the level changes."""
    module = Module("m", level=Level.TILED)
    function = module.add_function(Function("decode", "program"))
    x = function.add_param("x", TensorType((2, 3), DType.F32))
    function.results = [Result(function.append(ops.NegOp(x)).result, "y")]
    before = print_module(module)
    stats = run_once(module, ATTENTION)
    assert not any(stats.values())
    assert print_module(module) == before.replace('g4.level = "tiled"', 'g4.level = "nki"')


def test_refusals() -> None:
    with pytest.raises(PassFailedError, match="there are no kernels called 'atention'") as caught:
        run_once(tiled(), "outline-kernels{kernels=atention}")
    assert (caught.value.code, caught.value.exit_code) == ("G4C-P100", 2)
    assert caught.value.help == f"there are all, {', '.join(kernel_patterns.PATTERNS)}"
    module = tiled(pipeline=KERNEL_PIPELINE)
    for pipeline in ("outline-kernels", "tile-contractions"):
        with pytest.raises(G4cError, match="the module is at nki") as refused:
            run_once(module, pipeline)
        assert refused.value.code == "G4C-P006"


def test_kernels_stay_when_layers_are_inlined() -> None:
    module = tiled(pipeline=KERNEL_PIPELINE)
    names = [kernel.name for kernel in kernels(module)]
    run_once(module, "inline-layers,cse,dce")
    assert [kernel.name for kernel in kernels(module)] == names
    assert {function.role for function in module.functions.values()} == {"program", "kernel"}
    paths = [op.loc.path for op in of_kind(module, ops.CallOp, "program")]
    assert "model.layers.0.self_attn" in paths


# -- patterns with weights ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Products:
    """A toy pattern: every tiled linear whose path ends in `head`, with its weight transposed."""

    head: str

    def find(self, function: Function) -> list[Group]:
        return [
            Group("product", (op,), (("x", op.x), ("w", op.w)), (("y", op.result),), transposed=frozenset({op.w}))
            for op in function.ops_of(ops.TiledLinearOp)
            if op.loc.path.endswith(self.head)
        ]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernel_patterns.PATTERNS, "product", Products("o_proj"))


@pytest.mark.usefixtures("products")
def test_weights_are_transposed_offline_everywhere() -> None:
    """In all layers and programs: a weight is packed once."""
    module = tiled()
    history = chunked(30, 16, decode=6)
    before = results_of(module, history)
    stats = run_once(module, "outline-kernels{kernels=product}")
    assert stats["transposed"] == SIZES.layers
    swapped = [w for w in module.weights.values() if w.transforms and w.transforms[-1] == Transpose((1, 0))]
    assert {weight.name for weight in swapped} == {f"layers.{n}.self_attn.o_proj.weight" for n in range(SIZES.layers)}
    for kernel in kernels(module):
        transpose, product = kernel.ops
        assert isinstance(transpose, ops.TransposeOp)
        assert transpose.x is kernel.param("w")
        assert isinstance(product, ops.TiledLinearOp)
        assert product.w is transpose.result
    assert not of_kind(module, ops.TransposeOp, "program", "layer")
    for found, wanted in zip(results_of(module, history), before, strict=True):
        assert all(difference(found[name], wanted[name]) <= 1e-5 for name in wanted)


def shared_weight(*, embedded: bool) -> Module:
    """One weight [5, 4] behind o_proj and behind another linear op, and perhaps looked up by rows."""
    module = Module("m")
    function = module.add_function(Function("decode", "program"))
    x = function.add_param("x", TensorType((1, 2, 4), DType.F32))
    ids = function.add_param("ids", TensorType((1, 2), DType.S32))
    weight = module.add_weight(Weight.stored("w", TensorType((5, 4), DType.F32)))
    w = function.append(ops.LoadWeightOp(SymbolRef("w"), weight.type)).result
    first, second = (function.append(ops.LinearOp(x, w)) for _ in range(2))
    first.loc = type(first.loc)("model.o_proj")
    values: list[Value] = [first.result, second.result]
    if embedded:
        values.append(function.append(ops.GatherOp(w, ids)).result)
    function.results = [Result(value, f"y{n}") for n, value in enumerate(values)]
    run_once(module, "tile-contractions")
    return module


@pytest.mark.usefixtures("products")
def test_other_linear_ops_transpose_back() -> None:
    module = shared_weight(embedded=False)
    assert run_once(module, "outline-kernels{kernels=product}")["transposed"] == 1
    (back,) = of_kind(module, ops.TransposeOp, "program")
    assert back.results[0].shape == (5, 4)
    x, w = (np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in ((1, 2, 4), (5, 4)))
    given = {"x": x, "ids": np.zeros((1, 2), np.int32)}
    found = interpret(module, "decode", given, {"w": np.ascontiguousarray(w.T)})
    for y in found.values():
        np.testing.assert_allclose(y, x @ w.T, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("products")
def test_a_weight_that_is_looked_up_is_not_transposed() -> None:
    """Its rows would have to be put together at run time: the product stays where it is."""
    module = shared_weight(embedded=True)
    stats = run_once(module, "outline-kernels{kernels=product}")
    assert stats == {"calls": 0, "kernels": 0, "transposed": 0, "kept": 1}
    assert not module.weights["w"].transforms
    assert not kernels(module)


def test_ops_that_cannot_stand_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two ops needs, through a third one, the first."""

    class Ends:
        def find(self, function: Function) -> list[Group]:
            first, _, last = function.ops
            (x,) = function.params
            results = (("a", first.results[0]), ("b", last.results[0]))
            return [Group("ends", (first, last), (("x", x),), results)]

    monkeypatch.setitem(kernel_patterns.PATTERNS, "ends", Ends())
    module = Module("m", level=Level.TILED)
    function = module.add_function(Function("decode", "program"))
    x = function.add_param("x", TensorType((2,), DType.F32))
    first = function.append(ops.NegOp(x))
    between = function.append(ops.ExpOp(first.result))
    last = function.append(ops.AddOp(first.result, between.result))
    function.results = [Result(last.result, "y")]
    assert run_once(module, "outline-kernels") == {"calls": 0, "kernels": 0, "transposed": 0, "kept": 1}
