"""TILED ops, lowered, run by XLA's CPU backend and compared with their own references and with the GRAPH op."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from cpu_execution import run

from g4c.ir import ops
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import REGISTRY, Level, Value
from g4c.ir.tiles import Cut, plan
from g4c.ir.types import DType, TensorType
from g4c.lowering.neuron.hlo_proto import HloModule
from g4c.lowering.neuron.lower import lower_program
from g4c.lowering.neuron.rules import RULES

FLOATS = (DType.F32, DType.BF16)
TOLERANCE = {DType.F32: {"rtol": 2e-5, "atol": 2e-5}, DType.BF16: {"rtol": 2e-2, "atol": 2e-2}}


def draw(*shape: int, seed: int, dtype: DType) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).uniform(-1, 1, shape).astype(dtype.numpy)


def lowered(function: Function, results: Sequence[Value]) -> bytes:
    module = Module("test", Level.TILED)
    module.add_function(function)
    function.results = [Result(value, f"y{i}") for i, value in enumerate(results)]
    program = lower_program(module, function.name, target="trn2")
    assert [str(finding) for finding in program.findings if finding.rule.code != "rank"] == []
    return program.hlo_proto


def dots(proto: bytes) -> list[tuple[int, ...]]:
    """Shapes of the results of all dots."""
    instructions = HloModule.FromString(proto).computations[-1].instructions
    return [tuple(i.shape.dimensions) for i in instructions if i.opcode == "dot"]


def test_every_tiled_op_has_a_rule() -> None:
    tiled = {op for op in REGISTRY.values() if op.level == Level.TILED}
    assert len(tiled) >= 3
    assert tiled <= set(RULES)


@pytest.mark.parametrize("dtype", FLOATS)
def test_split_tiles(dtype: DType) -> None:
    function = Function("decode", "program")
    op = function.append(ops.SplitTilesOp(function.add_param("x", TensorType((2, 3, 300), dtype)), 128, ""))
    x = draw(2, 3, 300, seed=0, dtype=dtype)
    for found, wanted in zip(run(lowered(function, op.results), [x]), op.reference(x), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("k", [24, 300, 512])
def test_a_linear_is_one_dot(k: int, dtype: DType) -> None:
    function = Function("decode", "program")
    x, w = (function.add_param(name, TensorType(shape, dtype)) for name, shape in (("x", (1, 5, k)), ("w", (7, k))))
    cuts = (str(Cut.of("k", k, 128)), "n 7 = 1*7 stationary", "m 5 = 1*5 moving")
    op = function.append(ops.TiledLinearOp(x, w, cuts, ""))
    arrays = [draw(1, 5, k, seed=1, dtype=dtype), draw(7, k, seed=2, dtype=dtype)]
    proto = lowered(function, op.results)
    assert dots(proto) == [(1, 5, 7)]
    (found,) = run(proto, arrays)
    np.testing.assert_allclose(found.astype(np.float32), op.reference(*arrays).astype(np.float32), **TOLERANCE[dtype])


# batch, rows, heads, KV heads, width, slots, window, tile, parts of the queries
ATTENTION = [
    (1, 1, 4, 1, 256, 9, 0, 128, 1),
    (1, 6, 4, 2, 16, 9, 0, 4, 2),
    (2, 12, 2, 1, 16, 8, 4, 4, 3),
    (3, 13, 4, 4, 16, 8, 5, 4, 4),
    (1, 300, 2, 1, 512, 130, 0, 128, 3),
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention(case: tuple[int, ...], dtype: DType) -> None:
    """Per tile of queries the scores of the keys that it visits, and of no others; numbers of the reference."""
    batch, rows, heads, kv_heads, width, slots, window, tile, parts = case
    function = Function("decode", "program")
    shapes = [(batch, n, h, width) for n, h in ((rows, heads), *(((slots, kv_heads), (rows, kv_heads)) * 2))]
    q, *segments = (function.add_param(f"p{i}", TensorType(shape, dtype)) for i, shape in enumerate(shapes))
    positions = function.add_param("positions", TensorType((batch, rows), DType.S32))
    held = function.append(ops.HeldPositionsOp(positions, slots, False)).result
    split = function.append(ops.SplitTilesOp(q, min(128, width // 2), "")).results
    cuts = [Cut.of("past", slots, tile), Cut.of("chunk", rows, tile)]
    schedule = plan(Cut.of("q", rows, tile), cuts, window)
    keys, values = tuple(segments[:2]), tuple(segments[2:])
    scale = width**-0.5
    texts = tuple(map(str, cuts)), tuple(map(str, schedule))
    op = function.append(ops.TiledAttentionOp(split, keys, values, positions, (held, positions), scale, window, *texts))
    op.verify()
    arrays = [draw(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]
    at = np.stack([np.arange(rows) + 3 * sequence for sequence in range(batch)]).astype(np.int32)
    at[-1, rows - rows // 4 :] = -1
    before = ops.HeldPositionsOp(positions, slots, False).reference(at)
    whole = ops.AttentionOp(q, keys, values, positions, (held, positions), scale, window)
    wanted = whole.reference(*arrays, at, before, at).astype(np.float32)
    parted = np.split(arrays[0], [sum(t.shape[3] for t in split[: i + 1]) for i in range(len(split) - 1)], axis=3)
    reference = op.reference(*parted, *arrays[1:], at, before, at).astype(np.float32)
    np.testing.assert_allclose(reference, wanted, **TOLERANCE[dtype])
    proto = lowered(function, op.results)
    (found,) = run(proto, [*arrays, at])
    valid = at >= 0
    np.testing.assert_allclose(found.astype(np.float32)[valid], wanted[valid], **TOLERANCE[dtype])
    assert np.isfinite(found.astype(np.float32)).all()
    scores = sum(int(np.prod(shape)) for shape in dots(proto) if shape[-1] != width)
    assert scores == op.cost().flops // (4 * width)
    assert (op.skipped > 0) == (parts > 1)
    assert sum(shape[-1] == width for shape in dots(proto)) >= parts


def test_queries_that_visit_nothing() -> None:
    """A window behind the chunk's first rows ends the past: zeros, as in the reference."""
    function = Function("decode", "program")
    q, k = (function.add_param(name, TensorType((1, 8, 2, 16), DType.F32)) for name in "qk")
    positions = function.add_param("positions", TensorType((1, 8), DType.S32))
    held = function.append(ops.HeldPositionsOp(positions, 8, False)).result
    cuts = [Cut.of("past", 8, 4)]
    schedule = tuple(map(str, plan(Cut.of("q", 8, 4), cuts, 4)))
    assert schedule == ("q 0:4 | past *", "q 4:8 | past - (* old)")
    op = function.append(
        ops.TiledAttentionOp((q,), (k,), (k,), positions, (held,), 1.0, 4, ("past 8 = 2*4",), schedule)
    )
    arrays = [draw(1, 8, 2, 16, seed=i, dtype=DType.F32) for i in range(2)]
    at = np.arange(8, 16, dtype=np.int32)[None]
    (found,) = run(lowered(function, op.results), [*arrays, at])
    wanted = op.reference(*arrays, arrays[1], at, ops.HeldPositionsOp(positions, 8, False).reference(at))
    assert (wanted[:, 3:] == 0).all()
    seen = [0, 1, 2, *range(4, 8)]  # row 3 sees nothing either, but that is a matter of the mask
    np.testing.assert_allclose(found[:, seen], wanted[:, seen], **TOLERANCE[DType.F32])
