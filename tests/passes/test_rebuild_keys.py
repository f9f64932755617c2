"""rebuild-keys: K from V, bit for bit in f32, whatever form the cache has; what it cannot prove it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from gemma_like import GemmaLike
from histories import Call, chunked, logits_of, mixed, worst
from pass_testing import FLATTEN, run_checked, run_once

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.module import Function, Module
from g4c.ir.op import Op, SymbolRef
from g4c.ir.types import DType
from g4c.ir.weights import Weight
from g4c.passes.numerics import difference

SIZES = GemmaLike(
    pattern="SSFSF", shared=2, context=64, window=6, buckets=(4, 16), logit_rows=0, ple=4, mlp=16, k_eq_v="SF"
)
TABLES = "canonicalize,precompute-rope"
FORMS = {  # how sliding layers keep their caches: pad of the rings, or none
    "linear": None,
    "rings, read before the write": 1,
    "rings, read after it": 21,
}


@cache
def both(pad: int | None, batch: int = 1) -> Module:
    """The model with K and V caches."""
    module = GemmaLike(**{**vars(SIZES), "batch": batch}).module()
    rings = "" if pad is None else f",window-kv-cache{{pad={pad}}}"
    run_once(module, f"{TABLES},eliminate-shared-kv{rings}")
    return module


@cache
def v_only(pad: int | None, batch: int = 1) -> Module:
    module = both(pad, batch).copy()
    run_once(module, "rebuild-keys")
    return module


def mnemonics(module: Module, program: str) -> list[str]:
    return [op.mnemonic for op in module.functions[program].ops]


@pytest.mark.parametrize("pad", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_bits(pad: int | None, batch: int) -> None:
    """Prompts in chunks past window and ring, restarts, idle sequences, then decode: not one bit differs."""
    random = np.random.default_rng(batch)
    history = mixed(random, (1, 4, 16), batch, SIZES.context, 12)
    history += [Call(1, (i,) * batch, (1,) * batch) for i in range(9)]
    assert worst(logits_of(v_only(pad, batch), history, garbage=2), logits_of(both(pad, batch), history)) == 0


def test_only_k_goes() -> None:
    module = both(None).copy()
    stats = run_checked(module, "rebuild-keys")
    assert list(module.caches) == ["layers.0.v", "layers.1.v", "layers.2.v"]
    widths = (256, 256, 512)
    assert stats == {
        "caches": 3,
        "cache_bytes": 64 * sum(widths) * 4,
        "rebuilds": 3,
        "operations": 4 * 64 * sum(widths),
        # mul: V and w are read, a product is written; rope: that and two tables of half its size are read, K is written
        "bytes": sum(4 * (64 * width * (1 + 1 + 1 + 2 * 0.5 + 1) + width) for width in widths),
    }
    for program in module.programs:
        assert [param.cache for param in program.params if param.cache] == list(module.caches)
        assert [result.cache for result in program.results if result.cache] == list(module.caches)
        assert mnemonics(module, program.name).count("g4.kv_update") == 3


def test_keys_are_rebuilt_once_per_cache() -> None:
    """The donors' keys serve the layers that share them."""
    for program in both(None).programs:
        attentions = list(v_only(None).functions[program.name].ops_of(ops.AttentionOp))
        assert len(attentions) == 5
        assert attentions[3].keys == attentions[1].keys
        assert attentions[4].keys == attentions[2].keys
        assert len({op.keys for op in attentions}) == 3


def test_a_cache_with_a_slot_per_position_takes_the_tables_whole() -> None:
    def gathers(module: Module, program: str) -> int:
        return mnemonics(module, program).count("g4.gather")

    for program in ("prefill_16", "decode"):
        assert gathers(v_only(None), program) == gathers(both(None), program) == 4
        # cos and sin at what rings hold; what full layers hold needs no gather
        assert gathers(v_only(1), program) == gathers(both(1), program) + 4


def test_new_rows_beside_an_old_state_are_taken_as_they_are() -> None:
    attention = next(v_only(1).functions["prefill_16"].ops_of(ops.AttentionOp))
    rebuilt, rows = attention.keys
    assert isinstance(rebuilt.owner, ops.RopeOp)
    assert isinstance(rebuilt.owner.x.owner, ops.MulOp)
    assert rebuilt.owner.x.owner.x is attention.values[0]
    assert isinstance(rows.owner, ops.RopeOp)
    assert isinstance(rows.owner.x.owner, ops.RmsNormOp)


@pytest.mark.parametrize("pad", FORMS.values(), ids=FORMS)
def test_kinds(pad: int | None) -> None:
    module = v_only(pad).copy()
    run_checked(module, "canonicalize,cse,dce,specialize-layers", 1e-4)
    kinds = [name.partition(".")[2] for name in module.callees(module.functions["prefill_16"])]
    assert kinds == ["sliding_own", "sliding_donor", "full_donor", "sliding_shared", "full_shared"]
    full = module.functions["prefill_16.full_donor"]
    assert [param.name for param in full.params][2:9] == [
        "positions", "key_positions", "cos", "sin", "key_cos", "key_sin", "v_cache",
    ]  # fmt: skip
    assert [result.name for result in full.results] == ["hidden", "v_cache", "keys"]
    run_checked(module, FLATTEN)


def test_bf16_costs_one_rounding() -> None:
    """Both forms against f32 weights and arithmetic that are the same numbers: neither is much further off."""
    off = {}
    history = chunked(40, 16, decode=10)
    for dtype in (DType.F32, DType.BF16):
        module = GemmaLike(**{**vars(SIZES), "dtype": dtype}).module()
        run_once(module, f"{TABLES},eliminate-shared-kv")
        off[dtype] = logits_of(module, history)
    run_once(module, "rebuild-keys")
    rebuilt = logits_of(module, history)

    def rms(found: list[np.ndarray]) -> float:
        return float(np.mean([np.square(a - b).mean() for a, b in zip(found, off[DType.F32], strict=True)]) ** 0.5)

    assert rms(rebuilt) < 1.5 * rms(off[DType.BF16])
    assert difference(rebuilt[0], off[DType.BF16][0]) > 0


# -- what it leaves alone ----------------------------------------------------------------------------------------------


def update(function: Function, cache: str) -> ops.KvUpdateOp:
    return next(op for op in function.ops_of(ops.KvUpdateOp) if op.cache is function.param(cache))


def insert_before(function: Function, place: Op, *new: Op) -> None:
    at = function.ops.index(place)
    function.ops[at:at] = new


def norm_of_k(function: Function, cache: str) -> ops.RmsNormOp:
    rope = update(function, cache).x.owner
    assert isinstance(rope, ops.RopeOp)
    assert isinstance(rope.x.owner, ops.RmsNormOp)
    return rope.x.owner


def another_epsilon(module: Module) -> None:
    norm_of_k(module.functions["decode"], "layers.2.k").epsilon = 1e-5


def another_projection(module: Module) -> None:
    function = module.functions["decode"]
    norm = norm_of_k(function, "layers.2.k")
    twice = ops.AddOp(norm.x, norm.x)
    insert_before(function, norm, twice)
    norm.x = twice.result


def another_weight_in_one_program(module: Module) -> None:
    function = module.functions["decode"]
    norm = norm_of_k(function, "layers.2.k")
    assert norm.w is not None
    weight = module.add_weight(Weight.stored("other", norm.w.type))
    load = ops.LoadWeightOp(SymbolRef(weight.name), weight.type)
    insert_before(function, norm, load)
    norm.w = load.result


def another_reader(module: Module) -> None:
    function = module.functions["decode"]
    state = update(function, "layers.2.k")
    function.ops.insert(function.ops.index(state) + 1, ops.NegOp(state.result))


def keys_as_values(module: Module) -> None:
    function = module.functions["decode"]
    state = update(function, "layers.2.k").result
    reader = next(op for op in function.ops_of(ops.AttentionOp) if state in op.keys)
    reader.values = (state,)


def other_values(module: Module) -> None:
    """V as it was before the update beside K as it is after it."""
    function = module.functions["decode"]
    reader = next(op for op in function.ops_of(ops.AttentionOp) if update(function, "layers.2.k").result in op.keys)
    reader.values = (function.param("layers.2.v"),)


def other_slots(module: Module) -> None:
    """A slot holds another position than the attention is told."""
    function = module.functions["decode"]
    reader = next(op for op in function.ops_of(ops.AttentionOp) if update(function, "layers.2.k").result in op.keys)
    held = ops.HeldPositionsOp(function.param("positions"), 64, False)
    insert_before(function, reader, held)
    reader.key_positions = (held.result,)


def not_returned(module: Module) -> None:
    function = module.functions["decode"]
    next(result for result in function.results if result.cache == "layers.2.v").value = function.param("layers.2.v")


KEPT: list[Callable[[Module], None]] = [
    another_epsilon,
    another_projection,
    another_weight_in_one_program,
    another_reader,
    keys_as_values,
    other_values,
    other_slots,
    not_returned,
]


@pytest.mark.parametrize("damage", KEPT, ids=lambda x: x.__name__)
def test_keeps_what_it_cannot_prove(damage: Callable[[Module], None]) -> None:
    """In all programs, although it is unproven in one; the other layers' K goes."""
    module = both(None).copy()
    damage(module)
    assert run_once(module, "rebuild-keys")["caches"] == 2
    assert list(module.caches) == ["layers.0.v", "layers.1.v", "layers.2.k", "layers.2.v"]


def test_no_op_without_such_layers_or_without_tables() -> None:
    module = GemmaLike(**{**vars(SIZES), "k_eq_v": ""}).module()
    run_once(module, f"{TABLES},eliminate-shared-kv")
    assert not any(run_once(module, "rebuild-keys").values())
    module = GemmaLike(**vars(SIZES)).module()
    assert not any(run_once(module, "rebuild-keys").values())


def test_refuses_layer_functions_and_the_wrong_order() -> None:
    module = both(None).copy()
    run_once(module, "specialize-layers")
    with pytest.raises(G4cError) as caught:
        run_once(module, "rebuild-keys")
    assert caught.value.code == "G4C-P042"
    with pytest.raises(G4cError) as caught:
        run_once(module, "rebuild-keys,window-kv-cache")
    assert caught.value.code == "G4C-P005"
    with pytest.raises(G4cError) as caught:
        run_once(v_only(None).copy(), "window-kv-cache{pad=1}")
    assert caught.value.code == "G4C-P063"
