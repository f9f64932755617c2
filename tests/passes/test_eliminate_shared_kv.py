"""eliminate-shared-kv: what it removes, exactly; what it keeps; what it refuses because it cannot prove it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from gemma_like import GemmaLike
from pass_testing import run_checked, run_once

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.module import Function, Module
from g4c.ir.op import Op, Value
from g4c.ir.types import DType

FORMS = {"flat": "eliminate-shared-kv", "layer functions": "specialize-layers,eliminate-shared-kv"}


def projections(module: Module) -> set[str]:
    """Layers that still have K or V weights."""
    return {
        name.split(".")[1] for name in module.weights if ".k_proj" in name or ".v_proj" in name or ".k_norm" in name
    }


@pytest.mark.parametrize("pipeline", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("shared_write", [True, False])
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_removes_exactly_the_shared_layers_part(pipeline: str, shared_write: bool, dtype: DType) -> None:
    sizes = GemmaLike(shared_write=shared_write, dtype=dtype)
    module = sizes.module()
    run_once(module, "specialize-layers" if "," in pipeline else "canonicalize")
    stats = run_checked(module, "eliminate-shared-kv")
    assert stats == {
        "layers": 2,
        "linear": 2 * 2,
        "rms_norm": 2 * 2,
        "rope": 2,
        "weights": 2 * 3,
        "projection_weights": 2 * (256 + 512) * 32,
        "caches": 2 * 2,
        "cache_bytes": 2 * (256 + 512) * 24 * dtype.bits // 8,
    }
    assert projections(module) == {"0", "1", "2"}
    assert sorted(module.caches) == [f"layers.{layer}.{part}" for layer in (0, 1, 2) for part in "kv"]
    for program in module.programs:
        held = [param.cache for param in program.params if param.cache]
        assert held == list(module.caches)
        assert [result.cache for result in program.results if result.cache] == held


def test_layer_functions_lose_what_they_do_not_read() -> None:
    module = GemmaLike().module()
    run_once(module, "specialize-layers,eliminate-shared-kv")
    shared = module.functions["decode.full_shared"]
    assert [result.name for result in shared.results] == ["hidden"]
    assert [p.name for p in shared.params][:10] == [
        "hidden", "per_layer_input", "positions", "key_positions", "cos", "sin", "k_cache", "v_cache",
        "input_layernorm.weight", "self_attn.q_proj.weight",
    ]  # fmt: skip
    own = module.functions["decode.full_own"]
    assert "self_attn.k_proj.weight" in [param.name for param in own.params]
    assert [result.name for result in own.results] == ["hidden", "k_cache", "v_cache"]


def test_both_forms_agree() -> None:
    flat, cut = (GemmaLike().module() for _ in range(2))
    wanted = run_once(flat, FORMS["flat"])
    assert run_once(cut, FORMS["layer functions"]) == wanted
    run_once(cut, "inline-layers")
    assert {name: len(f.ops) for name, f in flat.functions.items()} == {n: len(f.ops) for n, f in cut.functions.items()}


def test_dataflow_not_names() -> None:
    """Layer 1 read by nobody but itself keeps everything; a donor in an odd place is found."""
    sizes = GemmaLike(pattern="FSSFS", shared=2)
    module = sizes.module()
    run_checked(module, "eliminate-shared-kv")
    assert (sizes.donor(3), sizes.donor(4)) == (0, 2)
    assert projections(module) == {"0", "1", "2"}


@pytest.mark.parametrize("pipeline", FORMS.values(), ids=FORMS)
def test_no_op_without_sharing(pipeline: str) -> None:
    module = GemmaLike(pattern="SSF", shared=0).module()
    assert not any(run_once(module, pipeline).values())


def test_a_cache_that_another_program_reads_stays() -> None:
    """Prefill writes what only decode reads."""
    module = GemmaLike().module()
    prefill = module.functions["prefill_8"]
    for op in prefill.ops_of(ops.AttentionOp):
        if op.loc.path.startswith("model.layers.1."):
            op.keys = op.values = (prefill.param("layers.1.k"),)
    before = dict(module.caches)
    with pytest.raises(G4cError) as caught:
        run_once(module, "eliminate-shared-kv")
    assert caught.value.code == "G4C-P021"
    module = GemmaLike(pattern="SF", shared=0).module()
    prefill = module.functions["prefill_8"]
    attention = next(prefill.ops_of(ops.AttentionOp))
    prefill.replace_uses({attention.result: attention.q})
    assert run_once(module, "eliminate-shared-kv")["caches"] == 0
    assert set(module.caches) == {name for name in before if name[7] in "01"}


# -- refusals ----------------------------------------------------------------------------------------------------------


def states(function: Function, cache: str) -> list[Value]:
    """The states of `cache` in a flat program: the parameter, then every update."""
    found: list[Value] = [function.param(cache)]
    for op in function.ops:
        if isinstance(op, ops.KvUpdateOp) and op.cache is found[-1]:
            found.append(op.result)
    return found


def reader(function: Function, layer: int) -> ops.AttentionOp:
    return next(op for op in function.ops_of(ops.AttentionOp) if op.loc.path == f"model.layers.{layer}.self_attn")


def update_of(function: Function, cache: str) -> ops.KvUpdateOp:
    owner = states(function, cache)[1].owner
    assert isinstance(owner, ops.KvUpdateOp)
    return owner


def place_after(function: Function, op: Op, new: Op) -> Value:
    function.ops.insert(function.ops.index(op) + 1, new)
    return new.results[0]


def set_result(function: Function, cache: str, value: Value) -> None:
    next(result for result in function.results if result.cache == cache).value = value


def written_after_it_was_read(function: Function) -> None:
    write = update_of(function, "layers.1.k")
    again = ops.KvUpdateOp(write.result, write.x, write.positions)
    set_result(function, "layers.1.k", place_after(function, reader(function, 3), again))


def updated_twice_from_one_state(function: Function) -> None:
    write = update_of(function, "layers.1.k")
    place_after(function, write, ops.KvUpdateOp(write.cache, write.x, write.positions))


def read_before_the_update(function: Function) -> None:
    reader(function, 3).keys = (function.param("layers.1.k"),)


def read_before_the_update_beside(function: Function, rows: Callable[[ops.KvUpdateOp], Value]) -> None:
    """Layer 3 reads the donor's old keys, and `rows` of the donor's update as a second segment; values likewise."""
    attention = reader(function, 3)
    keys, values = (update_of(function, f"layers.1.{part}") for part in "kv")
    attention.keys = (keys.cache, rows(keys))
    attention.values = (values.cache, rows(values))
    attention.key_positions = (attention.key_positions[0], function.param("positions"))


def read_before_the_update_beside_other_rows(function: Function) -> None:
    others = update_of(function, "layers.0.k")
    read_before_the_update_beside(function, lambda update: others.x)


def written_after_it_was_read_beside_other_rows(function: Function) -> None:
    """The donor itself reads its old state, before its update and with layer 0's rows."""
    attention, write = reader(function, 1), update_of(function, "layers.1.k")
    attention.keys = (write.cache, update_of(function, "layers.0.k").x)
    attention.values = (attention.values[0], update_of(function, "layers.0.v").x)
    attention.key_positions = (attention.key_positions[0], function.param("positions"))
    function.ops.remove(write)
    place_after(function, attention, write)
    reader(function, 3).keys = (write.result,)


def update_not_returned(function: Function) -> None:
    set_result(function, "layers.1.k", function.param("layers.1.k"))


def update_not_a_result(function: Function) -> None:
    function.results = [result for result in function.results if result.cache != "layers.1.k"]


def results_swapped(function: Function) -> None:
    set_result(function, "layers.0.k", states(function, "layers.1.k")[-1])
    set_result(function, "layers.1.k", states(function, "layers.0.k")[-1])


def result_from_elsewhere(function: Function) -> None:
    state = states(function, "layers.1.k")[-1]
    assert state.owner is not None
    set_result(function, "layers.1.k", place_after(function, state.owner, ops.NegOp(state)))


REFUSALS: list[tuple[Callable[[Function], None], str, str]] = [
    (written_after_it_was_read, "G4C-P020", "cache layers.1.k is updated after it was read"),
    (updated_twice_from_one_state, "G4C-P020", "cache layers.1.k is updated twice from the same state"),
    (read_before_the_update, "G4C-P021", "reads cache layers.1.k as it was before"),
    (read_before_the_update_beside_other_rows, "G4C-P021", "reads cache layers.1.k as it was before"),
    (written_after_it_was_read_beside_other_rows, "G4C-P020", "cache layers.1.k is updated after it was read"),
    (update_not_returned, "G4C-P021", "result layers.1.k is cache layers.1.k after 0 updates"),
    (update_not_a_result, "G4C-P021", "cache layers.1.k is updated, but its last state is not returned"),
    (results_swapped, "G4C-P021", "result layers.0.k is cache layers.1.k after 1 updates"),
    (result_from_elsewhere, "G4C-P021", "result layers.1.k is no state of a cache"),
]


@pytest.mark.parametrize(("damage", "code", "message"), REFUSALS, ids=lambda x: getattr(x, "__name__", None))
@pytest.mark.parametrize("pipeline", FORMS.values(), ids=FORMS)
def test_refusals(damage: Callable[[Function], None], code: str, message: str, pipeline: str) -> None:
    module = GemmaLike().module()
    damage(module.functions["decode"])
    with pytest.raises(G4cError) as caught:
        run_once(module, pipeline)
    assert caught.value.code == code
    assert message in caught.value.message
    assert caught.value.where is not None
    assert caught.value.where.startswith("decode")


def test_a_refusal_says_who_read() -> None:
    module = GemmaLike().module()
    written_after_it_was_read(module.functions["decode"])
    with pytest.raises(G4cError) as caught:
        run_once(module, "eliminate-shared-kv")
    assert "model.layers.1.self_attn" in caught.value.message


@pytest.mark.parametrize("pipeline", FORMS.values(), ids=FORMS)
def test_an_old_state_beside_the_new_rows_is_what_the_update_leaves(pipeline: str) -> None:
    """What window-kv-cache makes of attentions in prefill. Before or after the update, by the donor or another."""
    module = GemmaLike().module()
    program = module.functions["prefill_8"]
    read_before_the_update_beside(program, lambda update: update.x)
    donor = reader(program, 1)
    donor.keys, donor.values = reader(program, 3).keys, reader(program, 3).values
    donor.key_positions = reader(program, 3).key_positions
    late = [update_of(program, f"layers.1.{part}") for part in "kv"]
    program.ops = [op for op in program.ops if op not in late] + late
    run_checked(module, pipeline)
    assert projections(module) == {"0", "1", "2"}
    if "," in pipeline:
        called = module.callees(module.functions["prefill_8"])
        assert [name.partition(".")[2] for name in called][1:4] == ["sliding_donor", "full_own", "sliding_shared"]
