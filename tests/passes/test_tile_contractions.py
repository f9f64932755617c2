"""tile-contractions: the same numbers tile by tile, one rotated tile per wide head, and reasons for what stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
from gemma_like import GemmaLike
from histories import Call, chunked, logits_of, mild_weights, mixed, worst
from pass_testing import FLATTEN, run_once

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.module import Module, Result
from g4c.ir.op import Level, Value
from g4c.ir.types import DType, TensorType
from g4c.ir.verifier import VerificationError, verify_module
from g4c.ir.weights import Take, Weight
from g4c.passes.linear_tiles import linear_tiles
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import TILED_PIPELINE

TABLES = "canonicalize,precompute-rope,eliminate-shared-kv"
WHOLE = f"{TABLES},window-kv-cache{{pad=1}},prune-prefill,fold-norms,fuse-projections,canonicalize,cse,dce"
SMALL = "tile-contractions{q-tile=4,kv-tile=4}"
SIZES = GemmaLike(pattern="SFSF", shared=2, context=32, window=6, buckets=(4, 16), logit_rows=0, ple=4, mlp=16)
TAKE = "take{axis=0,block=512,ranges=0:64+256:320+64:256+320:512}"


def before(pipeline: str, **changes: object) -> Module:
    module = dataclasses.replace(SIZES, **changes).module()
    run_once(module, pipeline)
    return module


def tiled(module: Module, pipeline: str = SMALL) -> dict[str, int]:
    """Run the pass; everything is verified around it. Its level is the next one."""
    stats = run_once(module, pipeline)
    assert module.level is Level.TILED
    return stats


FORMS = {
    "as traced": TABLES,
    "layers": f"{TABLES},cse,dce,specialize-layers",
    "whole programs": WHOLE,
    "layers of whole programs": f"{WHOLE},specialize-layers",
    "keys rebuilt": f"{TABLES},window-kv-cache{{pad=1}},rebuild-keys,canonicalize,cse,dce,specialize-layers",
}


class Same:
    """What a module gives on chunks past window and ring, restarts, idle sequences, decode; `check` compares."""

    def __init__(self, module: Module, batch: int = 1) -> None:
        lengths = [int(program.name.rpartition("_")[2]) for program in module.programs if program.name != "decode"]
        self.history = mixed(np.random.default_rng(5), (1, *lengths), batch, SIZES.context, 6)
        self.history += [Call(1, (i,) * batch, (1,) * batch) for i in range(2)]
        self.wanted = logits_of(module, self.history)

    def check(self, module: Module) -> None:
        assert worst(logits_of(module, self.history, garbage=3), self.wanted) < 2e-5


@pytest.mark.parametrize(("form", "k_eq_v"), [*((form, "F") for form in FORMS), ("layers of whole programs", "")])
def test_the_same_numbers(form: str, k_eq_v: str) -> None:
    """Three sequences, GQA, in tiles of 4; and in tiles of 128 of what is shorter."""
    module = before(FORMS[form], batch=3, k_eq_v=k_eq_v, heads=4, kv_heads=2)
    same = Same(module, 3)
    for pipeline in (SMALL, "tile-contractions"):
        copy = module.copy()
        assert tiled(copy, pipeline)["heads_split"] > 0
        same.check(copy)


def test_bf16_errs_no_more_than_untiled() -> None:
    """Against the same weights in f32: the error is that of bf16, tiled or not."""
    module = before(FORMS["layers"], dtype=DType.BF16)
    history = chunked(14, 16, decode=6)
    narrow = logits_of(module, history)
    tiled(module)
    found = logits_of(module, history)
    wide = before(FORMS["layers"])
    weights = {
        name: array.astype(np.float32)
        for name, array in mild_weights(before(FORMS["layers"], dtype=DType.BF16)).items()
    }
    with patch("histories.mild_weights", lambda _: weights):
        wanted = logits_of(wide, history)
    ours, theirs = (np.sqrt(np.mean((np.concatenate(x) - np.concatenate(wanted)) ** 2)) for x in (found, narrow))
    assert theirs > 1e-4
    assert ours < 1.25 * theirs


@pytest.mark.parametrize("length", [1, 5, 17, 28])
def test_prompts_of_any_length(length: int) -> None:
    module = before(FORMS["layers of whole programs"], k_eq_v="F")
    history = chunked(length, 16, decode=3)
    wanted = logits_of(module, history)
    tiled(module)
    assert worst(logits_of(module, history), wanted) < 2e-5


def mnemonics(module: Module) -> list[str]:
    return [op.mnemonic for function in module.functions.values() for op in function.ops]


def test_a_wide_head_is_four_tiles_of_which_one_is_rotated() -> None:
    module = before(FORMS["layers"])
    stats = tiled(module)
    for name, function in module.functions.items():
        if function.role == "program":
            continue
        (attention,) = function.ops_of(ops.TiledAttentionOp)
        widths = [tile.shape[3] for tile in attention.q]
        rotated = [isinstance(tile.owner, ops.RopeOp) for tile in attention.q]
        if "full" in name:
            assert (widths, rotated) == ([128] * 4, [True, False, False, False])
            assert {rope.cos.shape[2] for rope in function.ops_of(ops.RopeOp)} == {64}
            assert function.param("cos").shape[2] == 64
        else:
            assert (widths, rotated) == ([128] * 2, [False] * 2)
            (why,) = {split.why for split in function.ops_of(ops.SplitTilesOp)}
            assert why == "rotated as a whole: 128 pairs rotate, a tile has 64"
    assert stats == {
        "linears": mnemonics(module).count("g4.tiled_linear"),
        "attentions": 3 * 4,
        "parted": 3 * 2,
        "visited": stats["visited"],
        "skipped": stats["skipped"],
        "heads_split": 3 * (2 + 1),
        "heads_kept": 3 * (2 + 1),
        "permuted": 4 + 2,
    }
    assert not {"g4.linear", "g4.attention"} & set(mnemonics(module))
    tables = [weight for name, weight in module.weights.items() if name.startswith("rope.full")]
    assert [weight.type.shape for weight in tables] == [(32, 64)] * 2


@pytest.mark.parametrize("k_eq_v", ["", "F"])
def test_which_weights_know_the_order(k_eq_v: str) -> None:
    """q, k and their norms of full layers; columns of o_proj where V is K's projection. Shared layers too."""
    module = before(FORMS["layers"], k_eq_v=k_eq_v)
    tiled(module)
    taken = {name: weight.transforms for name, weight in module.weights.items() if weight.transforms}
    wanted = {f"layers.{i}.self_attn.{part}.weight" for i in (1, 3) for part in ("q_proj", "q_norm")}
    wanted |= {f"layers.1.self_attn.{part}.weight" for part in ("k_proj", "k_norm")}
    wanted |= {f"layers.{i}.self_attn.o_proj.weight" for i in (1, 3)} if k_eq_v else set()
    assert {name for name in taken if not name.startswith("rope.")} == wanted
    for name in wanted:
        (take,) = taken[name]
        assert str(take) == (TAKE.replace("axis=0", "axis=1") if "o_proj" in name else TAKE)


@pytest.mark.parametrize("rows", [0, 1])
def test_parts_of_a_joined_weight(rows: int) -> None:
    """q, k and v are one weight where all are computed for all rows, else k and v: the rows of v stay."""
    module = before(FORMS["layers of whole programs"], logit_rows=rows)
    tiled(module)
    steps = {name: [str(step) for step in weight.transforms] for name, weight in module.weights.items()}
    parts = [TAKE, TAKE.replace("}", ",at=1}")][: 2 - rows]
    joined = f"layers.1.self_attn.{'kv' if rows else 'qkv'}_proj.weight"
    assert steps[joined][3 - rows :] == [*parts, "concat{axis=0}"]
    assert steps["layers.3.self_attn.q_proj.weight"] == ["scale{axis=1}", TAKE]


def spoiled(name: str) -> Callable[[Module], None]:
    """Leave a weight in its old order."""

    def spoil(module: Module) -> None:
        weight = module.weights[name]
        steps = tuple(step for step in weight.transforms if not isinstance(step, Take))
        assert steps != weight.transforms
        module.weights[name] = dataclasses.replace(weight, transforms=steps)

    return spoil


@pytest.mark.parametrize(
    "weight", ["layers.1.self_attn.q_proj", "layers.1.self_attn.k_norm", "layers.3.self_attn.o_proj"]
)
def test_an_order_that_is_not_shared_by_all_shows(weight: str) -> None:
    module = before(FORMS["layers"], k_eq_v="F")
    history = chunked(12, 16, decode=2)
    wanted = logits_of(module, history)
    tiled(module)
    assert worst(logits_of(module, history), wanted) < 2e-5
    spoiled(f"{weight}.weight")(module)
    assert worst(logits_of(module, history), wanted) > 1e-3


# -- the schedule ---


def schedules(module: Module, function: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    (attention,) = module.functions[function].ops_of(ops.TiledAttentionOp)
    return attention.segments, attention.schedule


def test_schedules_of_a_model() -> None:
    module = before(FORMS["layers of whole programs"])
    tiled(module)
    assert schedules(module, "prefill_16.sliding_donor") == (
        ("past 6 = 1*4 + 2", "chunk 16 = 4*4"),
        (
            "q 0:4 | past * | chunk 0~ (1:4 ahead)",
            "q 4:8 | past * | chunk 0:2~ (2:4 ahead)",
            "q 8:12 | past - (* old) | chunk 0:3~ (3 ahead)",
            "q 12:16 | past - (* old) | chunk 1:4~ (0 old)",
        ),
    )
    assert schedules(module, "decode.full_own") == (
        ("past 32 = 8*4", "chunk 1 = 1*1"),
        ("q 0:1 | past * | chunk 0",),
    )
    assert schedules(module, "decode.full_shared") == (("mixed 32 = 8*4",), ("q 0:1 | mixed *",))


def test_old_cache_and_new_rows_instead_of_an_updated_cache() -> None:
    module = before(FORMS["layers"])
    tiled(module)
    body = module.functions["prefill_16.full_own"]
    (attention,) = body.ops_of(ops.TiledAttentionOp)
    caches = [body.param("k_cache"), body.param("v_cache")]
    assert [attention.keys[0], attention.values[0]] == caches
    updates = list(body.ops_of(ops.KvUpdateOp))
    assert [update.cache for update in updates] == caches
    assert [attention.keys[1], attention.values[1]] == [update.x for update in updates]
    assert all(body.ops.index(update) > body.ops.index(attention) for update in updates)
    assert attention.key_positions == (body.param("key_positions"), body.param("positions"))
    program = module.functions["prefill_16"]
    held = list(program.ops_of(ops.HeldPositionsOp))
    assert sorted(op.updated for op in held) == [False, True], "one for all layers of a kind, computed once"
    for call in program.ops_of(ops.CallOp):
        given = call.args[[param.name for param in module.functions[call.callee.name].params].index("key_positions")]
        assert isinstance(given.owner, ops.HeldPositionsOp)
        assert given.owner.updated == call.callee.name.endswith("shared")


def test_a_cache_that_may_come_around_is_read_after_the_write() -> None:
    """Without max_context nothing says that positions end before the slots do; a window that fits is as good."""
    for window, parted in ((0, 0), (5, 1)):
        module = before(FORMS["layers"], pattern="F", shared=0, buckets=(4,), ple=0, logit_rows=1)
        module.attributes = {}
        for function in module.functions.values():
            for op in function.ops_of(ops.AttentionOp):
                op.window = window
        assert tiled(module)["parted"] == 2 * parted
        kinds = {cut.split()[0] for cut in schedules(module, "prefill_4." + sorted(module.functions)[-1][10:])[0]}
        assert kinds == ({"past", "chunk"} if parted else {"mixed"})


def test_selected_rows_see_everything() -> None:
    """Rows that a program picks may have any order, so that nothing is known of which keys come first."""
    module = before(f"{WHOLE},specialize-layers", logit_rows=2)
    tiled(module)
    segments, schedule = schedules(module, "prefill_16.full_shared")
    assert segments == ("mixed 32 = 8*4",)
    assert schedule == ("q 0:2 | mixed *",)


# -- linear ops ---


def linear(rows: int, k: int, n: int) -> ops.LinearOp:
    return ops.LinearOp(Value(TensorType((rows, k), DType.BF16)), Value(TensorType((n, k), DType.BF16)))


@pytest.mark.parametrize(
    ("rows", "k", "n", "tiles", "why"),
    [
        (
            1,
            1536,
            4096,
            ("k 1536 = 12*128", "n 4096 = 32*128 stationary", "m 1 = 1*1 moving"),
            "24576 cycles, 49152 the other way",
        ),
        (
            512,
            1536,
            4096,
            ("k 1536 = 12*128", "n 4096 = 32*128 stationary", "m 512 = 1*512 moving"),
            "196608 cycles either way",
        ),
        (
            128,
            704,
            100,
            ("k 704 = 5*128 + 64", "n 100 = 1*100 moving", "m 128 = 1*128 stationary"),
            "600 cycles, 768 the other way; the last k tile fills 64 partitions, no padding",
        ),
    ],
)
def test_cuts_of_a_linear(rows: int, k: int, n: int, tiles: tuple[str, ...], why: str) -> None:
    """By hand: 12 * 32 * 64 cycles and 12 * 4096; 12 * 32 * 512 and 12 * 4 * 4096; 6 * 100 and 6 * 128."""
    assert linear_tiles(linear(rows, k, n), 128, 512, {}) == (tiles, why)


def test_what_follows_decides_between_equals() -> None:
    module = GemmaLike(pattern="F", shared=0, buckets=(512,), context=512, hidden=512, mlp=512, ple=0).module()
    run_once(module, f"{FORMS['layers']},tile-contractions")
    why = {}
    for op in module.functions["prefill_512.full_own"].ops_of(ops.TiledLinearOp):
        why.setdefault(op.loc.path.rpartition(".")[2], op.why)
    assert why["q_proj"] == why["k_proj"] == why["o_proj"] == "a norm is next: rows on the partitions"
    assert why["mlp"] == "a product is next: its k on the partitions"


# -- what stays, and why ---


def whys(module: Module) -> set[str]:
    return {op.why for function in module.functions.values() for op in function.ops_of(ops.SplitTilesOp)}


def kept(module: Module, reason: str) -> None:
    """No full head is put into order; the reason is written, and the numbers are the same."""
    same = Same(module)
    assert tiled(module)["heads_split"] == 0
    assert f"rotated as a whole: {reason}" in whys(module)
    assert not any(isinstance(step, Take) for weight in module.weights.values() for step in weight.transforms)
    same.check(module)


def test_angles_that_are_no_table() -> None:
    kept(before("specialize-layers"), "its angles are not rows of a table")


def test_a_projection_that_something_else_reads() -> None:
    module = before(TABLES, shared=0, pattern="FF")
    program = module.functions["decode"]
    name = "layers.1.self_attn.k_proj.weight"
    load = next(op for op in program.ops_of(ops.LoadWeightOp) if op.weight.name == name)
    program.append(ops.AddOp(load.result, load.result))
    same = Same(module)
    assert tiled(module)["heads_split"] == 2 * 3, "layer 0 is not concerned"
    assert whys(module) == {"the rotated dims are tile 0", f"rotated as a whole: g4.add reads weight {name}, too"}
    same.check(module)


def test_keys_that_a_program_returns() -> None:
    module = before(TABLES, shared=0, pattern="F")
    program = module.functions["decode"]
    rope = next(program.ops_of(ops.RopeOp))
    program.results.append(Result(rope.result, "rotated"))
    kept(module, "it is an input or a result of a program")


def test_keys_that_meet_an_op_that_is_not_known() -> None:
    module = before(TABLES, shared=0, pattern="F")
    program = module.functions["decode"]
    rope = next(program.ops_of(ops.RopeOp))
    exp = ops.ExpOp(rope.result)
    program.replace_uses({rope.result: exp.result})
    exp.x = rope.result
    program.ops.insert(program.ops.index(rope) + 1, exp)
    kept(module, "g4.exp uses it")


def test_a_table_that_something_else_reads_is_cut_where_it_is_used() -> None:
    module = before(FORMS["layers"])
    program = module.functions["decode"]
    load = next(op for op in program.ops_of(ops.LoadWeightOp) if op.weight.name == "rope.full_attention.cos")
    program.append(ops.ExpOp(load.result))
    same = Same(module)
    assert tiled(module)["heads_split"] > 0
    assert module.weights["rope.full_attention.cos"].type.shape[1] == 256
    assert list(module.functions["decode.full_own"].ops_of(ops.SliceOp))
    same.check(module)


@pytest.mark.invalid_ir
def test_contractions_that_stay_are_recorded() -> None:
    module = before("specialize-layers")
    tiled(module)
    (reason,) = module.attributes["untiled"]
    assert str(reason).startswith("g4.matmul: ")
    module.attributes = {}
    with pytest.raises(VerificationError) as caught:
        verify_module(module)
    assert caught.value.code == "G4C-V040"


@pytest.mark.invalid_ir
def test_no_pass_brings_a_contraction_back() -> None:
    module = before(FORMS["layers"])
    tiled(module)
    assert "untiled" not in module.attributes
    body = module.functions["decode.full_own"]
    first = next(body.ops_of(ops.TiledLinearOp))
    body.ops.insert(0, ops.LinearOp(first.w, first.w))
    with pytest.raises(VerificationError) as caught:
        verify_module(module)
    assert {finding.code for finding in caught.value.findings} >= {"G4C-V040"}
    assert "g4.linear is not in tiles" in str(caught.value)


# -- the contract of a pass ---


def test_twice_is_refused() -> None:
    module = before(FORMS["layers"])
    tiled(module)
    with pytest.raises(G4cError) as caught:
        run_once(module, SMALL)
    assert caught.value.code == "G4C-P006"
    with pytest.raises(G4cError) as caught:
        parse_pipeline(f"{SMALL},{SMALL}")
    assert caught.value.code == "G4C-P006"


def test_nothing_to_cut() -> None:
    """Only the level changes."""
    module = Module("test")
    function = module.add_function(SIZES.module().functions["decode"])
    function.params, function.ops = function.params[:1], []
    function.results = [Result(function.params[0], "y")]
    assert set(tiled(module).values()) == {0}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("partition=256", "partition must be even and within 2..128, got 256"),
        ("partition=0", "partition must be even and within 2..128, got 0"),
        ("moving=1024", "moving must be even and within 2..512, got 1024"),
        ("q-tile=129", "q-tile must be even and within 2..128, got 129"),
        ("kv-tile=3", "kv-tile must be even and within 2..512, got 3"),
    ],
)
def test_tiles_that_the_engine_does_not_take(option: str, message: str) -> None:
    module = before(TABLES)
    with pytest.raises(G4cError) as caught:
        run_once(module, f"tile-contractions{{{option}}}")
    assert (caught.value.code, caught.value.message) == ("G4C-P080", message)


@pytest.mark.parametrize("partition", [32, 64, 128])
def test_other_partitions(partition: int) -> None:
    """64 partitions hold 32 pairs, but 64 pairs rotate: the reason says so."""
    module = before(FORMS["layers"])
    same = Same(module)
    stats = tiled(module, f"tile-contractions{{partition={partition},q-tile=4,kv-tile=6}}")
    assert (stats["heads_split"] > 0) == (partition == 128)
    if partition < 128:
        assert f"rotated as a whole: 64 pairs rotate, a tile has {partition // 2}" in whys(module)
    same.check(module)


def test_layers_can_be_inlined_afterwards() -> None:
    module = before(FORMS["layers"])
    same = Same(module)
    tiled(module)
    run_once(module, FLATTEN)
    assert not any(True for program in module.programs for _ in program.ops_of(ops.CallOp))
    same.check(module)


def test_the_tiled_pipeline() -> None:
    steps = parse_pipeline(TILED_PIPELINE)
    assert steps.names[-1] == "tile-contractions"
    module = SIZES.module()
    same = Same(module)
    report = run_pipeline(module, steps, PipelineOptions(repro_dir=None))
    assert report.runs[-1].stats["heads_split"] > 0
    same.check(module)


def test_a_part_of_a_weight_that_is_not_joined() -> None:
    """q, k and v in one tensor of the checkpoint: no step of the chain has the rows of q and k alone."""
    module = before(WHOLE, pattern="F", shared=0, buckets=(4,), ple=0, logit_rows=0)
    (name,) = (name for name in module.weights if "qkv_proj" in name)
    module.weights[name] = Weight.stored(name, module.weights[name].type)
    kept(module, f"the rows of {name} are not joined from whole projections")


def test_narrow_heads_are_one_tile() -> None:
    """Heads of at most 128 dims, as those of vision towers, are not split; 72 of 128 partitions are enough."""
    module = before(FORMS["layers"], head_dims=(72, 64))
    same = Same(module)
    stats = tiled(module)
    assert stats["heads_split"] == stats["heads_kept"] == 0
    attentions = [op for function in module.functions.values() for op in function.ops_of(ops.TiledAttentionOp)]
    assert {tuple(tile.shape[3] for tile in op.q) for op in attentions} == {(72,), (64,)}
    same.check(module)


@pytest.mark.parametrize("reader", ["another op", "a result"])
def test_key_positions_that_something_else_needs(reader: str) -> None:
    """Then callers go on passing what the cache holds, and the layer itself computes what it held before."""
    module = before(FORMS["layers"])
    same = Same(module)
    body = module.functions["decode.full_own"]
    held = body.param("key_positions")
    if reader == "another op":
        body.ops.insert(0, ops.AddOp(held, held))
    else:
        body.results.append(Result(held, "held"))
        for program in module.programs:
            for call in list(program.ops_of(ops.CallOp)):
                if call.callee.name == body.name:
                    new = ops.CallOp(call.args, call.callee, (*call.types, held.type), loc=call.loc)
                    program.ops[program.ops.index(call)] = new
                    program.replace_uses(dict(zip(call.results, new.results[:-1], strict=True)))
    assert tiled(module)["parted"] == 3 * 2
    (attention,) = body.ops_of(ops.TiledAttentionOp)
    before_update = attention.key_positions[0].owner
    assert isinstance(before_update, ops.HeldPositionsOp)
    assert not before_update.updated
    assert body.ops.index(before_update) < body.ops.index(attention)
    same.check(module)
