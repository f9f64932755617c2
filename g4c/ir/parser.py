"""Text -> module: the inverse of the printer.

In: text in the form that `print_module` writes (comments, blank lines and spacing are free). Out: a module.
Refuses with G4C-V010, naming line and column, what is not understood; ops are checked as they are built (G4C-V011).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NoReturn

from g4c.errors import G4cError
from g4c.ir import ops as _ops  # noqa: F401  (fills the registry)
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import REGISTRY, Attribute, Dense, InvalidOpError, Level, Loc, Op, SymbolRef, Value, layout
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Cache, Source, Weight, parse_transform

_TOKEN = re.compile(
    r"""(?P<space>(?:\s+|//[^\n]*)+)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<value>%[\w$.-]+(?:\#\d+)?)
      | (?P<symbol>@(?:"(?:[^"\\]|\\.)*"|[A-Za-z_][\w$.]*))
      | (?P<type>tensor<[^>]*>)
      | (?P<arrow>->)
      | (?P<number>-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)
      | (?P<word>[A-Za-z_][\w$.]*)
      | (?P<mark>[(){}\[\]<>=:,])""",
    re.VERBOSE,
)


def parse_module(text: str, *, file: str = "<text>") -> Module:
    """The module that `text` describes. G4cError (V010, V011) names file, line and column of what does not fit."""
    return _Parser(text, file).module()


def parse_type(text: str) -> TensorType:
    """`tensor<1x2xbf16>` -> TensorType. ValueError where it is none."""
    match = re.fullmatch(r"tensor<((?:\d+x)*)(\w+)>", text.replace(" ", ""))
    if match is None:
        raise ValueError(f"malformed type {text}")
    return TensorType(tuple(int(n) for n in match[1].split("x")[:-1]), DType(match[2]))


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.position = 0
        self.kind = ""
        self.token = ""
        self.start = 0
        self.advance()

    # -- tokens ---------------------------------------------------------------------------------------------------------
    def advance(self) -> str:
        """Move to the next token; returns the one left behind."""
        left = self.token
        while True:
            self.start = self.position
            if self.position >= len(self.text):
                self.kind, self.token = "end", ""
                return left
            match = _TOKEN.match(self.text, self.position)
            if match is None:
                self.fail(f"unexpected character {self.text[self.position]!r}")
            self.position = match.end()
            if match.lastgroup != "space":
                self.kind, self.token = str(match.lastgroup), match[0]
                return left

    def fail(self, message: str, *, code: str = "G4C-V010", at: int | None = None, help: str | None = None) -> NoReturn:
        at = self.start if at is None else at
        line = self.text.count("\n", 0, at) + 1
        begin = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        source = self.text[begin : end if end >= 0 else len(self.text)]
        column = at - begin
        if len(source) > 160:
            cut = max(0, column - 60)
            source, column = source[cut : cut + 160], column - cut
        excerpt = f"{line:>6} | {source}\n       | {' ' * column}^"
        where = f"{self.file}:{line}:{at - begin + 1}"
        raise G4cError(code, message, where=where, excerpt=excerpt, help=help)

    def expect(self, token: str) -> str:
        if self.token != token or self.kind == "string":
            self.fail(f"expected {token!r}, found {self.token or 'the end of the text'!r}")
        return self.advance()

    def accept(self, token: str) -> bool:
        if self.token == token and self.kind != "string":
            self.advance()
            return True
        return False

    def take(self, kind: str) -> str:
        if self.kind != kind:
            self.fail(f"expected a {kind}, found {self.token or 'the end of the text'!r}")
        return self.advance()

    def listed(self, close: str, item: Callable[[], None]) -> None:
        """Comma-separated items up to `close`, which is consumed."""
        if self.accept(close):
            return
        while True:
            item()
            if self.accept(close):
                return
            self.expect(",")

    # -- grammar --------------------------------------------------------------------------------------------------------
    def module(self) -> Module:
        self.expect("module")
        module = Module(self.symbol())
        if self.accept("attributes"):
            attributes = {key.removeprefix("g4."): value for key, value in self.dictionary().items()}
            level = attributes.pop("level", "graph")
            if level not in [entry.value for entry in Level]:
                self.fail(f"unknown level {level!r}; there are {', '.join(entry.value for entry in Level)}")
            module.level = Level(level)
            module.attributes = attributes
        self.expect("{")
        while not self.accept("}"):
            if self.token == '"g4.weight"':
                self.weight(module)
            elif self.token == '"g4.cache"':
                self.cache(module)
            else:
                self.function(module)
        if self.kind != "end":
            self.fail("text after the module's end")
        return module

    def declaration(self) -> tuple[int, dict[str, Attribute]]:
        at = self.start
        self.advance()
        for mark in "()":
            self.expect(mark)
        fields = self.dictionary()
        for mark in (":", "(", ")", "->", "(", ")"):
            self.expect(mark)
        return at, fields

    def weight(self, module: Module) -> None:
        at, fields = self.declaration()
        name, type, value = fields.get("sym_name"), fields.get("type"), fields.get("value")
        keys = fields.get("sources", (name,))
        types = fields.get("source_types", (type,))
        transforms = fields.get("transforms", ())
        if (
            not isinstance(name, str)
            or not isinstance(type, TensorType)
            or not (value is None or isinstance(value, Dense))
        ):
            self.fail("g4.weight needs sym_name and type", at=at)
        if not isinstance(keys, tuple) or not isinstance(types, tuple) or not isinstance(transforms, tuple):
            self.fail("g4.weight: sources, source_types and transforms are lists", at=at)
        if len(keys) != len(types):
            self.fail(f"g4.weight: {len(keys)} sources and {len(types)} source_types", at=at)
        try:
            sources = () if value is not None else tuple(map(_source, keys, types))
            weight = Weight(name, sources, value, tuple(parse_transform(str(item)) for item in transforms))
            if weight.type != type:
                self.fail(f"weight {name} is declared {type}, its sources and transforms give {weight.type}", at=at)
        except InvalidOpError as error:
            self.fail(f"weight {name}: {error}", code="G4C-V011", at=at)
        if name in module.weights:
            self.fail(f"weight {name} is declared twice", at=at)
        module.add_weight(weight)

    def cache(self, module: Module) -> None:
        at, fields = self.declaration()
        name, type = fields.get("sym_name"), fields.get("type")
        if not isinstance(name, str) or not isinstance(type, TensorType):
            self.fail("g4.cache needs sym_name and type", at=at)
        if name in module.caches:
            self.fail(f"cache {name} is declared twice", at=at)
        module.add_cache(Cache(name, type))

    def function(self, module: Module) -> None:
        self.expect("func.func")
        at = self.start
        function = Function(self.symbol(), "layer")
        if function.name in module.functions:
            self.fail(f"function {function.name} is defined twice", at=at)
        scope: dict[str, Value] = {}

        def parameter() -> None:
            begin, name = self.start, self.take("value")
            self.expect(":")
            type = self.type()
            attributes = self.dictionary() if self.token == "{" else {}
            cache = attributes.get("g4.cache")
            if name in scope:
                self.fail(f"parameter {name} is defined twice", at=begin)
            scope[name] = function.add_param(name[1:], type, cache.name if isinstance(cache, SymbolRef) else None)

        declared: list[tuple[TensorType, str, str | None]] = []

        def result() -> None:
            type, attributes = self.type(), self.dictionary()
            name, cache = attributes.get("g4.name"), attributes.get("g4.cache")
            declared.append((type, str(name or ""), cache.name if isinstance(cache, SymbolRef) else None))

        self.expect("(")
        self.listed(")", parameter)
        self.expect("->")
        self.expect("(")
        self.listed(")", result)
        self.expect("attributes")
        role = self.dictionary().get("g4.role")
        if role not in ("program", "layer"):
            self.fail(f"function {function.name}: g4.role must be program or layer, got {role!r}", at=at)
        function.role = "program" if role == "program" else "layer"
        self.expect("{")
        while self.token != "return":
            self.op(function, scope)
        at = self.start
        self.advance()
        values: list[Value] = []
        types: list[TensorType] = []
        while self.kind == "value":
            values.append(self.value(scope))
            if not self.accept(","):
                break
        if self.accept(":"):
            while True:
                types.append(self.type())
                if not self.accept(","):
                    break
        if not len(values) == len(types) == len(declared):
            self.fail(f"{len(values)} values and {len(types)} types returned, {len(declared)} declared", at=at)
        for value, type, (wanted, name, cache) in zip(values, types, declared, strict=True):
            if not value.type == type == wanted:
                self.fail(f"result {name} is {value.type}, returned as {type}, declared as {wanted}", at=at)
            function.results.append(Result(value, name, cache))
        self.expect("}")
        module.add_function(function)

    def op(self, function: Function, scope: dict[str, Value]) -> None:
        names: list[str] = []
        if self.kind == "value":
            base = self.advance()
            names = [base]
            if self.accept(":"):
                names = [f"{base}#{i}" for i in range(int(self.take("number")))]
            self.expect("=")
        at = self.start
        mnemonic = json.loads(self.take("string"))
        cls = REGISTRY.get(mnemonic)
        if cls is None:
            self.fail(f"unknown op {mnemonic!r}", at=at, help=_nearest(mnemonic))
        operands: list[Value] = []
        self.expect("(")
        self.listed(")", lambda: operands.append(self.value(scope)))
        attributes = self.dictionary() if self.token == "{" else {}
        self.expect(":")
        inputs: list[TensorType] = []
        self.expect("(")
        self.listed(")", lambda: inputs.append(self.type()))
        self.expect("->")
        outputs: list[TensorType] = []
        if self.accept("("):
            self.listed(")", lambda: outputs.append(self.type()))
        else:
            outputs.append(self.type())
        loc = self.location() if self.accept("loc") else Loc()
        if [value.type for value in operands] != inputs:
            found = ", ".join(str(value.type) for value in operands)
            self.fail(f"{mnemonic}: operands are ({found}), the signature says ({', '.join(map(str, inputs))})", at=at)
        op = self.build(cls, operands, attributes, outputs, loc, at)
        if [value.type for value in op.results] != outputs or len(names) != len(outputs):
            found = ", ".join(str(value.type) for value in op.results)
            self.fail(f"{mnemonic}: results are ({found}), the text says ({', '.join(map(str, outputs))})", at=at)
        for name, value in zip(names, op.results, strict=True):
            if name in scope:
                self.fail(f"{name} is defined twice", at=at)
            scope[name] = value
        function.append(op)

    def build(
        self,
        cls: type[Op],
        operands: list[Value],
        attributes: dict[str, Attribute],
        outputs: list[TensorType],
        loc: Loc,
        at: int,
    ) -> Op:
        spec = layout(cls)
        fields: dict[str, object] = {"loc": loc}
        segments = attributes.pop("operandSegmentSizes", None)
        counts = segments if isinstance(segments, tuple) else (1,) * len(spec.operands)
        hints = cls.__dataclass_fields__
        variadic = [name for name in spec.operands if "tuple" in str(hints[name].type)]
        if not spec.segmented and variadic:
            counts = (len(operands),)
        if len(counts) != len(spec.operands) or sum(map(int, counts)) != len(operands):
            self.fail(f"{cls.mnemonic} takes {', '.join(spec.operands)}; got {len(operands)} operands", at=at)
        rest = list(operands)
        for name, count in zip(spec.operands, map(int, counts), strict=True):
            group, rest = rest[:count], rest[count:]
            if name in variadic:
                fields[name] = tuple(group)
            elif count == 1 or (count == 0 and "None" in str(hints[name].type)):
                fields[name] = group[0] if group else None
            else:
                self.fail(f"{cls.mnemonic}: operand {name} is one value, got {count}", at=at)
        for name in spec.signature:
            fields[name] = tuple(outputs) if name == "types" else (outputs or [None])[0]
        unknown = sorted(set(attributes) - set(spec.attributes))
        missing = sorted(set(spec.attributes) - set(attributes))
        if unknown or missing:
            parts = [f"unknown {', '.join(unknown)}"] * bool(unknown) + [f"missing {', '.join(missing)}"] * bool(
                missing
            )
            self.fail(f"{cls.mnemonic}: attributes {' and '.join(parts)}", at=at)
        for name, value in attributes.items():
            wanted = str(hints[name].type)
            if not _fits(value, wanted):
                self.fail(f"{cls.mnemonic}: attribute {name} must be {wanted}, got {value!r}", at=at)
        fields.update(attributes)
        build: Callable[..., Op] = cls
        try:
            op = build(**fields)
            op.verify()
        except InvalidOpError as error:
            self.fail(f"{cls.mnemonic}: {error}", code="G4C-V011", at=at)
        return op

    def value(self, scope: dict[str, Value]) -> Value:
        at, name = self.start, self.take("value")
        if name not in scope:
            self.fail(f"{name} is used but not defined above", at=at)
        return scope[name]

    def symbol(self) -> str:
        text = self.take("symbol")[1:]
        return str(json.loads(text)) if text.startswith('"') else text

    def type(self) -> TensorType:
        at, text = self.start, self.take("type")
        try:
            return parse_type(text)
        except ValueError as error:
            self.fail(str(error), at=at)

    def location(self) -> Loc:
        self.expect("(")
        path, file, line = "", "", 0
        if self.kind == "string":
            first = str(json.loads(self.advance()))
            if self.accept("("):
                path = first
                if not self.accept("unknown"):
                    file, line = str(json.loads(self.take("string"))), self.line()
                self.expect(")")
            else:
                file, line = first, self.line()
        else:
            self.expect("unknown")
        self.expect(")")
        return Loc(path, file, line)

    def line(self) -> int:
        self.expect(":")
        line = int(self.take("number"))
        self.expect(":")
        self.take("number")
        return line

    # -- attributes -----------------------------------------------------------------------------------------------------
    def dictionary(self) -> dict[str, Attribute]:
        entries: dict[str, Attribute] = {}

        def entry() -> None:
            key = self.take("word")
            self.expect("=")
            entries[key] = self.attribute()

        self.expect("{")
        self.listed("}", entry)
        return entries

    def attribute(self) -> Attribute:
        match self.kind:
            case "string":
                return str(json.loads(self.advance()))
            case "symbol":
                return SymbolRef(self.symbol())
            case "type":
                return self.type()
            case "number":
                text = self.advance()
                self.expect(":")
                kind = self.take("word")
                return float(text) if kind == "f64" else int(text)
        if self.accept("true"):
            return True
        if self.accept("false"):
            return False
        if self.accept("["):
            items: list[Attribute] = []
            self.listed("]", lambda: items.append(self.attribute()))
            return tuple(items)  # type: ignore[return-value]  # lists hold strings or types; users check which
        if self.accept("array"):
            return self.array()
        if self.accept("dense"):
            return self.dense()
        if self.kind == "word" and self.token in [dtype.value for dtype in DType]:
            return DType(self.advance())
        self.fail(f"expected an attribute, found {self.token!r}")

    def array(self) -> tuple[int, ...]:
        items: list[int] = []
        self.expect("<")
        self.take("word")
        if not self.accept(">"):
            self.expect(":")
            self.listed(">", lambda: items.append(int(self.take("number"))))
        return tuple(items)

    def dense(self) -> Dense:
        at = self.start
        self.expect("<")
        raw = self.advance()
        self.expect(">")
        self.expect(":")
        type = self.type()
        if raw.startswith('"0x'):
            data = bytes.fromhex(raw[3:-1])
            if len(data) != type.nbytes:
                self.fail(f"{len(data)} bytes of data for {type} ({type.nbytes} bytes)", at=at)
            return Dense(type, data)
        if type.rank != 0:
            self.fail(f'dense data of {type} must be "0x..."', at=at)
        try:
            return Dense.scalar(float(json.loads(raw)), type.dtype)
        except ValueError:
            self.fail(f"malformed dense data {raw}", at=at)


def _source(key: object, type: object) -> Source:
    if not isinstance(key, str) or not isinstance(type, TensorType):
        raise InvalidOpError("sources are strings, source_types are types")
    return Source(key, type)


def _fits(value: Attribute, annotation: str) -> bool:
    match annotation:
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "tuple[int, ...]" | "tuple[str, ...]":
            return isinstance(value, tuple)
    kinds = {"float": float, "bool": bool, "str": str, "SymbolRef": SymbolRef, "Dense": Dense, "DType": DType}
    return isinstance(value, kinds[annotation])


def _nearest(name: str) -> str | None:
    import difflib

    near = difflib.get_close_matches(name, REGISTRY, n=1)
    return f"did you mean {near[0]}?" if near else None
