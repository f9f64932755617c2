"""cse: equal ops merge, almost equal ones do not."""

from __future__ import annotations

import pytest
from gemma_like import GemmaLike, function_of, module_of
from pass_testing import run_checked, run_once

from g4c.ir import ops
from g4c.ir.op import Dense, Loc, Op, Value
from g4c.ir.types import DType, TensorType
from g4c.passes.cse import common_path

VECTOR = TensorType((4,), DType.F32)


def test_chains_of_equal_ops_merge() -> None:
    function = function_of(VECTOR)
    (a,) = function.params
    ys = []
    for path in ("model.layers.0.norm", "model.layers.1.norm", "model.norm"):
        one = function.append(ops.ConstantOp(Dense.scalar(2.0, DType.F32), loc=Loc(path, "x.py", 3))).result
        x = function.append(ops.AddOp(a, one, loc=Loc(path, "x.py", 4))).result
        ys.append(function.append(ops.ExpOp(x, loc=Loc(path, "x.py", 5))).result)
    module = module_of(function, ys)
    assert run_checked(module, "cse") == {"ops": 6}
    assert [op.loc for op in function.ops] == [Loc("model", "x.py", line) for line in (3, 4, 5)]
    assert len({result.value for result in function.results}) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: (ops.SubOp(a, b), ops.SubOp(b, a)),
        lambda a, b: (ops.AddOp(a, b), ops.MulOp(a, b)),
        lambda a, b: (ops.RmsNormOp(a, None, 1e-6), ops.RmsNormOp(a, None, 1e-5)),
        lambda a, b: (ops.RmsNormOp(a, b, 1e-6), ops.RmsNormOp(a, None, 1e-6)),
        lambda a, b: (ops.ConstantOp(Dense.scalar(0.0, DType.F32)), ops.ConstantOp(Dense.scalar(-0.0, DType.F32))),
        lambda a, b: (ops.ReshapeOp(a, VECTOR.with_shape((2, 2))), ops.ReshapeOp(a, VECTOR.with_shape((4, 1)))),
        lambda a, b: (ops.ConvertOp(a, VECTOR.with_dtype(DType.BF16)), ops.ConvertOp(a, VECTOR.with_dtype(DType.F16))),
    ],
)
def test_no_op_on_ops_that_differ(make: object) -> None:
    function = function_of(VECTOR, VECTOR)
    a, b = function.params
    pair: tuple[Op, Op] = make(a, b)  # type: ignore[operator]
    values: list[Value] = [function.append(op).result for op in pair]
    assert run_once(module_of(function, values), "cse") == {"ops": 0}
    assert [result.value for result in function.results] == values


def test_a_gemma_like_model_keeps_its_numbers_exactly() -> None:
    module = GemmaLike().module()
    assert run_checked(module, "cse")["ops"] > 0


def test_after_cse_layers_still_have_the_same_kinds() -> None:
    module = GemmaLike().module()
    run_once(module, "canonicalize,precompute-rope,specialize-layers,inline-layers,cse")
    assert run_checked(module, "specialize-layers") == {"layers": 10, "kinds": 8}


def test_common_path() -> None:
    assert common_path("model.layers.0.mlp", "model.layers.3") == "model.layers"
    assert common_path("model.layers.1", "model.layers.10") == "model.layers"
    assert common_path("model", "lm_head") == ""
