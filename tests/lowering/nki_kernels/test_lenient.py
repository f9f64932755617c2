"""Lenient mode behaves as the simulator of the real package documents: fewer checks, sentinels, warnings."""

from __future__ import annotations

import warnings
from typing import Any

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
from check_case import Case

from g4c.lowering.nki.simulator import SimulationError, SimulationWarning, install, jit, simulate, uninstall
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl
from g4c.lowering.nki.simulator.program import STRICT_ONLY

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
CASES = [case for table in TABLES for case in table.CASES if case.limit is None]
# Refused in any mode although their code is not: Python that would not run, and run-time values that are not there.
IN_ANY_MODE = {
    "K001 a sum in Python",
    "K001 a tensor as a numpy array",
    "K001 numpy's sum",
    "K011 a register that nothing has loaded",
}


def run(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SimulationWarning)
        case.kernel("-").specialize(lenient=True)(*case.values())


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.code in STRICT_ONLY and c.name not in IN_ANY_MODE], ids=lambda c: c.name
)
def test_what_is_not_documented_as_checked_passes(case: Case) -> None:
    run(case)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.code not in STRICT_ONLY or c.name in IN_ANY_MODE], ids=lambda c: c.name
)
def test_what_is_documented_as_checked_is_refused(case: Case) -> None:
    with pytest.raises(SimulationError) as caught:
        run(case)
    assert caught.value.code == case.code


@pytest.mark.parametrize(("dtype", "sentinel"), [("float32", np.nan), ("bfloat16", np.nan), ("int32", 4), ("uint8", 4)])
def test_memory_that_nothing_wrote(dtype: str, sentinel: float) -> None:
    """NaN in floats, 4 in integers."""

    @jit
    def kernel() -> Any:
        tile = nl.ndarray((4, 8), dtype, buffer=nl.sbuf)
        out = nl.ndarray((4, 9), dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out[:, :8], src=tile)
        return out

    found = simulate(kernel, target="trn2", lenient=True)().astype(np.float32)
    np.testing.assert_array_equal(found, np.full((4, 9), sentinel, np.float32))


def accumulated(accumulate: bool | None, clear: bool) -> Any:
    @jit
    def kernel(x: Any) -> Any:
        tile = nl.load(x)
        psum = nl.ndarray((64, 64), nl.float32, buffer=nl.psum)
        if clear:
            nisa.memset(psum, 0.0)
        nisa.nc_matmul(psum, tile, tile, accumulate=accumulate)
        copied, out = nl.copy(tile), nl.ndarray((64, 64), nl.float32, buffer=nl.shared_hbm)
        nisa.tensor_copy(copied[:64, :], psum)
        nisa.dma_copy(dst=out, src=copied[:64, :])
        return out

    return kernel


X = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)


def test_accumulation_onto_psum_that_nothing_wrote_warns() -> None:
    with pytest.warns(SimulationWarning, match="never written"):
        found = simulate(accumulated(True, clear=False), target="trn2", lenient=True)(X)
    assert np.isnan(found).all()


def test_accumulation_onto_a_memset_works_there() -> None:
    """What kernels written against that simulator rely on, and the device leaves undefined."""
    found = simulate(accumulated(True, clear=True), target="trn2", lenient=True)(X)
    np.testing.assert_allclose(found, X.T @ X, rtol=1e-5, atol=1e-4)
    with pytest.raises(SimulationError, match="K012"):
        simulate(accumulated(True, clear=True), target="trn2")(X)


def test_install_takes_the_mode() -> None:
    nki = install("trn2", lenient=True)
    try:
        found = nki.simulate(accumulated(True, clear=True))(X)
        np.testing.assert_allclose(found, X.T @ X, rtol=1e-5, atol=1e-4)
    finally:
        uninstall()


def test_the_environment_names_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    @jit
    def kernel() -> None:
        seen.append(nisa.get_nc_version().value)

    for name in ("trn1", "gen3", "trn3"):
        monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", name)
        simulate(kernel)()
    monkeypatch.delenv("NEURON_PLATFORM_TARGET_OVERRIDE")
    simulate(kernel)()
    assert seen == [2, 3, 4, 4]


def test_arrays_that_a_kernel_writes_are_updated_in_place() -> None:
    @jit
    def kernel(x: Any) -> Any:
        nisa.dma_copy(dst=x[0:1, :], src=x[1:2, :])
        return x

    whole = X.copy()
    strided = np.repeat(X, 2, axis=1)[:, ::2]
    for array in (whole, strided):
        found = simulate(kernel, target="trn2")(array)
        np.testing.assert_array_equal(array[0], X[1])
        np.testing.assert_array_equal(found, array)


def test_torch_tensors_come_back_as_torch_tensors() -> None:
    import torch

    @jit
    def kernel(x: Any) -> Any:
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=x)
        return out

    for dtype in (torch.float32, torch.bfloat16, torch.int32, torch.float8_e5m2):
        x = torch.arange(12).reshape(3, 4).to(dtype)
        found = simulate(kernel, target="trn2")(x)
        assert found.dtype == dtype
        assert torch.equal(found.float(), x.float())
