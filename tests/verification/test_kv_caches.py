"""Rings, and K rebuilt from V, through XLA's CPU backend against Hugging Face: prompts of every length.

Each prompt is fed in chunks, then some tokens one by one; the logits of its last token and of those are compared. The
caches are never cleared between prompts, so that each starts on what the one before left in the rings.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from compiled import Compiled
from small_variants import WINDOW, small_variant

from g4c.frontend.config import ModelConfig
from g4c.frontend.oracle import all_logits, build_oracle
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.ir.module import Module
from g4c.ir.types import Array, DType
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import CPU_PIPELINE
from g4c.runtime.random_weights import RandomWeights
from g4c.verification.measures import compare
from g4c.verification.verify import stored_tensors

CONTEXT = 120
BUCKETS = (8, 32)
STEPS = 40
EDGES = (1, WINDOW, WINDOW + 1, 3 * WINDOW, 80)
TOKENS = np.random.default_rng(3).integers(0, 256, (1, CONTEXT + 1)).astype(np.int32)

BEFORE = "canonicalize,precompute-rope,eliminate-shared-kv"
AFTER = "canonicalize,cse,dce,specialize-layers"


SLIDING, FULL = "sliding_attention", "full_attention"
FEW_LAYERS = {  # one owner and one donor that slide, a full donor, and layers that share both; nobody shares
    "e2b-like": {"layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL], "num_kv_shared_layers": 2},
    "31b-like": {"layer_types": [SLIDING, FULL, SLIDING, FULL]},
}


@cache
def config_of(name: str) -> ModelConfig:
    layers = FEW_LAYERS[name]
    with TemporaryDirectory() as directory:
        return small_variant(name, Path(directory), **layers, num_hidden_layers=len(layers["layer_types"]))


@cache
def traced(name: str) -> Module:
    return trace_programs(config_of(name), TraceOptions(1, CONTEXT, BUCKETS, DType.F32))


@cache
def wanted(name: str) -> Array:
    """Hugging Face's logits [n, V] of all positions."""
    tensors = stored_tensors(RandomWeights(0), config_of(name), DType.F32)
    return all_logits(build_oracle(config_of(name), tensors(DType.F32), DType.F32), TOKENS)[0]


def compiled(name: str, pipeline: str) -> Compiled:
    module = traced(name).copy()
    run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None))
    drawn = RandomWeights(0)
    return Compiled(module, {key: weight.materialize(drawn.stored) for key, weight in module.weights.items()})


def slots(programs: Compiled) -> set[int]:
    return {lowered.shape[1] for program, _ in programs.programs.values() for _, lowered in program.caches}


def check(programs: Compiled, reference: Array, prompts: Iterable[int], steps: int = STEPS) -> None:
    """Prompts of any length, through the small bucket and the large one by turns."""
    for turn, prompt in enumerate(prompts):
        (found,) = programs.logits(TOKENS, (prompt,), BUCKETS[turn % 2], steps)
        row = compare(f"{prompt}", found, reference[prompt - 1 : prompt + steps])
        assert row.positions == steps + 1
        assert row.max_relative <= 1e-4, row
        assert row.same_argmax == row.positions, row


def test_prompts_of_every_length() -> None:
    """Up to five windows, on rings of the window: chunks of 8 and 32 both read before they write."""
    programs = compiled("e2b-like", f"{BEFORE},window-kv-cache{{pad=1}},{AFTER},{CPU_PIPELINE}")
    assert slots(programs) == {WINDOW, CONTEXT}
    check(programs, wanted("e2b-like"), (*range(1, 81), *range(79, 0, -4)), steps=1)
    check(programs, wanted("e2b-like"), (*EDGES, *EDGES))


def test_a_ring_that_some_programs_write_first() -> None:
    """24 slots: chunks of 8 are written before they are read, chunks of 32 are not."""
    programs = compiled("e2b-like", f"{BEFORE},window-kv-cache{{pad=24}},{AFTER},{CPU_PIPELINE}")
    assert slots(programs) == {24, CONTEXT}
    check(programs, wanted("e2b-like"), (*EDGES, *EDGES))


@pytest.mark.parametrize("rings", ["window-kv-cache{pad=1},", ""], ids=["rings", "linear"])
def test_rebuilt_keys(rings: str) -> None:
    """The caches of full layers hold V alone."""
    programs = compiled("31b-like", f"{BEFORE},{rings}rebuild-keys,{AFTER},{CPU_PIPELINE}")
    assert sorted(programs.caches) == [f"layers.{name}" for name in ("0.k", "0.v", "1.v", "2.k", "2.v", "3.v")]
    check(programs, wanted("31b-like"), (*EDGES, *EDGES))
