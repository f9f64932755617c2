"""mask-kv-updates: one-position cache updates become selects, and write what they wrote before."""

from __future__ import annotations

import numpy as np
import pytest

from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module, Result
from g4c.ir.ops import KvUpdateOp
from g4c.ir.printer import print_module
from g4c.ir.types import DType, TensorType
from g4c.ir.verifier import verify_module
from g4c.ir.weights import Cache
from g4c.passes.contract import PassContext
from g4c.passes.mask_kv_updates import MaskKvUpdates


def updating(batch: int, length: int, dtype: DType = DType.BF16) -> Module:
    module = Module("test")
    function = module.add_function(Function("decode", "program"))
    positions = function.add_param("positions", TensorType((batch, length), DType.S32))
    x = function.add_param("x", TensorType((batch, length, 2, 4), dtype))
    cache = module.add_cache(Cache("layers.0.k", TensorType((batch, 8, 2, 4), dtype)))
    state = function.add_param(cache.name, cache.type, cache.name)
    first = function.append(KvUpdateOp(state, x, positions)).result
    again = function.append(KvUpdateOp(first, x, positions)).result
    function.results = [Result(again, cache.name, cache.name)]
    return module


def mnemonics(module: Module) -> list[str]:
    return [op.mnemonic for op in module.functions["decode"].ops]


STARTS = {"within": (7, 0, 3), "wrapping": (6, 8, 1000), "idle": (-1, 5, -1)}


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F32])
@pytest.mark.parametrize("starts", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 1), (3, 3), (2, 8), (2, 20)])
def test_writes_what_it_wrote_before(batch: int, length: int, starts: tuple[int, ...], dtype: DType) -> None:
    """One row and several, more rows than slots, around the end of the ring, padding."""
    module = updating(batch, length, dtype)
    random = np.random.default_rng(2)
    positions = np.array(starts[:batch])[:, None] + np.arange(length)
    positions[:, length - length // 3 :] = -1
    positions[positions[:, 0] < 0] = -1
    inputs = {
        "positions": positions.astype(np.int32),
        "x": random.normal(size=(batch, length, 2, 4)).astype(dtype.numpy),
        "layers.0.k": random.normal(size=(batch, 8, 2, 4)).astype(dtype.numpy),
    }
    before = interpret(module, "decode", inputs, {})
    result = MaskKvUpdates().run(module, PassContext())
    assert (result.modified, result.stats) == (True, {"updates": 2})
    verify_module(module)
    assert mnemonics(module).count("g4.select") == 2
    assert "g4.kv_update" not in mnemonics(module)
    assert ("g4.select_rows" in mnemonics(module)) == (length > 1)
    after = interpret(module, "decode", inputs, {})
    np.testing.assert_array_equal(after["layers.0.k"], before["layers.0.k"])


def test_the_mask_has_the_shape_of_the_cache() -> None:
    module = updating(1, 1)
    MaskKvUpdates().run(module, PassContext())
    text = print_module(module)
    assert "-> tensor<1x8x2x4xi1>" in text
    assert "(tensor<1x8x2x4xi1>, tensor<1x1x2x4xbf16>, tensor<1x8x2x4xbf16>) -> tensor<1x8x2x4xbf16>" in text


def test_a_second_run_changes_nothing() -> None:
    module = updating(1, 1)
    MaskKvUpdates().run(module, PassContext())
    text = print_module(module)
    assert not MaskKvUpdates().run(module, PassContext()).modified
    assert print_module(module) == text
    assert not MaskKvUpdates().run(Module("empty"), PassContext()).modified
