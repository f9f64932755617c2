"""inline-layers: undoes specialize-layers, locations included."""

from __future__ import annotations

from collections import Counter

import pytest
from gemma_like import GemmaLike
from pass_testing import run_checked, run_once

from g4c.ir import ops
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import SymbolRef
from g4c.ir.printer import format_attribute, structural_hash
from g4c.ir.types import DType


def inventory(function: Function) -> Counter[str]:
    """Ops of `function` with attributes and locations, in any order."""
    return Counter(
        f"{op.mnemonic} {[format_attribute(a) for a in op.attributes().values()]} {op.loc}" for op in function.ops
    )


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_round_trip(dtype: DType) -> None:
    module, original = (GemmaLike(dtype=dtype).module() for _ in range(2))
    run_once(module, "specialize-layers")
    assert run_checked(module, "inline-layers") == {"calls": 10, "functions": 8}
    assert list(module.functions) == ["prefill_8", "decode"]
    for name, function in original.functions.items():
        assert inventory(module.functions[name]) == inventory(function)
    again = module.copy()
    run_once(again, "specialize-layers,inline-layers")
    assert structural_hash(again) == structural_hash(module)


def test_nested_calls() -> None:
    module = GemmaLike(pattern="SF", shared=0).module()
    run_once(module, "specialize-layers")
    for program in ("prefill_8", "decode"):
        _wrap(module, program)
    assert run_checked(module, "inline-layers") == {"calls": 6, "functions": 6}


def _wrap(module: Module, program: str) -> None:
    """Put a function that only calls in front of the first call of `program`."""
    call = next(module.functions[program].ops_of(ops.CallOp))
    outer = Function(f"{program}.outer", "layer")
    params = [outer.add_param(f"p{i}", value.type) for i, value in enumerate(call.args)]
    inner = outer.append(ops.CallOp(tuple(params), call.callee, call.types))
    original = module.functions[call.callee.name]
    outer.results = [Result(value, r.name) for r, value in zip(original.results, inner.results, strict=True)]
    module.add_function(outer)
    call.callee = SymbolRef(outer.name)


def test_no_op() -> None:
    assert run_once(GemmaLike().module(), "inline-layers") == {"calls": 0, "functions": 0}
