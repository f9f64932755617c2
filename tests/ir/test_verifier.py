"""Each thing that the verifier finds, how it shows it, and that it stops after ten."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from malformed_text import TEXT
from op_cases import tensor, v

from g4c.errors import catalogue
from g4c.ir.levels import UNTILED, untiled
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Level, Loc, SymbolRef
from g4c.ir.ops import AddOp, CallOp, LoadWeightOp, NegOp
from g4c.ir.parser import parse_module
from g4c.ir.types import DType
from g4c.ir.verifier import LIMIT, VerificationError, verify_module
from g4c.ir.weights import Cache, Cast, Transpose, Weight

pytestmark = pytest.mark.invalid_ir


def decode(module: Module) -> Function:
    return module.functions["decode"]


def swap(module: Module) -> None:
    ops = decode(module).ops
    ops[1], ops[2] = ops[2], ops[1]


def rename(module: Module) -> None:
    module.functions["other"] = module.functions.pop("layer")


def use_elsewhere(module: Module) -> None:
    decode(module).ops[2].replace_operands({decode(module).ops[1].result: module.functions["layer"].ops[0].result})


def call_itself(module: Module) -> None:
    layer = module.functions["layer"]
    layer.ops.insert(0, CallOp(tuple(layer.params), SymbolRef("layer"), (layer.params[0].type,)))


def at_nki(module: Module) -> None:
    module.level = Level.NKI
    module.attributes[UNTILED] = tuple(f"{kind.mnemonic}: a test" for kind in untiled(module))


def kernel(module: Module) -> Function:
    module.functions["layer"].role = "kernel"
    return module.functions["layer"]


def kernel_of_a_weight(module: Module) -> None:
    at_nki(module)
    kernel(module).ops.insert(0, LoadWeightOp(SymbolRef("w"), module.weights["w"].type))


def kernel_that_calls(module: Module) -> None:
    at_nki(module)
    callee = module.functions["layer"]
    other = module.add_function(Function("other", "kernel"))
    params = tuple(other.add_param(param.name, param.type) for param in callee.params)
    call = other.append(CallOp(params, SymbolRef("layer"), tuple(r.value.type for r in callee.results)))
    other.results = [Result(call.results[0], "y")]


def kernel_without_work(module: Module) -> None:
    at_nki(module)
    function = kernel(module)
    function.results[0].value = function.params[0]


def kernel_of_a_cache(module: Module) -> None:
    at_nki(module)
    kernel(module).add_param("k", module.caches["k"].type, "k")


def kernel_of_nothing(module: Module) -> None:
    at_nki(module)
    module.add_function(Function("other", "kernel"))


def odd_stack(module: Module) -> None:
    stored = Weight.stored("w", tensor("4x3xf32"))
    module.weights["w"] = stored.then(Transpose((0, 2)))


def shadow(module: Module) -> None:
    function = decode(module)
    function.params.append(function.params[0])


def level_of_later(module: Module) -> None:
    class TiledOp(NegOp):
        """y = -x."""

        mnemonic = ""
        level = Level.TILED

    function = decode(module)
    function.append(TiledOp(function.params[0]))


FINDINGS: list[tuple[Callable[[Module], object], str, str, str]] = [
    (
        lambda m: setattr(decode(m).ops[2], "x", decode(m).params[1]),
        "G4C-V001",
        "g4.linear: contraction mismatch: x has k=4, w has k=3",
        "decode:2  m.l (f.py:7)",
    ),
    (
        lambda m: setattr(decode(m).ops[2], "w", decode(m).ops[1].result),
        "G4C-V001",
        "g4.linear: results are (tensor<2x4xf32>), operands give (tensor<2x2xf32>)",
        "decode:2  m.l (f.py:7)",
    ),
    (
        lambda m: setattr(decode(m).ops[4], "axes", (0, True)),
        "G4C-V001",
        "g4.reduce: attribute axes must be tuple[int, ...], got (0, True)",
        "decode:4",
    ),
    (odd_stack, "G4C-V002", "transpose: (0, 2) does not permute the axes of tensor<4x3xf32>", "module m"),
    (
        lambda m: m.weights.update(w=Weight("w")),
        "G4C-V002",
        "weight w: needs either sources or a constant",
        "module m",
    ),
    (
        lambda m: setattr(decode(m).params[0], "name", "0x"),
        "G4C-V003",
        "parameter name '0x' is used twice or malformed",
        "decode",
    ),
    (
        lambda m: setattr(decode(m).params[0], "name", "k"),
        "G4C-V003",
        "parameter name 'k' is used twice or malformed",
        "decode",
    ),
    (lambda m: setattr(decode(m).results[0], "name", "k"), "G4C-V003", "result name 'k' is used twice", "decode"),
    (
        lambda m: m.caches.clear(),
        "G4C-V003",
        "parameter k: cache k is not in the module's table",
        "decode",
    ),
    (
        lambda m: m.caches.update(k=Cache("k", tensor("1x9x1x4xf32"))),
        "G4C-V003",
        "parameter k is tensor<1x8x1x4xf32>, cache k is tensor<1x9x1x4xf32>",
        "decode",
    ),
    (
        lambda m: decode(m).results.append(Result(decode(m).params[1], "k2", "k")),
        "G4C-V003",
        "result k: cache k is bound twice",
        "decode",
    ),
    (
        lambda m: setattr(decode(m).params[1], "cache", None),
        "G4C-V003",
        "result k: cache k is returned but no parameter takes it",
        "decode",
    ),
    (level_of_later, "G4C-V004", "not legal at level graph", "decode:5"),
    (
        swap,
        "G4C-V005",
        "g4.linear: operand x (tensor<2x3xf32>) is not defined above",
        "decode:1  m.l (f.py:7)",
    ),
    (
        use_elsewhere,
        "G4C-V005",
        "g4.linear: operand x (tensor<2x3xf32>) is not defined above",
        "decode:2  m.l (f.py:7)",
    ),
    (
        lambda m: decode(m).ops.append(decode(m).ops[2]),
        "G4C-V005",
        "g4.linear: the same op object stands in the module twice",
        "decode:5  m.l (f.py:7)",
    ),
    (
        lambda m: setattr(decode(m).results[0], "value", v("2x4xf32")),
        "G4C-V005",
        "result y is not defined",
        "decode",
    ),
    (
        lambda m: m.weights.clear(),
        "G4C-V006",
        "g4.load_weight: weight w is not in the module's table",
        "decode:0",
    ),
    (
        lambda m: m.weights.update(w=Weight.stored("w", tensor("4x3xf32")).then(Cast(DType.BF16))),
        "G4C-V006",
        "g4.load_weight: loaded as tensor<4x3xf32>, weight w is tensor<4x3xbf16>",
        "decode:0",
    ),
    (
        lambda m: setattr(m.functions["layer"], "role", "program"),
        "G4C-V006",
        "g4.call: callee layer is not a layer or kernel function of the module",
        "decode:1",
    ),
    (
        lambda m: m.functions["layer"].results.clear(),
        "G4C-V006",
        "g4.call: layer returns (), the call says (tensor<2x3xf32>)",
        "decode:1",
    ),
    (call_itself, "G4C-V007", "recursive call: layer -> layer", "layer"),
    (kernel, "G4C-V041", "kernel layer stands in a module at level graph", "layer"),
    (kernel_of_a_weight, "G4C-V041", "kernel layer loads w, which it takes as a parameter", "layer:0"),
    (kernel_that_calls, "G4C-V041", "kernel other calls layer", "other:0"),
    (kernel_without_work, "G4C-V041", "kernel layer returns its parameter y as it is", "layer"),
    (kernel_of_a_cache, "G4C-V041", "kernel layer binds cache k, which the program does", "layer"),
    (kernel_of_nothing, "G4C-V041", "kernel other has no parameters or no results", "other"),
    (rename, "G4C-V008", "function layer is entered under the name other", "module m"),
    (
        lambda m: m.caches.update(w=Cache("w", tensor("1xf32"))),
        "G4C-V008",
        "w is both a weight and a cache",
        "module m",
    ),
    (
        lambda m: m.attributes.update(level="nki"),
        "G4C-V008",
        "the attribute level is the module's level; it cannot be set beside it",
        "module m",
    ),
]


@pytest.mark.parametrize(("spoil", "code", "message", "where"), FINDINGS)
def test_findings(spoil: Callable[[Module], object], code: str, message: str, where: str) -> None:
    module = parse_module(TEXT)
    verify_module(module)
    spoil(module)
    with pytest.raises(VerificationError) as caught:
        verify_module(module)
    assert (caught.value.code, caught.value.where) == (code, where)
    assert message in caught.value.message
    assert caught.value.exit_code == 4


def test_every_code_of_the_verifier_is_tested() -> None:
    pages = {code for code in catalogue() if code.startswith("G4C-V00") or code == "G4C-V041"}
    assert pages == {code for _, code, _, _ in FINDINGS}


def test_a_parameter_may_not_stand_twice() -> None:
    module = parse_module(TEXT)
    shadow(module)
    with pytest.raises(VerificationError, match="parameter name 'x' is used twice"):
        verify_module(module)


def test_the_text_of_an_error() -> None:
    module = parse_module(TEXT)
    swap(module)
    with pytest.raises(VerificationError) as caught:
        verify_module(module)
    assert str(caught.value) == (
        "error[G4C-V005]: g4.linear: operand x (tensor<2x3xf32>) is not defined above\n"
        "  --> decode:1  m.l (f.py:7)\n"
        '     0 | %0 = "g4.load_weight"() {weight = @w} : () -> tensor<4x3xf32>\n'
        '>    1 | %1 = "g4.linear"(%2, %0) : (tensor<2x3xf32>, tensor<4x3xf32>) -> tensor<2x4xf32>\n'
        '     2 | %2 = "g4.call"(%x) {callee = @layer} : (tensor<2x3xf32>) -> tensor<2x3xf32>'
    )


def test_values_of_nowhere_are_shown_as_question_marks() -> None:
    module = Module("m")
    function = module.add_function(Function("f", "program"))
    function.append(AddOp(v("2xf32"), function.add_param("x", tensor("2xf32"))))
    with pytest.raises(VerificationError) as caught:
        verify_module(module)
    assert '"g4.add"(%?, %x)' in str(caught.value)


def test_several_errors_at_once_but_no_more_than_ten() -> None:
    module = Module("m")
    function = module.add_function(Function("f", "program"))
    for index in range(3):
        function.append(NegOp(v("2xf32"), loc=Loc(f"layer.{index}")))
    with pytest.raises(VerificationError) as caught:
        verify_module(module)
    text = str(caught.value)
    assert text.count("error[G4C-V005]") == 3
    assert all(f"--> f:{index}  layer.{index}" in text for index in range(3))
    assert "stopped" not in text
    for _ in range(20):
        function.append(NegOp(v("2xf32")))
    with pytest.raises(VerificationError) as caught:
        verify_module(module)
    assert len(caught.value.findings) == LIMIT == 10
    assert str(caught.value).count("error[G4C-V005]") == 10
    assert str(caught.value).endswith("  = stopped after 10 errors")


def test_calls_in_a_circle() -> None:
    module = Module("m")
    for name, callee in (("a", "b"), ("b", "c"), ("c", "a")):
        module.add_function(Function(name, "layer")).append(CallOp((), SymbolRef(callee), ()))
    with pytest.raises(VerificationError, match="recursive call: a -> b -> c -> a"):
        verify_module(module)


def test_a_diamond_of_calls_is_no_circle() -> None:
    module = Module("m")
    for name, callees in (("d", ()), ("b", ("d",)), ("c", ("d",)), ("a", ("b", "c", "b"))):
        function = module.add_function(Function(name, "layer"))
        for callee in callees:
            function.append(CallOp((), SymbolRef(callee), ()))
    verify_module(module)
    assert module.callees(module.functions["a"]) == ["b", "c", "b"]
