"""fuse-projections: which weights become one, in all programs alike, and that every number stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from draft import WIDTH, Draft
from gemma_like import GemmaLike
from pass_testing import run_checked, run_once

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.interpreter import interpret
from g4c.ir.module import Module
from g4c.ir.op import Dense, Loc, SymbolRef
from g4c.ir.types import DType
from g4c.ir.weights import Source, Take, Weight
from g4c.passes.fuse_projections import fused_name
from g4c.passes.numerics import TOLERANCE


def linears(module: Module, program: str = "decode") -> list[str]:
    """The weights of a program's linear ops, in order."""
    return [
        op.w.owner.weight.name
        for op in module.functions[program].ops_of(ops.LinearOp)
        if isinstance(op.w.owner, ops.LoadWeightOp)
    ]


# -- whole models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_gemma_like_model(dtype: DType, batch: int) -> None:
    """Owners compute q, k and v at once, shared layers q alone, all of them gate and up."""
    sizes = GemmaLike(dtype=dtype, batch=batch, shared_write=False)
    module = sizes.module()
    run_once(module, "canonicalize,dce")
    before = len(module.weights)
    stats = run_checked(module, "fuse-projections", TOLERANCE[DType.F32] if dtype == DType.F32 else 0.0)
    assert stats == {"groups": 3 + 5, "weights_before": before, "weights_after": before - 3 * 2 - 5}
    for layer, kind in enumerate(sizes.pattern):
        dim, name = {"S": 256, "F": 512}[kind], f"layers.{layer}"
        rows = {f"{name}.mlp.gate_up_proj.weight": 2 * 24 * (1 if layer < 3 else 2)}
        rows |= {f"{name}.self_attn.{'qkv' if layer < 3 else 'q'}_proj.weight": (4 if layer < 3 else 2) * dim}
        for weight, count in rows.items():
            assert module.weights[weight].type.shape == (count, sizes.hidden)
            for program in module.programs:
                assert linears(module, program.name).count(weight) == 1
    assert not [name for name in module.weights if ".k_proj" in name or ".up_proj" in name]


def test_a_fused_weight_stands_where_its_first_part_stood() -> None:
    module = GemmaLike(pattern="S", shared=0).module()
    run_once(module, "fuse-projections")
    assert [name for name in module.weights if name.endswith("proj.weight")] == [
        "layers.0.self_attn.qkv_proj.weight",
        "layers.0.self_attn.o_proj.weight",
        "layers.0.mlp.gate_up_proj.weight",
        "layers.0.mlp.down_proj.weight",
    ]


def test_layers_of_a_kind_stay_of_one_kind() -> None:
    """Fused weights are parameters under one name; product and slices lie in their layer."""
    module, plain = (GemmaLike(shared_write=False).module() for _ in range(2))
    wanted = run_once(plain, "canonicalize,dce,specialize-layers")
    stats = run_once(module, "canonicalize,dce,fuse-projections,specialize-layers")
    assert stats == wanted == {"layers": 10, "kinds": 8}
    own, shared = (module.functions[f"decode.sliding_{kind}"] for kind in ("own", "shared"))
    assert {"self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight"} <= {param.name for param in own.params}
    assert {"self_attn.q_proj.weight", "mlp.gate_up_proj.weight"} <= {param.name for param in shared.params}
    for function in (own, shared):
        assert {op.loc.path for op in function.ops_of(ops.SliceOp)} <= {
            f"model.layers.*.{name}_proj"
            for name in ("self_attn.q", "self_attn.k", "self_attn.v", "mlp.gate", "mlp.up")
        } | {"model.layers.*.mlp"}
    assert not [op for op in module.functions["decode"].ops_of(ops.LinearOp) if "layers" in op.loc.path]


def test_split_matvec_takes_fused_projections() -> None:
    """One row in bf16: the CPU backend's form is made of the joined products."""
    module = GemmaLike(hidden=128, mlp=128, dtype=DType.BF16, shared_write=False, buckets=()).module()
    run_once(module, "canonicalize,dce,fuse-projections")
    count = len(linears(module))
    stats = run_checked(module, "split-matvec", 2e-2)
    assert stats["linears"] + stats["one_row_linears_kept"] == count
    assert not [name for name in linears(module) if "qkv_proj" in name or "gate_up" in name]


# -- what belongs together ---------------------------------------------------------------------------------------------


def q_k_v(module: Module, name: str, *rows: int, path: str = "a") -> Draft:
    """q, k and v of x; their sum is the result."""
    draft = Draft(module, name, *rows)
    draft.give(*(draft.linear(draft.x, f"{path}.{part}_proj", 8) for part in "qkv"))
    return draft


@pytest.mark.parametrize("rows", [(), (1,), (2, 3), (2, 1, 5)])
def test_ranks(rows: tuple[int, ...]) -> None:
    module = Module("test")
    q_k_v(module, "main", *rows)
    assert run_checked(module, "fuse-projections", 1e-6) == {"groups": 1, "weights_before": 3, "weights_after": 1}
    assert linears(module, "main") == ["a.qkv_proj.weight"]


def test_every_element_is_the_same_sum() -> None:
    """With small integers every sum is exact, whatever order a BLAS takes; parts of several heights."""
    module = Module("test")
    draft = Draft(module, "main", 5)
    draft.give(*(draft.linear(draft.x, name, width) for name, width in (("b", 3), ("a", 1), ("c", 70))))
    random = np.random.default_rng(0)
    data = {name: random.integers(-9, 9, weight.type.shape) for name, weight in module.weights.items()}
    stored = {name: array.astype(np.float32) for name, array in data.items()}
    x = random.integers(-9, 9, (5, WIDTH)).astype(np.float32)
    run_once(module, "fuse-projections")
    (fused,) = module.weights.values()
    assert [source.key for source in fused.sources] == ["b.weight", "a.weight", "c.weight"]
    arrays = {fused.name: fused.materialize(lambda source: stored[source.key])}
    found = interpret(module, "main", {"x": x}, arrays)
    for i, name in enumerate("bac"):
        np.testing.assert_array_equal(found[f"y{i}"], x @ data[f"{name}.weight"].T)


def test_a_part_that_is_computed_apart_somewhere_is_apart_everywhere() -> None:
    """A pruned prefill computes q on the rows that are asked for only."""
    module = Module("test")
    q_k_v(module, "decode", 2, 1)
    prefill = Draft(module, "prefill", 2, 4)
    few = prefill.select(prefill.x)
    prefill.give(*(prefill.linear(few if part == "q" else prefill.x, f"a.{part}_proj") for part in "qkv"))
    assert run_checked(module, "fuse-projections", 1e-6) == {"groups": 1, "weights_before": 3, "weights_after": 2}
    assert linears(module, "decode") == linears(module, "prefill") == ["a.q_proj.weight", "a.kv_proj.weight"]


def test_a_part_that_a_program_does_without_is_apart() -> None:
    module = Module("test")
    q_k_v(module, "decode", 2, 1)
    fill = Draft(module, "fill", 2, 4)
    fill.give(fill.linear(fill.x, "a.k_proj"), fill.linear(fill.x, "a.v_proj"))
    other = Draft(module, "other", 1)
    other.give(other.linear(other.x, "b.k_proj"), other.linear(other.x, "b.v_proj"))
    assert run_checked(module, "fuse-projections", 1e-6)["groups"] == 2
    assert linears(module, "decode") == ["a.q_proj.weight", "a.kv_proj.weight"]
    assert linears(module, "other") == ["b.kv_proj.weight"]


def test_three_programs_leave_what_all_of_them_have_in_common() -> None:
    """a with b here, b with c there: nothing is together everywhere but d and e."""
    module = Module("test")
    for name, pairs in {"p": ("ab", "cde"), "q": ("bc", "ade"), "r": ("ac", "b", "de")}.items():
        draft = Draft(module, name, 2)
        inputs = [draft.x, *(draft.emit(ops.ExpOp(draft.x)) for _ in pairs[1:])]
        draft.give(*(draft.linear(x, part) for x, parts in zip(inputs, pairs, strict=True) for part in parts))
    assert run_checked(module, "fuse-projections", 1e-6) == {"groups": 1, "weights_before": 5, "weights_after": 4}
    assert set(module.weights) == {"a.weight", "b.weight", "c.weight", "de.weight"}


def test_weights_that_are_applied_twice() -> None:
    """k and v both on x and on exp(x): two products of one weight."""
    module = Module("test")
    draft = Draft(module, "main", 2)
    inputs = (draft.x, draft.emit(ops.ExpOp(draft.x)))
    draft.give(*(draft.linear(x, part) for x in inputs for part in "kkv"))
    assert run_checked(module, "fuse-projections", 1e-6)["groups"] == 1
    assert linears(module, "main") == ["kv.weight"] * 2


def test_joined_weights_keep_their_transforms() -> None:
    module = Module("test")
    for name, low in (("q.weight", 4), ("k.weight", 1)):
        weight = Weight(name, (Source(f"stored.{name}", Weight.stored(name, HEADS).type),))
        module.add_weight(weight.then(Take(0, 8, ((low, 8), (0, low)))))
    draft = Draft(module, "main", 2)
    draft.give(draft.linear(draft.x, "q"), draft.linear(draft.x, "k"))
    run_checked(module, "fuse-projections", 1e-6)
    assert [str(step) for step in module.weights["qk.weight"].transforms] == [
        "take{axis=0,block=8,ranges=4:8+0:4}",
        "take{axis=0,block=8,ranges=1:8+0:1,at=1}",
        "concat{axis=0}",
    ]


HEADS = Draft(Module("types"), "main", 16).x.type


# -- what stays --------------------------------------------------------------------------------------------------------


def tied(draft: Draft) -> None:
    """The embedding is a projection, too."""
    ids = draft.function.add_param("ids", draft.x.type.with_shape((2,)).with_dtype(DType.S32))
    embedded = draft.emit(ops.EmbeddingOp(ids, draft.load("a.weight", 8, WIDTH), 1.0))
    draft.give(draft.linear(draft.x, "a"), draft.linear(draft.x, "b"), embedded)


def returned(draft: Draft) -> None:
    draft.give(draft.linear(draft.x, "a"), draft.linear(draft.x, "b"), draft.load("a.weight", 8, WIDTH))


def projected(draft: Draft) -> None:
    """A weight is what a projection works on."""
    draft.give(
        draft.linear(draft.x, "a"), draft.linear(draft.x, "b"), draft.linear(draft.load("a.weight", 8, WIDTH), "c")
    )


def constant(draft: Draft) -> None:
    value = Dense.of(np.ones((8, WIDTH), np.float32))
    draft.module.add_weight(Weight("a.weight", value=value))
    draft.give(draft.linear(draft.x, "a"), draft.linear(draft.x, "b"))


def computed(draft: Draft) -> None:
    """A matrix that is no weight."""
    matrix = draft.emit(ops.ExpOp(draft.load("a.weight", 8, WIDTH)))
    draft.give(draft.emit(ops.LinearOp(draft.x, matrix)), draft.linear(draft.x, "b"))


def two_inputs(draft: Draft) -> None:
    draft.give(draft.linear(draft.x, "a"), draft.linear(draft.emit(ops.ExpOp(draft.x)), "b"))


@pytest.mark.parametrize("body", [tied, returned, projected, constant, computed, two_inputs])
def test_what_it_leaves_alone(body: Callable[[Draft], None]) -> None:
    module = Module("test")
    body(Draft(module, "main", 2))
    count = len(module.weights)
    assert run_once(module, "fuse-projections") == {"groups": 0, "weights_before": count, "weights_after": count}


def test_the_others_are_fused_without_the_tied_one() -> None:
    module = Module("test")
    draft = Draft(module, "main", 2)
    tied(draft)
    draft.give(*(result.value for result in draft.function.results), draft.linear(draft.x, "c"))
    run_checked(module, "fuse-projections", 1e-6)
    assert linears(module, "main") == ["a.weight", "bc.weight"]


def test_layer_functions_are_refused() -> None:
    module = GemmaLike().module()
    with pytest.raises(G4cError) as caught:
        run_once(module, "specialize-layers,fuse-projections")
    assert caught.value.code == "G4C-P042"


# -- names and places --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ("l.3.attn.q_proj.weight l.3.attn.k_proj.weight l.3.attn.v_proj.weight", "l.3.attn.qkv_proj.weight"),
        ("l.3.mlp.gate_proj.weight l.3.mlp.up_proj.weight", "l.3.mlp.gate_up_proj.weight"),
        ("l.0.router.proj.weight l.0.mlp.up_proj.weight", "l.0.router_mlp_up_proj.weight"),
        ("a b", "ab"),
        ("wq wk", "wq_wk"),
        ("a a.b", "a_a_b"),
        ("x.weight x.q.weight", "x.weight_q_weight"),
    ],
)
def test_names(parts: str, name: str) -> None:
    assert fused_name(parts.split()) == name


def test_a_name_that_is_taken_is_not_used_again() -> None:
    module = Module("test")
    draft = q_k_v(module, "main", 2)
    values = [result.value for result in draft.function.results]
    draft.give(*values, draft.linear(draft.emit(ops.ExpOp(draft.x)), "a.qkv_proj"))
    run_checked(module, "fuse-projections", 1e-6)
    assert set(module.weights) == {"a.qkv_proj.weight", "a.qkv_proj.weight_2"}


def test_locations() -> None:
    """The product belongs to what its parts share, a slice to the part that it stands for."""
    module = Module("test")
    draft = q_k_v(module, "main", 2, path="layers.0.attn")
    run_once(module, "fuse-projections")
    assert [op.loc for op in draft.function.ops] == [
        *[Loc("model.layers.0.attn", "m.py", 1)] * 2,
        *[Loc(f"model.layers.0.attn.{part}_proj", "m.py", 1) for part in "qkv"],
    ]


def test_unused_loads_of_a_part_go() -> None:
    module = Module("test")
    draft = q_k_v(module, "main", 2)
    draft.function.ops.insert(0, ops.LoadWeightOp(SymbolRef("a.q_proj.weight"), module.weights["a.q_proj.weight"].type))
    run_checked(module, "fuse-projections", 1e-6)
    assert len(draft.function.ops) == 2 + 3
