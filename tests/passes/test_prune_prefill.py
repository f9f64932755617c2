"""prune-prefill: which ops run at the rows asked for, to the FLOP; what stays whole; the numbers, to the bit."""

from __future__ import annotations

import pytest
from gemma_like import HEAD_DIM, GemmaLike, function_of, module_of
from pass_testing import one_row_at_a_time, run_checked, run_once

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.builder import Builder
from g4c.ir.module import Function, Module
from g4c.ir.op import Value
from g4c.ir.printer import structural_hash
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Weight
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline

# input norm; q: projection, heads, norm, rope; attention, heads, o_proj; norm, add; gate, up, gelu, down, add;
# per-layer input: slice, reshape, gate, gelu, projection, add; layer_scalar
OPS_OF_A_LAYER = 1 + 4 + 3 + 2 + 5 + 6 + 1

BEFORE = "canonicalize,precompute-rope,eliminate-shared-kv"


def prepared(sizes: GemmaLike) -> Module:
    module = sizes.module()
    run_once(module, BEFORE)
    return module


def selections(function: Function) -> list[ops.SelectRowsOp]:
    return list(function.ops_of(ops.SelectRowsOp))


def layer_flops(sizes: GemmaLike, layer: int, rows: int, kv_rows: int) -> int:
    """Matmul FLOP of a layer whose K and V are computed at `kv_rows` rows and the rest at `rows`."""
    dim, shared = HEAD_DIM[sizes.pattern[layer]], layer >= sizes.layers - sizes.shared
    q_and_o = 2 * sizes.heads * dim * sizes.hidden
    kv = 0 if shared else 2 * dim * sizes.hidden
    mlp = 3 * sizes.mlp * (2 if shared else 1) * sizes.hidden
    ple = 2 * sizes.ple * sizes.hidden
    attention = 4 * sizes.heads * dim * sizes.context
    return sizes.batch * (rows * (2 * (q_and_o + mlp + ple) + attention) + kv_rows * 2 * kv)


def program_flops(sizes: GemmaLike, bucket: int, first_pruned: int) -> int:
    """Of a prefill whose layers from `first_pruned` on give the rows asked for alone; it is the last that writes."""
    rows = sizes.logit_rows
    total = sizes.batch * bucket * 2 * sizes.hidden * sizes.layers * sizes.ple
    total += sizes.batch * rows * 2 * sizes.hidden * sizes.vocabulary
    for layer in range(sizes.layers):
        total += layer_flops(sizes, layer, rows if layer >= first_pruned else bucket, bucket)
    return total


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize(("batch", "logit_rows"), [(1, 1), (3, 1), (1, 4), (3, 4)])
def test_prunes_to_the_flop_and_keeps_every_bit(dtype: DType, batch: int, logit_rows: int) -> None:
    sizes = GemmaLike(batch=batch, logit_rows=logit_rows, dtype=dtype, buckets=(8, 12))
    module = prepared(sizes)
    decode = module.functions["decode"].ops
    with one_row_at_a_time():
        stats = run_checked(module, "prune-prefill")
    for bucket in sizes.buckets:
        found = {key.partition(".")[2]: count for key, count in stats.items() if key.startswith(f"prefill_{bucket}.")}
        assert found.pop("ops") == 3 * OPS_OF_A_LAYER - 1, "an owner's input norm is whole"
        assert found == {
            "layers_pruned": 2,
            "layers_partly": 1,
            "layers_whole": 2,
            "flops_before": program_flops(sizes, bucket, first_pruned=sizes.layers),
            "flops_after": program_flops(sizes, bucket, first_pruned=2),
        }
    assert module.functions["decode"].ops is decode


def test_every_value_is_selected_from_once() -> None:
    """What is needed whole: the last owner's input and its norm, RoPE tables, positions, the per-layer inputs."""
    sizes = GemmaLike()
    module = prepared(sizes)
    run_once(module, "prune-prefill")
    prefill = module.functions["prefill_8"]
    found = {(op.loc.path, op.x.shape) for op in selections(prefill)}
    assert found == {
        ("model.layers.2.self_attn.q_proj", (1, 8, 32)),
        ("model.layers.2", (1, 8, 32)),
        ("model.layers", (1, 8)),
        ("model.layers", (1, 8, 5, 8)),
        ("model.layers", (1, 8, 256)),
        ("model.layers.3.self_attn.q_proj", (1, 8, 128)),
    }
    assert len(selections(prefill)) == 8, "cos and sin of both kinds"
    assert {op.rows for op in selections(prefill)} == {prefill.param("rows")}
    assert not selections(module.functions["decode"])
    assert {op.loc.line for op in selections(prefill)} == {110}, "the line that chose the rows"


def test_keys_and_cache_writes_stay_whole() -> None:
    module = prepared(GemmaLike(logit_rows=3))
    run_once(module, "prune-prefill")
    prefill = module.functions["prefill_8"]
    assert {op.positions for op in prefill.ops_of(ops.KvUpdateOp)} == {prefill.param("positions")}
    assert {op.positions for op in prefill.ops_of(ops.HeldPositionsOp)} == {prefill.param("positions")}
    wide, narrow = (0, 1), (2, 3, 4)
    attentions = list(prefill.ops_of(ops.AttentionOp))
    assert [op.q.shape[1] for op in attentions] == [8 if layer in wide else 3 for layer in range(5)]
    for layer in narrow:
        assert isinstance(attentions[layer].positions.owner, ops.SelectRowsOp)
        assert attentions[layer].key_positions == attentions[0].key_positions
        assert [k.type for k in attentions[layer].keys] == [v.type for v in attentions[layer].values]
        assert attentions[layer].keys[0].shape[1] == 24


def test_without_sharing_only_the_last_layer_is_pruned(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = GemmaLike(pattern="SSSF", shared=0)
    module = prepared(sizes)
    with one_row_at_a_time():
        stats = run_checked(module, "prune-prefill")
    assert stats["prefill_8.flops_before"] == program_flops(sizes, 8, first_pruned=4)
    assert stats["prefill_8.flops_after"] == program_flops(sizes, 8, first_pruned=3)
    layers = [stats[f"prefill_8.layers_{part}"] for part in ("pruned", "partly", "whole")]
    assert layers == [0, 1, 3]
    saved = 100 * (1 - stats["prefill_8.flops_after"] / stats["prefill_8.flops_before"])
    assert capsys.readouterr().err.splitlines()[0] == (
        "prune-prefill: prefill_8: 1 of 8 rows from 0 of 4 layers; model.layers.3 in part (whole: "
        "model.layers.3.self_attn.k_proj, model.layers.3.self_attn.v_proj); 3 layers stay whole; "
        f"{saved:.1f} % of the matmul FLOP saved"
    )


def test_caches_that_shared_layers_write_hold_them_back() -> None:
    """Before eliminate-shared-kv every layer writes a cache, so every layer but the last is needed whole."""
    module = GemmaLike().module()
    run_once(module, "canonicalize,precompute-rope")
    stats = run_checked(module, "prune-prefill", tolerance=1e-5)
    assert [stats[f"prefill_8.layers_{part}"] for part in ("pruned", "partly", "whole")] == [0, 1, 4]


def test_kinds_of_layers() -> None:
    """The last owner goes from all rows to some: a kind of its own. What follows it keeps its names."""
    module = prepared(GemmaLike(pattern="SFSFSFSF", shared=4))
    run_once(module, "prune-prefill")
    run_once(module, "specialize-layers")
    wanted = ["sliding_own", "full_own", "sliding_own", "full_own_pruned", *["sliding_shared", "full_shared"] * 2]
    assert module.callees(module.functions["prefill_8"]) == [f"prefill_8.{kind}" for kind in wanted]
    assert "decode.full_own_pruned" not in module.functions
    pruned = module.functions["prefill_8.full_own_pruned"]
    assert pruned.param("rows").type == TensorType((1, 1), DType.S32)
    assert [(result.name, result.value.shape[1]) for result in pruned.results] == [
        ("hidden", 1), ("k_cache", 24), ("v_cache", 24),
    ]  # fmt: skip
    assert module.functions["prefill_8.full_shared"].param("hidden").shape == (1, 1, 32)


# -- small programs ----------------------------------------------------------------------------------------------------


ROWS = TensorType((2, 2), DType.S32)
HIDDEN = TensorType((2, 6, 4), DType.F32)
SQUARE = Weight.stored("w", TensorType((4, 4), DType.F32))


def program(*others: TensorType) -> tuple[Function, Builder, Value, Value]:
    """A program of %a [2, 6, 4], %b: rows of it [2, 2], and others."""
    function = function_of(HIDDEN, ROWS, *others)
    return function, Builder(function), function.params[0], function.params[1]


def linear(b: Builder, x: Value) -> Value:
    return b.emit(ops.LinearOp(x, b.load(SQUARE)))


def unchanged(module: Module) -> bool:
    before = structural_hash(module)
    modified = run_pipeline(module, parse_pipeline("prune-prefill"), PipelineOptions(repro_dir=None)).modified
    assert (structural_hash(module) == before) is not modified
    return not modified


def test_a_chain_is_pruned_to_its_input() -> None:
    function, b, x, rows = program()
    y = b.emit(ops.SelectRowsOp(b.emit(ops.NegOp(linear(b, x))), rows))
    module = module_of(function, [y], [SQUARE])
    with one_row_at_a_time():
        run_checked(module, "prune-prefill")
    assert [op.mnemonic for op in function.ops] == ["g4.load_weight", "g4.select_rows", "g4.linear", "g4.neg"]


def test_a_value_that_is_needed_whole_too_is_selected_from() -> None:
    function, b, x, rows = program()
    y = linear(b, x)
    z = b.emit(ops.SelectRowsOp(linear(b, y), rows))
    module = module_of(function, [y, z], [SQUARE])
    with one_row_at_a_time():
        stats = run_checked(module, "prune-prefill")
    assert stats["main.ops"] == 1
    assert [op.x for op in selections(function)] == [y]


def test_equal_selections_become_one() -> None:
    function, b, x, rows = program()
    y = linear(b, x)
    chosen = [b.emit(ops.SelectRowsOp(value, rows)) for value in (y, b.emit(ops.NegOp(y)), y)]
    module = module_of(function, [*chosen, y], [SQUARE])
    run_checked(module, "prune-prefill")
    assert len(selections(function)) == 1
    assert function.results[0].value is function.results[2].value


def test_a_result_that_is_pruned_stays_a_result() -> None:
    function, b, x, rows = program()
    y = b.emit(ops.SelectRowsOp(b.emit(ops.NegOp(x)), rows))
    module = module_of(function, [y, b.emit(ops.ExpOp(y))])
    run_checked(module, "prune-prefill")
    assert isinstance(function.results[0].value.owner, ops.NegOp)


def test_top_k_and_experts_are_pruned() -> None:
    """A router chooses experts row by row; both results of top_k are needed at the same rows."""
    function, b, x, rows = program(TensorType((4, 6, 4), DType.F32), TensorType((4, 4, 3), DType.F32))
    chosen = function.append(ops.TopKOp(x, 2))
    values, indices = chosen.results
    y = b.emit(ops.ExpertsOp(x, indices, values, *function.params[2:]))
    module = module_of(function, [b.emit(ops.SelectRowsOp(y, rows))])
    with one_row_at_a_time():
        run_checked(module, "prune-prefill")
    assert [op.mnemonic for op in function.ops] == ["g4.select_rows", "g4.top_k", "g4.experts"]


def test_results_of_one_op_at_different_rows_stay_whole() -> None:
    function, b, x, rows = program(ROWS)
    top = function.append(ops.TopKOp(x, 2))
    values, indices = top.results
    b.emit(ops.NegOp(values))
    chosen = [b.emit(ops.SelectRowsOp(values, rows)), b.emit(ops.SelectRowsOp(indices, function.params[2]))]
    assert unchanged(module_of(function, chosen))


def test_different_rows_are_different() -> None:
    function, b, x, rows = program(ROWS)
    y = linear(b, x)
    chosen = [b.emit(ops.SelectRowsOp(b.emit(ops.NegOp(y)), choice)) for choice in (rows, function.params[2])]
    module = module_of(function, chosen, [SQUARE])
    run_checked(module, "prune-prefill")
    assert {op.x for op in selections(function)} == {y}
    assert len(selections(function)) == 2


def test_rows_that_are_made_in_time() -> None:
    """Rows that are computed are as good as given ones, as long as they are there before what they prune."""
    function, b, x, rows = program()
    zero = b.scalar(0, DType.S32)
    clamped = b.emit(ops.MaxOp(rows, zero))
    y = b.emit(ops.SelectRowsOp(linear(b, x), clamped))
    run_checked(module_of(function, [y], [SQUARE]), "prune-prefill")
    assert selections(function)[0].x is x


def test_rows_that_are_chosen_twice() -> None:
    """Equal choices of rows become one value, also where rows are chosen by it."""
    function, b, x, rows = program(TensorType((2, 5), DType.S32))
    choices = [b.emit(ops.SelectRowsOp(function.params[2], rows)) for _ in range(2)]
    y = linear(b, x)
    chosen = [b.emit(ops.SelectRowsOp(b.emit(kind(y)), choices[1])) for kind in (ops.NegOp, ops.ExpOp)]
    module = module_of(function, [*chosen, y], [SQUARE])
    run_checked(module, "prune-prefill")
    assert len(selections(function)) == 2


def test_what_is_the_same_at_all_rows_needs_no_selection() -> None:
    function, b, _, rows = program(TensorType((4,), DType.F32))
    y = b.emit(ops.SelectRowsOp(b.emit(ops.BroadcastOp(function.params[2], HIDDEN)), rows))
    stats = run_checked(module_of(function, [y]), "prune-prefill")
    assert stats["main.ops"] == 1
    assert not selections(function)


def no_selection() -> Module:
    function, b, x, _ = program()
    return module_of(function, [linear(b, x)], [SQUARE])


def as_many_rows() -> Module:
    function = function_of(HIDDEN, TensorType((2, 6), DType.S32))
    b = Builder(function)
    y = linear(b, function.params[0])
    return module_of(function, [b.emit(ops.SelectRowsOp(y, function.params[1]))], [SQUARE])


def rows_that_come_too_late() -> Module:
    function, b, x, rows = program()
    y = linear(b, x)
    zero = b.scalar(0, DType.S32)
    return module_of(function, [b.emit(ops.SelectRowsOp(y, b.emit(ops.MaxOp(rows, zero))))], [SQUARE])


def rows_meet() -> Module:
    function, b, x, rows = program()
    moved = b.emit(ops.TransposeOp(b.emit(ops.TransposeOp(x, (0, 2, 1))), (0, 2, 1)))
    return module_of(function, [b.emit(ops.SelectRowsOp(moved, rows))])


def used_by_dead_code() -> Module:
    """Dead code is another pass's business, and reads whole values."""
    function, b, x, rows = program()
    y = linear(b, x)
    b.emit(ops.NegOp(y))
    return module_of(function, [b.emit(ops.SelectRowsOp(y, rows))], [SQUARE])


@pytest.mark.parametrize("make", [no_selection, as_many_rows, rows_that_come_too_late, rows_meet, used_by_dead_code])
def test_no_op(make: object) -> None:
    assert callable(make)
    assert unchanged(make())


def test_no_op_on_every_row() -> None:
    module = prepared(GemmaLike(logit_rows=0))
    assert unchanged(module)


def test_refuses_layer_functions() -> None:
    module = prepared(GemmaLike())
    run_once(module, "specialize-layers")
    with pytest.raises(G4cError) as caught:
        run_once(module, "prune-prefill")
    assert caught.value.code == "G4C-P042"


def test_comes_after_what_frees_layers_of_their_caches() -> None:
    with pytest.raises(G4cError) as caught:
        parse_pipeline("prune-prefill,eliminate-shared-kv")
    assert caught.value.code == "G4C-P005"
