"""Kernels as others write them: files that import `nki`, in a process where the simulator is installed as that."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from g4c.lowering.nki.simulator import SimulationError, install, installed, uninstall

FILE = '''
from dataclasses import dataclass
from enum import Enum
from typing import Optional

import nki
import nki.isa as nisa
import nki.language as nl
import nki.typing as nt
from nki.collectives import ReplicaGroup
from nki.isa import reduce_cmd
from nki.language import NKIObject, float32
import neuronxcc.nki.typing as older


class Order(Enum):
    ROWS = 0
    COLUMNS = 1


@dataclass
class Tiling(NKIObject):
    rows: int
    order: Order = Order.ROWS
    name: Optional[str] = None

    def tiles(self, total):
        return (total + self.rows - 1) // self.rows


def load_tile(x, start, size):
    tile = nl.ndarray((size, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf, name=f"tile_{start}")
    nisa.dma_copy(dst=tile, src=x[nl.ds(start, size), :])
    return tile


@nki.jit
def sums_of_squares(x: nt.tensor, tiling=None):
    """[rows, 1]: the sum of squares of each row; program n of a pair has every second tile."""
    if tiling == None:
        tiling = Tiling(rows=nl.tile_size.pmax)
    assert tiling.order == Order.ROWS
    out = nl.ndarray((x.shape[0], 1), dtype=nl.float32, buffer=nl.shared_hbm)
    for n in nl.affine_range(tiling.tiles(x.shape[0])):
        if n % nl.num_programs() == nl.program_id(axis=0):
            start = n * tiling.rows
            size = min(tiling.rows, x.shape[0] - start)
            tile = load_tile(x, start, size)
            squares = nl.ndarray(tile.shape, dtype=float32, buffer=nl.sbuf)
            total = nl.ndarray((size, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.activation(
                dst=squares, op=nl.square, data=tile, reduce_op=nl.add, reduce_res=total,
                reduce_cmd=reduce_cmd.reset_reduce,
            )
            nisa.dma_copy(dst=out[start : start + size, :], src=total)
    return out


def plain(x: older.tensor):
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    nisa.dma_copy(dst=out, src=x)
    return out
'''
X = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
SQUARES = np.square(X.astype(np.float64)).sum(1, keepdims=True)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "others_kernels.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    install("trn2")
    yield importlib.import_module("others_kernels")
    sys.modules.pop("others_kernels")
    uninstall()


@pytest.mark.parametrize("grid", [None, 1, 2])
def test_a_file_that_imports_nki_runs_as_it_is(module: ModuleType, grid: int | None) -> None:
    kernel = module.sums_of_squares
    found = (kernel if grid is None else kernel[grid])(X)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, SQUARES, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_in_and_out(module: ModuleType, dtype: torch.dtype) -> None:
    x = torch.from_numpy(X).to(dtype)
    found = module.nki.simulate(module.sums_of_squares[2])(x)
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found.double(), x.double().square().sum(1, keepdim=True), rtol=1e-5, atol=0)


def test_objects_as_arguments_and_keywords(module: ModuleType) -> None:
    np.testing.assert_allclose(module.sums_of_squares(X, tiling=module.Tiling(32)), SQUARES, rtol=1e-5)


def test_simulate_takes_a_plain_function(module: ModuleType) -> None:
    np.testing.assert_array_equal(module.nki.simulate(module.plain)(X), X)


def test_a_refusal_names_the_file_and_the_line(module: ModuleType) -> None:
    """Tiles of 129 rows: a tile of too many partitions, in a function that the kernel calls."""
    with pytest.raises(SimulationError, match="K007") as caught:
        module.sums_of_squares(X, module.Tiling(129))
    assert caught.value.site is not None
    assert caught.value.site.path.endswith("others_kernels.py")
    assert FILE.split("\n")[caught.value.site.line - 1].strip().startswith("tile = nl.ndarray(")


def test_names_of_older_dialects_are_refused_by_name(module: ModuleType) -> None:
    assert not hasattr(module.nl, "arange")
    with pytest.raises(SimulationError, match=r"nl\.par_dim is of the dialect before NKI"):
        module.nl.par_dim(4)


def test_nothing_stays_behind(module: ModuleType) -> None:
    assert installed()
    uninstall()
    assert not installed()
    for name in ("nki.isa", "neuronxcc.nki.typing"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_a_package_of_the_older_name_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "neuronxcc").mkdir()
    (tmp_path / "neuronxcc" / "__init__.py").write_text("real = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for _ in range(2):
        install("trn2")
        assert importlib.import_module("neuronxcc").real
    uninstall()
    assert sys.modules.pop("neuronxcc").real


def test_kernels_of_the_older_package_are_refused_by_name(module: ModuleType) -> None:
    with pytest.raises(SimulationError, match=r"neuronxcc\.nki\.jit is of the dialect before NKI"):
        importlib.import_module("neuronxcc.nki").jit(lambda: None)
