"""Which heads may be put into another order: what carries the order along, and what forbids it, op by op."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from gemma_like import inverse_frequencies

from g4c.ir import ops
from g4c.ir.builder import Builder
from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Dense, SymbolRef, Value
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import RopeTable, Weight
from g4c.passes.call_sites import CallSites
from g4c.passes.head_layout import HeadLayout, find_layouts, rotated_first
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.numerics import difference, sample_weights
from g4c.passes.pipeline import parse_pipeline

WIDTH, HEADS, ROWS, HIDDEN = 512, 2, 6, 8
Change = Callable[[Builder, Value], Value]


def t(*shape: int) -> TensorType:
    return TensorType(shape, DType.F32)


def weight(b: Builder, module: Module, name: str, *shape: int) -> Value:
    return b.load(module.add_weight(Weight.stored(name, t(*shape))))


def model(change: Change, *, after_rope: bool = False) -> Module:
    """q and k of one attention, `change` applied to both before or after they are rotated."""
    module = Module("test")
    function = module.add_function(Function("main", "program"))
    x = function.add_param("x", t(1, ROWS, HIDDEN))
    positions = function.add_param("positions", TensorType((1, ROWS), DType.S32))
    b = Builder(function)
    frequencies = Dense.of(inverse_frequencies("F"))
    rows = []
    for fn in ("cos", "sin"):
        table = module.add_weight(Weight(fn, value=frequencies, transforms=(RopeTable(fn, 16),)))
        rows.append(b.emit(ops.GatherOp(b.load(table), positions)))

    def head(name: str, heads: int) -> Value:
        y = b.emit(ops.LinearOp(x, weight(b, module, name, heads * WIDTH, HIDDEN)))
        y = b.emit(ops.ReshapeOp(y, t(1, ROWS, heads, WIDTH)))
        y = y if after_rope else change(b, y)
        y = b.emit(ops.RopeOp(y, *rows))
        return change(b, y) if after_rope else y

    q, k = head("q", HEADS), head("k", 1)
    v = b.emit(ops.ReshapeOp(b.emit(ops.LinearOp(x, weight(b, module, "v", WIDTH, HIDDEN))), k.type))
    y = b.emit(ops.AttentionOp(q, (k,), (v,), positions, (positions,), 0.01, 0))
    function.results = [Result(y, "y")]
    return module


def layouts(module: Module) -> list[HeadLayout]:
    return find_layouts(module, CallSites(module), 128)


def interpreted(module: Module) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, ROWS, HIDDEN)).astype(np.float32)
    positions = np.arange(4, 4 + ROWS, dtype=np.int32)[None]
    return interpret(module, "main", {"x": x, "positions": positions}, sample_weights(module))["y"]


def by_weight(b: Builder, x: Value) -> Value:
    return b.emit(ops.MulOp(x, b.emit(ops.LoadWeightOp(SymbolRef("factor"), t(WIDTH)))))


CARRIED: dict[str, Change] = {
    "nothing": lambda b, x: x,
    "norm": lambda b, x: b.emit(ops.RmsNormOp(x, None, 1e-6)),
    "convert": lambda b, x: b.emit(ops.ConvertOp(b.emit(ops.ConvertOp(x, x.type.with_dtype(DType.F16))), x.type)),
    "scalar": lambda b, x: b.emit(ops.MulOp(x, b.scalar(0.5, DType.F32))),
    "weight": by_weight,
    "sum": lambda b, x: b.emit(ops.AddOp(x, x)),
    "rows": lambda b, x: b.emit(
        ops.ConcatOp(
            (
                b.emit(ops.SliceOp(x, (0, 0, 0, 0), (1, 2, x.shape[2], WIDTH))),
                b.emit(ops.SliceOp(x, (0, 2, 0, 0), (1, ROWS, x.shape[2], WIDTH))),
            ),
            1,
        )
    ),
}


@pytest.mark.parametrize("after_rope", [False, True])
@pytest.mark.parametrize("change", CARRIED.values(), ids=CARRIED)
def test_ops_that_carry_the_order_along(change: Change, after_rope: bool) -> None:
    module = model(change, after_rope=after_rope)
    if change is by_weight:
        module.add_weight(Weight.stored("factor", t(WIDTH)))
    (layout,) = layouts(module)
    assert layout.reason == ""
    places = {(place.weight, place.axis, place.start, place.limit) for place in layout.places}
    wanted = {("q", 0, 0, HEADS * WIDTH), ("k", 0, 0, WIDTH)}
    assert places == wanted | ({("factor", 0, 0, WIDTH)} if change is by_weight else set())
    assert len(layout.ropes) == 2
    before = interpreted(module)
    run_pipeline(module, parse_pipeline("tile-contractions"), PipelineOptions(repro_dir=None))
    assert difference(interpreted(module), before) < 1e-5
    assert {split.why for split in module.functions["main"].ops_of(ops.SplitTilesOp)} >= {"the rotated dims are tile 0"}


def half(b: Builder, x: Value) -> Value:
    """The two halves of a head swapped."""
    heads = x.shape[2]
    parts = [
        b.emit(ops.SliceOp(x, (0, 0, 0, start), (1, ROWS, heads, start + WIDTH // 2))) for start in (WIDTH // 2, 0)
    ]
    return b.emit(ops.ConcatOp(tuple(parts), 3))


def by_data(b: Builder, x: Value) -> Value:
    column = b.emit(ops.SliceOp(x, (0, 0, 0, 0), (1, 1, 1, WIDTH)))
    return b.emit(ops.MulOp(x, b.emit(ops.ReshapeOp(column, t(WIDTH)))))


def transposed(b: Builder, x: Value) -> Value:
    there = b.emit(ops.TransposeOp(x, (0, 1, 3, 2)))
    return b.emit(ops.TransposeOp(there, (0, 1, 3, 2)))


def cut_in_half(b: Builder, x: Value) -> Value:
    heads = x.shape[2]
    y = b.emit(ops.ReshapeOp(x, t(1, ROWS, heads * 2, WIDTH // 2)))
    return b.emit(ops.ReshapeOp(b.emit(ops.NegOp(y)), x.type))


FORBIDDEN: dict[str, tuple[Change, str, str]] = {
    "a part of a head": (half, "g4.concat uses it", "a part of a head is cut out"),
    "data along the head": (by_data, *["it meets a factor that is no weight"] * 2),
    "another axis": (transposed, *["g4.transpose uses it"] * 2),
    "a reshape into the head": (cut_in_half, *["g4.reshape uses it"] * 2),
    "a constant": (
        lambda b, x: b.emit(ops.MulOp(x, b.emit(ops.ConstantOp(Dense.of(np.arange(WIDTH, dtype=np.float32)))))),
        *["it meets a factor that is no weight"] * 2,
    ),
}


@pytest.mark.parametrize("after_rope", [False, True])
@pytest.mark.parametrize(("change", "unrotated", "rotated"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_ops_that_forbid_another_order(change: Change, unrotated: str, rotated: str, after_rope: bool) -> None:
    module = model(change, after_rope=after_rope)
    assert {layout.reason for layout in layouts(module)} == {rotated if after_rope else unrotated}
    before = interpreted(module)
    run_pipeline(module, parse_pipeline("tile-contractions"), PipelineOptions(repro_dir=None))
    assert difference(interpreted(module), before) < 1e-5
    assert not any(weight.transforms for name, weight in module.weights.items() if name in "qk")


def test_a_slice_across_heads_that_rotate_and_others() -> None:
    """q and something else from one product, of which another op reads a head of each."""
    module = model(lambda b, x: x)
    function = module.functions["main"]
    q = next(op for op in function.ops_of(ops.ReshapeOp))
    product = q.x.owner
    assert isinstance(product, ops.LinearOp)
    function.ops = function.ops[: function.ops.index(product) - 1]
    b = Builder(function)
    both = b.emit(ops.LinearOp(product.x, weight(b, module, "qv", (HEADS + 1) * WIDTH, HIDDEN)))
    x = b.emit(ops.ReshapeOp(b.emit(ops.SliceOp(both, (0, 0, 0), (1, ROWS, HEADS * WIDTH))), q.result.type))
    k, v = (b.emit(ops.LinearOp(product.x, weight(b, module, name, WIDTH, HIDDEN))) for name in "kv")
    k, v = (b.emit(ops.ReshapeOp(y, t(1, ROWS, 1, WIDTH))) for y in (k, v))
    b.emit(ops.ExpOp(b.emit(ops.SliceOp(both, (0, 0, WIDTH), (1, ROWS, both.shape[2])))))
    rows = [op.result for op in function.ops_of(ops.GatherOp)]
    positions = function.param("positions")
    y = b.emit(ops.AttentionOp(b.emit(ops.RopeOp(x, *rows)), (k,), (v,), positions, (positions,), 0.01, 0))
    function.results = [Result(y, "y")]
    del module.weights["q"]
    (layout,) = layouts(module)
    assert layout.reason == "a slice takes a part of it"


def test_the_order_of_a_head() -> None:
    assert rotated_first(512, 128) == ((0, 64), (256, 320), (64, 256), (320, 512))
    assert rotated_first(16, 4) == ((0, 2), (8, 10), (2, 8), (10, 16))


def test_a_head_that_is_no_wider_than_a_tile_has_no_layout() -> None:
    module = model(lambda b, x: x)
    assert find_layouts(module, CallSites(module), 512) == []
