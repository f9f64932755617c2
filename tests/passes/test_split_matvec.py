"""split-matvec: one-row bf16 linears keep their value and take the form that the CPU backend runs fast."""

from __future__ import annotations

import numpy as np
import pytest

from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import SymbolRef
from g4c.ir.ops import ConcatOp, LinearOp, LoadWeightOp, SliceOp
from g4c.ir.printer import print_module
from g4c.ir.types import DType, TensorType
from g4c.ir.verifier import verify_module
from g4c.ir.weights import Weight
from g4c.passes.contract import PassContext
from g4c.passes.split_matvec import SplitMatvec, split


def one_linear(n: int, k: int, *, lead: tuple[int, ...] = (1, 1), dtype: DType = DType.BF16) -> Module:
    module = Module("test")
    weight = module.add_weight(Weight.stored("w.weight", TensorType((n, k), dtype)))
    function = module.add_function(Function("decode", "program"))
    x = function.add_param("x", TensorType((*lead, k), dtype))
    w = function.append(LoadWeightOp(SymbolRef(weight.name), weight.type)).result
    function.results = [Result(function.append(LinearOp(x, w)).result, "y")]
    return module


def outcome(module: Module, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return interpret(module, "decode", {"x": x}, {"w.weight": w})["y"]


@pytest.mark.parametrize("k", [1536, 2048, 4096, 6144, 12288, 256, 128, 192])
def test_the_value_is_that_of_the_linear(k: int) -> None:
    """Both are within one rounding of the exact sum, which numpy gives in f64."""
    module = one_linear(40, k)
    random = np.random.default_rng(k)
    x = random.normal(size=(1, 1, k)).astype(DType.BF16.numpy)
    w = random.normal(size=(40, k), scale=k**-0.5).astype(DType.BF16.numpy)
    exact = x.astype(np.float64) @ w.astype(np.float64).T
    assert SplitMatvec().run(module, PassContext()).stats == {"linears": 1, "one_row_linears_kept": 0}
    verify_module(module)
    found = outcome(module, x, w)
    assert found.dtype == DType.BF16.numpy
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize(
    ("k", "form"),
    [
        (1536, (12, 128)),
        (12288, (12, 1024)),
        (2048, (8, 256)),
        (256, (8, 32)),
        (192, (12, 16)),
        (100, None),
        (64, None),
    ],
)
def test_k_splits_into_few_steps_of_whole_vectors(k: int, form: tuple[int, int] | None) -> None:
    assert split(k) == form


def test_long_weights_go_in_pieces_that_cover_every_row() -> None:
    module = one_linear(70_000, 768)  # 64 lanes: 17.9 MB of partial sums, two pieces
    SplitMatvec().run(module, PassContext())
    verify_module(module)
    function = module.functions["decode"]
    pieces = [(op.starts[0], op.limits[0]) for op in function.ops_of(SliceOp)]
    assert pieces == [(0, 35_000), (35_000, 70_000)]
    assert len(list(function.ops_of(ConcatOp))) == 1
    assert function.results[0].value.shape == (1, 1, 70_000)
    x = np.ones((1, 1, 768), DType.BF16.numpy)
    w = np.zeros((70_000, 768), DType.BF16.numpy)
    w[[0, 34_999, 35_000, 69_999], 5] = 1, 2, 3, 4
    found = outcome(module, x, w)[0, 0].astype(np.float32)
    assert {int(i): float(found[i]) for i in np.flatnonzero(found)} == {0: 1.0, 34_999: 2.0, 35_000: 3.0, 69_999: 4.0}


@pytest.mark.parametrize(
    ("module", "kept"),
    [
        (one_linear(8, 256, lead=(1, 2)), 0),
        (one_linear(8, 256, lead=(3, 1)), 0),
        (one_linear(8, 256, dtype=DType.F32), 0),
        (one_linear(8, 100), 1),
    ],
    ids=["two rows", "batch of three", "f32", "k does not split"],
)
def test_what_it_leaves_alone(module: Module, kept: int) -> None:
    text = print_module(module)
    result = SplitMatvec().run(module, PassContext())
    assert (result.modified, result.stats) == (False, {"linears": 0, "one_row_linears_kept": kept})
    assert print_module(module) == text


def test_a_second_run_changes_nothing() -> None:
    module = one_linear(8, 256)
    assert SplitMatvec().run(module, PassContext()).modified
    text = print_module(module)
    assert not SplitMatvec().run(module, PassContext()).modified
    assert print_module(module) == text
