"""fold-norms: which norms lose their weight, in all programs alike, and what that does to the numbers."""

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
from g4c.ir.op import Dense
from g4c.ir.types import Array, DType, TensorType
from g4c.ir.weights import Cast, Weight
from g4c.passes.numerics import TOLERANCE

F32 = TOLERANCE[DType.F32]


def stats_of(
    norms: int = 0, projections: int = 0, ones: int = 0, ops: int = 0, uses: int = 0, rounding: int = 0
) -> dict[str, int]:
    kept = {"kept_for_other_ops": ops, "kept_for_other_uses": uses, "kept_for_rounding": rounding}
    return {"norms": norms, "projections": projections, "ones": ones, **kept}


def norm_weights(module: Module, program: str) -> list[str | None]:
    """The weights of a program's norms, in order."""
    owners = [op.w.owner if op.w else None for op in module.functions[program].ops_of(ops.RmsNormOp)]
    return [owner.weight.name if isinstance(owner, ops.LoadWeightOp) else None for owner in owners]


# -- whole models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2])
def test_a_gemma_like_model(batch: int) -> None:
    """input_layernorm goes into q, k and v; norms before RoPE, a sum or the tied head stay."""
    sizes = GemmaLike(batch=batch, shared_write=False)
    module = sizes.module()
    run_once(module, "canonicalize,dce")
    assert run_checked(module, "fold-norms", F32) == stats_of(
        norms=5, projections=3 * 3 + 2, ops=5 + (5 + 3) + 1, uses=1
    )
    for layer in range(5):
        assert f"layers.{layer}.input_layernorm.weight" not in module.weights
        for part in "qkv" if layer < 3 else "q":
            name = f"layers.{layer}.self_attn.{part}_proj.weight"
            weight = module.weights[name]
            assert [source.key for source in weight.sources] == [name, f"layers.{layer}.input_layernorm.weight"]
            assert [str(step) for step in weight.transforms] == ["scale{axis=1}"]
    assert {"norm.weight", "layers.0.post_attention_layernorm.weight", "layers.0.layer_scalar"} <= set(module.weights)


def test_then_the_projections_are_fused() -> None:
    """One matrix out of q, k, v and their norm: a chain that scales each part, then joins them."""
    module = GemmaLike(shared_write=False).module()
    run_once(module, "canonicalize,dce")
    assert run_once(module, "fold-norms,fuse-projections")["groups"] == 3 + 5
    fused = module.weights["layers.0.self_attn.qkv_proj.weight"]
    norm = "layers.0.input_layernorm.weight"
    parts = [f"layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
    assert [source.key for source in fused.sources] == [key for part in parts for key in (part, norm)]
    steps = ["scale{axis=1}", "scale{axis=1,at=1}", "scale{axis=1,at=2}", "concat{axis=0}"]
    assert [str(step) for step in fused.transforms] == steps


def test_layers_of_a_kind_stay_of_one_kind() -> None:
    module, plain = (GemmaLike(shared_write=False).module() for _ in range(2))
    wanted = run_once(plain, "canonicalize,dce,specialize-layers")
    assert run_once(module, "canonicalize,dce,fold-norms,specialize-layers") == wanted
    params = {param.name for param in module.functions["decode.sliding_own"].params}
    assert "self_attn.q_proj.weight" in params
    assert "input_layernorm.weight" not in params


# -- numbers -----------------------------------------------------------------------------------------------------------


def projected_norm(dtype: DType, hidden: int, rows: int) -> Module:
    module = Module("test")
    draft = Draft(module, "main", rows, width=hidden, dtype=dtype)
    draft.give(draft.linear(draft.norm(draft.x, "norm"), "a", 64))
    return module


@pytest.mark.parametrize("hidden", [128, 1536])
def test_rounding(hidden: int) -> None:
    """Against f64 on the same bf16 weights: norm, W w and result are rounded, W w was not: sqrt(3 / 2) as far off."""
    module = projected_norm(DType.BF16, hidden, rows=64)
    random = np.random.default_rng(hidden)
    data = {
        "norm.weight": random.uniform(0.2, 30.0, hidden),
        "a.weight": random.standard_normal((64, hidden)) / np.sqrt(hidden),
    }
    stored = {name: array.astype(DType.BF16.numpy) for name, array in data.items()}
    x = random.standard_normal((64, hidden)).astype(DType.BF16.numpy)
    w, a, wide = (array.astype(np.float64) for array in (stored["norm.weight"], stored["a.weight"], x))
    exact = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * w @ a.T

    def error() -> float:
        arrays = {n: weight.materialize(lambda s: stored[s.key]) for n, weight in module.weights.items()}
        found = interpret(module, "main", {"x": x}, arrays)["y0"].astype(np.float64)
        return float(np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()))

    before = error()
    run_once(module, "fold-norms{narrow=true}")
    after = error()
    assert 0.5 * 2**-8 < before < 2**-8
    assert 1.0 < after / before < 1.3


def test_the_factor_is_a_power_of_two() -> None:
    """Then nothing is rounded by it, and both forms are equal bit for bit, in bf16, too."""
    module = projected_norm(DType.BF16, 128, rows=8)
    random = np.random.default_rng(0)
    stored: dict[str, Array] = {
        "norm.weight": (2.0 ** random.integers(-3, 4, 128)).astype(DType.BF16.numpy),
        "a.weight": random.standard_normal((64, 128)).astype(DType.BF16.numpy),
    }
    x = random.standard_normal((8, 128)).astype(DType.BF16.numpy)

    def result() -> Array:
        arrays = {n: weight.materialize(lambda s: stored[s.key]) for n, weight in module.weights.items()}
        return interpret(module, "main", {"x": x}, arrays)["y0"].astype(np.float32)

    before = result()
    assert run_once(module, "fold-norms{narrow=true}") == stats_of(norms=1, projections=1)
    np.testing.assert_array_equal(result(), before)


@pytest.mark.parametrize(
    ("dtype", "stats"), [(DType.F32, stats_of(norms=1, projections=1)), (DType.BF16, stats_of(rounding=1))]
)
def test_narrow_types_are_left_alone(dtype: DType, stats: dict[str, int]) -> None:
    assert run_once(projected_norm(dtype, 128, rows=8), "fold-norms") == stats


# -- what folds --------------------------------------------------------------------------------------------------------


def pruned(module: Module) -> None:
    """q on the rows that are asked for, after the norm in one program and before it in the other."""
    for name, late in (("late", True), ("early", False)):
        draft = Draft(module, name, 2, 4)
        y = draft.norm(draft.x, "norm")
        few = draft.select(y, 2) if late else draft.norm(draft.select(draft.x, 2), "norm")
        draft.give(draft.linear(few, "q"), draft.linear(y, "k"))


def twice_selected(module: Module) -> None:
    draft = Draft(module, "main", 2, 4)
    y = draft.norm(draft.x, "norm")
    draft.give(draft.linear(draft.select(draft.select(y, 2), 2), "q"), draft.linear(draft.select(y, 2), "k"))


def apart(module: Module) -> None:
    """Programs that use a part of the projections each."""
    for name in "qk":
        draft = Draft(module, name, 2)
        draft.give(draft.linear(draft.norm(draft.x, "norm"), name))


def dead_here(module: Module) -> None:
    """A norm whose result nobody uses is no obstacle to the one that is used."""
    draft = Draft(module, "main", 2)
    draft.norm(draft.x, "norm")
    y = draft.norm(draft.x, "norm")
    draft.give(draft.linear(y, "q"), draft.linear(y, "k"))


@pytest.mark.parametrize("body", [pruned, twice_selected, apart, dead_here])
def test_folds(body: Callable[[Module], None]) -> None:
    module = Module("test")
    body(module)
    assert run_checked(module, "fold-norms", F32) == stats_of(norms=1, projections=2)
    assert set(module.weights) == {"q.weight", "k.weight"}
    assert {weight for program in module.programs for weight in norm_weights(module, program.name)} == {None}


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_weights_of_ones_disappear(dtype: DType) -> None:
    """Wherever the norm's result goes. The weight itself stays where something else uses it."""
    module = Module("test")
    ones = Dense.of(np.ones(WIDTH, np.float32))
    for name in ("ones", "used"):
        module.add_weight(Weight(f"{name}.weight", value=ones, transforms=(Cast(DType.F16), Cast(dtype))))
    draft = Draft(module, "main", 2, dtype=dtype)
    y, z = draft.norm(draft.x, "ones"), draft.norm(draft.x, "used")
    draft.load("ones.weight", WIDTH)
    draft.give(
        draft.emit(ops.AddOp(y, z)), draft.linear(y, "q"), draft.emit(ops.ExpOp(draft.load("used.weight", WIDTH)))
    )
    assert run_checked(module, "fold-norms") == stats_of(ones=2)
    assert set(module.weights) == {"used.weight", "q.weight"}
    assert norm_weights(module, "main") == [None, None]
    assert len(list(draft.function.ops_of(ops.LoadWeightOp))) == 2


def test_other_constants_stay() -> None:
    module = Module("test")
    almost = np.ones(WIDTH, np.float32)
    almost[3] = 1 + 2**-20
    module.add_weight(Weight("norm.weight", value=Dense.of(almost)))
    draft = Draft(module, "main", 2)
    draft.give(draft.emit(ops.ExpOp(draft.norm(draft.x, "norm"))))
    assert run_once(module, "fold-norms") == stats_of(ops=1)


# -- what stays --------------------------------------------------------------------------------------------------------


def added(draft: Draft) -> None:
    """The result goes into a sum, too."""
    y = draft.norm(draft.x, "norm")
    draft.give(draft.linear(y, "q"), draft.emit(ops.AddOp(y, draft.x)))


def selected_and_added(draft: Draft) -> None:
    y = draft.norm(draft.x, "norm")
    few = draft.select(y)
    draft.give(draft.linear(y, "q"), draft.emit(ops.NegOp(few)))


def returned(draft: Draft) -> None:
    y = draft.norm(draft.x, "norm")
    draft.give(draft.linear(y, "q"), y)


def reshaped(draft: Draft) -> None:
    """Heads of a norm over all of them: the weight's axis is no longer the last."""
    y = draft.norm(draft.x, "norm")
    heads = draft.emit(ops.ReshapeOp(y, y.type.with_shape((*y.shape[:-1], 2, WIDTH // 2))))
    draft.give(draft.linear(heads, "q"))


def matrix(draft: Draft) -> None:
    """The result is the matrix of a linear op."""
    y = draft.norm(draft.emit(ops.ReshapeOp(draft.x, TensorType((8, WIDTH), draft.dtype))), "norm")
    draft.give(draft.emit(ops.LinearOp(draft.x, y)))


def computed(draft: Draft) -> None:
    """A projection by something that is no weight."""
    w = draft.emit(ops.ExpOp(draft.load("q.weight", 8, WIDTH)))
    draft.give(draft.emit(ops.LinearOp(draft.norm(draft.x, "norm"), w)))


def dead(draft: Draft) -> None:
    draft.norm(draft.x, "norm")
    draft.give(draft.x)


def tied(draft: Draft) -> None:
    """The head's weight is the embedding, too."""
    ids = draft.function.add_param("ids", TensorType((2,), DType.S32))
    embedded = draft.emit(ops.EmbeddingOp(ids, draft.load("q.weight", 8, WIDTH), 1.0))
    draft.give(draft.linear(draft.norm(draft.x, "norm"), "q"), embedded)


def other_norm(draft: Draft) -> None:
    """One projection behind two norms."""
    y, z = draft.norm(draft.x, "norm"), draft.norm(draft.x, None)
    draft.give(draft.linear(y, "q"), draft.linear(z, "q"))


def no_norm(draft: Draft) -> None:
    draft.give(draft.linear(draft.norm(draft.x, "norm"), "q"), draft.linear(draft.x, "q"))


def used_norm_weight(draft: Draft) -> None:
    w = draft.load("norm.weight", WIDTH)
    draft.give(draft.linear(draft.norm(draft.x, "norm"), "q"), draft.emit(ops.MulOp(draft.x, w)))


def returned_projection(draft: Draft) -> None:
    draft.give(draft.linear(draft.norm(draft.x, "norm"), "q"), draft.load("q.weight", 8, WIDTH))


def constant_norm(draft: Draft) -> None:
    draft.module.add_weight(Weight("norm.weight", value=Dense.of(np.full(WIDTH, 2.0, np.float32))))
    draft.give(draft.linear(draft.norm(draft.x, "norm"), "q"))


def constant_projection(draft: Draft) -> None:
    draft.module.add_weight(Weight("q.weight", value=Dense.of(np.ones((8, WIDTH), np.float32))))
    draft.give(draft.linear(draft.norm(draft.x, "norm"), "q"))


OPS = [added, selected_and_added, returned, reshaped, matrix, computed, dead]
USES = [tied, other_norm, no_norm, used_norm_weight, returned_projection, constant_norm, constant_projection]


@pytest.mark.parametrize(
    ("body", "stats"), [*((b, stats_of(ops=1)) for b in OPS), *((b, stats_of(uses=1)) for b in USES)]
)
def test_what_it_leaves_alone(body: Callable[[Draft], None], stats: dict[str, int]) -> None:
    module = Module("test")
    body(Draft(module, "main", 2, 4))
    assert run_once(module, "fold-norms") == stats


@pytest.mark.parametrize(("body", "stats"), [(added, stats_of(ops=1)), (no_norm, stats_of(uses=1))])
@pytest.mark.parametrize("first", [True, False])
def test_an_obstacle_in_one_program_counts_in_all(
    body: Callable[[Draft], None], stats: dict[str, int], first: bool
) -> None:
    module = Module("test")
    for name in ("fit", "unfit") if first else ("unfit", "fit"):
        draft = Draft(module, name, 2, 4)
        if name == "unfit":
            body(draft)
        else:
            draft.give(draft.linear(draft.norm(draft.x, "norm"), "q"))
    assert run_once(module, "fold-norms") == stats


def test_one_projection_behind_two_norms_keeps_both() -> None:
    """Each of the norms has a projection of its own, too; a third one is not in their way."""
    module = Module("test")
    for name in ("one", "two"):
        draft = Draft(module, name, 2)
        y, z = draft.norm(draft.x, f"norm_{name}"), draft.norm(draft.x, "norm")
        draft.give(draft.linear(y, "q"), draft.linear(y, f"k_{name}"), draft.linear(z, "v"))
    assert run_checked(module, "fold-norms", F32) == stats_of(norms=1, projections=1, uses=2)
    assert norm_weights(module, "one") == ["norm_one.weight", None]


def test_norms_without_a_weight_are_no_ones_business() -> None:
    module = Module("test")
    draft = Draft(module, "main", 2)
    draft.give(draft.linear(draft.norm(draft.x, None), "q"))
    assert run_once(module, "fold-norms") == stats_of()


def test_layer_functions_are_refused() -> None:
    module = GemmaLike().module()
    with pytest.raises(G4cError) as caught:
        run_once(module, "specialize-layers,fold-norms")
    assert caught.value.code == "G4C-P042"
