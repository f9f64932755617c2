"""Random layer patterns, donors, windows, heads, buckets and batches through the default pipeline: the same numbers."""

from __future__ import annotations

from gemma_like import GemmaLike
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pass_testing import FLATTEN, run_checked

from g4c.ir.types import DType
from g4c.passes.pipelines import DEFAULT_PIPELINE


@st.composite
def sizes(draw: st.DrawFn) -> GemmaLike:
    owners = draw(st.text("SF", min_size=1, max_size=4))
    shared = draw(st.text(sorted(set(owners)), max_size=3))
    return GemmaLike(
        pattern=owners + shared,
        shared=len(shared),
        heads=draw(st.integers(1, 3)),
        batch=draw(st.integers(1, 2)),
        window=draw(st.integers(1, 9)),
        buckets=tuple(draw(st.sets(st.integers(2, 9), max_size=2))),
        shared_write=draw(st.booleans()),
        dtype=draw(st.sampled_from([DType.F32, DType.BF16])),
    )


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(sizes())
def test_default_pipeline(model: GemmaLike) -> None:
    module = model.module()
    run_checked(module, DEFAULT_PIPELINE)
    owners = model.layers - model.shared
    assert list(module.caches) == [f"layers.{i}.{part}" for i in range(owners) for part in "kv"]
    run_checked(module, FLATTEN)
