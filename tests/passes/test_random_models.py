"""Random models, pipelines and histories: a rewritten program gives what the traced one gives.

The oracle is the program without any pass, on linear caches. Prompts of different lengths go through in chunks, decode
goes on far past window and ring, then other prompts follow, or meet the stale caches. These held garbage to begin with.
A failure prints the model, the pipeline and the turns as Python: `check(model, pipeline, turns)` repeats it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from gemma_like import GemmaLike
from histories import results_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pass_testing import FLATTEN, run_checked
from random_models import Turn, history_of, models, pipelines, turns

from g4c.ir.module import Module
from g4c.ir.printer import structural_hash
from g4c.ir.types import Array, DType
from g4c.passes.manager import PipelineOptions, PipelineReport, run_pipeline
from g4c.passes.numerics import difference
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import DEFAULT_PIPELINE, PASSES

TOLERANCE = 1e-4  # f32, relative to the largest logit: sums in another order, through six layers
EXACT = "canonicalize,precompute-rope,eliminate-shared-kv,canonicalize,cse,dce,specialize-layers"
QUICK = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def run(module: Module, pipeline: str) -> PipelineReport:
    return run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None, sink=lambda _: None))


def off(found: dict[str, Array], wanted: dict[str, Array]) -> float:
    """How far results are from the oracle's, relative to its logits. Candidates must be the best, with their values."""
    logits = wanted["logits"].astype(np.float64)
    if "logits" in found or not logits.size:
        return difference(found["logits"], logits) if logits.size else 0.0
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    best = -np.sort(-logprobs)[..., : found["tokens"].shape[-1]]
    named = np.take_along_axis(logprobs, found["tokens"].astype(np.int64), axis=-1)
    return max(float(np.abs(found["logprobs"] - values).max()) for values in (best, named)) / float(
        np.abs(logits).max()
    )


def check(model: GemmaLike, pipeline: str, turns: Sequence[Turn]) -> PipelineReport:
    """The programs of `model` after `pipeline`, against the same ones without it, over a history."""
    history = history_of(turns)
    module = model.module()
    wanted = results_of(module, history)
    report = run(module, pipeline)
    found = results_of(module, history, garbage=2)
    for call, ours, theirs in zip(history, found, wanted, strict=True):
        assert off(ours, theirs) <= TOLERANCE, call
    return report


@QUICK
@given(st.data())
def test_the_default_pipeline(data: st.DataObject) -> None:
    model = data.draw(models(), "model")
    pad = data.draw(st.integers(1, 12), "pad")
    check(model, DEFAULT_PIPELINE.replace("window-kv-cache", f"window-kv-cache{{pad={pad}}}"), data.draw(turns(model)))


def test_any_pipeline() -> None:
    """Whatever the passes and their order; and every pass had something to do now and then."""
    changed: Counter[str] = Counter()

    @settings(QUICK, max_examples=80)
    @given(st.data())
    def some(data: st.DataObject) -> None:
        model = data.draw(models(), "model")
        report = check(model, data.draw(pipelines(), "pipeline"), data.draw(turns(model), "turns"))
        changed.update(run.entry.partition("{")[0] for run in report.runs if run.modified)

    some()
    assert set(changed) == set(PASSES) - {"split-matvec"}, "which leaves f32 alone"


@settings(QUICK, max_examples=12)
@given(models(), st.sampled_from([DType.F32, DType.BF16]))
def test_exact_passes_keep_every_bit(model: GemmaLike, dtype: DType) -> None:
    module = GemmaLike(**{**vars(model), "dtype": dtype}).module()
    run_checked(module, EXACT)
    owners = dict.fromkeys(model.donors)
    assert list(module.caches) == [f"layers.{i}.{part}" for i in owners for part in "kv"]
    run_checked(module, FLATTEN)


@settings(QUICK, max_examples=12)
@given(models())
def test_the_default_pipeline_once_more(model: GemmaLike) -> None:
    """Flattened, what it made is what it makes again."""
    module = model.module()
    run(module, DEFAULT_PIPELINE)
    wanted = structural_hash(module)
    run(module, FLATTEN)
    run(module, DEFAULT_PIPELINE)
    assert structural_hash(module) == wanted
