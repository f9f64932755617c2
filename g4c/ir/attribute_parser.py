"""Text -> attribute values, types and locations: the parts of the text below the level of ops.

In: tokens. Out: values as `format_attribute` prints them. Refuses with G4C-V010 what the printer never writes.
"""

from __future__ import annotations

import re

from g4c.ir.lexer import Lexer, nearest
from g4c.ir.op import Attribute, Dense, Loc, SymbolRef
from g4c.ir.spelling import parse_float, unquote
from g4c.ir.types import DType, TensorType

_DTYPES = {dtype.mlir: dtype for dtype in DType}


def parse_type(text: str) -> TensorType:
    """`tensor<1x2xbf16>` -> TensorType. ValueError where it is none."""
    match = re.fullmatch(r"tensor<((?:\d+x)*)(\w+)>", text.replace(" ", ""), re.ASCII)
    if match is None:
        raise ValueError(f"malformed type {text}")
    if match[2] not in _DTYPES:
        raise ValueError(f"unknown element type {match[2]!r}; there are {', '.join(_DTYPES)}")
    return TensorType(tuple(int(n) for n in match[1].split("x")[:-1]), _DTYPES[match[2]])


class AttributeParser(Lexer):
    """Reads attribute values, types and locations."""

    def symbol(self) -> str:
        at, text = self.start, self.take("symbol")[1:]
        try:
            return unquote(text) if text.startswith('"') else text
        except ValueError as error:
            self.fail(str(error), at=at)

    def type(self) -> TensorType:
        at, text = self.start, self.take("type")
        try:
            return parse_type(text)
        except ValueError as error:
            self.fail(str(error), at=at)

    def location(self) -> Loc:
        """`("path"("file":line:0))`, either part optional; the word `loc` is consumed already."""
        path, file, line = "", "", 0
        self.expect("(")
        if self.kind == "string":
            first = self.string()
            if self.accept("("):
                path = first
                if not self.accept("unknown"):
                    file, line = self.string(), self.line()
                self.expect(")")
            else:
                file, line = first, self.line()
        else:
            self.expect("unknown")
        self.expect(")")
        return Loc(path, file, line)

    def line(self) -> int:
        self.expect(":")
        line = self.integer()
        self.expect(":")
        self.integer()
        return line

    def dictionary(self) -> dict[str, Attribute]:
        """`{key = value, ...}`; keys bare or quoted, each once."""
        entries: dict[str, Attribute] = {}

        def entry() -> None:
            at = self.start
            key = self.string() if self.kind == "string" else self.take("word")
            if key in entries:
                self.fail(f"attribute {key} is given twice", at=at)
            self.expect("=")
            entries[key] = self.attribute()

        self.expect("{")
        self.listed("}", entry)
        return entries

    def attribute(self) -> Attribute:
        match self.kind:
            case "string":
                return self.string()
            case "symbol":
                return SymbolRef(self.symbol())
            case "type":
                return self.type()
            case "number":
                return self.number()
        if self.accept("true"):
            return True
        if self.accept("false"):
            return False
        if self.accept("["):
            return self.sequence()
        if self.accept("array"):
            return self.array()
        if self.accept("dense"):
            return self.dense()
        if self.token not in _DTYPES:
            self.fail(f"expected an attribute, found {self.found}", help=nearest(self.token, _DTYPES))
        return _DTYPES[self.advance()]

    def number(self) -> int | float:
        """`5 : i64` or `1.0e-06 : f64`."""
        at, text = self.start, self.advance()
        self.expect(":")
        kind = self.take("word")
        if kind not in ("i64", "f64"):
            self.fail(f"numbers are i64 or f64, got {kind}", at=at)
        try:
            return int(text) if kind == "i64" else parse_float(text)
        except ValueError:
            self.fail(f"malformed {kind} {text!r}", at=at)

    def sequence(self) -> tuple[str, ...] | tuple[TensorType, ...]:
        """`"a", "b"]`: strings or types, not mixed."""
        at = self.start
        items: list[Attribute] = []
        self.listed("]", lambda: items.append(self.attribute()))
        strings = tuple(item for item in items if isinstance(item, str))
        types = tuple(item for item in items if isinstance(item, TensorType))
        if len(items) not in (len(strings), len(types)):
            self.fail("a list holds strings or types, not both", at=at)
        return strings or types

    def array(self) -> tuple[int, ...]:
        """`<i64: 1, 2>`; the word `array` is consumed already."""
        items: list[int] = []
        self.expect("<")
        if not (self.accept("i64") or self.accept("i32")):
            self.fail(f"arrays hold i64 or i32, found {self.found}")
        if not self.accept(">"):
            self.expect(":")
            self.listed(">", lambda: items.append(self.integer()))
        return tuple(items)

    def dense(self) -> Dense:
        """`<"0x..."> : type` with the tensor's bytes, or `<value> : type` of rank 0; `dense` is consumed already."""
        self.expect("<")
        at, kind, raw = self.start, self.kind, self.advance()
        self.expect(">")
        self.expect(":")
        type = self.type()
        try:
            return _dense_bytes(raw, type) if kind == "string" else _dense_scalar(raw, type)
        except ValueError as error:
            self.fail(str(error), at=at)


def _dense_bytes(literal: str, type: TensorType) -> Dense:
    digits = literal[1:-1]
    if re.fullmatch(r"0x(?:[0-9A-Fa-f]{2})*", digits) is None:
        raise ValueError('dense data in quotes is hexadecimal: "0x0123..."')
    data = bytes.fromhex(digits[2:])
    if len(data) != Dense.length(type):
        raise ValueError(f"{len(data)} bytes of data for {type}, which takes {Dense.length(type)}")
    largest = {DType.PRED: 0x01, DType.S4: 0x0F}.get(type.dtype, 0xFF)
    if max(data, default=0) > largest:
        raise ValueError(f"a byte of {type} is at most 0x{largest:02X}")
    return Dense(type, data)


def _dense_scalar(raw: str, type: TensorType) -> Dense:
    if type.rank != 0:
        raise ValueError(f'dense data of {type} must be "0x..."')
    if type.dtype == DType.PRED:
        if raw not in ("true", "false"):
            raise ValueError(f"a predicate is true or false, got {raw!r}")
        return Dense.scalar(raw == "true", type.dtype)
    number = r"-?\d+(\.\d*)?([eE][-+]?\d+)?" if type.dtype.is_float else r"-?\d+"
    if re.fullmatch(number, raw, re.ASCII) is None:
        raise ValueError(f"malformed {type.dtype.mlir} {raw!r}")
    if type.dtype.is_float:
        return Dense.scalar(float(raw), type.dtype)
    limit = 1 << (type.dtype.bits - 1)
    if not -limit <= int(raw) < limit:
        raise ValueError(f"{raw} is out of range for {type.dtype.mlir}")
    return Dense.scalar(int(raw), type.dtype)
