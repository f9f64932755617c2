"""Every op: text both ways, refusals, the reference against an oracle that nobody here wrote, the cost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
import torch_mlir.ir as mlir
from op_cases import Case, experts, tensor, v
from tiled_cases import CASES, REFUSED

from g4c.ir.module import Function, Module, Result
from g4c.ir.op import REGISTRY, InvalidOpError, Op
from g4c.ir.ops import (
    AttentionOp,
    CompareOp,
    ConvertOp,
    ElementwiseOp,
    EmbeddingOp,
    ExpertsOp,
    GatherOp,
    KvUpdateOp,
    SelectRowsOp,
    TopKOp,
)
from g4c.ir.parser import parse_module
from g4c.ir.printer import print_module
from g4c.ir.types import DType
from g4c.ir.verifier import VerificationError, verify_module
from g4c.ir.weights import Weight

FLOATS = [DType.F32, DType.BF16]
ALL = [
    pytest.param(case, float_type, id=f"{name}-{index}-{float_type.mlir}")
    for name, cases in CASES.items()
    for index, case in enumerate(cases)
    for float_type in FLOATS
]


def around(op: Op) -> Module:
    """A module with `op` in a program, and all that an op may refer to."""
    module = Module("around", op.level)
    module.add_weight(Weight.stored("w", tensor("4x3xbf16")))
    layer = module.add_function(Function("layer", "layer"))
    x, y = layer.add_param("x", tensor("2xf32")), layer.add_param("y", tensor("3xi32"))
    if op.mnemonic == "g4.call" and op.operands:
        x.type, y.type = op.operands[0].type, (op.operands[1:] or (y,))[0].type
    layer.results = [Result(y, "y"), Result(x, "x")]
    program = module.add_function(Function("program", "program"))
    operands = {value: program.add_param(f"p{i}", value.type) for i, value in enumerate(dict.fromkeys(op.operands))}
    op.replace_operands(operands)
    program.append(op)
    program.results = [Result(value, f"r{i}") for i, value in enumerate(op.results)]
    return module


def test_no_op_without_cases() -> None:
    registry = {name: op for name, op in REGISTRY.items() if op.__module__.startswith("g4c.")}
    assert set(CASES) == set(registry)
    assert set(REFUSED) == set(registry)
    for name, op in registry.items():
        assert CASES[name]
        assert REFUSED[name]
        assert all(case.op(DType.F32).mnemonic == name for case in CASES[name])
        assert op.__doc__
        assert op.reference is not Op.reference
        assert op.infer is not Op.infer
        assert name in ("g4.load_weight", "g4.call") or all(case.oracle for case in CASES[name])


@pytest.mark.parametrize(("case", "float_type"), ALL)
def test_text_both_ways(case: Case, float_type: DType) -> None:
    module = around(case.op(float_type))
    verify_module(module)
    text = print_module(module)
    assert print_module(parse_module(text)) == text
    assert print_module(module.copy()) == text


def test_text_is_accepted_by_mlir() -> None:
    with mlir.Context() as context:
        context.allow_unregistered_dialects = True
        for case, float_type in itertools.product(itertools.chain.from_iterable(CASES.values()), FLOATS):
            assert mlir.Module.parse(print_module(around(case.op(float_type)))).operation.verify()


@pytest.mark.invalid_ir
@pytest.mark.parametrize(
    ("make", "message"),
    [pytest.param(*entry, id=f"{name}-{i}") for name, entries in REFUSED.items() for i, entry in enumerate(entries)],
)
def test_refusals(make: Callable[[], Op], message: str) -> None:
    with pytest.raises((InvalidOpError, VerificationError)) as caught:
        verify_module(around(make()))
    assert message in str(caught.value).splitlines()[0]


@pytest.mark.parametrize(("case", "float_type"), ALL)
def test_cost(case: Case, float_type: DType) -> None:
    assert case.op(float_type).cost() == case.expected_cost(float_type)


@pytest.mark.parametrize(("case", "float_type"), [entry for entry in ALL if entry.values[0].oracle])
def test_reference(case: Case, float_type: DType) -> None:
    op = case.op(float_type)
    arrays = case.arrays(float_type)
    before = [array.copy() for array in arrays]
    outcome, expected = op.reference(*arrays), case.oracle(*map(widened, arrays))
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy, "operands must not change")
    found = map(np.asarray, outcome if isinstance(outcome, tuple) else (outcome,))
    tolerance = case.bf16_tolerance if float_type == DType.BF16 else 2e-6
    wanted = expected if isinstance(expected, tuple) else (expected,)
    for value, array, oracle in zip(op.results, found, wanted, strict=True):
        assert array.shape == value.shape == oracle.shape
        assert array.dtype == value.dtype.numpy
        if value.dtype.is_float:
            assert_rounded_once(array, oracle.numpy().astype(np.float32), tolerance)
        else:
            np.testing.assert_array_equal(array, oracle.numpy())


def widened(array: np.ndarray) -> torch.Tensor:
    """As a torch tensor; floats in f32, which is exact."""
    return torch.from_numpy(np.array(array, dtype=array.dtype if array.dtype.kind in "ib" else np.float32))


def assert_rounded_once(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Each element is the rounding of something within `tolerance` of what was expected."""
    slack = tolerance * np.abs(expected).max(initial=1e-30)
    low, high = (expected - slack).astype(found.dtype), (expected + slack).astype(found.dtype)
    wrong = ~((low <= found) & (found <= high))
    assert not wrong.any(), (found[wrong], expected[wrong])


SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 1e30, -1e30, 1e-30, 3e38, float("inf"), -float("inf"), float("nan")]


def special_cases() -> Iterator[Case]:
    for cases in CASES.values():
        if isinstance(cases[0].op(DType.F32), ElementwiseOp) and not isinstance(cases[0].op(DType.F32), ConvertOp):
            yield from (case for case in cases if {text.split()[0] for text in case.operands} == {"F"})


@pytest.mark.parametrize("case", [pytest.param(case, id=case.op(DType.F32).mnemonic) for case in special_cases()])
def test_special_values_are_those_of_torch(case: Case) -> None:
    """NaN, infinities, signed zeros, overflow: as IEEE 754 has them. Of max(-0, 0) the sign is left open."""
    count = len(case.operands)
    grid = np.array(list(itertools.product(SPECIAL, repeat=count)), dtype=np.float32).T
    op = type(case.op(DType.F32))(*(v(f"{grid.shape[1]}xf32") for _ in range(count)))
    found, expected = np.asarray(op.reference(*grid)), case.oracle(*map(torch.from_numpy, grid)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if op.mnemonic not in ("g4.max", "g4.min"):
        number = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(found[number]), np.signbit(expected[number]))


def test_comparisons_with_nan() -> None:
    x, y = np.array([1.0, np.nan, np.nan], np.float32), np.array([np.nan, 1.0, np.nan], np.float32)
    for direction in ("eq", "ne", "lt", "le", "gt", "ge"):
        found = CompareOp(v("3xf32"), v("3xf32"), direction).reference(x, y)
        np.testing.assert_array_equal(found, [direction == "ne"] * 3)


@pytest.mark.parametrize("target", ["bf16", "f16", "f8E5M2", "f8E4M3FN"])
def test_conversions_round_as_torch_does(target: str) -> None:
    """To nearest, ties to even, over the whole range with subnormals and overflow."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20_000, dtype=np.uint32)
    ties = np.arange(0, 2**16, 7, dtype=np.uint32) << 16 | 0x8000
    x = np.concatenate([bits, ties, ties + 1, ties - 1]).view(np.float32)
    x = x[np.isfinite(x)]
    names = {"bf16": "bfloat16", "f16": "float16", "f8E5M2": "float8_e5m2", "f8E4M3FN": "float8_e4m3fn"}
    if target.startswith("f8"):  # past the largest number some saturate and some overflow
        x = x[np.abs(x) <= float(ml_dtypes.finfo(names[target]).max)]
    with np.errstate(over="ignore"):
        found = ConvertOp(v(f"{x.size}xf32"), tensor(f"{x.size}x{target}")).reference(x).astype(np.float32)
    expected = torch.from_numpy(x).to(getattr(torch, names[target])).float().numpy()
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


def test_every_query_sees_its_window() -> None:
    """Uniform scores and one-hot values show which slots were seen: min(position + 1, window) of them."""
    slots, window = 12, 5
    q, k = np.zeros((1, slots, 1, slots), np.float32), np.zeros((1, slots, 1, slots), np.float32)
    values = np.eye(slots, dtype=np.float32)[None, :, None, :]
    positions = np.arange(slots, dtype=np.int32)[None]
    typed = v(f"1x{slots}x1x{slots}xf32")
    held = v(f"1x{slots}xi32")
    op = AttentionOp(typed, (typed,), (typed,), held, (held,), 1.0, window)
    seen = op.reference(q, k, values, positions, positions)[0, :, 0] > 0
    for position in range(slots):
        assert list(np.flatnonzero(seen[position])) == list(range(max(0, position - window + 1), position + 1))


def test_attention_with_huge_scores() -> None:
    """Unscaled scores reach hundreds; the softmax stays finite and picks the largest."""
    q = np.full((1, 1, 1, 4), 15.0, np.float32)
    k = np.array([-5.0, 5.0, 4.9], np.float32)[None, :, None, None] * np.ones((1, 3, 1, 4), np.float32)
    values = np.array([1.0, 2.0, 3.0], np.float32)[None, :, None, None] * np.ones((1, 3, 1, 4), np.float32)
    keys = (v("1x3x1x4xf32"),)
    op = AttentionOp(v("1x1x1x4xf32"), keys, keys, v("1x1xi32"), (v("1x3xi32"),), 1.0, 0)
    found = op.reference(q, k, values, np.array([[2]], np.int32), np.array([[0, 1, 2]], np.int32))
    np.testing.assert_allclose(found, np.full((1, 1, 1, 4), 2 + 1 / (1 + np.exp(6.0))), rtol=1e-4)


def test_probabilities_are_rounded_before_they_meet_the_values() -> None:
    """As Hugging Face does: softmax in f32, then the operands' type. Values that cancel make the rounding show."""
    bf16 = DType.BF16.numpy
    q, k = np.ones((1, 1, 1, 1), bf16), np.array([1.0, 0.0], bf16).reshape(1, 2, 1, 1)
    values = np.array([256.0, -696.0], bf16).reshape(1, 2, 1, 1)
    keys = (v("1x2x1x1xbf16"),)
    op = AttentionOp(v("1x1x1x1xbf16"), keys, keys, v("1x1xi32"), (v("1x2xi32"),), 1.0, 0)
    found = op.reference(q, k, values, np.array([[1]], np.int32), np.array([[0, 1]], np.int32))
    probabilities = torch.softmax(torch.tensor([1.0, 0.0]), 0).bfloat16().float()
    expected = (probabilities * torch.tensor([256.0, -696.0])).sum().bfloat16()
    assert found.item() == expected.item()
    assert abs(found.item()) > 0.3, "unrounded, the values cancel to less than 0.02"


@pytest.mark.parametrize("k", [1, 3, 7])
def test_top_k_of_equal_and_of_infinite_entries(k: int) -> None:
    inf = np.inf
    x = np.array([[1, 2, 2, -inf, 2, 1, -inf], [-inf] * 7, [inf, 0, inf, -inf, 0, inf, 5]], np.float32)
    values, indices = TopKOp(v("3x7xf32"), k).reference(x)
    expected = torch.from_numpy(x).sort(dim=-1, descending=True, stable=True)
    np.testing.assert_array_equal(indices, expected.indices[:, :k].numpy())
    np.testing.assert_array_equal(values, expected.values[:, :k].numpy())


def test_experts_in_bf16_err_no_more_than_hugging_face() -> None:
    """Against the same numbers in f32; their module adds the choices up in bf16."""
    operands = ("64x64xF", "64x8xi32 0..16", "64x8xf32 0..0.25", "16x96x64xF -0.2..0.2", "16x64x48xF -0.2..0.2")
    case = replace(CASES["g4.experts"][0], operands=operands)
    arrays = case.arrays(DType.BF16)
    tensors = [widened(array) for array in arrays]
    exact = experts(*tensors)
    narrow = [tensor.bfloat16() if tensor.is_floating_point() else tensor for tensor in tensors]
    theirs = experts(narrow[0], tensors[1], tensors[2], *narrow[3:])
    assert theirs.dtype == torch.bfloat16
    ours = torch.from_numpy(case.op(DType.BF16).reference(*arrays).astype(np.float32))
    assert (ours - exact).square().mean() <= (theirs.float() - exact).square().mean()


@pytest.mark.parametrize("positions", [[0, 2, 3], [3, 2, 1], [-1, 0, 1], [0, -1, 1], [4, 4, 4]])
def test_positions_that_are_not_consecutive_cannot_be_written(positions: list[int]) -> None:
    cache, x = np.zeros((1, 5, 1, 4), np.float32), np.zeros((1, 3, 1, 4), np.float32)
    op = KvUpdateOp(v("1x5x1x4xf32"), v("1x3x1x4xf32"), v("1x3xi32"))
    with pytest.raises(ValueError, match="not consecutive, followed by padding"):
        op.reference(cache, x, np.array([positions], np.int32))


def test_of_more_rows_than_slots_the_last_are_kept() -> None:
    cache, x = np.full((1, 3, 1, 1), -1.0, np.float32), np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1)
    op = KvUpdateOp(v("1x3x1x1xf32"), v("1x8x1x1xf32"), v("1x8xi32"))
    for valid, kept in ((8, [6, 7, 5]), (5, [3, 4, 2]), (2, [0, 1, -1]), (0, [-1, -1, -1])):
        positions = np.where(np.arange(8) < valid, np.arange(8), -1).astype(np.int32)[None]
        assert op.reference(cache, x, positions).ravel().tolist() == kept


@pytest.mark.parametrize("index", [-1, 5])
def test_indices_outside_their_table_are_errors(index: int) -> None:
    """numpy would take -1 for the last row."""
    rows = np.array([[index]], np.int32)
    table, x = np.zeros((5, 4), np.float32), np.zeros((1, 5, 4), np.float32)
    calls: list[Callable[[], object]] = [
        lambda: GatherOp(v("5x4xf32"), v("1x1xi32")).reference(table, rows),
        lambda: EmbeddingOp(v("1x1xi32"), v("5x4xf32"), 1.0).reference(rows, table),
        lambda: SelectRowsOp(v("1x5x4xf32"), v("1x1xi32")).reference(x, rows),
        lambda: ExpertsOp(*map(v, ("1x1x4xf32", "1x1x1xi32", "1x1x1xf32", "5x6x4xf32", "5x4x3xf32"))).reference(
            x[:, :1], rows[None], np.ones((1, 1, 1), np.float32), np.ones((5, 6, 4)), np.ones((5, 4, 3))
        ),
    ]
    for call in calls:
        with pytest.raises(IndexError, match=rf"index {index} is outside 0\.\.4"):
            call()
