"""How a pass is tested: run under the manager with every check on, then once more, which must change nothing."""

from __future__ import annotations

from g4c.ir.module import Module
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.numerics import NumericsCheck, difference
from g4c.passes.pipeline import parse_pipeline

# Undoes specialize-layers.
FLATTEN = "inline-layers,cse,dce"


def run_once(module: Module, pipeline: str) -> dict[str, int]:
    """Run `pipeline` with verification; returns the stats of its last pass."""
    report = run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None))
    return report.runs[-1].stats


def run_checked(module: Module, pipeline: str, tolerance: float = 0.0) -> dict[str, int]:
    """Run a pipeline that must change `module`, keep its numbers within `tolerance`, and have nothing left to do after.

    Every program is interpreted before and after on the same random data. Returns the stats of the last pass.
    """
    before = NumericsCheck(module)
    report = run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None))
    assert report.modified
    for program, wanted in before.wanted.items():
        found = before.run(module, program)
        assert found.keys() <= wanted.keys()
        assert "logits" not in wanted or "logits" in found
        for name, array in found.items():
            if array.shape == wanted[name].shape:
                assert difference(array, wanted[name]) <= tolerance, (program, name)
            else:
                assert name in module.caches, name
    again = run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None))
    assert not again.modified, again.format_stats()
    return report.runs[-1].stats
