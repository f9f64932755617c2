"""The pipelines on traces of Hugging Face's code: E2B's exact figures, and a tiny model's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pass_testing import FLATTEN
from torch_mlir import ir

from g4c.frontend.config import load_model_config
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.ir import ops
from g4c.ir.module import Module
from g4c.ir.printer import structural_hash
from g4c.ir.types import DType
from g4c.passes.manager import PipelineOptions, PipelineReport, run_pipeline
from g4c.passes.numerics import NumericsCheck, difference
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import DEFAULT_PIPELINE

LAYERS = 35
OWNERS = range(15)
KINDS = ["sliding_own", "full_own", "sliding_shared", "full_shared"]
LAYER_KINDS = [KINDS[(i % 5 == 4) + 2 * (i >= 15)] for i in range(LAYERS)]

# What keeps every bit: no sum in another order, no rounding elsewhere.
SHARING = "canonicalize,precompute-rope,eliminate-shared-kv,canonicalize,cse,dce,specialize-layers"


def run(module: Module, pipeline: str) -> PipelineReport:
    return run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None))


@pytest.fixture(scope="module")
def traced() -> Callable[[str], Module]:
    """Traces by variant, each made once and copied."""
    made: dict[str, Module] = {}

    def trace(variant: str) -> Module:
        if variant not in made:
            made[variant] = trace_programs(load_model_config(variant), TraceOptions(buckets=(128,)))
        return made[variant].copy()

    return trace


@pytest.mark.parametrize(
    ("variant", "projection_weights"),
    [("tiny-e2b", 2 * (16 * 256 + 4 * 512) * 128), ("e2b", 18_874_368)],
)
def test_figures(traced: Callable[[str], Module], variant: str, projection_weights: int) -> None:
    module = traced(variant)
    before = set(module.weights)
    report = run(module, SHARING)
    assert report.stats("specialize-layers") == {"layers": 2 * LAYERS, "kinds": 2 * 4}
    assert report.stats("eliminate-shared-kv") == {
        "layers": 20,
        "linear": 2 * 20,
        "rms_norm": 2 * 20,
        "rope": 20,
        "weights": 3 * 20,
        "projection_weights": projection_weights,
        "caches": 40,
        "cache_bytes": 2 * (16 * 256 + 4 * 512) * 2048 * 2,
    }
    assert report.stats("dce") == {"ops": 0, "functions": 0, "weights": 0}
    gone = {f"layers.{i}.self_attn.{part}.weight" for i in range(15, 35) for part in ("k_proj", "v_proj", "k_norm")}
    gone |= {f"rope.{kind}_attention.inv_freq" for kind in ("sliding", "full")}
    assert before - set(module.weights) == gone
    assert list(module.caches) == [f"layers.{i}.{part}" for i in OWNERS for part in "kv"]
    for program in module.programs:
        assert module.callees(program) == [f"{program.name}.{kind}" for kind in LAYER_KINDS]
        assert [param.cache for param in program.params if param.cache] == list(module.caches)
        calls = list(program.ops_of(ops.CallOp))
        for layer in range(15, LAYERS):
            donor = calls[14 if LAYER_KINDS[layer].startswith("full") else 13]
            assert set(donor.results[1:3]) <= set(calls[layer].args)
    norms = [op for op in module.functions["decode.full_shared"].ops_of(ops.RmsNormOp) if op.w is None]
    assert not norms


def test_rings(traced: Callable[[str], Module]) -> None:
    """Twelve of the fifteen owners slide. A prefill of 128 rows reads first: 512 slots are fewer than 512 + 127."""
    module = traced("e2b")
    report = run(module, SHARING.replace("shared-kv", "shared-kv,window-kv-cache"))
    assert report.stats("window-kv-cache") == {
        "caches": 24,
        "slots_before": 24 * 2048,
        "slots_after": 24 * 512,
        "cache_bytes": 24 * (2048 - 512) * 256 * 2,
        "attentions": 28,
        "mixed": 0,
    }
    for layer in OWNERS:
        shape = (1, 2048, 1, 512) if layer % 5 == 4 else (1, 512, 1, 256)
        assert module.caches[f"layers.{layer}.k"].type.shape == module.caches[f"layers.{layer}.v"].type.shape == shape
    prefill = [*LAYER_KINDS[:13], "sliding_donor", *LAYER_KINDS[14:]]
    for name, kinds in (("prefill_128", prefill), ("decode", LAYER_KINDS)):
        assert module.callees(module.functions[name]) == [f"{name}.{kind}" for kind in kinds]


def test_rope_tables(traced: Callable[[str], Module]) -> None:
    module = traced("e2b")
    weight = module.weights["rope.full_attention.inv_freq"]
    assert weight.value is not None
    frequencies = weight.value.array()
    assert frequencies.shape == (256,)
    assert np.count_nonzero(frequencies) == 64
    np.testing.assert_allclose(frequencies[:64], 1e6 ** (-np.arange(64) / 256), rtol=1e-6)
    assert run(module, "canonicalize,precompute-rope").stats("precompute-rope") == {"gathers": 8, "tables": 4}
    assert not [op for function in module.functions.values() for op in function.ops_of(ops.CosOp)]
    assert module.weights["rope.full_attention.cos"].type.shape == (2048, 256)


def test_what_shares_keys_is_idempotent(traced: Callable[[str], Module]) -> None:
    module = traced("tiny-e2b")
    run(module, SHARING)
    assert not run(module, SHARING).modified


@pytest.mark.parametrize("pipeline", [SHARING, DEFAULT_PIPELINE], ids=["sharing", "default"])
def test_the_pipeline_is_invertible(traced: Callable[[str], Module], pipeline: str) -> None:
    """Inlined, a module has nothing left to do but to be cut up again."""
    module = traced("tiny-e2b")
    run(module, pipeline)
    wanted = structural_hash(module)
    run(module, FLATTEN)
    assert not [op for program in module.programs for op in program.ops_of(ops.CallOp)]
    report = run(module, pipeline)
    assert structural_hash(module) == wanted
    assert {entry.entry for entry in report.runs if entry.modified} == {"specialize-layers"}


def test_dumps_are_mlir(traced: Callable[[str], Module], tmp_path: Path) -> None:
    """MLIR's own parser and verifier take every dump."""
    module = traced("tiny-e2b")
    run_pipeline(module, parse_pipeline(DEFAULT_PIPELINE), PipelineOptions(dump_dir=tmp_path))
    dumps = sorted(tmp_path.iterdir())
    assert len(dumps) == 1 + len(DEFAULT_PIPELINE.split(","))
    for path in dumps:
        with ir.Context() as context:
            context.allow_unregistered_dialects = True
            assert ir.Module.parse(path.read_text(encoding="utf-8")).operation.verify(), path.name


@pytest.mark.slow
def test_the_numbers_of_every_pass() -> None:
    """What keeps every bit says so: all logits and caches stay as they were, bit for bit."""
    options = TraceOptions(buckets=(16,), max_context=32, batch=2, dtype=DType.BF16)
    module = trace_programs(load_model_config("tiny-e2b"), options)
    check = NumericsCheck(module)
    steps = parse_pipeline(f"{SHARING},{FLATTEN}")
    for step in steps.entries:
        if run(module, str(step)).modified:
            for program, wanted in check.wanted.items():
                for name, array in check.run(module, program).items():
                    assert difference(array, wanted[name]) == 0, (str(step), program, name)
