"""Functions and modules: building, uses, copies, costs, names."""

from __future__ import annotations

import pytest
from malformed_text import TEXT
from op_cases import tensor, v

from g4c.ir.builder import Builder
from g4c.ir.module import Function, Module, Result, copy_function
from g4c.ir.op import UNKNOWN, Cost, Dense, Level, Loc, SymbolRef, Value, defining, layout
from g4c.ir.ops import (
    AddOp,
    CallOp,
    ConcatOp,
    ConstantOp,
    HeldPositionsOp,
    LinearOp,
    LoadWeightOp,
    MulOp,
    NegOp,
    RmsNormOp,
)
from g4c.ir.parser import parse_module
from g4c.ir.printer import print_module, structural_hash
from g4c.ir.types import DType, TensorType, broadcast_shapes
from g4c.ir.weights import Cache, Weight


def chain() -> tuple[Function, list[Value]]:
    """x -> a = -x -> b = -a -> c = b + b."""
    function = Function("f", "program")
    builder = Builder(function)
    x = function.add_param("x", tensor("2xf32"))
    a = builder.emit(NegOp(x))
    b = builder.emit(NegOp(a))
    c = builder.emit(AddOp(b, b))
    function.results = [Result(c, "c"), Result(a, "a")]
    return function, [x, a, b, c]


def test_users() -> None:
    function, (x, a, b, c) = chain()
    users = function.users()
    assert users == {x: [function.ops[0]], a: [function.ops[1]], b: [function.ops[2]]}
    assert c not in users


def test_replace_uses() -> None:
    function, (x, a, b, c) = chain()
    function.replace_uses({b: a, a: x})
    assert [op.operands for op in function.ops] == [(x,), (x,), (x, x)]
    assert [result.value for result in function.results] == [c, x]
    function.replace_uses({})
    with pytest.raises(AssertionError, match="in a circle"):
        function.replace_uses({a: b, b: a})


def test_replace_operands_says_whether_it_did() -> None:
    x, y, z = v("2xf32"), v("2xf32"), v("2xf32")
    op = ConcatOp((x, y, x), 0)
    assert not op.replace_operands({z: x})
    assert op.replace_operands({x: z})
    assert op.operands == (z, y, z)
    norm = RmsNormOp(x, None, 1e-6)
    assert norm.replace_operands({x: y})
    assert norm.operands == (y,)


@pytest.mark.invalid_ir
def test_a_copy_shares_nothing_that_changes() -> None:
    module = parse_module(TEXT)
    clone = module.copy()
    assert print_module(clone) == print_module(module)
    assert structural_hash(clone) == structural_hash(module)
    old = {id(op) for function in module.functions.values() for op in function.ops}
    assert not old & {id(op) for function in clone.functions.values() for op in function.ops}
    before = print_module(module)
    decode = clone.functions["decode"]
    decode.replace_uses({decode.ops[1].result: decode.params[0]})
    decode.ops.pop(1)
    clone.attributes["batch"] = 2
    clone.weights.clear()
    clone.level = Level.TILED
    assert print_module(module) == before


def test_a_function_copied_under_another_name() -> None:
    module = parse_module(TEXT)
    clone = module.add_function(copy_function(module.functions["layer"], "twin"))
    assert clone.role == "layer"
    assert clone.ops[0].operands == (clone.params[0],)
    assert clone.results[0].value is clone.ops[0].result


def test_copying_an_op_infers_its_results_anew() -> None:
    x = v("2x3xf32")
    op = NegOp(x, loc=Loc("a"))
    assert op.copy({x: v("5xf32")}).result.type == tensor("5xf32")
    assert op.copy({}).loc == Loc("a")
    assert op.copy({}, loc=Loc("b")).loc == Loc("b")
    call = CallOp((x,), SymbolRef("f"), (x.type, x.type))
    assert [value.type for value in call.copy({}).results] == [x.type, x.type]


def test_cost_follows_calls() -> None:
    module = Module("m")
    layer = module.add_function(Function("layer", "layer"))
    x, w = layer.add_param("x", tensor("2x8xbf16")), layer.add_param("w", tensor("4x8xbf16"))
    layer.results = [Result(Builder(layer).emit(LinearOp(x, w)), "y")]
    program = module.add_function(Function("program", "program"))
    b = Builder(program)
    x = program.add_param("x", tensor("2x8xbf16"))
    w = b.load(module.add_weight(Weight.stored("w", tensor("4x8xbf16"))))
    first, second = (program.append(CallOp((x, w), SymbolRef("layer"), (tensor("2x4xbf16"),))).result for _ in range(2))
    program.results = [Result(b.emit(AddOp(first, second)), "y")]
    linear, add = Cost(2 * 2 * 4 * 8, (16 + 32) * 2, 8 * 2), Cost(0, 16 * 2, 8 * 2)
    assert module.cost(layer) == linear
    assert module.cost(program) == linear + linear + add


def test_tables_refuse_a_second_entry_of_the_name() -> None:
    module = Module("m")
    module.add_function(Function("f", "layer"))
    with pytest.raises(AssertionError):
        module.add_function(Function("f", "layer"))
    weight = Weight.stored("w", tensor("2xf32"))
    assert module.add_weight(weight) is module.add_weight(Weight.stored("w", tensor("2xf32")))
    with pytest.raises(AssertionError, match="two different weights are called w"):
        module.add_weight(Weight.stored("w", tensor("3xf32")))
    module.add_cache(Cache("c", tensor("2xf32")))
    with pytest.raises(AssertionError, match="two different caches are called c"):
        module.add_cache(Cache("c", tensor("3xf32")))


def test_lookups() -> None:
    module = parse_module(TEXT)
    decode = module.functions["decode"]
    assert module.programs == [decode]
    assert decode.param("k").cache == "k"
    with pytest.raises(KeyError):
        decode.param("z")
    assert [op.mnemonic for op in decode.ops_of(LinearOp)] == ["g4.linear"]
    assert defining(decode.ops[2].operands[1], LoadWeightOp) is decode.ops[0]
    assert defining(decode.ops[2].operands[1], NegOp) is None
    assert defining(decode.params[0], NegOp) is None


def test_the_builder_locates_what_has_no_location() -> None:
    function = Function("f", "program")
    x = function.add_param("x", tensor("2xf32"))
    here, there = Loc("here", "f.py", 1), Loc("there", "f.py", 2)
    b = Builder(function, here)
    half = b.scalar(0.5, DType.F32)
    y = b.emit(MulOp(x, half, loc=there))
    assert y is function.ops[-1].result
    assert [op.loc for op in function.ops] == [here, there]
    assert defining(half, ConstantOp).value == Dense.scalar(0.5, DType.F32)
    Builder(function).emit(NegOp(y))
    assert function.ops[-1].loc == UNKNOWN


def test_fields_are_told_apart() -> None:
    spec = layout(RmsNormOp)
    assert (spec.operands, spec.attributes, spec.signature) == (("x", "w"), ("epsilon",), ())
    assert (spec.segmented, spec.optional, spec.variadic) == (True, {"w"}, frozenset())
    spec = layout(CallOp)
    assert (spec.operands, spec.attributes, spec.signature) == (("args",), ("callee",), ("types",))
    assert (spec.segmented, spec.optional, spec.variadic) == (False, frozenset(), {"args"})
    assert layout(HeldPositionsOp).kinds == {"slots": int, "updated": bool}


def test_locations_print_what_is_known() -> None:
    assert str(Loc("a.b", "f.py", 3)) == "a.b (f.py:3)"
    assert str(Loc("a.b")) == "a.b"
    assert str(Loc("", "f.py", 3)) == "f.py:3"
    assert str(UNKNOWN) == ""


def test_types() -> None:
    type = TensorType((2, 3), DType.BF16)
    assert (str(type), type.rank, type.size, type.nbytes) == ("tensor<2x3xbf16>", 2, 6, 12)
    assert str(TensorType((), DType.F32)) == "tensor<f32>"
    assert TensorType((3,), DType.S4).nbytes == 2
    assert TensorType((3,), DType.PRED).nbytes == 3
    with pytest.raises(AssertionError):
        TensorType((-1,), DType.F32)
    assert broadcast_shapes((2, 1, 3), (4, 1), ()) == (2, 4, 3)
    assert broadcast_shapes((0,), (1,)) == (0,)
    with pytest.raises(ValueError, match=r"\[2\] and \[3\]"):
        broadcast_shapes((2,), (3,))
