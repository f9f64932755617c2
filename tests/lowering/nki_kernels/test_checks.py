"""Every strict check of the simulator: a kernel that it refuses, with code, line and rule, and a neighbor that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import checks_bounds
import checks_engines
import checks_memory
import checks_operands
import checks_programs
import checks_python
import checks_types
import checks_variants
import checks_views
import numpy as np
import pytest
from check_case import HEADER, Case

from g4c.errors import G4cError
from g4c.errors.nki import CATALOGUE
from g4c.lowering.nki.simulator import (
    Kernel,
    SimulationError,
    SimulationWarning,
    install,
    installed,
    program,
    uninstall,
)
from g4c.lowering.nki.simulator.source import load

TABLES = (
    checks_bounds,
    checks_engines,
    checks_memory,
    checks_operands,
    checks_programs,
    checks_python,
    checks_types,
    checks_variants,
    checks_views,
)
CASES = [case for table in TABLES for case in table.CASES]
APART = {"G4C-K028", "G4C-K030"}  # of installing and launching, at the end of this file
X = np.ones((128, 64), np.float32)
SIMULATOR = "G4C-K040"  # where the codes of the simulator end


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    found: Case = request.param
    if found.limit is not None:
        monkeypatch.setattr(program, "INSTRUCTION_LIMIT", found.limit)
    return found


def test_a_broken_kernel_is_refused_at_its_line(case: Case) -> None:
    kernel = case.kernel("-")
    with pytest.raises(SimulationError) as caught:
        kernel(*case.values())
    refusal = caught.value
    assert refusal.code == case.code, str(refusal)
    assert case.says in f"{refusal.message}; {refusal.help}"
    assert refusal.site is not None
    assert (refusal.site.path, refusal.site.line) == ("broken.py", case.refused_line()), str(refusal)


def test_its_neighbor_runs(case: Case) -> None:
    case.kernel("+")(*case.values())


def test_every_code_of_the_simulator_has_a_case() -> None:
    covered = {case.code for case in CASES} | APART
    assert covered == {code for code in CATALOGUE if code < SIMULATOR}


def test_names_of_cases_differ() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


def test_a_real_nki_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nki").mkdir()
    (tmp_path / "nki" / "__init__.py").write_text("")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        with pytest.raises(G4cError, match=r"K028[\s\S]*use nki.simulate of that package"):
            install()
    assert not installed()
    install("trn2")
    try:
        assert installed()
    finally:
        uninstall()


LAUNCHES = [
    ("a grid of 3", "the grid is the number of cores", lambda kernel: kernel[3](X), lambda kernel: kernel[2](X)),
    ("a grid of two axes", "kernel[n]", lambda kernel: kernel[1, 2](X), lambda kernel: kernel[(1,)](X)),
    (
        "two programs on trn1",
        "LNC 2 exists from NeuronCore-v3 on",
        lambda kernel: kernel.specialize("trn1")[2](X),
        lambda kernel: kernel.specialize("trn1")[1](X),
    ),
    (
        "a target that is none",
        "did you mean 'trn2'?",
        lambda kernel: kernel.specialize("trn22")(X),
        lambda kernel: kernel.specialize("trn2")(X),
    ),
    ("an argument that is missing", "missing a required argument", lambda kernel: kernel(), lambda kernel: kernel(X)),
    ("a list", "use a tuple", lambda kernel: kernel(X, [64, 64]), lambda kernel: kernel(X, (64, 64))),
]


@pytest.mark.parametrize(
    ("says", "wrong", "right"), [rest for _, *rest in LAUNCHES], ids=[what for what, *_ in LAUNCHES]
)
def test_launches(says: str, wrong: Callable[[Kernel], object], right: Callable[[Kernel], object]) -> None:
    kernel = load(f"{HEADER}def kernel(x, sizes=()):\n    filled((1, 1))\n", "kernel").specialize("trn2")
    right(kernel)
    with pytest.raises(SimulationError) as caught:
        wrong(kernel)
    assert caught.value.code == "G4C-K030"
    assert says in f"{caught.value.message}; {caught.value.help}"
    assert caught.value.site is not None
    assert caught.value.site.path == __file__


CALLS = f"""{HEADER}def inner(x):
    filled((1, 1))


@nki.jit
def kernel(x):
    inner(x)
"""


def test_a_kernel_that_calls_a_kernel_warns() -> None:
    """NKI's migration guide wants the decorator removed, but its library has such kernels: they run."""
    with pytest.warns(SimulationWarning, match="inner is decorated with @nki.jit and called by a kernel"):
        load(CALLS, "kernel").specialize("trn2")(X)


CLEARED = f"""{HEADER}def kernel(x):
    w, p = filled((128, 64)), filled((64, 64), buffer=nl.psum)
    out = output((64, 64))
    nisa.dma_copy(dst=w, src=x)
    for _ in range(2):
        nisa.nc_matmul(dst=p, stationary=w, moving=w)
    nisa.tensor_copy(dst=w[:64, :], src=p)
    nisa.dma_copy(dst=out, src=w[:64, :])
    return out
"""


def test_a_memset_of_zeros_before_a_group_that_infers_its_beginning_warns() -> None:
    """Overwriting and adding are the same: the result is right on the device whatever it does."""
    with pytest.warns(SimulationWarning, match="a matmul follows a memset of PSUM to zero"):
        found = load(CLEARED, "kernel").specialize("trn2")(X)
    np.testing.assert_allclose(found, 2 * X.T @ X)
