"""Generated kernels as two programs of a logical core (LNC 2), computing and writing the same: no check fires.

What one program writes to a cache while the other still reads it is what no query sees: the results are the same bits.
"""

from __future__ import annotations

import numpy as np
import pytest
from mutation_subjects import SUBJECTS, subject

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
