"""window-kv-cache: rings give the logits of linear caches in any history, are as small as can be, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from gemma_like import GemmaLike
from histories import Call, chunked, logits_of, mixed, single, worst
from pass_testing import FLATTEN, run_checked, run_once

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.module import Function, Module
from g4c.ir.op import Dense, Op, Value
from g4c.ir.types import DType, TensorType
from g4c.passes.contract import PassContext
from g4c.passes.window_kv_cache import WindowKvCache

SIZES = GemmaLike(pattern="SSFS", shared=1, context=64, window=6, buckets=(4, 8, 16), logit_rows=0, ple=4, mlp=16)
TOLERANCE = 1e-4


@cache
def linear(batch: int) -> Module:
    module = GemmaLike(**{**vars(SIZES), "batch": batch}).module()
    run_once(module, "precompute-rope,eliminate-shared-kv")
    return module


@cache
def ringed(batch: int, pad: int) -> Module:
    module = linear(batch).copy()
    run_once(module, f"window-kv-cache{{pad={pad}}}")
    return module


def check(history: list[Call], pads: tuple[int, ...], batch: int = 1) -> None:
    wanted = logits_of(linear(batch), history)
    for pad in pads:
        off = worst(logits_of(ringed(batch, pad), history, garbage=2), wanted)
        assert off < TOLERANCE, (pad, off, history)


def slots(module: Module) -> dict[str, int]:
    return {name: cache.type.shape[1] for name, cache in module.caches.items()}


def reads(module: Module, program: str) -> list[int]:
    """Segments of each attention."""
    return [len(op.keys) for op in module.functions[program].ops_of(ops.AttentionOp)]


# -- what it makes -----------------------------------------------------------------------------------------------------


def test_only_what_windows_read_becomes_a_ring() -> None:
    module = linear(1).copy()
    stats = run_once(module, "window-kv-cache{pad=4}")
    ring = {f"layers.{layer}.{part}": 8 if layer < 2 else 64 for layer in range(3) for part in "kv"}
    assert slots(module) == ring
    saved = 4 * (64 - 8) * 256 * 4
    assert stats == {
        "caches": 4,
        "slots_before": 4 * 64,
        "slots_after": 4 * 8,
        "cache_bytes": saved,
        "attentions": 3 * 3,  # layers 0, 1 and 3 in the prefill programs
        "mixed": 0,
    }


def test_reads_before_it_writes_only_where_the_ring_is_too_short() -> None:
    """prefill_4 needs 6 + 4 - 1 = 9 slots to write first."""
    for pad, chunked_programs in ((1, {4, 8, 16}), (8, {4, 8, 16}), (9, {8, 16}), (13, {16}), (21, set())):
        module = ringed(1, pad)
        assert slots(module)["layers.0.k"] == max(6, pad)
        for length in (4, 8, 16):
            assert reads(module, f"prefill_{length}") == ([2, 2, 1, 2] if length in chunked_programs else [1] * 4)
        assert reads(module, "decode") == [1, 1, 1, 1]


def test_a_shared_layer_reads_its_donors_old_state_and_new_rows() -> None:
    program = ringed(1, 1).functions["prefill_8"]
    donor, shared = [op for op in program.ops_of(ops.AttentionOp) if op.window][-2:]
    assert shared.keys == donor.keys
    assert shared.values == donor.values
    assert donor.keys[0] is program.param("layers.1.k")
    update = next(op for op in program.ops_of(ops.KvUpdateOp) if op.cache is donor.values[0])
    assert donor.values[1] is update.x
    assert [result.value for result in program.results if result.cache == "layers.1.v"] == [update.result]


@pytest.mark.parametrize(("pad", "context"), [(128, 64), (64, 64), (1, 6)])
def test_a_ring_as_large_as_the_cache_changes_nothing(pad: int, context: int) -> None:
    module = GemmaLike(**{**vars(SIZES), "context": context, "buckets": (4,)}).module()
    assert not any(run_once(module, f"window-kv-cache{{pad={pad}}}").values())


def test_a_second_run_changes_nothing_and_a_smaller_pad_shrinks_on() -> None:
    module = linear(1).copy()
    assert run_checked(module, "window-kv-cache{pad=21}", TOLERANCE)["attentions"] == 0
    assert run_checked(module, "window-kv-cache{pad=9}", TOLERANCE)["attentions"] == 6
    assert run_checked(module, "window-kv-cache{pad=1}", TOLERANCE)["attentions"] == 3
    assert worst(*(logits_of(m, chunked(20, 8)) for m in (module, ringed(1, 1)))) == 0


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("shared_write", [True, False])
def test_before_and_after_eliminate_shared_kv(shared_write: bool, dtype: DType) -> None:
    """Each of the two takes what the other leaves, and what comes out is the same."""
    modules = [GemmaLike(context=32, shared_write=shared_write, dtype=dtype).module() for _ in range(2)]
    steps = "eliminate-shared-kv", "window-kv-cache{pad=1}"
    run_once(modules[0], ",".join(steps))
    run_once(modules[1], ",".join(reversed(steps)))
    assert slots(modules[0]) == slots(modules[1])
    history = single([(8, 8), (8, 5), (1, 1), (1, 1)])
    rows = [Call(call.length, call.starts, call.counts) for call in history]
    assert [call.program for call in rows] == ["prefill_8", "prefill_8", "decode", "decode"]
    for program in ("prefill_8", "decode"):
        assert reads(modules[0], program) == reads(modules[1], program)


def test_kinds() -> None:
    """In a program that reads first, the donor hands out its new rows: a kind of its own."""
    module = ringed(1, 1).copy()
    run_checked(module, "specialize-layers", TOLERANCE)
    kinds = {p: [name.split(".")[1] for name in module.callees(module.functions[p])] for p in ("prefill_8", "decode")}
    assert kinds["prefill_8"] == ["sliding_own", "sliding_donor", "full_own", "sliding_shared"]
    assert kinds["decode"] == ["sliding_own", "sliding_own", "full_own", "sliding_shared"]
    donor = module.functions["prefill_8.sliding_donor"]
    assert [result.name for result in donor.results] == ["hidden", "k_cache", "v_cache", "k_chunk", "v_chunk"]
    shared = module.functions["prefill_8.sliding_shared"]
    assert [param.name for param in shared.params][2:10] == [
        "positions", "key_positions", "cos", "sin", "k_cache", "v_cache", "k_chunk", "v_chunk",
    ]  # fmt: skip
    run_checked(module, FLATTEN)
    assert not any(run_once(module, "window-kv-cache{pad=1}").values())
    assert not any(run_once(module, "eliminate-shared-kv").values())


def test_the_largest_window_counts() -> None:
    module = linear(1).copy()
    for program in module.programs:
        next(op for op in program.ops_of(ops.AttentionOp) if ".3." in op.loc.path).window = 11
    before = module.copy()
    run_once(module, "window-kv-cache{pad=1}")
    assert [slots(module)[f"layers.{layer}.v"] for layer in range(3)] == [6, 11, 64]
    assert reads(module, "prefill_4") == [2, 1, 1, 2]  # layer 1 sees 6 of 11 slots, layer 3 all 11
    history = chunked(30, 4, decode=12)
    assert worst(logits_of(module, history), logits_of(before, history)) < TOLERANCE


def test_a_cache_that_a_full_attention_reads_too_stays_with_a_remark() -> None:
    module = linear(1).copy()
    shared = next(op for op in module.functions["decode"].ops_of(ops.AttentionOp) if ".3." in op.loc.path)
    shared.window = 0
    remarks: list[str] = []
    result = WindowKvCache(1).run(module, PassContext((), remarks.append))
    assert result.stats["mixed"] == 2
    assert [slots(module)[f"layers.{layer}.k"] for layer in range(3)] == [6, 64, 64]
    assert len(remarks) == 2
    assert "layers.1.k keeps every position" in remarks[0]


def test_the_context_is_still_known() -> None:
    """Without the attribute the tables' length would be that of the longest cache, which a ring no longer tells."""
    module = GemmaLike(pattern="SS", shared=0, context=64).module()
    del module.attributes["max_context"]
    run_once(module, "window-kv-cache{pad=8}")
    assert module.attributes["max_context"] == 64
    run_once(module, "canonicalize,precompute-rope")
    assert module.weights["rope.sliding_attention.cos"].type.shape[0] == 64


# -- histories ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [1, 5, 6, 7, 13, 41])
@pytest.mark.parametrize("length", [4, 8, 16])
def test_prompts_of_any_length_in_chunks_of_any_size(prompt: int, length: int) -> None:
    """Chunks shorter and longer than the ring of 6, 8 or 9 slots, and as long; 7 tokens after the prompt."""
    check(chunked(prompt, length, decode=7), (1, 4, 9))


def test_decode_wraps_many_times() -> None:
    check(single([(4, 3), *[(1, 1)] * 60]), (1, 4))


@pytest.mark.parametrize("offset", [1, 5, 6, 7, 11])
def test_chunks_that_end_and_start_anywhere(offset: int) -> None:
    """Every edge of a chunk somewhere else in the ring, in programs larger than what is fed."""
    check(single([(16, offset), (16, 9), (8, 7), (1, 1), (4, 2), (16, 16), (8, 8)]), (1, 4))


def test_sequences_at_different_positions() -> None:
    history = [
        Call(16, (0, 0, 0), (16, 3, 7)),
        Call(16, (16, 3, 7), (16, 0, 1)),  # one sequence is idle
        Call(4, (32, 3, 8), (0, 0, 4)),
        Call(8, (32, 3, 12), (8, 8, 0)),
        *(Call(1, (40 + i, 11 + i, 12), (1, 1, 0)) for i in range(9)),
        Call(8, (49, 20, 12), (1, 5, 8)),
        Call(8, (0, 25, 20), (8, 8, 2)),  # a new sequence where the old one was
        *(Call(1, (8 + i, 33 + i, 22 + i), (1, 1, 1)) for i in range(9)),
        Call(16, (17, 0, 31), (16, 16, 1)),
    ]
    check(history, (1, 4), batch=3)


@pytest.mark.parametrize("seed", range(3))
def test_anything(seed: int) -> None:
    random = np.random.default_rng(seed)
    history = mixed(random, (1, 4, 8, 16), 3, SIZES.context, 20)
    check(history, (int(random.choice([1, 4, 7, 9])),), batch=3)


# -- refusals ----------------------------------------------------------------------------------------------------------


def update(function: Function, cache: str) -> ops.KvUpdateOp:
    return next(op for op in function.ops_of(ops.KvUpdateOp) if op.cache is function.param(cache))


def reader(function: Function, layer: int) -> ops.AttentionOp:
    return next(op for op in function.ops_of(ops.AttentionOp) if f"layers.{layer}.self" in op.loc.path)


def insert(function: Function, after: Op, *new: Op) -> Value:
    place = function.ops.index(after) + 1
    function.ops[place:place] = new
    return new[-1].results[0]


def updated_twice(function: Function) -> None:
    first = update(function, "layers.0.k")
    insert(function, first, ops.KvUpdateOp(first.result, first.x, first.positions))


def not_returned(function: Function) -> None:
    next(result for result in function.results if result.cache == "layers.0.v").value = function.param("layers.0.v")


def returned_twice(function: Function) -> None:
    state = update(function, "layers.0.k").result
    next(result for result in function.results if result.cache == "layers.1.k").value = state


def read_before_the_update(function: Function) -> None:
    attention = reader(function, 0)
    attention.keys = (function.param("layers.0.k"),)


def keys_from_elsewhere(function: Function) -> None:
    attention = reader(function, 0)
    function.ops.insert(function.ops.index(attention), ops.NegOp(attention.keys[0]))
    attention.keys = (function.ops[function.ops.index(attention) - 1].results[0],)


def values_of_no_cache(function: Function) -> None:
    attention = reader(function, 0)
    data = Dense.scalar(0.5, DType.F32)
    half = ops.ConstantOp(data)
    wide = ops.BroadcastOp(half.result, attention.values[0].type)
    at = function.ops.index(attention)
    function.ops[at:at] = [half, wide]
    attention.values = (wide.result,)


def read_slot_by_slot(function: Function) -> None:
    state = update(function, "layers.0.k")
    insert(function, state, ops.SliceOp(state.result, (0, 0, 0, 0), (1, 1, 1, 256)))


def held_of_others(function: Function) -> None:
    attention = reader(function, 0)
    zero = ops.ConstantOp(Dense.scalar(0, DType.S32))
    positions = ops.MaxOp(function.param("positions"), zero.result)
    held = ops.HeldPositionsOp(positions.result, attention.keys[0].shape[1], True)
    at = function.ops.index(attention)
    function.ops[at:at] = [zero, positions, held]
    attention.key_positions = (held.result,)


def held_before_the_update(function: Function) -> None:
    attention = reader(function, 0)
    held = ops.HeldPositionsOp(function.param("positions"), attention.keys[0].shape[1], False)
    function.ops.insert(function.ops.index(attention), held)
    attention.key_positions = (held.result,)


def positions_by_slot(function: Function) -> None:
    attention = reader(function, 0)
    shape = attention.key_positions[0].type
    slots = ops.IotaOp(1, TensorType(shape.shape, DType.S32))
    function.ops.insert(function.ops.index(attention), slots)
    attention.key_positions = (slots.result,)


REFUSALS: list[tuple[Callable[[Function], None], str, str]] = [
    (updated_twice, "G4C-P061", "updates cache layers.0.k for the second time"),
    (not_returned, "G4C-P061", "result layers.0.v is not what cache layers.0.v holds in the end"),
    (returned_twice, "G4C-P061", "result layers.1.k is not what cache layers.0.k holds in the end"),
    (read_before_the_update, "G4C-P062", "reads neither updated caches nor old ones beside the new rows"),
    (keys_from_elsewhere, "G4C-P063", "g4.neg reads cache layers.0.k slot by slot"),
    (values_of_no_cache, "G4C-P062", "its first segment is not a cache that this program updates"),
    (read_slot_by_slot, "G4C-P063", "g4.slice reads cache layers.0.k slot by slot"),
    (held_of_others, "G4C-P064", "go by different positions"),
    (held_before_the_update, "G4C-P064", "go by different positions"),
    (positions_by_slot, "G4C-P062", "its first segment is not a cache that this program updates"),
]


@pytest.mark.parametrize(("damage", "code", "message"), REFUSALS, ids=lambda x: getattr(x, "__name__", None))
def test_refusals(damage: Callable[[Function], None], code: str, message: str) -> None:
    module = linear(1).copy()
    damage(module.functions["decode"])
    with pytest.raises(G4cError) as caught:
        run_once(module, "window-kv-cache{pad=1}")
    assert caught.value.code == code
    assert message in caught.value.message
    assert caught.value.where is not None
    assert caught.value.where.startswith("decode")


def test_refuses_a_pad_below_one_and_layer_functions() -> None:
    with pytest.raises(G4cError) as caught:
        run_once(linear(1).copy(), "window-kv-cache{pad=0}")
    assert caught.value.code == "G4C-P060"
    module = linear(1).copy()
    run_once(module, "specialize-layers")
    with pytest.raises(G4cError) as caught:
        run_once(module, "window-kv-cache")
    assert caught.value.code == "G4C-P042"
