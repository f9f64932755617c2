"""Generated kernels as two programs of a logical core (LNC 2).

Kernels of one core compute and write the same twice: no check fires. What one program writes to a cache while the other
still reads it is what no query sees: the results are the same bits. Kernels of two cores share the work.
"""

from __future__ import annotations

import numpy as np
import pytest
from mutation_subjects import SUBJECTS, subject

from g4c.errors import G4cError
from g4c.lowering.nki.attention import prefill
from g4c.lowering.nki.attention.prefill import PrefillProblem, Segment
from g4c.lowering.nki.choose import compare
from g4c.lowering.nki.cost import profile
from g4c.lowering.nki.simulator.source import load


@pytest.mark.parametrize("name", SUBJECTS)
def test_two_programs_give_what_one_gives(name: str) -> None:
    one = subject(name)
    kernel = load(one.source, one.entry).specialize("trn2")
    wanted, found = kernel(*one.arguments()), kernel[2](*one.arguments())
    if not isinstance(wanted, tuple):
        wanted, found = (wanted,), (found,)
    for alone, together in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "batch", "shared"),
    [(8, 1, 1, True), (8, 2, 1, True), (16, 8, 1, True), (2, 1, 3, True), (1, 1, 2, True), (1, 1, 3, False)],
)
def test_prefill_attention_shares_heads_and_sequences(heads: int, kv_heads: int, batch: int, shared: bool) -> None:
    """Wherever they are even; the pair then takes less than one core, though each loads the keys of what it shares."""
    problem = PrefillProblem(batch, 512, heads, kv_heads, 256, (Segment("chunk", 512),), 512)
    one, two = (compare(problem, prefill, 3, cores) for cores in (1, 2))
    assert {candidate.schedule.cores for candidate in one.compared} == {1} == {one.artifact.cores}
    assert {candidate.schedule.cores for candidate in two.compared} == {1 + shared} == {two.artifact.cores}
    assert (two.profile.cores, two.profile.us) == (1 + shared, profile(two.artifact).us)
    assert two.profile.us <= (0.9 if shared else 1) * one.profile.us


def test_a_core_alone_leaves_the_rest_unwritten() -> None:
    artifact = compare(PrefillProblem(1, 128, 2, 1, 256, (Segment("chunk", 128),)), prefill, 3, 2).artifact
    with pytest.raises(G4cError, match="two cores share its work") as caught:
        profile(artifact, grid=1)
    assert caught.value.code == "G4C-K056"
