"""Printer and parser: spellings, round trips, acceptance by MLIR, and what the parser says about malformed text."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch_mlir.ir as mlir
from malformed_text import MALFORMED, TEXT, Malformed
from op_cases import tensor

from g4c.errors import G4cError
from g4c.ir.builder import Builder
from g4c.ir.lexer import Lexer
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Dense, Level, Loc, SymbolRef
from g4c.ir.ops import AddOp, CallOp, ConstantOp, RmsNormOp, SoftcapOp
from g4c.ir.parser import parse_module, parse_type
from g4c.ir.printer import format_attribute, print_module, structural_hash
from g4c.ir.spelling import format_float, format_symbol, is_valid_name, parse_float, quote, unquote
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Cache, Cast, Concat, Source, Transpose, Weight

ODD = [
    "",
    'say "hi"',
    "back\\slash",
    "tab\tnew\nline",
    "\x00\x1f\x7f",
    "naïve 中文 🙂",
    "a b",
    "\\0A",
    "//no comment",
    "%x#1",
]
FLOATS = [0.0, -0.0, 1e-6, 1e30, -1e30, 0.1, 1 / 3, 39.25, 5e-324, 1.7976931348623157e308, 1e16, 123456789.0]
UNUSUAL = [math.inf, -math.inf, math.nan, -math.nan]


def accepted_by_mlir(text: str) -> bool:
    with mlir.Context() as context:
        context.allow_unregistered_dialects = True
        return bool(mlir.Module.parse(text).operation.verify())


def test_the_example_prints_as_it_was_read() -> None:
    assert print_module(parse_module(TEXT)) == TEXT
    assert accepted_by_mlir(TEXT)


def test_comments_and_spacing_are_free() -> None:
    loose = "// a dump\n\n" + TEXT.replace("{\n", "{ // opens\n").replace("\n", "\n\t").replace(", ", " ,\n")
    assert print_module(parse_module(loose)) == TEXT


@pytest.mark.parametrize("text", ODD)
def test_strings_and_symbols(text: str) -> None:
    assert unquote(quote(text)) == text
    assert not re.search(r"[\x00-\x1f\x7f]", quote(text))
    module = Module(text, attributes={"text": text, "list": (text, "x"), f"key {text}": True})
    module.add_weight(
        Weight(f"w {text}", (Source(text, tensor("2x3xf32")), Source("b", tensor("2x3xf32")))).then(Concat(0))
    )
    module.add_cache(Cache(f"c {text}", tensor("1x2x1x2xf32")))
    function = module.add_function(Function(f"f {text}", "program"))
    param = function.add_param("p", tensor("1x2x1x2xf32"), f"c {text}")
    loc = Loc(text, text, 3 if text else 0)
    value = Builder(function, loc).emit(ConstantOp(Dense.scalar(1.0, DType.F32)))
    function.results = [Result(value, text), Result(param, "c", f"c {text}")]
    printed = print_module(module)
    again = parse_module(printed)
    assert print_module(again) == printed
    assert again.name == text
    assert again.attributes == module.attributes
    assert again.weights == module.weights
    assert again.caches == module.caches
    assert again.functions[f"f {text}"].ops[0].loc == loc
    assert again.functions[f"f {text}"].results[0].name == text
    assert accepted_by_mlir(printed)


def test_symbols_are_quoted_where_they_must_be() -> None:
    assert format_symbol("layers.0.k_proj$1") == "@layers.0.k_proj$1"
    assert format_symbol("0.k") == '@"0.k"'
    assert format_symbol("é") == '@"é"'
    assert format_symbol("a-b") == '@"a-b"'
    assert [name for name in ("x", "layers.0.k", "-", "$", "a b", "0", "é", "", "x#0") if is_valid_name(name)] == [
        "x",
        "layers.0.k",
        "-",
        "$",
    ]


@pytest.mark.parametrize("value", [*FLOATS, *UNUSUAL])
def test_floats(value: float) -> None:
    assert np.float64(parse_float(format_float(value))).tobytes() == np.float64(value).tobytes()
    module = Module("m", attributes={"x": value, "n": -3, "big": -(2**63)})
    text = print_module(module)
    found = parse_module(text).attributes["x"]
    assert isinstance(found, float)
    assert np.float64(found).tobytes() == np.float64(value).tobytes()
    assert parse_module(text).attributes["n"] == -3
    assert accepted_by_mlir(text)


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype.is_float])
@pytest.mark.parametrize("value", [*FLOATS, *UNUSUAL])
def test_float_constants(dtype: DType, value: float) -> None:
    with np.errstate(over="ignore"):
        dense = Dense.scalar(value, dtype)
    module = Module("m")
    function = module.add_function(Function("f", "program"))
    function.append(ConstantOp(dense))
    text = print_module(module)
    (op,) = parse_module(text).functions["f"].ops
    assert op.attributes()["value"] == dense
    assert accepted_by_mlir(text)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array(-128, np.int8), "dense<-128> : tensor<i8>"),
        (np.array(-(2**31), np.int32), "dense<-2147483648> : tensor<i32>"),
        (np.array(-8, DType.S4.numpy), "dense<-8> : tensor<i4>"),
        (np.array([1, -1], DType.S4.numpy), 'dense<"0x010F"> : tensor<2xi4>'),
        (np.array(True), "dense<true> : tensor<i1>"),
        (np.array([True, False, True]), 'dense<"0x010001"> : tensor<3xi1>'),
        (np.array([[1, 2]], np.int32), 'dense<"0x0100000002000000"> : tensor<1x2xi32>'),
        (np.array(0.1, DType.BF16.numpy), "dense<0.10009765625> : tensor<bf16>"),
        (np.array(-0.0, np.float32), "dense<-0.0> : tensor<f32>"),
        (np.array(np.inf, np.float32), 'dense<"0x0000807F"> : tensor<f32>'),
        (np.zeros((0, 2), np.float32), 'dense<"0x"> : tensor<0x2xf32>'),
    ],
)
def test_constants(array: np.ndarray, text: str) -> None:
    dense = Dense.of(array)
    assert format_attribute(dense) == text
    np.testing.assert_array_equal(dense.array(), array)
    module = Module("m", attributes={"value": dense})
    assert parse_module(print_module(module)).attributes["value"] == dense
    assert accepted_by_mlir(print_module(module))


def test_mlir_reads_the_same_constants() -> None:
    """The bytes that stand in the text mean to MLIR what they mean here."""
    expected = {
        "dense<[true, false, true]> : tensor<3xi1>": np.array([True, False, True]),
        "dense<[1, -1, 7, -8]> : tensor<4xi4>": np.array([1, -1, 7, -8], DType.S4.numpy),
        "dense<[1.500000e+00, -2.000000e+00]> : tensor<2xbf16>": np.array([1.5, -2.0], DType.BF16.numpy),
        "dense<[[-128, 127]]> : tensor<1x2xi8>": np.array([[-128, 127]], np.int8),
    }
    with mlir.Context():
        for text, array in expected.items():
            assert str(mlir.Attribute.parse(format_attribute(Dense.of(array)))) == text


@pytest.mark.parametrize("dtype", list(DType))
def test_types(dtype: DType) -> None:
    for shape in ((), (1,), (0, 3), (2, 1, 262144)):
        type = TensorType(shape, dtype)
        assert parse_type(str(type)) == type
        assert DType.of(dtype.numpy) == dtype
        with mlir.Context():
            assert str(mlir.Type.parse(str(type))) == str(type)


def test_several_results_and_optional_operands() -> None:
    module = Module("m", level=Level.TILED)
    layer = module.add_function(Function("two", "layer"))
    x = layer.add_param("x", tensor("3xf32"))
    w = layer.add_param("w", tensor("3xf32"))
    b = Builder(layer)
    plain, scaled = b.emit(RmsNormOp(x, None, 1e-6)), b.emit(RmsNormOp(x, w, 1e30))
    layer.results = [Result(plain, "plain"), Result(scaled, "scaled")]
    none = module.add_function(Function("none", "layer"))
    program = module.add_function(Function("main", "program"))
    x = program.add_param("x", tensor("3xf32"))
    program.append(CallOp((), SymbolRef(none.name), ()))
    call = program.append(CallOp((x, x), SymbolRef(layer.name), (x.type, x.type)))
    y = Builder(program).emit(AddOp(call.results[1], call.results[0]))
    program.results = [Result(y, "y")]
    text = print_module(module)
    again = parse_module(text)
    assert print_module(again) == text
    assert again.level == Level.TILED
    norms = list(again.functions["two"].ops_of(RmsNormOp))
    assert [op.w is None for op in norms] == [True, False]
    main = again.functions["main"].ops
    assert main[2].operands == (main[1].results[1], main[1].results[0])
    assert '%1:2 = "g4.call"(%x, %x)' in text.replace("%0:2", "%1:2")
    assert accepted_by_mlir(text)


def test_locations_do_not_count_in_the_structure() -> None:
    def softcap(loc: Loc, cap: float) -> Module:
        module = Module("m")
        function = module.add_function(Function("f", "program"))
        function.append(SoftcapOp(function.add_param("x", tensor("3xf32")), cap, loc=loc))
        return module

    here, there, other = softcap(Loc("a", "f.py", 1), 30.0), softcap(Loc("b"), 30.0), softcap(Loc("a", "f.py", 1), 31.0)
    assert structural_hash(here) == structural_hash(there) != structural_hash(other)
    assert print_module(here) != print_module(there)
    assert print_module(here, locations=False) == print_module(there, locations=False)


def test_weights_are_read_as_they_were() -> None:
    stored = Weight.stored("a", tensor("2x3xbf16"))
    module = Module("m")
    for weight in (
        stored,
        stored.then(Transpose((1, 0)), Cast(DType.F32), name="b"),
        Weight("c", (Source("a", stored.type), Source("d", stored.type))).then(Concat(1)),
        Weight("e", value=Dense.of(np.arange(3, dtype=np.float32))).then(Cast(DType.BF16)),
        stored.then(Transpose((1, 0)), Transpose((1, 0))),
    ):
        module.weights[weight.name] = weight
    assert parse_module(print_module(module)).weights == module.weights
    assert accepted_by_mlir(print_module(module))


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: f"{case.old.strip()}->{case.new.strip()}")
def test_malformed_text(case: Malformed) -> None:
    at = TEXT.rfind(case.old) if case.old.startswith("  }") else TEXT.find(case.old)
    assert at >= 0
    text = TEXT[:at] + case.new + TEXT[at + len(case.old) :]
    with pytest.raises(G4cError) as caught:
        parse_module(text, file="dump.mlir")
    error = caught.value
    assert error.code == case.code
    assert case.message in error.message
    assert error.help == case.help
    match = re.fullmatch(r"dump\.mlir:(\d+):(\d+)", error.where or "")
    assert match, error.where
    line, column = int(match[1]), int(match[2])
    assert (text.split("\n")[line - 1][column - 1 :]).startswith(case.pointed)
    source, caret = (error.excerpt or "").split("\n")
    assert source[caret.index("^") :].startswith(case.pointed[:20])


def test_the_end_of_a_long_line_is_shown() -> None:
    with pytest.raises(G4cError) as caught:
        parse_module("module @m attributes {" + ", ".join(f"g4.a{i} = true" for i in range(100)) + ", g4.b = ?} {}")
    source, caret = (caught.value.excerpt or "").split("\n")
    assert source[caret.index("^")] == "?"
    assert len(source) < 180


def test_a_symbol_declared_twice() -> None:
    for line in TEXT.splitlines()[1:3]:
        with pytest.raises(G4cError, match="is declared twice"):
            parse_module(TEXT.replace(line, f"{line}\n{line}"))


def test_every_prefix_of_a_module_is_refused_with_a_code() -> None:
    """No text makes the parser fail in another way than with a coded error."""
    for end in range(len(TEXT.rstrip())):
        with pytest.raises(G4cError):
            parse_module(TEXT[:end])


def test_tokens() -> None:
    lexer = Lexer('%a#1 -> @"x y" -1.5e-3 tensor<2xf32> // end\n', "f")
    found = []
    while lexer.kind != "end":
        found.append((lexer.kind, lexer.advance()))
    assert found == [
        ("value", "%a#1"),
        ("arrow", "->"),
        ("symbol", '@"x y"'),
        ("number", "-1.5e-3"),
        ("type", "tensor<2xf32>"),
    ]
