"""canonicalize: every rule applies, is exact on random data, and leaves alone what it must."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from gemma_like import GemmaLike, function_of, module_of
from pass_testing import run_checked, run_once

from g4c.ir import ops
from g4c.ir.module import Function, Module
from g4c.ir.op import Dense, Op, Value
from g4c.ir.types import DType, TensorType
from g4c.passes.canonical_rules import RULES

BF16, F32 = DType.BF16, DType.F32
MATRIX = TensorType((2, 4), F32)

Body = Callable[[Function, Value], Op]


def build(body: Body, type: TensorType = MATRIX) -> Module:
    """A module that returns what `body` makes of parameter %a; every op but the last is appended by `body`."""
    function = function_of(type)
    last = function.append(body(function, function.params[0]))
    return module_of(function, [last.result])


def constant(f: Function, value: float, type: TensorType) -> Value:
    data = Dense.of(np.full(type.shape, value).astype(type.dtype.numpy))
    return f.append(ops.ConstantOp(data)).result


def scalar(f: Function, value: float, dtype: DType = F32) -> Value:
    return constant(f, value, TensorType((), dtype))


def cut(f: Function, x: Value, *bounds: tuple[int, int]) -> Value:
    starts, limits = zip(*bounds, strict=True)
    return f.append(ops.SliceOp(x, starts, limits)).result


def reshaped(f: Function, x: Value, *shape: int) -> Value:
    return f.append(ops.ReshapeOp(x, x.type.with_shape(shape))).result


def turned(f: Function, x: Value, *axes: int) -> Value:
    return f.append(ops.TransposeOp(x, axes)).result


def spread(f: Function, x: Value, *shape: int) -> Value:
    return f.append(ops.BroadcastOp(x, x.type.with_shape(shape))).result


def converted(f: Function, x: Value, dtype: DType) -> Value:
    return f.append(ops.ConvertOp(x, x.type.with_dtype(dtype))).result


def joined(f: Function, *xs: Value) -> Value:
    return f.append(ops.ConcatOp(xs, 1)).result


# rule -> (a graph it applies to, number of ops that stay)
CASES: dict[str, tuple[Body, int]] = {
    "constant-right": (lambda f, a: ops.MulOp(scalar(f, 3.0), a), 2),
    "fold-scalar": (lambda f, a: ops.AddOp(a, f.append(ops.MulOp(scalar(f, 3.0), scalar(f, 2.0))).result), 2),
    "neutral-element": (lambda f, a: ops.MulOp(a, scalar(f, 1.0)), 0),
    "double-negation": (lambda f, a: ops.NegOp(f.append(ops.NegOp(a)).result), 0),
    "identity-convert": (lambda f, a: ops.ConvertOp(a, MATRIX), 0),
    "double-convert": (
        lambda f, a: ops.ConvertOp(converted(f, converted(f, a, BF16), F32), MATRIX.with_dtype(BF16)),
        1,
    ),
    "identity-reshape": (lambda f, a: ops.ReshapeOp(a, MATRIX), 0),
    "double-reshape": (lambda f, a: ops.ReshapeOp(reshaped(f, a, 8), MATRIX.with_shape((4, 2))), 1),
    "identity-transpose": (lambda f, a: ops.TransposeOp(a, (0, 1)), 0),
    "double-transpose": (lambda f, a: ops.TransposeOp(turned(f, a, 1, 0), (1, 0)), 0),
    "transpose-of-unit-axes": (lambda f, a: ops.TransposeOp(reshaped(f, a, 2, 1, 4), (1, 0, 2)), 1),
    "identity-broadcast": (lambda f, a: ops.BroadcastOp(a, MATRIX), 0),
    "double-broadcast": (lambda f, a: ops.BroadcastOp(spread(f, a, 3, 2, 4), MATRIX.with_shape((5, 3, 2, 4))), 1),
    "implied-broadcast": (lambda f, a: ops.AddOp(a, spread(f, cut(f, a, (0, 2), (1, 2)), 2, 4)), 2),
    "full-slice": (lambda f, a: ops.SliceOp(a, (0, 0), (2, 4)), 0),
    "double-slice": (lambda f, a: ops.SliceOp(cut(f, a, (0, 2), (1, 4)), (0, 1), (1, 3)), 1),
    "slice-of-concat": (lambda f, a: ops.SliceOp(joined(f, f.append(ops.ExpOp(a)).result, a), (0, 5), (2, 7)), 1),
    "single-concat": (lambda f, a: ops.ConcatOp((a,), 0), 0),
    "concat-of-neighbors": (lambda f, a: ops.ConcatOp((cut(f, a, (0, 2), (0, 1)), cut(f, a, (0, 2), (1, 3))), 1), 1),
    "nested-concat": (lambda f, a: ops.ConcatOp((joined(f, a, f.append(ops.ExpOp(a)).result), a), 1), 2),
}


def test_every_rule_has_a_case() -> None:
    assert [rule.name for rule in RULES] == list(CASES)


@pytest.mark.parametrize("name", CASES)
def test_rule(name: str) -> None:
    body, left = CASES[name]
    module = build(body)
    stats = run_checked(module, "canonicalize")
    assert stats[name] >= 1
    assert len(module.functions["main"].ops) == left


# graphs that look like a rule's and must stay as they are
KEPT: dict[str, Body] = {
    "rounding": lambda f, a: ops.ConvertOp(converted(f, a, BF16), MATRIX),
    "integers above 2^24": lambda f, a: ops.ConvertOp(
        converted(f, converted(f, a, DType.S32), F32), MATRIX.with_dtype(DType.S32)
    ),
    "x - 1": lambda f, a: ops.SubOp(a, scalar(f, 1.0)),
    "x * almost 1": lambda f, a: ops.MulOp(a, scalar(f, 1.0000001)),
    "0 - x": lambda f, a: ops.SubOp(scalar(f, 0.0), a),
    "1 / x": lambda f, a: ops.DivOp(scalar(f, 1.0), a),
    "x * 1 that widens": lambda f, a: ops.MulOp(a, constant(f, 1.0, TensorType((3, 1, 1), F32))),
    "transpose that moves data": lambda f, a: ops.TransposeOp(a, (1, 0)),
    "broadcast that gives the shape": lambda f, a: ops.AddOp(spread(f, a, 3, 2, 4), a),
    "slice across a seam": lambda f, a: ops.SliceOp(joined(f, a, f.append(ops.ExpOp(a)).result), (0, 3), (2, 5)),
    "slices that leave a gap": lambda f, a: ops.ConcatOp((cut(f, a, (0, 2), (0, 1)), cut(f, a, (0, 2), (2, 4))), 1),
    "slices in reverse": lambda f, a: ops.ConcatOp((cut(f, a, (0, 2), (2, 4)), cut(f, a, (0, 2), (0, 2))), 1),
    "slices of other rows": lambda f, a: ops.ConcatOp((cut(f, a, (0, 1), (0, 2)), cut(f, a, (1, 2), (2, 4))), 1),
    "concat along another axis": lambda f, a: ops.ConcatOp((joined(f, a, a), joined(f, a, a)), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_no_op(name: str) -> None:
    module = build(KEPT[name])
    size = len(module.functions["main"].ops)
    assert run_once(module, "canonicalize") == {}
    assert len(module.functions["main"].ops) == size


def test_a_gemma_like_model_keeps_its_numbers_exactly() -> None:
    for dtype in (F32, BF16):
        stats = run_checked(GemmaLike(dtype=dtype).module(), "canonicalize")
        assert stats["neutral-element"] == 8


def test_dead_code_stays() -> None:
    function = function_of(MATRIX)
    (a,) = function.params
    chain = reshaped(function, function.append(ops.ExpOp(a)).result, 8)
    reshaped(function, chain, 4, 2)
    reshaped(function, function.append(ops.TanhOp(a)).result, 2, 4)
    module = module_of(function, [a])
    run_once(module, "canonicalize")
    assert sorted(op.mnemonic for op in function.ops) == ["g4.exp", "g4.reshape", "g4.tanh"]


def test_shared_values_stay_for_their_other_users() -> None:
    function = function_of(MATRIX)
    (a,) = function.params
    inner = turned(function, a, 1, 0)
    outer = turned(function, inner, 1, 0)
    module = module_of(function, [outer, inner])
    run_checked(module, "canonicalize")
    assert [op.mnemonic for op in function.ops] == ["g4.transpose"]
    assert function.results[0].value is a


def test_iterations_bound_the_rounds() -> None:
    def nest() -> Module:
        parts = lambda f, a: [cut(f, a, (0, 2), (i, i + 1)) for i in range(4)]  # noqa: E731
        return build(lambda f, a: ops.ConcatOp(tuple(parts(f, a)), 1))

    assert run_once(nest(), "canonicalize{iterations=1}") == {"concat-of-neighbors": 1}
    module = nest()
    run_checked(module, "canonicalize")
    assert module.functions["main"].ops == []
