"""specialize-layers: kinds by structure alone, one call per layer, the same numbers."""

from __future__ import annotations

import dataclasses

import pytest
from gemma_like import GemmaLike
from pass_testing import run_checked, run_once

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.module import Module
from g4c.ir.op import Dense, Loc
from g4c.ir.printer import structural_hash
from g4c.ir.types import DType
from g4c.passes.layer_paths import layer_of, relative_name, to_any_layer, to_layer
from g4c.passes.specialize_layers import structural_key

KINDS = ["sliding_own", "full_own", "sliding_shared", "full_shared"]


def kinds(module: Module, program: str = "decode") -> list[str]:
    """Kind of each layer of `program`, in order."""
    return [name.removeprefix(f"{program}.") for name in module.callees(module.functions[program])]


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("batch", [1, 3])
def test_four_kinds_with_the_same_numbers(dtype: DType, batch: int) -> None:
    module = GemmaLike(dtype=dtype, batch=batch).module()
    assert run_checked(module, "specialize-layers") == {"layers": 10, "kinds": 8}
    for program in ("prefill_8", "decode"):
        assert kinds(module, program) == [KINDS[i] for i in (0, 0, 1, 2, 3)]
    layers = [name for name, function in module.functions.items() if function.role == "layer"]
    assert layers == [f"{program}.{kind}" for program in ("prefill_8", "decode") for kind in KINDS]


def test_donors_are_owners_like_any_other() -> None:
    sizes = GemmaLike(pattern="SSSFSF", shared=2)
    module = sizes.module()
    run_once(module, "specialize-layers")
    assert (sizes.donor(4), sizes.donor(5)) == (2, 3)
    assert kinds(module)[:4] == ["sliding_own"] * 3 + ["full_own"]
    calls = list(module.functions["decode"].ops_of(ops.CallOp))
    assert calls[2].results[1] in calls[4].args
    assert calls[2].results[2] in calls[4].args


def test_signature_and_locations() -> None:
    module = GemmaLike().module()
    run_once(module, "specialize-layers")
    own, shared = (module.functions[f"decode.sliding_{kind}"] for kind in ("own", "shared"))
    values = ["hidden", "per_layer_input", "positions", "key_positions", "cos", "sin", "k_cache", "v_cache"]
    assert [param.name for param in own.params][:9] == [*values, "input_layernorm.weight"]
    assert [result.name for result in own.results] == ["hidden", "k_cache", "v_cache"]
    assert [result.name for result in shared.results] == ["hidden", "cache", "cache_2"]
    assert [param.name for param in shared.params][:10] == [*values, "cache", "cache_2"]
    assert own.param("self_attn.k_proj.weight").shape == (256, 32)
    paths = {op.loc.path for op in own.ops}
    assert "model.layers.*.self_attn.q_proj" in paths
    assert not any("layers.0" in path for path in paths)
    calls = list(module.functions["decode"].ops_of(ops.CallOp))
    assert [call.loc.path for call in calls] == [f"model.layers.{i}" for i in range(5)]


def test_kinds_follow_attributes_not_names() -> None:
    """A window that differs on one layer makes a kind of its own; so does a missing op."""
    module = GemmaLike(pattern="SSS", shared=0).module()
    attention = list(module.functions["decode"].ops_of(ops.AttentionOp))[1]
    attention.window = 3
    run_once(module, "specialize-layers")
    assert kinds(module, "decode") == ["sliding_own", "sliding_own_2", "sliding_own"]
    assert kinds(module, "prefill_8") == ["sliding_own"] * 3


def test_names_and_locations_do_not_make_kinds() -> None:
    module = GemmaLike(pattern="SS", shared=0).module()
    for op in module.functions["decode"].ops:
        if op.loc.path.startswith("model.layers.1."):
            op.loc = Loc(op.loc.path + ".renamed", "other.py", 7)
    run_once(module, "specialize-layers")
    assert kinds(module) == ["sliding_own"] * 2
    a, b = (module.functions[f"{program}.sliding_own"] for program in ("prefill_8", "decode"))
    assert structural_key(a) != structural_key(b)


def test_constants_shared_by_layers_go_into_each() -> None:
    module = GemmaLike(pattern="SS", shared=0).module()
    program = module.functions["decode"]
    one = ops.ConstantOp(Dense.scalar(1.5, DType.F32), loc=Loc("model.layers.0"))
    program.ops.insert(0, one)
    last = {op.loc.path: i for i, op in enumerate(program.ops) if op.loc.path in ("model.layers.0", "model.layers.1")}
    for path, index in sorted(last.items(), reverse=True):
        old = program.ops[index]
        new = ops.MulOp(old.result, one.result, loc=Loc(path))
        program.replace_uses({old.result: new.result})
        new.x = old.result
        program.ops.insert(index + 1, new)
    run_checked(module, "specialize-layers")
    assert kinds(module) == ["sliding_own"] * 2
    assert one not in program.ops
    assert len(list(module.functions["decode.sliding_own"].ops_of(ops.ConstantOp))) == 1


def test_an_op_between_two_of_a_layer_joins_it() -> None:
    module = GemmaLike(pattern="SS", shared=0).module()
    for op in module.functions["decode"].ops_of(ops.GatedGeluOp):
        op.loc = dataclasses.replace(op.loc, path="model.activation")
    run_checked(module, "specialize-layers")
    assert kinds(module) == ["sliding_own"] * 2
    assert len(list(module.functions["decode.sliding_own"].ops_of(ops.GatedGeluOp))) == 2


def test_layers_that_feed_each_other_are_refused() -> None:
    module = GemmaLike(pattern="SS", shared=0).module()
    program = module.functions["decode"]
    late = max(i for i, op in enumerate(program.ops) if op.loc.path == "model.layers.1.self_attn.q_proj")
    program.ops[late].loc = Loc("model.layers.0.self_attn.q_proj")
    with pytest.raises(G4cError) as caught:
        run_once(module, "specialize-layers")
    assert caught.value.code == "G4C-P030"
    assert "model.layers.0 -> model.layers.1 -> model.layers.0" in caught.value.message


def test_no_op_without_layers() -> None:
    module = GemmaLike().module()
    for function in module.functions.values():
        for op in function.ops:
            op.loc = Loc()
    before = structural_hash(module)
    assert run_once(module, "specialize-layers") == {"layers": 0, "kinds": 0}
    assert structural_hash(module) == before


def test_layer_paths() -> None:
    assert layer_of("model.layers.3.mlp.gate_proj") == "model.layers.3"
    assert layer_of("layers.12") == "layers.12"
    assert layer_of("model.language_model.layers.3.x") == "model.language_model.layers.3"
    assert layer_of("model.layers_3.mlp") is None
    assert layer_of("model.layers.3x") is None
    assert layer_of("model.norm") is None
    assert relative_name("layers.3.layer_scalar") == "layer_scalar"
    assert relative_name("rope.full_attention.cos") == "rope.full_attention.cos"
    loc = Loc("model.layers.3.mlp", "x.py", 4)
    assert to_any_layer(loc, "model.layers.3") == Loc("model.layers.*.mlp", "x.py", 4)
    assert to_any_layer(Loc("model.layers.31.mlp"), "model.layers.3") == Loc("model.layers.31.mlp")
    assert to_layer(to_any_layer(loc, "model.layers.3"), "model.layers.7").path == "model.layers.7.mlp"
