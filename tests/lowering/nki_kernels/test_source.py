"""Kernels from text: `import nki` is the simulator inside of it and nothing outside of it."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

from g4c.errors import G4cError
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl
from g4c.lowering.nki.simulator import simulate
from g4c.lowering.nki.simulator.source import load

ADD = """
import nki
import nki.isa as nisa
import nki.language as nl
from nki.language import float32


@nki.jit
def add_one(x):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    tile = nl.ndarray(x.shape, dtype=float32, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x)
    nisa.tensor_scalar(dst=tile, data=tile, op0=nl.add, operand0=1.0)
    nisa.dma_copy(dst=out, src=tile)
    return out
"""


def test_a_kernel_from_text_runs() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(load(ADD, "add_one").specialize("trn2")(x), x + 1)
    assert "nki" not in sys.modules


def test_refusals_show_the_line_of_the_text() -> None:
    kernel = load(ADD.replace("buffer=nl.sbuf", "buffer=nl.psum"), "add_one", "made.py")
    with pytest.raises(G4cError, match="K008") as caught:
        kernel.specialize("trn2")(np.zeros((3, 4), np.float32))
    assert "made.py:12" in str(caught.value)
    assert "nisa.dma_copy(dst=tile, src=x)" in str(caught.value)


def test_python_that_nki_lacks_is_found_in_the_text() -> None:
    with pytest.raises(G4cError, match="K001"):
        load(ADD.replace("    return", "    kinds = {1}\n    return"), "add_one")(np.zeros((3, 4), np.float32))


def test_a_text_without_the_kernel_is_refused() -> None:
    with pytest.raises(G4cError, match=r"K030.*add_two"):
        load(ADD, "add_two")


def test_a_kernel_of_a_namespace_without_a_module_name_runs() -> None:
    names: dict[str, Any] = {"nl": nl, "nisa": nisa}
    text = ADD.partition("@nki.jit")[2].replace("float32", "nl.float32")
    exec(text, names)
    assert names["add_one"].__module__ is None
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(simulate(names["add_one"], target="trn2")(x), x + 1)


BUMP = """
import nki
import nki.isa as nisa
import nki.language as nl


@nki.jit
def bump(x):
    rows = x[0:2]
    first = nl.ndarray((2, 4), dtype=x.dtype, buffer=nl.sbuf)
    again = nl.ndarray((2, 4), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=first, src=rows)
    nisa.tensor_scalar(dst=first, data=first, op0=nl.add, operand0=1.0)
    nisa.dma_copy(dst=x[0:2], src=first)
    nisa.dma_copy(dst=again, src=rows)
    nisa.dma_copy(dst=x[1:3], src=again)
    return x
"""


@pytest.mark.parametrize("grid", [1, 2])
def test_an_argument_that_must_not_be_written_stays_as_it_is(grid: int) -> None:
    """The kernel writes to a copy, and reads that from then on, also through views that it made before."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    x.flags.writeable = False
    found = load(BUMP, "bump").specialize("trn2")[grid](x)
    np.testing.assert_array_equal(found, [x[0] + 1, x[0] + 1, x[1] + 1])
    np.testing.assert_array_equal(x, np.arange(12).reshape(3, 4))


def test_an_argument_that_is_only_read_is_not_copied() -> None:
    """A model's largest weight is as large as the rest of the memory."""
    kernel = load(ADD.replace("src=x)", "src=x[0:3])").replace("x.shape", "(3, 4)"), "add_one").specialize("trn2")
    x = np.zeros((1 << 22, 4), np.float32)
    x.flags.writeable = False
    for grid in (1, 2):
        tracemalloc.start()
        kernel[grid](x)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < x.nbytes / 10
