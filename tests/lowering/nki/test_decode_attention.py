"""Decode attention kernels against attention in double precision: shapes of all variants, rings, padding, updates."""

from __future__ import annotations

import numpy as np
import pytest
from attention_reference import relative_error
from decode_case import Case, make, run

from g4c.ir.types import DType
from g4c.lowering.nki.attention.decode import DecodeProblem, Segment

F32 = 2e-6  # sums in f32 of up to some thousand products, in any order


def problem(heads: str, head_dim: int, past: int, rows: int = 1, batch: int = 1, **changes: object) -> DecodeProblem:
    """A decode step with an update; `heads` like 8:1."""
    many, few = (int(n) for n in heads.split(":"))
    segments = (Segment("past", past), Segment("chunk", rows))
    changes = {"dtype": DType.F32, "update": True} | changes
    return DecodeProblem(batch, rows, many, few, head_dim, segments, **changes)


def check(case: Case, generation: int = 3, limit: float = F32) -> None:
    """The result is the reference's, the caches are equal to the bit."""
    y, *caches = run(case, generation)
    reference = case.reference()
    assert relative_error(y, reference) < limit
    assert np.all(y[case.operands["positions"] < 0] == 0)
    for cache, what in zip(caches, ("keys", "values"), strict=bool(caches)):
        np.testing.assert_array_equal(cache.view(np.uint8), case.updated(what).view(np.uint8))


# (query heads : KV heads, head dim, window) of every variant and what tensor parallelism makes of them.
SLIDING = [("8:1", 256, 512), ("8:2", 256, 512), ("4:1", 256, 512), ("16:8", 256, 1024), ("4:2", 256, 1024)]
SLIDING += [("32:16", 256, 1024), ("8:4", 256, 1024), ("2:1", 256, 1024)]
FULL = [
    ("8:1", 512),
    ("8:2", 512),
    ("4:1", 512),
    ("16:1", 512),
    ("16:2", 512),
    ("32:4", 512),
    ("8:1", 512),
    ("2:1", 512),
]


@pytest.mark.parametrize(("heads", "head_dim", "window"), SLIDING)
def test_sliding_layers(heads: str, head_dim: int, window: int) -> None:
    """A ring of as many slots as the window, wrapped several times."""
    check(make(problem(heads, head_dim, window, window=window), [(5 * window + 77, 1)]))


@pytest.mark.parametrize(("heads", "head_dim"), FULL)
def test_full_layers(heads: str, head_dim: int) -> None:
    check(make(problem(heads, head_dim, 640), [(577, 1)]))
