"""Every GRAPH op, lowered, run by XLA's CPU backend and compared with the op's own reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import pytest
from cpu_execution import run
from hypothesis import given, settings
from hypothesis import strategies as st

from g4c.ir import ops
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import REGISTRY, Dense, Level, Op, Value
from g4c.ir.types import DType, TensorType
from g4c.lowering.neuron.hlo_proto import HloModule
from g4c.lowering.neuron.lower import lower_program
from g4c.lowering.neuron.mlir_verifier import verify_hlo
from g4c.lowering.neuron.rules import RULES

F32, BF16, S32, PRED = DType.F32, DType.BF16, DType.S32, DType.PRED
FLOATS = (F32, BF16)
Tolerance = dict[str, float]
EXACT: Tolerance = {"rtol": 0, "atol": 0}
SUMS: Tolerance = {"rtol": 2e-2, "atol": 5e-2}
TOLERANCE = {F32: {"rtol": 2e-5, "atol": 2e-6}, BF16: {"rtol": 1.6e-2, "atol": 1e-3}}
few = settings(max_examples=6, deadline=None, derandomize=True)

Make = Callable[..., Op]


def draw(shape: Sequence[int], dtype: DType, seed: int = 0, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    """Uniform floats, or integers in [low, high)."""
    random = np.random.default_rng((seed, *shape, 7))
    if dtype == S32:
        return random.integers(int(low), int(high), shape).astype(np.int32)
    if dtype == PRED:
        return random.integers(0, 2, shape).astype(np.bool_)
    return random.uniform(low, high, shape).astype(np.float32).astype(dtype.numpy)


def check(make: Make, *arrays: np.ndarray, tolerance: Tolerance | None = None) -> HloModule:
    """Lower one op as a program, lint it, run it, compare with its reference; returns the finished module."""
    module = Module("test")
    function = module.add_function(Function("decode", "program"))
    params: list[Value] = [
        function.add_param(f"p{k}", TensorType(array.shape, DType.of(array.dtype))) for k, array in enumerate(arrays)
    ]
    op = function.append(make(*params))
    function.results = [Result(value, f"y{k}") for k, value in enumerate(op.results)]
    lowered = lower_program(module, "decode", target="trn2")
    assert [str(finding) for finding in lowered.findings if finding.rule.code != "rank"] == []
    verify_hlo(lowered.hlo_proto)
    results = run(lowered.hlo_proto, arrays)
    given_arrays = dict(zip(params, arrays, strict=True))
    outcome = op.reference(*(given_arrays[value] for value in op.operands))
    wanted = outcome if isinstance(outcome, tuple) else (outcome,)
    for value, actual, expected in zip(op.results, results, wanted, strict=True):
        assert isinstance(expected, np.ndarray)
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
        bounds = tolerance or TOLERANCE[value.dtype] if value.dtype.is_float else EXACT
        np.testing.assert_allclose(actual.astype(np.float32), expected.astype(np.float32), **bounds)
    return HloModule.FromString(lowered.hlo_proto)


def opcodes(module: HloModule) -> list[str]:
    return [instruction.opcode for instruction in module.computations[-1].instructions]


def test_every_graph_op_has_a_rule() -> None:
    graph = {op for op in REGISTRY.values() if op.level == Level.GRAPH}
    assert graph - set(RULES) == {ops.CallOp, ops.LoadWeightOp}


# -- elementwise ---

BROADCASTS = [((2, 3), (2, 3)), ((2, 3, 4), (4,)), ((2, 1, 4), (3, 1)), ((), (5,)), ((1, 1), (1, 1))]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", [ops.AddOp, ops.SubOp, ops.MulOp, ops.DivOp, ops.MaxOp, ops.MinOp, ops.PowOp])
def test_binary(kind: type[Op], dtype: DType) -> None:
    for x, y in BROADCASTS:
        low = 0.1 if kind is ops.PowOp else -2.0
        check(kind, draw(x, dtype, 1, low), draw(y, dtype, 2, 0.5))


@given(st.lists(st.integers(1, 4), max_size=4), st.data())
@few
def test_any_broadcast(shape: list[int], data: st.DataObject) -> None:
    other = [data.draw(st.sampled_from([1, n])) for n in shape]
    other = other[data.draw(st.integers(0, len(other))) :]
    check(ops.SubOp, draw(shape, F32, 1), draw(other, F32, 2))
    check(ops.MulOp, draw(other, BF16, 1), draw(shape, BF16, 2))


def test_integer_arithmetic() -> None:
    for kind in (ops.AddOp, ops.SubOp, ops.MulOp, ops.MaxOp, ops.MinOp):
        check(kind, draw((2, 3), S32, 1, -9, 9), draw((3,), S32, 2, -9, 9))
    check(ops.NegOp, draw((2, 3), S32, 1, -9, 9))


def test_and() -> None:
    check(ops.AndOp, draw((4, 5), PRED, 1), draw((5,), PRED, 2))


UNARY = [ops.NegOp, ops.ExpOp, ops.LogOp, ops.TanhOp, ops.CosOp, ops.SinOp, ops.RsqrtOp, ops.GeluOp]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", UNARY)
def test_unary(kind: type[Op], dtype: DType) -> None:
    check(kind, draw((3, 37), dtype, 1, 0.01 if kind in (ops.RsqrtOp, ops.LogOp) else -6.0, 6.0))


@pytest.mark.parametrize("direction", ["eq", "ne", "lt", "le", "gt", "ge"])
@pytest.mark.parametrize("dtype", [F32, BF16, S32])
def test_compare(direction: str, dtype: DType) -> None:
    x, y = draw((4, 9), dtype, 1), draw((9,), dtype, 2)
    x[0] = y
    check(lambda a, b: ops.CompareOp(a, b, direction), x, y)


@pytest.mark.parametrize("dtype", [F32, BF16, S32])
def test_select(dtype: DType) -> None:
    check(ops.SelectOp, draw((4, 1), PRED), draw((4, 9), dtype, 1), draw((9,), dtype, 2))


@pytest.mark.parametrize("source", [F32, BF16, S32])
@pytest.mark.parametrize("target", [F32, BF16, S32])
def test_convert(source: DType, target: DType) -> None:
    x = draw((3, 5), source, 1, -100, 100)
    check(lambda v: ops.ConvertOp(v, TensorType((3, 5), target)), x)


# -- shape ---


@pytest.mark.parametrize("dtype", [F32, BF16, S32])
def test_moves(dtype: DType) -> None:
    x = draw((2, 3, 4), dtype, 1, -9, 9)
    check(lambda v: ops.ReshapeOp(v, TensorType((4, 6), dtype)), x)
    check(lambda v: ops.TransposeOp(v, (2, 0, 1)), x)
    check(lambda v: ops.SliceOp(v, (0, 1, 2), (2, 3, 3)), x)
    check(lambda v: ops.BroadcastOp(v, TensorType((5, 2, 3, 4), dtype)), x)
    check(lambda v: ops.BroadcastOp(v, TensorType((2, 3, 4), dtype)), x[:, :1])
    check(lambda v, w: ops.ConcatOp((v, w, v), 1), x, draw((2, 1, 4), dtype, 2, -9, 9))


def test_moves_that_change_nothing() -> None:
    x = draw((2, 3), F32)
    for make in (
        lambda v: ops.ReshapeOp(v, v.type),
        lambda v: ops.TransposeOp(v, (0, 1)),
        lambda v: ops.SliceOp(v, (0, 0), (2, 3)),
        lambda v: ops.BroadcastOp(v, v.type),
        lambda v: ops.ConcatOp((v,), 0),
        lambda v: ops.ConvertOp(v, v.type),
    ):
        assert opcodes(check(make, x)) == ["parameter", "copy"]


@pytest.mark.parametrize("type", [TensorType((3, 4), S32), TensorType((5,), F32)])
@pytest.mark.parametrize("start", [0, 7])
def test_iota(type: TensorType, start: int) -> None:
    check(lambda: ops.IotaOp(type.rank - 1, type, start))


CONSTANTS = [
    draw((2, 3), F32, 1),
    draw((2, 3), BF16, 1),
    draw((2, 3), S32, 1, -9, 9),
    draw((2, 3), PRED, 1),
    np.full((4,), 2.5, np.float32),
    np.array(1e-30, np.float32),
    np.array(np.float32(0.1)),
    np.array(-7, np.int32),
    np.array(True),
    np.array([0.0, -0.0], np.float32),
    np.array(3.14, ml_dtypes.bfloat16),
    np.array([np.finfo(np.float32).max, np.finfo(np.float32).tiny], np.float32),
]


@pytest.mark.parametrize("array", CONSTANTS, ids=lambda a: f"{a.dtype}{list(a.shape)}")
def test_constant(array: np.ndarray) -> None:
    check(lambda: ops.ConstantOp(Dense.of(array)), tolerance=EXACT)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ["sum", "max", "mean"])
def test_reduce(kind: str, dtype: DType) -> None:
    x = draw((2, 3, 40), dtype)
    for axes, keep in [((2,), False), ((0, 2), True), ((1,), False)]:
        check(lambda v, axes=axes, keep=keep: ops.ReduceOp(v, kind, axes, keep), x)


# -- contractions ---


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1, 64), (1, 5, 64), (3, 1, 64), (7, 64), (64,)])
def test_linear(shape: tuple[int, ...], dtype: DType) -> None:
    check(ops.LinearOp, draw(shape, dtype, 1), draw((48, 64), dtype, 2), tolerance=SUMS)


def test_linear_accumulates_in_f32() -> None:
    """256 terms of 1 + 2^-8 ulps: a bf16 accumulator would stop growing at 256."""
    module = check(ops.LinearOp, np.ones((1, 4096), BF16.numpy), np.full((2, 4096), 1.0, BF16.numpy))
    dot = next(i for i in module.computations[-1].instructions if i.opcode == "dot")
    assert dot.shape.element_type == 11


@pytest.mark.parametrize("dtype", FLOATS)
def test_matmul(dtype: DType) -> None:
    check(ops.MatmulOp, draw((5, 32), dtype, 1), draw((32, 3), dtype, 2), tolerance=SUMS)
    check(ops.MatmulOp, draw((2, 3, 5, 32), dtype, 1), draw((2, 3, 32, 4), dtype, 2), tolerance=SUMS)


# -- pieces of Gemma 4 ---


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(1, 3, 96), (1, 3, 2, 256), (2, 1, 35, 8), (7, 64)])
def test_rms_norm(shape: tuple[int, ...], dtype: DType) -> None:
    x, w = draw(shape, dtype, 1), draw(shape[-1:], dtype, 2)
    module = check(lambda v, u: ops.RmsNormOp(v, u, 1e-6), x, w)
    assert max(len(i.shape.dimensions) for i in module.computations[-1].instructions if i.opcode == "multiply") <= 3
    check(lambda v: ops.RmsNormOp(v, None, 1e-6), x)
    check(lambda v: ops.RmsNormOp(v, None, 1e-6), np.zeros(shape, dtype.numpy))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("batch", "length", "heads", "width"), [(1, 3, 2, 256), (2, 1, 8, 512), (1, 1, 1, 2)])
def test_rope(batch: int, length: int, heads: int, width: int, dtype: DType) -> None:
    table = (batch, length, width // 2)
    module = check(
        ops.RopeOp, draw((batch, length, heads, width), dtype, 1), draw(table, dtype, 2), draw(table, dtype, 3)
    )
    assert max(len(i.shape.dimensions) for i in module.computations[-1].instructions) <= 4


@pytest.mark.parametrize("dtype", FLOATS)
def test_elementwise_pieces(dtype: DType) -> None:
    x, y = draw((1, 3, 5, 8), dtype, 1, -8, 8), draw((1, 3, 5, 8), dtype, 2)
    check(ops.GatedGeluOp, x, y)
    check(lambda v: ops.SoftcapOp(v, 30.0), draw((2, 9), dtype, 1, -200, 200))
    check(lambda a, b: ops.PerLayerInputOp(a, b, 2**-0.5), x, y)


# -- lookups ---


@pytest.mark.parametrize("dtype", FLOATS)
def test_lookups(dtype: DType) -> None:
    table = draw((11, 6), dtype, 1)
    for shape in [(2, 3), (1, 1), (4,), ()]:
        check(ops.GatherOp, table, draw(shape, S32, 2, 0, 11))
    check(ops.GatherOp, draw((5, 2, 3), dtype, 1), draw((2, 2), S32, 2, 0, 5))
    check(lambda i, t: ops.EmbeddingOp(i, t, 16.0), draw((2, 3), S32, 2, 0, 11), table)
    check(lambda i, t: ops.EmbeddingOp(i, t, 1.0), draw((1, 1), S32, 2, 0, 11), table)
    for batch, length, count in [(1, 7, 1), (1, 7, 3), (3, 7, 2), (2, 1, 1)]:
        for rest in [(6,), (2, 3), ()]:
            check(ops.SelectRowsOp, draw((batch, length, *rest), dtype, 1), draw((batch, count), S32, 2, 0, length))


# -- attention and caches ---

ATTENTION = [
    # batch, length, heads, kv_heads, width, keys of each segment, window
    (1, 5, 4, 1, 256, (8,), 0),
    (1, 1, 8, 1, 512, (16,), 0),
    (1, 1, 8, 1, 256, (16,), 4),
    (2, 3, 4, 1, 16, (8,), 2),
    (2, 3, 4, 2, 16, (8,), 0),
    (1, 4, 8, 4, 16, (8,), 3),
    (3, 1, 4, 2, 16, (8,), 3),
    (1, 3, 4, 4, 16, (8,), 0),
    (1, 5, 4, 1, 16, (8, 5), 6),
    (2, 5, 4, 2, 16, (4, 5), 4),
    (3, 1, 4, 2, 16, (8, 1, 2), 0),
]


def attention_of(segments: int, scale: float, window: int) -> Make:
    """An attention made from q, the segments' keys, then values, positions and key positions."""
    n = segments
    return lambda q, *x: ops.AttentionOp(q, x[:n], x[n : 2 * n], x[2 * n], x[2 * n + 1 :], scale, window)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("case", ATTENTION, ids=str)
def test_attention(case: tuple[int, int, int, int, int, tuple[int, ...], int], dtype: DType) -> None:
    batch, length, heads, kv_heads, width, segments, window = case
    positions = np.random.default_rng(3).integers(2, 12, (batch, 1)) + np.arange(length)
    held = [draw((batch, keys), S32, 4 + keys, -3, 12) for keys in segments]
    held[-1][:, -length:] = positions  # every query sees a key
    keys, values = ([draw((batch, n, kv_heads, width), dtype, seed) for n in segments] for seed in (2, 3))
    seen = (held_all := np.concatenate(held, 1))[:, None] <= positions[:, :, None]
    seen &= (held_all >= 0)[:, None] & ((window == 0) | (held_all[:, None] > positions[:, :, None] - window))
    assert seen.any(axis=2).all()
    module = check(
        attention_of(len(segments), 1.0 if width >= 256 else 0.25, window),
        draw((batch, length, heads, width), dtype, 1),
        *keys,
        *values,
        positions.astype(np.int32),
        *held,
        tolerance={"rtol": 2e-2, "atol": 2e-2} if dtype == BF16 else {"rtol": 1e-4, "atol": 1e-4},
    )
    instructions = module.computations[-1].instructions
    assert max(len(i.shape.dimensions) for i in instructions) <= 4
    cache = batch * sum(segments) * max(kv_heads * width, length * heads)
    repeated = [i for i in instructions if i.opcode == "broadcast" and np.prod(i.shape.dimensions) > cache]
    assert repeated == [], "K or V is repeated for every query head"


@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(4, 9), st.integers(0, 5))
@few
def test_any_attention(batch: int, length: int, kv_heads: int, group: int, slots: int, window: int) -> None:
    positions = np.tile(np.arange(length, dtype=np.int32), (batch, 1))
    q, k, v = (
        draw((batch, n, heads, 8), F32, seed)
        for seed, (n, heads) in enumerate([(length, kv_heads * group), (slots, kv_heads), (slots, kv_heads)])
    )
    held = np.tile(np.arange(slots, dtype=np.int32), (batch, 1))
    check(attention_of(1, 1.0, window), q, k, v, positions, held, tolerance={"rtol": 1e-4, "atol": 1e-5})


def test_attention_mask_is_below_any_score() -> None:
    """Scores of +-300 beside masked slots: what is masked must not get a share."""
    q = np.full((1, 1, 1, 4), -150.0, np.float32)
    k = np.full((1, 4, 1, 4), 0.5, np.float32)
    v = draw((1, 4, 1, 4), F32)
    check(attention_of(1, 1.0, 0), q, k, v, np.array([[1]], np.int32), np.array([[0, 1, 2, -1]], np.int32))


@pytest.mark.parametrize("updated", [True, False])
@pytest.mark.parametrize("slots", [1, 7, 16])
def test_held_positions(slots: int, updated: bool) -> None:
    positions = np.array([[0, 1, 2], [4, 5, 6], [5, 6, -1], [30, 31, 32], [-1, -1, -1]], np.int32)
    check(lambda p: ops.HeldPositionsOp(p, slots, updated), positions)
    check(lambda p: ops.HeldPositionsOp(p, slots, updated), positions[:, :1])


STARTS = {  # name: first position and how many are valid, per sequence
    "within": [(0, None), (4, None)],
    "wrapping": [(7, None), (8, None), (16, None)],
    "many turns": [(1000, None), (0, None)],
    "padded": [(0, 1), (7, 1), (12, 0)],
    "idle": [(-1, 0), (-1, 0)],
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("starts", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize(("rows", "heads"), [(1, 1), (3, 2), (9, 1), (14, 2), (30, 1)])
def test_kv_update(rows: int, heads: int, starts: list[tuple[int, int | None]], dtype: DType) -> None:
    """A ring of 9 slots; fewer rows than slots, as many, and more."""
    cache, x = draw((len(starts), 9, heads, 8), dtype, 1), draw((len(starts), rows, heads, 8), dtype, 2)
    positions = np.stack([first + np.arange(rows) for first, _ in starts]).astype(np.int32)
    for sequence, (_, valid) in enumerate(starts):
        positions[sequence, rows if valid is None else valid :] = -1
    check(ops.KvUpdateOp, cache, x, positions, tolerance=EXACT)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_few_rows_are_scattered(rows: int) -> None:
    cache, x = draw((2, 9, 1, 8), BF16, 1), draw((2, rows, 1, 8), BF16, 2)
    positions = np.array([[4, 5, 6], [0, 1, 2]], np.int32)[:, :rows]
    assert "scatter" in opcodes(check(ops.KvUpdateOp, cache, x, positions, tolerance=EXACT))
