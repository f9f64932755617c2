"""Keeping sequences apart: what was flattened to rows is worked on as [b, s, ...], bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from g4c.frontend.raising.rows import keep_sequences_apart
from g4c.ir import ops
from g4c.ir.builder import Builder
from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Loc, Value
from g4c.ir.types import Array, DType, TensorType
from g4c.ir.verifier import verify_module

B, S, H = 2, 3, 8
F32 = DType.F32
Body = Callable[[Builder, Value, dict[str, Value]], list[Value]]
WEIGHTS = {"linear": (4, H), "norm": (H,), "table": (4,), "rows": (B * S, H), "gate_up": (4, 12, H), "down": (4, H, 6)}


def module_of(body: Body) -> Module:
    """`body` computes results from x [b, s, h], flattened, and from parameters named as in WEIGHTS."""
    module = Module("test")
    function = module.add_function(Function("f", "program"))
    x = function.add_param("x", TensorType((B, S, H), F32))
    params = {name: function.add_param(name, TensorType(shape, F32)) for name, shape in WEIGHTS.items()}
    b = Builder(function, Loc("f"))
    flat = b.emit(ops.ReshapeOp(x, TensorType((B * S, H), F32)))
    function.results = [Result(value, f"r{k}") for k, value in enumerate(body(b, flat, params))]
    verify_module(module)
    return module


def back(b: Builder, value: Value) -> Value:
    return b.emit(ops.ReshapeOp(value, value.type.with_shape((B, S, *value.shape[1:]))))


def rewritten(body: Body) -> tuple[Module, int]:
    """After the rewrite, with the same results, bit for bit."""
    module = module_of(body)
    random = np.random.default_rng(0)
    inputs: dict[str, Array] = {
        param.name: random.uniform(0.1, 1, param.type.shape).astype(np.float32)
        for param in module.functions["f"].params
    }
    wanted = interpret(module, "f", inputs, {})
    count = keep_sequences_apart(module.functions["f"])
    verify_module(module)
    found = interpret(module, "f", inputs, {})
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert array.dtype == found[name].dtype
        np.testing.assert_array_equal(array, found[name])
    return module, count


def router(b: Builder, x: Value, w: dict[str, Value]) -> list[Value]:
    scores = b.emit(ops.LinearOp(b.emit(ops.RmsNormOp(x, w["norm"], 1e-6)), w["linear"]))
    scores = b.emit(ops.DivOp(scores, b.emit(ops.ReduceOp(scores, "sum", (1,), True))))
    values, indices = b.function.append(ops.TopKOp(scores, 2)).results
    gates = b.emit(ops.MulOp(values, b.emit(ops.GatherOp(w["table"], indices))))
    return [back(b, b.emit(ops.ExpertsOp(x, indices, gates, w["gate_up"], w["down"])))]


def test_a_router_and_its_experts() -> None:
    module, count = rewritten(router)
    assert count == 8
    function = module.functions["f"]
    (experts,) = function.ops_of(ops.ExpertsOp)
    assert [value.shape for value in experts.operands[:3]] == [(B, S, H), (B, S, 2), (B, S, 2)]
    assert function.results[0].value is experts.result
    read = {value for op in function.ops for value in op.operands}
    assert not [op for op in function.ops_of(ops.ReshapeOp) if op.result in read and op.x is not function.params[0]]


def test_a_function_that_returns_rows_still_does() -> None:
    module, count = rewritten(lambda b, x, w: [b.emit(ops.LinearOp(x, w["linear"])), x])
    assert count == 1
    assert [result.value.shape for result in module.functions["f"].results] == [(B * S, 4), (B * S, H)]


NOT_BY_ROW: dict[str, Body] = {
    "over-rows": lambda b, x, w: [b.emit(ops.ReduceOp(x, "sum", (0,), True))],
    "over-all": lambda b, x, w: [b.emit(ops.ReduceOp(x, "sum", (0, 1), True))],
    "axis-dropped": lambda b, x, w: [b.emit(ops.ReduceOp(x, "sum", (1,)))],
    "other-rows": lambda b, x, w: [b.emit(ops.AddOp(x, w["rows"]))],
    "transposed": lambda b, x, w: [b.emit(ops.TransposeOp(x, (1, 0)))],
    "as-weight": lambda b, x, w: [b.emit(ops.LinearOp(w["rows"], x))],
    "both": lambda b, x, w: [b.emit(ops.LinearOp(x, x))],
}


@pytest.mark.parametrize("case", NOT_BY_ROW)
def test_what_is_not_done_by_row_stays(case: str) -> None:
    _, count = rewritten(NOT_BY_ROW[case])
    assert count == 0


def test_a_mixture_of_both() -> None:
    """Row-wise, then over rows, then row-wise: the middle reads the flattened value."""

    def body(b: Builder, x: Value, w: dict[str, Value]) -> list[Value]:
        scaled = b.emit(ops.MulOp(x, w["norm"]))
        total = b.emit(ops.ReduceOp(scaled, "sum", (0,), True))
        wide = b.emit(ops.ConvertOp(b.emit(ops.AddOp(scaled, total)), TensorType((B * S, H), DType.BF16)))
        return [back(b, wide)]

    module, count = rewritten(body)
    assert count == 3
    assert module.functions["f"].results[0].value.shape == (B, S, H)


def test_twice_is_once() -> None:
    module, _ = rewritten(router)
    before = list(module.functions["f"].ops)
    function = module.functions["f"]
    used = {value for op in function.ops for value in op.operands} | {result.value for result in function.results}
    function.ops = [op for op in before if not isinstance(op, ops.ReshapeOp) or op.result in used]
    assert keep_sequences_apart(function) == 0
