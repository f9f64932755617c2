"""Raising: each rule finds its formula as Hugging Face writes it, keeps its value, and says why it does not match."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from aten_program import TORCH, imported, run, sample
from small_model import LAYERS, small_config

from g4c.frontend.raising import RULES, explain, raise_module
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.ir.module import Module
from g4c.ir.op import Op
from g4c.ir.ops import EmbeddingOp, GatedGeluOp, PerLayerInputOp, RmsNormOp, RopeOp, SoftcapOp
from g4c.ir.printer import print_module
from g4c.ir.types import Array, DType
from g4c.ir.verifier import verify_module

Torch = Callable[..., torch.Tensor]


# -- the formulas, as Hugging Face writes them ----------------------------------------------------------------------
def norm(x: torch.Tensor, w: torch.Tensor | None = None, *, exponent: float = -0.5, axis: int = -1) -> torch.Tensor:
    wide = x.float()
    y = wide * torch.pow(wide.pow(2).mean(axis, keepdim=True) + 1e-6, exponent)
    return (y if w is None else y * w.float()).type_as(x)


def rope(x: torch.Tensor, angles: torch.Tensor, *, sign: int = -1, pairs: int = 2) -> torch.Tensor:
    table = torch.cat((angles, angles), dim=-1)
    cos, sin = (t.to(x.dtype).unsqueeze(2) for t in (table.cos() * 1.0, table.sin() * 1.0))
    half = x.shape[-1] // pairs
    turned = torch.cat((sign * x[..., half:] if sign != -1 else -x[..., half:], x[..., :half]), dim=-1)
    return (x * cos) + (turned * sin)


def gate(x: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate="tanh") * up


def softcap(x: torch.Tensor, factor: float = 30.0) -> torch.Tensor:
    return torch.tanh(x / 30.0) * factor


def per_layer(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x + y) * 2.0**-0.5


def embed(ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    return F.embedding(ids, table) * 39.25


HEADS = ((1, 3, 2, 8), (1, 3, 4))
RAISED: dict[str, tuple[Torch, tuple[tuple[int, ...], ...], type[Op]]] = {
    "raise-rms-norm": (norm, ((2, 3, 8), (8,)), RmsNormOp),
    "raise-rms-norm without weight": (norm, ((2, 3, 8),), RmsNormOp),
    "raise-rope": (lambda x, angles: rope(x, angles.float()), HEADS, RopeOp),
    "raise-gated-gelu": (gate, ((2, 3), (2, 3)), GatedGeluOp),
    "raise-softcap": (softcap, ((2, 3),), SoftcapOp),
    "raise-per-layer-input": (per_layer, ((1, 2, 3, 4), (1, 2, 3, 4)), PerLayerInputOp),
}


def close(found: Array, wanted: Array) -> bool:
    tolerance = 2e-6 if found.dtype == np.float32 else 2**-6
    return np.allclose(found.astype(np.float64), wanted.astype(np.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("case", RAISED)
def test_a_formula_becomes_one_op_of_the_same_value(case: str, dtype: DType) -> None:
    function, shapes, wanted = RAISED[case]
    inputs = [sample(*shape, dtype=TORCH[dtype], seed=i) for i, shape in enumerate(shapes)]
    module = imported(function, *inputs)
    before = run(module, *inputs)
    counts = raise_module(module)
    assert counts[case.split(" ")[0]] == 1
    assert len(list(module.functions["f"].ops_of(wanted))) == 1
    assert close(run(module, *inputs), before)


def test_the_scaled_embedding() -> None:
    table, ids = sample(8, 4, dtype=torch.bfloat16), torch.tensor([[1, 7]], dtype=torch.int32)
    module = imported(lambda x, table: embed(x, table), ids, table=table)
    before = run(module, ids, table=table)
    raise_module(module)
    (op,) = module.functions["f"].ops_of(EmbeddingOp)
    assert op.scale == 39.25
    assert np.array_equal(run(module, ids, table=table), before)


def test_raised_ops_stand_where_the_formula_ended_with_its_location() -> None:
    module = imported(norm, sample(2, 8), sample(8))
    end = module.functions["f"].results[0].value.owner
    assert end is not None
    raise_module(module)
    (op,) = module.functions["f"].ops_of(RmsNormOp)
    assert op.loc == end.loc
    assert op.epsilon == 1e-6


# -- what must not match, and why -----------------------------------------------------------------------------------
def _twice(x: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    activation = F.gelu(x, approximate="tanh")
    return activation * up + activation


REFUSALS: dict[str, tuple[str, Torch, tuple[tuple[int, ...], ...], str]] = {
    "exponent": ("raise-rms-norm", lambda x: norm(x, exponent=-1.0), ((2, 8),), "the exponent is -1.0, not -0.5"),
    "axis": ("raise-rms-norm", lambda x: norm(x, axis=0), ((2, 8),), "the mean is over axes [0], not the last"),
    "no epsilon": ("raise-rms-norm", lambda x: x * (x * x).mean(-1, True).pow(-0.5), ((2, 8),), "not g4.add"),
    "other value": (
        "raise-rms-norm",
        lambda x, y: y * (x.pow(2).mean(-1, keepdim=True) + 1e-6).pow(-0.5),
        ((2, 8), (2, 8)),
        "what is scaled is not what was squared",
    ),
    "bf16 norm": (
        "raise-rms-norm",
        lambda x: x.bfloat16() * (x.bfloat16().pow(2).mean(-1, keepdim=True) + 1).pow(-0.5),
        ((2, 8),),
        "the norm is computed in bf16, not f32",
    ),
    "not rounded": (
        "raise-rms-norm",
        lambda x: norm(x.bfloat16().float()) * 2,
        ((2, 8),),
        "it is not rounded to bf16",
    ),
    "partial rotation": ("raise-rope", lambda x, a: rope(x, a, pairs=4), HEADS, "the halves are cut at"),
    "wrong sign": ("raise-rope", lambda x, a: rope(x, a, sign=2), HEADS, "not g4.neg"),
    "two readers": ("raise-gated-gelu", _twice, ((2, 3), (2, 3)), "the activation is read by 2 ops: g4.mul, g4.add"),
    "broadcast gate": ("raise-gated-gelu", gate, ((2, 3), (3,)), "the other factor tensor<3xf32>"),
    "other cap": ("raise-softcap", lambda x: softcap(x, 15.0), ((2, 3),), "divided by 30.0 but multiplied by 15.0"),
    "returned": ("raise-softcap", lambda x: torch.tanh(x / 30.0), ((2, 3),), "is a result of the function"),
    "rank": ("raise-per-layer-input", per_layer, ((2, 3), (2, 3)), "not [b, s, layers, width]"),
    "unscaled": ("raise-per-layer-input", lambda x, y: (x + y).neg(), ((1, 2, 3, 4),) * 2, "read by g4.neg"),
    "two scales": ("drop-unit-scale", lambda x: x * 2.0, ((2, 3),), "no factor is the constant 1"),
    "one transpose": ("fold-transposes", lambda x: x.transpose(0, 1), ((2, 3),), "not g4.transpose"),
    "two halves": (
        "halve-tables",
        lambda x, y: torch.cat((x, y), -1).cos(),
        ((2, 3), (2, 3)),
        "the joined halves are two different values",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_rules_say_why_they_do_not_match(case: str) -> None:
    rule, function, shapes, reason = REFUSALS[case]
    inputs = [sample(*shape, seed=i) for i, shape in enumerate(shapes)]
    module = imported(function, *inputs)
    before = run(module, *inputs)
    assert raise_module(module)[rule] == 0
    reasons = [str(explanation) for explanation in explain(module, rule)]
    assert any(reason in text for text in reasons), reasons
    assert close(run(module, *inputs), before)


def test_every_rule_has_a_case_for_and_against() -> None:
    names = {rule.name for rule in RULES}
    assert {case[0] for case in REFUSALS.values()} == names - {"raise-embedding"}
    assert all(type(rule).__doc__ and "before:" in str(type(rule).__doc__) for rule in RULES)


def test_an_unscaled_embedding_stays_a_gather_and_says_why() -> None:
    table, ids = sample(8, 4), torch.tensor([[1, 7]], dtype=torch.int32)
    module = imported(lambda x, table: F.embedding(x, table) + 1, ids, table=table)
    assert raise_module(module)["raise-embedding"] == 0
    (explanation,) = explain(module, "raise-embedding")
    assert explanation.reason == "the row is read by g4.add, not g4.mul"
    assert str(explanation).startswith("f: raise-embedding does not match g4.gather at ")


# -- structure ------------------------------------------------------------------------------------------------------
def test_transposes_fold_to_one_or_none() -> None:
    x = sample(2, 3, 4)
    module = imported(lambda x: x.transpose(0, 1).transpose(1, 2), x)
    before = run(module, x)
    assert raise_module(module)["fold-transposes"] == 1
    assert [op.mnemonic for op in module.functions["f"].ops] == ["g4.transpose"]
    assert np.array_equal(run(module, x), before)
    module = imported(lambda x: x.transpose(0, 1).transpose(0, 1) + 1, x)
    raise_module(module)
    assert [op.mnemonic for op in module.functions["f"].ops] == ["g4.constant", "g4.add"]


def test_a_result_that_is_an_input_survives() -> None:
    x = sample(2, 3)
    module = imported(lambda x: x.transpose(0, 1).transpose(0, 1) * 1.0, x)
    raise_module(module)
    assert module.functions["f"].ops == []
    assert np.array_equal(run(module, x), x.numpy())


def test_dead_ops_are_removed() -> None:
    module = imported(lambda x: (x.exp().cos(), x + 1)[1], sample(2, 3))
    raise_module(module)
    assert [op.mnemonic for op in module.functions["f"].ops] == ["g4.constant", "g4.add"]


# -- the model ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Module:
    config = small_config(Path(tmp_path_factory.mktemp("small")))
    options = TraceOptions(max_context=32, buckets=(16,), dtype=DType.BF16, raised=False)
    return trace_programs(config, options)


def test_the_whole_model_is_raised(raw: Module) -> None:
    module = raw.copy()
    raise_module(module)
    verify_module(module)
    for function in module.functions.values():
        counts = Counter(op.mnemonic for op in function.ops)
        named = {name: counts[f"g4.{name}"] for name in ("rms_norm", "rope", "gated_gelu", "embedding", "softcap")}
        # per layer: 4 around attention and MLP, q, k, v, per-layer embedding; then one for their table and the last
        assert named == {
            "rms_norm": 8 * LAYERS + 2,
            "rope": 2 * LAYERS,
            "gated_gelu": 2 * LAYERS,
            "embedding": 2,
            "softcap": 1,
        }
        assert counts["g4.per_layer_input"] == 1
        left = ("pow", "reduce", "neg", "concat", "gather", "tanh", "gelu", "transpose", "div")
        assert not [name for name in left if counts[f"g4.{name}"]]
        assert counts["g4.cos"] == counts["g4.sin"] == 2


def test_raising_twice_changes_nothing(raw: Module) -> None:
    module = raw.copy()
    raise_module(module)
    text = print_module(module)
    assert not any(raise_module(module).values())
    assert print_module(module) == text


def test_explanations_can_be_narrowed_to_a_module_path(raw: Module) -> None:
    found = explain(raw, path="model.layers.1.self_attn")
    assert found
    assert {e.op.loc.path for e in found} <= {
        f"model.layers.1.self_attn{part}" for part in ("", ".q_norm", ".k_norm", ".v_norm", ".o_proj")
    }
    assert {e.function for e in found} == {"prefill_16", "decode"}
    assert dataclasses.is_dataclass(found[0])
