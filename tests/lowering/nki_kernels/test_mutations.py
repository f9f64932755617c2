"""Seeded defects in kernels: each is caught, by a check of the simulator or by a comparison with double precision.

The table says by which: a code of the catalogue, or NUMBERS: the error is above what the kernel's own tests allow. A
defect is made by replacing text; one that does not apply, because a generator writes something else now, is a failure.
"""

from __future__ import annotations

import pytest
from mutation_subjects import PAIRS, SUBJECTS, subject
from mutation_table import MUTATIONS, NUMBERS, Mutation

from g4c.lowering.nki.simulator import SimulationError


@pytest.mark.parametrize("name", SUBJECTS + PAIRS)
def test_the_kernel_is_correct_before(name: str) -> None:
    found = subject(name)
    assert found.error(found.source) <= found.bound


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
def test_a_defect_is_caught(mutation: Mutation) -> None:
    broken = subject(mutation.subject)
    found = broken.source.count(mutation.old)
    assert found == mutation.count, f"{mutation.old!r} occurs {found} times in the source of {mutation.subject}"
    source = broken.source.replace(mutation.old, mutation.new)
    if mutation.by == NUMBERS:
        assert broken.error(source) > broken.bound
        return
    with pytest.raises(SimulationError) as caught:
        broken.error(source)
    assert caught.value.code == mutation.by


def test_there_are_enough_of_both_kinds() -> None:
    assert len(MUTATIONS) >= 30
    assert len({mutation.by for mutation in MUTATIONS}) >= 10
    assert {mutation.subject for mutation in MUTATIONS} == {*SUBJECTS, *PAIRS}
