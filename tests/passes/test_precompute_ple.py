"""precompute-ple: per-layer inputs in parts, to the FLOP and the bit; what graphs do layer by layer becomes one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from gemma_like import GemmaLike, function_of, module_of
from pass_testing import one_row_at_a_time, run_checked, run_once

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.builder import Builder
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Value
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Slice, Weight
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline

BEFORE = "canonicalize,precompute-rope,eliminate-shared-kv,prune-prefill"
PROJECTION = "per_layer_model_projection"


def prepared(sizes: GemmaLike) -> Module:
    module = sizes.module()
    run_once(module, BEFORE)
    return module


def weight_bytes(module: Module) -> int:
    return sum(weight.type.nbytes for weight in module.weights.values())


def flops(function: Function) -> int:
    return sum(op.cost().flops for op in function.ops)


def products(function: Function, weight: str) -> list[ops.LinearOp]:
    """Linear ops on weights of that name, in order."""
    loads = {op.result for op in function.ops_of(ops.LoadWeightOp) if op.weight.name.startswith(weight)}
    return [op for op in function.ops_of(ops.LinearOp) if op.w in loads]


def unchanged(module: Module, pipeline: str = "precompute-ple") -> bool:
    return not run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None)).modified


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize(("batch", "logit_rows"), [(1, 1), (3, 1), (1, 4), (3, 4)])
def test_in_parts_to_the_flop_and_the_bit(dtype: DType, batch: int, logit_rows: int) -> None:
    """Layers 0 and 1 need their inputs at all rows; layer 2, the last owner, and those that share, at some."""
    sizes = GemmaLike(batch=batch, logit_rows=logit_rows, dtype=dtype, buckets=(8, 12))
    module = prepared(sizes)
    stored = weight_bytes(module)
    with one_row_at_a_time():
        stats = run_checked(module, "precompute-ple")
    per_layer = 2 * batch * sizes.hidden * sizes.ple
    wanted = {"values": 2, "weights": 1}
    for bucket in sizes.buckets:
        prefill = module.functions[f"prefill_{bucket}"]
        after = flops(prefill)
        wanted[f"prefill_{bucket}.flops_before"] = after + 3 * per_layer * (bucket - logit_rows)
        wanted[f"prefill_{bucket}.flops_after"] = after
        found = [(op.x.shape[1], op.result.shape[2]) for op in products(prefill, PROJECTION)]
        assert found == [(bucket, 2 * sizes.ple), (logit_rows, 3 * sizes.ple)]
    assert stats == wanted
    assert weight_bytes(module) == stored


def test_all_programs_use_the_same_parts() -> None:
    module = prepared(GemmaLike())
    run_once(module, "precompute-ple")
    parts = [name for name in module.weights if name.startswith(PROJECTION)]
    assert parts == [f"{PROJECTION}.rows_0_16.weight", f"{PROJECTION}.rows_16_40.weight"]
    for program in module.programs:
        assert [op.weight.name for op in program.ops_of(ops.LoadWeightOp) if op.weight.name in parts] == parts
    decode = module.functions["decode"]
    (joined,) = decode.ops_of(ops.ConcatOp)
    assert joined.xs == tuple(op.result for op in products(decode, PROJECTION))
    assert joined.result.shape == (1, 1, 40)


def test_one_gather_of_whole_rows() -> None:
    module = prepared(GemmaLike())
    table = module.weights["embed_tokens_per_layer.weight"]
    run_once(module, "precompute-ple")
    assert module.weights["embed_tokens_per_layer.weight"] == table
    for program in module.programs:
        gathers = [op for op in program.ops_of(ops.EmbeddingOp) if op.table.shape == table.type.shape]
        assert len(gathers) == 1


def test_layers_take_slices_of_their_part() -> None:
    module = prepared(GemmaLike())
    run_once(module, "precompute-ple")
    prefill = module.functions["prefill_8"]
    inputs = list(prefill.ops_of(ops.PerLayerInputOp))
    assert [op.result.shape for op in inputs] == [(1, 8, 2, 8), (1, 1, 3, 8)]
    cuts = [(inputs.index(op.x.owner), op.starts[2]) for op in prefill.ops_of(ops.SliceOp) if op.x.owner in inputs]
    assert cuts == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def test_kinds_of_layers_stay() -> None:
    module = prepared(GemmaLike(pattern="SFSFSFSF", shared=4))
    run_once(module, "precompute-ple")
    run_once(module, "specialize-layers")
    wanted = ["sliding_own", "full_own", "sliding_own", "full_own_pruned", *["sliding_shared", "full_shared"] * 2]
    assert module.callees(module.functions["prefill_8"]) == [f"prefill_8.{kind}" for kind in wanted]


# -- graphs that do it layer by layer ----------------------------------------------------------------------------------


LAYERS, WIDTH, HIDDEN, ROWS = 4, 3, 8, 6
TABLE = Weight.stored("ple.weight", TensorType((20, LAYERS * WIDTH), DType.F32))
MATRIX = Weight.stored("projection.weight", TensorType((LAYERS * WIDTH, HIDDEN), DType.F32))


def sliced_in_program(b: Builder, weight: Weight, axis: int, layer: int) -> Value:
    starts, limits = [0, 0], list(weight.type.shape)
    starts[axis], limits[axis] = layer * WIDTH, (layer + 1) * WIDTH
    return b.emit(ops.SliceOp(b.load(weight), tuple(starts), tuple(limits)))


def sliced_weight(module: Module) -> Callable[[Builder, Weight, int, int], Value]:
    def part(b: Builder, weight: Weight, axis: int, layer: int) -> Value:
        cut = Slice(axis, layer * WIDTH, (layer + 1) * WIDTH)
        return b.load(module.add_weight(weight.then(cut, name=f"layers.{layer}.{weight.name}")))

    return part


def layer_by_layer(*, in_program: bool, chosen: bool) -> Module:
    """Every layer looks up and projects its own input, at chosen rows or not; layers 2 and 3 come after a selection."""
    module = Module("by_hand")
    if in_program:
        module.add_weight(TABLE)
        module.add_weight(MATRIX)
    part = sliced_in_program if in_program else sliced_weight(module)
    for name, rows in (("prefill", ROWS), ("decode", 1)):
        function = module.add_function(Function(name, "program"))
        b = Builder(function)
        ids = function.add_param("ids", TensorType((2, rows), DType.S32))
        x = function.add_param("x", TensorType((2, rows, HIDDEN), DType.F32))
        choice = function.add_param("rows", TensorType((2, 1), DType.S32))
        for layer in range(LAYERS):
            token = b.emit(ops.EmbeddingOp(ids, part(b, TABLE, 1, layer), 2.0))
            context = b.emit(ops.LinearOp(x, part(b, MATRIX, 0, layer)))
            y = b.emit(ops.PerLayerInputOp(b.emit(ops.RmsNormOp(context, None, 1e-6)), token, 0.5))
            if chosen and rows > 1 and layer >= 2:
                y = b.emit(ops.SelectRowsOp(y, choice))
            function.results.append(Result(y, f"y{layer}"))
    return module


@pytest.mark.parametrize("in_program", [True, False])
def test_layer_by_layer_becomes_one_gather_and_one_product(in_program: bool) -> None:
    module = layer_by_layer(in_program=in_program, chosen=False)
    stats = run_checked(module, "precompute-ple", tolerance=1e-6)
    assert stats == {"values": 0, "weights": 2 if in_program else 2 * LAYERS}
    assert {name: weight.type.shape for name, weight in module.weights.items()} == {
        "ple.weight": (20, LAYERS * WIDTH),
        "projection.weight": (LAYERS * WIDTH, HIDDEN),
    }
    assert not any(weight.transforms for weight in module.weights.values())
    for program in module.programs:
        assert len(list(program.ops_of(ops.EmbeddingOp))) == 1
        assert len(list(program.ops_of(ops.LinearOp))) == 1
        assert all(not isinstance(op.x.owner, ops.LoadWeightOp) for op in program.ops_of(ops.SliceOp))


@pytest.mark.parametrize("in_program", [True, False])
def test_layer_by_layer_at_different_rows(in_program: bool) -> None:
    module = layer_by_layer(in_program=in_program, chosen=True)
    with one_row_at_a_time():
        run_checked(module, "prune-prefill,precompute-ple", tolerance=1e-6)
    prefill = module.functions["prefill"]
    assert [(op.x.shape[1], op.w.shape[0]) for op in prefill.ops_of(ops.LinearOp)] == [(ROWS, 6), (1, 6)]
    assert [op.w.shape[0] for op in module.functions["decode"].ops_of(ops.LinearOp)] == [6, 6]
    assert list(module.weights) == ["ple.weight", "projection.rows_0_6.weight", "projection.rows_6_12.weight"]
    gathers = [(op.ids.shape[1], op.table.shape[1]) for op in prefill.ops_of(ops.EmbeddingOp)]
    assert gathers == [(ROWS, LAYERS * WIDTH), (1, LAYERS * WIDTH)]


def test_products_of_layers_belong_to_no_layer() -> None:
    module = layer_by_layer(in_program=True, chosen=False)
    for program in module.programs:
        layers = iter(range(LAYERS))
        for op in program.ops_of(ops.LinearOp):
            op.loc = dataclasses.replace(op.loc, path=f"model.layers.{next(layers)}.per_layer_projection")
    run_once(module, "precompute-ple")
    (product,) = module.functions["decode"].ops_of(ops.LinearOp)
    assert product.loc.path == "model.layers"


def test_rows_that_no_program_needs_go() -> None:
    module = layer_by_layer(in_program=True, chosen=False)
    for program in module.programs:
        program.results = [result for result in program.results if result.name != "y1"]
    run_once(module, "dce,precompute-ple")
    assert [weight.type.shape[0] for name, weight in module.weights.items() if name != "ple.weight"] == [3, 6]
    assert module.weights["ple.weight"] == TABLE


# -- small programs ----------------------------------------------------------------------------------------------------


S = TensorType((1, 6, 4), DType.F32)
W = Weight.stored("w", TensorType((8, 4), DType.F32))
R = TensorType((1, 2), DType.S32)


def cut(b: Builder, x: Value, start: int, limit: int) -> Value:
    return b.emit(ops.SliceOp(x, (0, 0, start), (*x.shape[:2], limit)))


def projected(*others: TensorType) -> tuple[Function, Builder, Value]:
    function = function_of(S, R, *others)
    b = Builder(function)
    return function, b, b.emit(ops.LinearOp(function.params[0], b.load(W)))


def at(b: Builder, x: Value, param: int = 1) -> Value:
    return b.emit(ops.SelectRowsOp(x, b.function.params[param]))


def widths(function: Function) -> list[tuple[int, int]]:
    """(rows, columns) of every product."""
    return [(op.result.shape[1], op.result.shape[2]) for op in function.ops_of(ops.LinearOp)]


def checked(function: Function, results: list[Value], *weights: Weight) -> list[tuple[int, int]]:
    module = module_of(function, results, weights or [W])
    with one_row_at_a_time():
        run_checked(module, "precompute-ple")
    return widths(function)


def test_columns_at_all_and_at_chosen_rows() -> None:
    function, b, x = projected()
    assert checked(function, [cut(b, x, 0, 3), cut(b, at(b, x), 3, 8)]) == [(6, 3), (2, 5)]


def test_a_cut_across_parts_is_joined() -> None:
    """Columns 2 and 3 are needed at all rows and at some: they are computed at all, and selected from."""
    function, b, x = projected()
    found = checked(function, [cut(b, x, 0, 4), cut(b, at(b, x), 2, 6), cut(b, at(b, x), 6, 8)])
    assert found == [(6, 4), (2, 4)]
    assert len(list(function.ops_of(ops.ConcatOp))) == 1


def test_columns_that_nobody_needs_are_not_computed() -> None:
    function, b, x = projected()
    assert checked(function, [cut(b, x, 1, 3), cut(b, x, 4, 8)]) == [(6, 2), (6, 4)]


def test_three_choices_of_rows() -> None:
    function, b, x = projected(R)
    cuts = [cut(b, x, 0, 2), cut(b, at(b, x), 2, 4), cut(b, at(b, x, 2), 4, 8)]
    assert checked(function, cuts) == [(6, 2), (2, 2), (2, 4)]


def test_through_a_tower() -> None:
    """Scaled, rounded, seen as [layers, width], normed, added to what was looked up: all of it in parts."""
    function = function_of(S, R, TensorType((1, 6), DType.S32))
    b = Builder(function)
    x = b.emit(ops.LinearOp(function.params[0], b.load(W)))
    x = b.emit(ops.MulOp(x, b.scalar(0.5, DType.F32)))
    x = b.emit(ops.ReshapeOp(x, TensorType((1, 6, 4, 2), DType.F32)))
    x = b.emit(ops.RmsNormOp(x, None, 1e-6))
    table = Weight.stored("table", TensorType((9, 8), DType.F32))
    token = b.emit(ops.EmbeddingOp(function.params[2], b.load(table), 2.0))
    token = b.emit(ops.ReshapeOp(token, TensorType((1, 6, 4, 2), DType.F32)))
    x = b.emit(ops.PerLayerInputOp(x, token, 0.5))
    first = b.emit(ops.SliceOp(x, (0, 0, 0, 0), (1, 6, 1, 2)))
    others = b.emit(ops.SliceOp(at(b, x), (0, 0, 1, 0), (1, 2, 4, 2)))
    assert checked(function, [first, others], W, table) == [(6, 2), (2, 6)]
    assert [op.result.shape for op in function.ops_of(ops.RmsNormOp)] == [(1, 6, 1, 2), (1, 2, 3, 2)]
    (gather,) = function.ops_of(ops.EmbeddingOp)
    assert gather.result.shape == (1, 6, 8)


def needed_whole() -> Module:
    function, b, x = projected()
    return module_of(function, [cut(b, x, 0, 3), cut(b, at(b, x), 3, 8), x], [W])


def chosen_rows_needed_whole() -> Module:
    function, b, x = projected()
    chosen = at(b, x)
    return module_of(function, [cut(b, x, 0, 3), cut(b, chosen, 3, 8), chosen], [W])


def used_by_another_op() -> Module:
    function, b, x = projected()
    return module_of(function, [cut(b, x, 0, 3), cut(b, at(b, x), 3, 8), b.emit(ops.NegOp(x))], [W])


def cut_along_two_axes() -> Module:
    function, b, x = projected()
    return module_of(function, [cut(b, x, 0, 3), b.emit(ops.SliceOp(at(b, x), (0, 1, 3), (1, 2, 8)))], [W])


def at_all_rows() -> Module:
    function, b, x = projected()
    return module_of(function, [cut(b, x, 0, 3), cut(b, x, 3, 8)], [W])


def without_a_matrix() -> Module:
    """Cutting what was looked up saves no product."""
    function = function_of(TensorType((9, 8), DType.F32), R, TensorType((1, 6), DType.S32))
    b = Builder(function)
    x = b.emit(ops.GatherOp(function.params[0], function.params[2]))
    return module_of(function, [cut(b, x, 0, 3), cut(b, at(b, x), 3, 8)])


def no_per_layer_inputs() -> Module:
    function, b, x = projected()
    return module_of(function, [at(b, x)], [W])


@pytest.mark.parametrize(
    "make",
    [
        needed_whole,
        chosen_rows_needed_whole,
        used_by_another_op,
        cut_along_two_axes,
        at_all_rows,
        without_a_matrix,
        no_per_layer_inputs,
    ],
)
def test_no_op(make: Callable[[], Module]) -> None:
    assert unchanged(make())


def test_no_op_without_pruning() -> None:
    module = GemmaLike().module()
    run_once(module, "canonicalize,precompute-rope,eliminate-shared-kv")
    assert unchanged(module)


def test_slices_of_a_weight_that_others_use_stay() -> None:
    """A tied embedding is looked up, too: no part of it may go elsewhere."""
    function = function_of(S, TensorType((1, 6), DType.S32))
    b = Builder(function)
    tied = b.load(W)
    row = b.emit(ops.EmbeddingOp(function.params[1], tied, 1.0))
    part = b.emit(ops.SliceOp(tied, (2, 0), (5, 4)))
    y = b.emit(ops.LinearOp(function.params[0], part))
    assert unchanged(module_of(function, [row, y], [W]))


@pytest.mark.parametrize("shape", [((2, 1), (5, 4)), ((0, 0), (8, 2))])
def test_slices_of_the_other_axis_stay(shape: tuple[tuple[int, int], tuple[int, int]]) -> None:
    function = function_of(TensorType((1, 6, shape[1][1] - shape[0][1]), DType.F32))
    b = Builder(function)
    y = b.emit(ops.LinearOp(function.params[0], b.emit(ops.SliceOp(b.load(W), *shape))))
    assert unchanged(module_of(function, [y], [W]))


def test_a_slice_that_is_a_result_stays() -> None:
    function = function_of(S)
    b = Builder(function)
    part = b.emit(ops.SliceOp(b.load(W), (2, 0), (5, 4)))
    assert unchanged(module_of(function, [b.emit(ops.LinearOp(function.params[0], part)), part], [W]))


def test_a_part_of_a_transformed_weight() -> None:
    """Slices of a weight that is itself made of others: their chain goes on."""
    made = Weight.stored("w", TensorType((10, 4), DType.F32)).then(Slice(0, 1, 9))
    function = function_of(S)
    b = Builder(function)
    y = b.emit(ops.LinearOp(function.params[0], b.emit(ops.SliceOp(b.load(made), (2, 0), (5, 4)))))
    module = module_of(function, [y], [made])
    run_checked(module, "precompute-ple")
    (part,) = module.weights.values()
    assert part.type.shape == (3, 4)
    assert part.transforms == (Slice(0, 3, 6),)


def test_a_name_that_is_taken() -> None:
    other = Weight("w.rows_2_5", (dataclasses.replace(W.sources[0], key="v"),))
    function = function_of(S)
    b = Builder(function)
    x = function.params[0]
    y = b.emit(ops.LinearOp(x, b.emit(ops.SliceOp(b.load(W), (2, 0), (5, 4)))))
    z = b.emit(ops.LinearOp(x, b.load(other)))
    module = module_of(function, [y, z], [W, other])
    run_checked(module, "precompute-ple")
    assert list(module.weights) == ["w.rows_2_5_2", "w.rows_2_5"]


def test_refuses_layer_functions() -> None:
    module = prepared(GemmaLike())
    run_once(module, "specialize-layers")
    with pytest.raises(G4cError) as caught:
        run_once(module, "precompute-ple")
    assert caught.value.code == "G4C-P042"


def test_comes_after_pruning() -> None:
    with pytest.raises(G4cError) as caught:
        parse_pipeline("precompute-ple,prune-prefill")
    assert caught.value.code == "G4C-P005"
