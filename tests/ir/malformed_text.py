"""A small module in text, and ways to spoil it, each with what the parser says and where it points."""

from __future__ import annotations

from dataclasses import dataclass

TEXT = """\
module @m attributes {g4.level = "graph", g4.batch = 1 : i64} {
  "g4.weight"() {sym_name = "w", type = tensor<4x3xf32>} : () -> ()
  "g4.cache"() {sym_name = "k", type = tensor<1x8x1x4xf32>} : () -> ()

  func.func @layer(%a: tensor<2x3xf32>) -> (tensor<2x3xf32> {g4.name = "y"}) attributes {g4.role = "layer"} {
    %0 = "g4.rms_norm"(%a) {epsilon = 1.0e-06 : f64, operandSegmentSizes = array<i32: 1, 0>} : \
(tensor<2x3xf32>) -> tensor<2x3xf32>
    return %0 : tensor<2x3xf32>
  }

  func.func @decode(%x: tensor<2x3xf32>, %k: tensor<1x8x1x4xf32> {g4.cache = @k}) -> \
(tensor<2x4xf32> {g4.name = "y"}, tensor<1x8x1x4xf32> {g4.name = "k", g4.cache = @k}) attributes {g4.role = "program"} {
    %0 = "g4.load_weight"() {weight = @w} : () -> tensor<4x3xf32>
    %1 = "g4.call"(%x) {callee = @layer} : (tensor<2x3xf32>) -> tensor<2x3xf32>
    %2 = "g4.linear"(%1, %0) : (tensor<2x3xf32>, tensor<4x3xf32>) -> tensor<2x4xf32> loc("m.l"("f.py":7:0))
    %3 = "g4.slice"(%2) {starts = array<i64: 0, 0>, limits = array<i64: 1, 4>} : (tensor<2x4xf32>) -> tensor<1x4xf32>
    %4 = "g4.reduce"(%2) {kind = "sum", axes = array<i64: 0>, keep = true} : (tensor<2x4xf32>) -> tensor<1x4xf32>
    return %2, %k : tensor<2x4xf32>, tensor<1x8x1x4xf32>
  }
}
"""


@dataclass(frozen=True)
class Malformed:
    """TEXT with `old` replaced by `new` is refused with `message`, pointing at `pointed`."""

    old: str
    new: str
    message: str
    pointed: str
    code: str = "G4C-V010"
    help: str | None = None


MALFORMED = [
    Malformed("module @m", "modul @m", "expected 'module', found 'modul'", "modul @m"),
    Malformed(
        'g4.level = "graph"',
        'g4.level = "grph"',
        "unknown level 'grph'",
        '{g4.level = "grph"',
        help="did you mean graph?",
    ),
    Malformed('g4.level = "graph"', "g4.level = graph", "expected an attribute, found 'graph'", "graph,"),
    Malformed("batch = 1 : i64", "batch = 1.5 : i64", "malformed i64 '1.5'", "1.5"),
    Malformed("batch = 1 : i64", "batch = 1 : i8", "numbers are i64 or f64, got i8", "1 : i8"),
    Malformed("batch = 1 : i64", "batch = 0x7F : f64", "malformed f64 '0x7F'", "0x7F"),
    Malformed("batch = 1 : i64", "level = 1 : i64", "attribute g4.level is given twice", "g4.level = 1"),
    Malformed("batch = 1 : i64", 'batch = ["a", tensor<f32>]', "a list holds strings or types", '"a"'),
    Malformed("batch = 1 : i64", "batch = array<i8: 1>", "arrays hold i64 or i32, found 'i8'", "i8"),
    Malformed("batch = 1 : i64", "batch = array<i64: 1.5>", "expected an integer, found '1.5'", "1.5"),
    Malformed(
        "batch = 1 : i64", "batch = fe32", "expected an attribute, found 'fe32'", "fe32", help="did you mean f32?"
    ),
    Malformed("batch = 1 : i64", "batch = dense<1.5> : tensor<i32>", "malformed i32 '1.5'", "1.5"),
    Malformed("batch = 1 : i64", "batch = dense<nan> : tensor<f32>", "malformed f32 'nan'", "nan"),
    Malformed("batch = 1 : i64", "batch = dense<300> : tensor<i8>", "300 is out of range for i8", "300"),
    Malformed("batch = 1 : i64", "batch = dense<1> : tensor<i1>", "a predicate is true or false, got '1'", "1>"),
    Malformed(
        "batch = 1 : i64", "batch = dense<1.0> : tensor<2xf32>", 'dense data of tensor<2xf32> must be "0x', "1.0"
    ),
    Malformed("batch = 1 : i64", 'batch = dense<"0x00"> : tensor<f32>', "1 bytes of data for tensor<f32>", '"0x00"'),
    Malformed("batch = 1 : i64", 'batch = dense<"0x0"> : tensor<f32>', "dense data in quotes is hexadecimal", '"0x0"'),
    Malformed(
        "batch = 1 : i64", 'batch = dense<"0x02"> : tensor<i1>', "a byte of tensor<i1> is at most 0x01", '"0x02"'
    ),
    Malformed(
        "batch = 1 : i64", 'batch = dense<"0xFF"> : tensor<i4>', "a byte of tensor<i4> is at most 0x0F", '"0xFF"'
    ),
    Malformed("batch = 1 : i64", 'batch = "\\q"', "malformed escape in", '"\\q"'),
    Malformed("batch = 1 : i64", 'batch = "open', "unterminated string", '"open'),
    Malformed("batch = 1 : i64", "batch = ?", "unexpected character '?'", "?"),
    Malformed('sym_name = "w", ', "", "g4.weight needs sym_name (a string) and type", '"g4.weight"'),
    Malformed('sym_name = "w"', 'sym_nme = "w"', "g4.weight needs sym_name (a string) and type", '"g4.weight"'),
    Malformed(
        '"w", type',
        '"w", transfroms = [], type',
        "unknown attribute transfroms",
        '"g4.weight"',
        help="did you mean transforms?",
    ),
    Malformed('"w", type', '"w", transforms = true, type', "transforms are lists", '"g4.weight"'),
    Malformed('"w", type', '"w", value = true, type', "value is dense data", '"g4.weight"'),
    Malformed('"w", type', '"w", sources = ["a", "b"], type', "2 sources and 1 source_types", '"g4.weight"'),
    Malformed(
        '"w", type',
        '"w", sources = [tensor<f32>], type',
        "sources are strings, source_types are",
        '"g4.weight"',
        code="G4C-V011",
    ),
    Malformed(
        '"w", type', '"w", transforms = ["turn"], type', "unknown transform 'turn'", '"g4.weight"', code="G4C-V011"
    ),
    Malformed(
        '"w", type',
        '"w", transforms = ["cast{dtype=bf16}"], type',
        "weight w is declared tensor<4x3xf32>, its sources and transforms give tensor<4x3xbf16>",
        '"g4.weight"',
    ),
    Malformed('sym_name = "k"', 'sym_name = "k", size = 1 : i64', "g4.cache: unknown attribute size", '"g4.cache"'),
    Malformed("tensor<4x3xf32>} : ()", "tensor<4x3xf99>} : ()", "unknown element type 'f99'", "tensor<4x3xf99>"),
    Malformed("tensor<4x3xf32>} : ()", "tensor<?x3xf32>} : ()", "malformed type tensor<?x3xf32>", "tensor<?"),
    Malformed("func.func @layer", "func @layer", "expected 'func.func', found 'func'", "func @layer"),
    Malformed("func.func @decode", "func.func @layer", "function layer is defined twice", "@layer(%x"),
    Malformed(
        "(%x: tensor<2x3xf32>, %k", "(%k: tensor<2x3xf32>, %k", "parameter %k is defined twice", "%k: tensor<1x8"
    ),
    Malformed("{g4.cache = @k}) ->", '{g4.cache = "k"}) ->', "g4.cache is a symbol, got 'k'", "%k: tensor<1x8"),
    Malformed('{g4.name = "y"}) attributes', "{}) attributes", "a result needs g4.name", "tensor<2x3xf32> {}"),
    Malformed(
        'g4.role = "layer"',
        'g4.role = "leyer"',
        "g4.role must be one of program, layer, kernel, got 'leyer'",
        "@layer(%a",
    ),
    Malformed("return %0 : tensor<2x3xf32>", "return", "0 values and 0 types returned, 1 declared", "return"),
    Malformed("return %0 : tensor<2x3xf32>", "return %0 : tensor<2xf32>", "returned as tensor<2xf32>", "return"),
    Malformed('"g4.linear"', '"g4.liner"', "unknown op 'g4.liner'", '"g4.liner"', help="did you mean g4.linear?"),
    Malformed(
        '"g4.linear"(%1, %0)',
        '"g4.linear"(%x1, %0)',
        "%x1 is used but not defined above",
        "%x1",
        help="did you mean %x?",
    ),
    Malformed("%2 = ", "%1 = ", "%1 is defined twice", '"g4.linear"'),
    Malformed("%2 = ", "%2:2 = ", "g4.linear has 1 results, 2 are named", '"g4.linear"'),
    Malformed("%2 = ", "", "g4.linear has 1 results, 0 are named", '"g4.linear"'),
    Malformed(
        "(%1, %0) : (tensor<2x3xf32>, ", "(%1, %0) : (", "g4.linear: operands are (tensor<2x3xf32>, ten", '"g4.linear"'
    ),
    Malformed("-> tensor<2x4xf32> loc", "-> tensor<2x5xf32> loc", "the text says (tensor<2x5xf32>)", '"g4.linear"'),
    Malformed(
        "(%1, %0) : (tensor<2x3xf32>, tensor<4x3xf32>)",
        "(%1) : (tensor<2x3xf32>)",
        "takes (x, w), got 1 op",
        '"g4.linear"',
    ),
    Malformed(
        "(%1, %0) : (tensor<2x3xf32>, ", "(%0, %0) : (tensor<4x3xf32>, ", "results are (tensor<4x4xf32>)", '"g4.linear"'
    ),
    Malformed("-> tensor<2x3xf32>\n    %2", "-> (\n    %2", "expected a type, found '%2'", "%2"),
    Malformed(
        "{weight = @w} : () -> tensor<4x3xf32>",
        "{weight = @w} : () -> ()",
        "has one result, the text says 0",
        '"g4.load',
    ),
    Malformed(", limits = array<i64: 1, 4>", "", "g4.slice: missing attribute limits", '"g4.slice"'),
    Malformed(
        "limits = array",
        "limit = array",
        "g4.slice: unknown attribute limit",
        '"g4.slice"',
        help="did you mean limits?",
    ),
    Malformed("keep = true", "keep = 1 : i64", "attribute keep must be bool, got 1", '"g4.reduce"'),
    Malformed('kind = "sum"', "kind = true", "attribute kind must be str, got True", '"g4.reduce"'),
    Malformed("axes = array<i64: 0>", 'axes = ["0"]', "attribute axes must be tuple[int, ...]", '"g4.reduce"'),
    Malformed(
        "epsilon = 1.0e-06 : f64", "epsilon = 1 : i64", "attribute epsilon must be float, got 1", '"g4.rms_norm"'
    ),
    Malformed(
        "array<i32: 1, 0>", "array<i32: 1>", "needs operandSegmentSizes, one number each for x, w", '"g4.rms_norm"'
    ),
    Malformed("array<i32: 1, 0>", "array<i32: 0, 1>", "operand x is one value, got 0", '"g4.rms_norm"'),
    Malformed("array<i32: 1, 0>", "array<i32: -1, 2>", "takes (x, w), got 1 operands", '"g4.rms_norm"'),
    Malformed("array<i64: 1, 4>", "array<i64: 1, 5>", "axis 1: [0:5] is not within 0:4", '"g4.slice"', code="G4C-V011"),
    Malformed('kind = "sum"', 'kind = "prod"', "unknown kind 'prod'", '"g4.reduce"', code="G4C-V011"),
    Malformed('"f.py":7:0', '"f.py":7', "expected ':', found ')'", "))"),
    Malformed('"f.py":7:0', '"f.py":7.5:0', "expected an integer, found '7.5'", "7.5"),
    Malformed('loc("m.l"', "loc(m.l", "expected 'unknown', found 'm.l'", "m.l"),
    Malformed("  }\n}\n", "  }\n", "expected 'func.func', found the end of the text", ""),
    Malformed("  }\n}\n", "", "expected '}', found the end of the text", ""),
    Malformed("  }\n}\n", "  }\n}\n}", "text after the module's end", "}"),
    Malformed("    return %2", "", "expected a string, found ','", ", %k"),
]
