"""fold-norms and fuse-projections on traces of Hugging Face's code: exact figures, and a tiny model's numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pass_testing import run_once

from g4c.frontend.config import load_model_config
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.frontend.variants import VARIANTS
from g4c.ir import ops
from g4c.ir.interpreter import interpret
from g4c.ir.module import Module
from g4c.ir.types import Array, DType
from g4c.passes.layer_paths import relative_name
from g4c.passes.numerics import sample_inputs
from g4c.runtime.random_weights import RandomWeights
from g4c.runtime.weights import WeightStore

PREPARE = "canonicalize,precompute-rope,eliminate-shared-kv"


def trace(variant: str, dtype: DType = DType.F32) -> Module:
    options = TraceOptions(buckets=(16,), max_context=32, batch=2, dtype=dtype)
    module = trace_programs(load_model_config(variant), options)
    run_once(module, PREPARE)
    return module


# variant, layers, those that own K and V, those of them where V is K's projection
@pytest.mark.parametrize(("variant", "layers", "owners", "equal"), [("tiny-e2b", 35, 15, 0), ("12b", 48, 48, 8)])
def test_figures(variant: str, layers: int, owners: int, equal: int) -> None:
    module = trace(variant)
    before = len(module.weights)
    stats = run_once(module, "fold-norms")
    projections = 3 * owners - equal + (layers - owners) + 2 * layers
    assert (stats["norms"], stats["projections"]) == (2 * layers, projections)
    groups = owners + layers
    assert run_once(module, "fuse-projections") == {
        "groups": groups,
        "weights_before": before - 2 * layers,
        "weights_after": before - 2 * layers - (2 * owners - equal) - layers,
    }
    wanted = {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"}
    wanted |= {"self_attn.qk_proj"} if equal else set()
    wanted |= {"self_attn.q_proj"} if owners < layers else set()
    assert {relative_name(name) for name in module.weights if "_proj." in name} == {f"{name}.weight" for name in wanted}
    assert run_once(module, "specialize-layers")["kinds"] == 2 * (4 if owners < layers else 2)
    for function in module.functions.values():
        if function.role == "layer":  # qkv, o, gate_up, down, and two for the per-layer inputs that E2B has
            assert len(list(function.ops_of(ops.LinearOp))) == (6 if variant == "tiny-e2b" else 4)


def shallow(directory: Path, dtype: DType) -> Module:
    """Ten layers of every kind that E2B has: deep random models make noise of any rounding."""
    text = VARIANTS["tiny-e2b"].config_json()
    text |= {"layer_types": text["layer_types"][:10], "num_hidden_layers": 10, "num_kv_shared_layers": 5}
    text |= {"vocab_size": 256, "vocab_size_per_layer_input": 256}
    (directory / "config.json").write_text(json.dumps(text))
    return trace(str(directory / "config.json"), dtype)


def logits(module: Module) -> Array:
    """Logits of a prompt's last position and of one decode step after it, in f64, on a sane random model."""
    weights = dict(WeightStore(module.weights, RandomWeights(0)))
    prefill, decode = (sample_inputs(module, name) for name in ("prefill_16", "decode"))
    prefill |= {name: np.zeros_like(array) for name, array in prefill.items() if name in module.caches}
    first = interpret(module, "prefill_16", {**prefill, "rows": np.full((2, 1), 15, np.int32)}, weights)
    state = {name: array for name, array in first.items() if name in module.caches}
    second = interpret(module, "decode", {**decode, "positions": np.full((2, 1), 16, np.int32), **state}, weights)
    return np.concatenate([first["logits"], second["logits"]]).astype(np.float64)


def off(found: Array, wanted: Array) -> float:
    """RMS difference, relative to the size of what is wanted."""
    return float(np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()))


def test_numbers(tmp_path: Path) -> None:
    """f32 stays at f32's rounding; what folding adds to bf16 is small beside what bf16 does to the model anyway."""
    high, low = (shallow(tmp_path, dtype) for dtype in (DType.F32, DType.BF16))
    exact, before = logits(high), logits(low)
    run_once(high, "fold-norms,fuse-projections")
    assert off(logits(high), exact) < 5e-6
    run_once(low, "fold-norms{narrow=true}")
    folded = logits(low)
    assert 0 < off(folded, exact) < 1.25 * off(before, exact) < 0.04
    run_once(low, "fuse-projections")
    np.testing.assert_array_equal(logits(low), folded)
