"""Every pass on and off, alone and in the default pipeline, through XLA's CPU backend against Hugging Face's logits.

Small models with the structure of E2B, E4B and 31B; batches of 1 and 3 sequences of different lengths; prompts below,
at, one past and three times the window, in one chunk and in several; then up to 120 tokens, far past window and ring.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from compiled import Compiled
from small_variants import SMALL_VARIANTS, WINDOW, small_variant

from g4c.frontend.config import ModelConfig
from g4c.frontend.oracle import all_logits, build_oracle
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.ir.module import Module
from g4c.ir.ops import AttentionOp
from g4c.ir.types import Array, DType
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import CPU_PIPELINE, DEFAULT_PIPELINE
from g4c.runtime.random_weights import RandomWeights
from g4c.verification.measures import compare
from g4c.verification.verify import stored_tensors

CONTEXT = 256
BUCKETS = (8, 64)
STEPS = 120
LENGTHS = (WINDOW - 6, WINDOW, WINDOW + 1, 3 * WINDOW)
BATCHES = {1: [(n,) for n in LENGTHS], 3: [(WINDOW + 1, 3 * WINDOW, WINDOW - 6), (1, WINDOW, 2)]}
TOKENS = np.random.default_rng(11).integers(0, 256, (3, 3 * WINDOW + STEPS + 1)).astype(np.int32)

BASE = "canonicalize,precompute-rope,eliminate-shared-kv,cse,dce"
END = "canonicalize,cse,dce,specialize-layers"
SMALL_RINGS = DEFAULT_PIPELINE.replace("window-kv-cache", "window-kv-cache{pad=8}")


@cache
def config_of(name: str) -> ModelConfig:
    with TemporaryDirectory() as directory:
        return small_variant(name, Path(directory))


@cache
def traced(name: str, batch: int, dtype: DType = DType.F32) -> Module:
    return trace_programs(config_of(name), TraceOptions(batch, CONTEXT, BUCKETS, dtype))


@cache
def wanted(name: str, stored: DType = DType.F32, dtype: DType = DType.F32) -> Array:
    """Logits [3, n, V] of Hugging Face in `dtype`, on weights rounded to `stored`."""
    tensors = stored_tensors(RandomWeights(0), config_of(name), stored)
    return all_logits(build_oracle(config_of(name), tensors(dtype), dtype), TOKENS)


def compiled(name: str, batch: int, pipeline: str, dtype: DType = DType.F32) -> Compiled:
    module = traced(name, batch, dtype).copy()
    run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None))
    drawn = RandomWeights(0)
    return Compiled(module, {key: weight.materialize(drawn.stored) for key, weight in module.weights.items()})


def check_f32(name: str, batch: int, pipeline: str) -> None:
    """Every prompt in chunks of 8 and at once, on caches that the last ones left; 120 steps after the first, then 8."""
    programs = compiled(name, batch, pipeline)
    reference = wanted(name)
    steps = STEPS
    for lengths in BATCHES[batch]:
        for bucket in BUCKETS:
            found = programs.logits(TOKENS[:batch], lengths, bucket, steps)
            for sequence, length in enumerate(lengths):
                row = compare(f"{lengths} {bucket}", found[sequence], reference[sequence, length - 1 : length + steps])
                assert row.positions == steps + 1
                assert row.max_relative <= 1e-4, row
                assert row.same_argmax == row.positions, row
            steps = 8


ALONE = [
    ("e4b-like", BASE),
    ("e4b-like", f"{BASE},window-kv-cache{{pad=8}}"),
    ("31b-like", f"{BASE},window-kv-cache{{pad=8}}"),
    ("31b-like", f"{BASE},prune-prefill"),
    ("e2b-like", f"{BASE},prune-prefill,precompute-ple"),
    ("31b-like", f"{BASE},rebuild-keys"),
    ("e2b-like", f"{BASE},fold-norms"),
    ("e4b-like", f"{BASE},fuse-projections"),
    ("31b-like", f"{BASE},fuse-projections"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pipeline"), ALONE, ids=lambda text: text.removeprefix(BASE))
def test_each_pass_alone(name: str, pipeline: str) -> None:
    check_f32(name, 3, f"{pipeline},{END}")


@pytest.mark.parametrize(
    ("batch", "name"),
    [
        (1, "e2b-like"),
        (3, "31b-like"),
        pytest.param(3, "e2b-like", marks=pytest.mark.slow),
        pytest.param(1, "e4b-like", marks=pytest.mark.slow),
    ],
)
def test_the_default_pipeline(batch: int, name: str) -> None:
    """As it is, with rings longer than window and bucket together; in the CPU form, with rings that are not."""
    check_f32(name, batch, DEFAULT_PIPELINE if batch == 1 else f"{SMALL_RINGS},{CPU_PIPELINE}")


def test_the_default_pipeline_with_rebuilt_keys() -> None:
    steps = SMALL_RINGS.replace("prune-prefill", "rebuild-keys,prune-prefill")
    check_f32("31b-like", 3, steps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "off", ["window-kv-cache{pad=8}", "prune-prefill", "precompute-ple", "fold-norms", "fuse-projections"]
)
def test_the_default_pipeline_without_one_pass(off: str) -> None:
    steps = str(parse_pipeline(SMALL_RINGS)).split(",")
    assert off in steps
    check_f32("e2b-like", 3, ",".join(step for step in steps if step != off))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_VARIANTS)
def test_bf16_errs_no_more_than_hugging_face(name: str) -> None:
    """The rule of `g4c verify`: at most 1.5 times the error of Hugging Face's own bf16 run, no contested argmax."""
    programs = compiled(name, 3, f"{SMALL_RINGS},{CPU_PIPELINE}", DType.BF16)
    reference, peer = wanted(name, DType.BF16), wanted(name, DType.BF16, DType.BF16)
    for lengths in BATCHES[3]:
        found = programs.logits(TOKENS, lengths, BUCKETS[0], 60)
        for sequence, length in enumerate(lengths):
            rows = slice(length - 1, length + 60)
            row = compare(f"{lengths}", found[sequence], reference[sequence, rows], peer[sequence, rows])
            assert row.contested == 0, row
            assert row.rms <= 1.5 * row.peer_rms, row


def test_another_window_is_noticed() -> None:
    """The comparison sees a window that is one too small."""
    module = traced("e2b-like", 1).copy()
    for program in module.programs:
        for op in program.ops_of(AttentionOp):
            op.window = op.window and op.window - 1
    drawn = RandomWeights(0)
    programs = Compiled(module, {key: weight.materialize(drawn.stored) for key, weight in module.weights.items()})
    (found,) = programs.logits(TOKENS[:1], (WINDOW + 1,), BUCKETS[0], 1)
    assert compare("", found, wanted("e2b-like")[0, WINDOW : WINDOW + 2]).max_relative > 1e-3
