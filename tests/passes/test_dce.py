"""dce: what nothing depends on goes; caches, parameters and everything else stay."""

from __future__ import annotations

from gemma_like import GemmaLike
from pass_testing import run_checked, run_once

from g4c.ir import ops
from g4c.ir.module import Function, Result
from g4c.ir.op import SymbolRef
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Weight


def test_removes_the_dead_projections_but_no_cache() -> None:
    module = GemmaLike(shared_write=False).module()
    params = [param.name for param in module.functions["decode"].params]
    stats = run_checked(module, "dce")
    # per program and shared layer: linear, reshape, norm, rope of K, linear, reshape, norm of V, three weights
    assert stats == {"ops": 2 * 2 * 10, "functions": 0, "weights": 6}
    assert [param.name for param in module.functions["decode"].params] == params
    assert len(module.caches) == 10


def test_what_is_written_is_not_dead() -> None:
    assert run_once(GemmaLike().module(), "dce") == {"ops": 0, "functions": 0, "weights": 0}


def test_removes_functions_nobody_calls_and_their_weights() -> None:
    module = GemmaLike().module()
    type = TensorType((2, 2), DType.F32)
    module.add_weight(Weight.stored("orphan", type))
    inner, outer = Function("inner", "layer"), Function("outer", "layer")
    value = inner.append(ops.LoadWeightOp(SymbolRef("orphan"), type)).result
    inner.results = [Result(value, "y")]
    value = outer.append(ops.CallOp((), SymbolRef("inner"), (type,))).result
    outer.results = [Result(value, "y")]
    module.add_function(inner)
    module.add_function(outer)
    assert run_checked(module, "dce") == {"ops": 0, "functions": 2, "weights": 1}


def test_a_call_without_used_results_goes() -> None:
    module = GemmaLike().module()
    run_once(module, "specialize-layers,dce")
    program = module.functions["decode"]
    call = next(program.ops_of(ops.CallOp))
    program.append(ops.CallOp(call.args, call.callee, call.types))
    assert run_checked(module, "dce") == {"ops": 1, "functions": 0, "weights": 0}
