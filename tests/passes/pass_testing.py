"""How a pass is tested: run under the manager with every check on, then once more, which must change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from g4c.ir.module import Module
from g4c.ir.op import Op
from g4c.ir.ops import AttentionOp, ExpertsOp, LinearOp
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


@contextmanager
def one_row_at_a_time() -> Iterator[None]:
    """The interpreter's contractions take the rows (axis 1 of [b, s, ...]) one by one.

    The order in which BLAS sums depends on how many rows there are. Like this it does not, so that a pass that changes
    their number, and nothing else, keeps every bit.
    """

    def by_row(kind: type[Op], *names: str) -> Any:
        whole = kind.reference

        def reference(self: Op, *operands: np.ndarray) -> np.ndarray:
            split = [name in names for name, _ in self.named_operands()]
            rank = max(x.ndim for x, is_split in zip(operands, split, strict=True) if is_split)
            if rank < 3:
                return whole(self, *operands)
            count = next(x.shape[1] for x, is_split in zip(operands, split, strict=True) if is_split)
            rows = [
                [x[:, i : i + 1] if is_split else x for x, is_split in zip(operands, split, strict=True)]
                for i in range(count)
            ]
            return np.concatenate([whole(self, *row) for row in rows], axis=1)

        return patch.object(kind, "reference", reference)

    with (
        by_row(LinearOp, "x"),
        by_row(ExpertsOp, "x", "indices", "weights"),
        by_row(AttentionOp, "q", "positions"),
    ):
        yield
