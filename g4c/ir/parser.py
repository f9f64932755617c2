"""Text -> module: the inverse of the printer.

In: text in the form that `print_module` writes (comments, blank lines and spacing are free). Out: a module.
Refuses with G4C-V010, naming line and column, what is not understood; ops are checked as they are built (G4C-V011).
"""

from __future__ import annotations

from collections.abc import Callable

from g4c.ir import ops as _ops  # noqa: F401  (fills the registry)
from g4c.ir.attribute_parser import AttributeParser, parse_type
from g4c.ir.lexer import nearest
from g4c.ir.module import ROLES, Function, Module, Result
from g4c.ir.op import (
    REGISTRY,
    Attribute,
    Dense,
    InvalidOpError,
    Layout,
    Level,
    Loc,
    Op,
    SymbolRef,
    Value,
    attribute_mismatch,
    layout,
)
from g4c.ir.types import TensorType
from g4c.ir.weights import Cache, Source, Weight, parse_transform

__all__ = ["parse_module", "parse_type"]


def parse_module(text: str, *, file: str = "<text>") -> Module:
    """The module that `text` describes. G4cError (V010, V011) names file, line and column of what does not fit."""
    return _Parser(text, file).module()


class _Parser(AttributeParser):
    """module = "module" @name ["attributes" {...}] "{" (weight | cache | function)* "}"."""

    def module(self) -> Module:
        self.expect("module")
        module = Module(self.symbol())
        if self.accept("attributes"):
            at = self.start
            attributes = {key.removeprefix("g4."): value for key, value in self.dictionary().items()}
            level = attributes.pop("level", "graph")
            names = [entry.value for entry in Level]
            if level not in names:
                self.fail(f"unknown level {level!r}; there are {', '.join(names)}", at=at, help=nearest(level, names))
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

    # -- symbols -----------------------------------------------------------------------------------------------------
    def declaration(self, known: tuple[str, ...]) -> tuple[int, dict[str, Attribute], str, TensorType]:
        """`"g4.x"() {sym_name = "...", type = ..., ...} : () -> ()`: offset, all fields, name and type."""
        at, mnemonic = self.start, self.string()
        self.expect("(")
        self.expect(")")
        fields = self.dictionary()
        for mark in (":", "(", ")", "->", "(", ")"):
            self.expect(mark)
        name, type = fields.pop("sym_name", None), fields.pop("type", None)
        if not isinstance(name, str) or not isinstance(type, TensorType):
            self.fail(f"{mnemonic} needs sym_name (a string) and type", at=at)
        for key in fields:
            if key not in known:
                self.fail(f"{mnemonic}: unknown attribute {key}", at=at, help=nearest(key, known))
        return at, fields, name, type

    def weight(self, module: Module) -> None:
        at, fields, name, type = self.declaration(("sources", "source_types", "value", "transforms"))
        value = fields.get("value")
        keys = fields.get("sources", (name,))
        types = fields.get("source_types", (type,))
        transforms = fields.get("transforms", ())
        if not (value is None or isinstance(value, Dense)):
            self.fail("g4.weight: value is dense data", at=at)
        if not isinstance(keys, tuple) or not isinstance(types, tuple) or not isinstance(transforms, tuple):
            self.fail("g4.weight: sources, source_types and transforms are lists", at=at)
        if len(keys) != len(types):
            self.fail(f"g4.weight: {len(keys)} sources and {len(types)} source_types", at=at)
        try:
            sources = () if value is not None else tuple(map(_source, keys, types))
            weight = Weight(name, sources, value, tuple(parse_transform(str(item)) for item in transforms))
            found = weight.type
        except InvalidOpError as error:
            self.fail(f"weight {name}: {error}", code="G4C-V011", at=at)
        if found != type:
            self.fail(f"weight {name} is declared {type}, its sources and transforms give {found}", at=at)
        if name in module.weights:
            self.fail(f"weight {name} is declared twice", at=at)
        module.add_weight(weight)

    def cache(self, module: Module) -> None:
        at, _, name, type = self.declaration(())
        if name in module.caches:
            self.fail(f"cache {name} is declared twice", at=at)
        module.add_cache(Cache(name, type))

    # -- functions ---------------------------------------------------------------------------------------------------
    def function(self, module: Module) -> None:
        self.expect("func.func")
        at = self.start
        function = Function(self.symbol(), "layer")
        if function.name in module.functions:
            self.fail(f"function {function.name} is defined twice", at=at)
        scope: dict[str, Value] = {}
        declared: list[tuple[TensorType, str, str | None]] = []
        self.expect("(")
        self.listed(")", lambda: self.parameter(function, scope))
        self.expect("->")
        self.expect("(")
        self.listed(")", lambda: declared.append(self.declared_result()))
        self.expect("attributes")
        role = self.dictionary().get("g4.role")
        known = next((name for name in ROLES if name == role), None)
        if known is None:
            self.fail(f"function {function.name}: g4.role must be one of {', '.join(ROLES)}, got {role!r}", at=at)
        function.role = known
        self.expect("{")
        while self.token != "return":
            self.op(function, scope)
        self.returned(function, scope, declared)
        self.expect("}")
        module.add_function(function)

    def parameter(self, function: Function, scope: dict[str, Value]) -> None:
        """`%name: type` or `%name: type {g4.cache = @cache}`."""
        at, name = self.start, self.take("value")
        self.expect(":")
        type = self.type()
        attributes = self.dictionary() if self.token == "{" else {}
        if name in scope:
            self.fail(f"parameter {name} is defined twice", at=at)
        scope[name] = function.add_param(name[1:], type, self.cache_of(attributes, at))

    def declared_result(self) -> tuple[TensorType, str, str | None]:
        """`type {g4.name = "name"}` or `type {g4.name = "name", g4.cache = @cache}`."""
        at, type, attributes = self.start, self.type(), self.dictionary()
        name = attributes.get("g4.name")
        if not isinstance(name, str):
            self.fail("a result needs g4.name (a string)", at=at)
        return type, name, self.cache_of(attributes, at)

    def cache_of(self, attributes: dict[str, Attribute], at: int) -> str | None:
        cache = attributes.get("g4.cache")
        if not (cache is None or isinstance(cache, SymbolRef)):
            self.fail(f"g4.cache is a symbol, got {cache!r}", at=at)
        return cache.name if cache is not None else None

    def returned(
        self, function: Function, scope: dict[str, Value], declared: list[tuple[TensorType, str, str | None]]
    ) -> None:
        """`return %a, %b : type, type`."""
        at = self.start
        self.expect("return")
        values: list[Value] = []
        types: list[TensorType] = []
        if self.kind == "value":
            values.append(self.value(scope))
            while self.accept(","):
                values.append(self.value(scope))
            self.expect(":")
            types.append(self.type())
            while self.accept(","):
                types.append(self.type())
        if not len(values) == len(types) == len(declared):
            self.fail(f"{len(values)} values and {len(types)} types returned, {len(declared)} declared", at=at)
        for value, type, (wanted, name, cache) in zip(values, types, declared, strict=True):
            if not value.type == type == wanted:
                self.fail(f"result {name} is {value.type}, returned as {type}, declared as {wanted}", at=at)
            function.results.append(Result(value, name, cache))

    # -- ops ---------------------------------------------------------------------------------------------------------
    def op(self, function: Function, scope: dict[str, Value]) -> None:
        """`%0 = "g4.x"(%a, %b) {key = value} : (type, type) -> type loc(...)`, `%0:2 = ...` for two results."""
        names: list[str] = []
        if self.kind == "value":
            base = self.advance()
            names = [base]
            if self.accept(":"):
                names = [f"{base}#{i}" for i in range(self.integer())]
            self.expect("=")
        at = self.start
        mnemonic = self.string()
        cls = REGISTRY.get(mnemonic)
        if cls is None:
            self.fail(f"unknown op {mnemonic!r}", at=at, help=nearest(mnemonic, REGISTRY))
        operands: list[Value] = []
        inputs: list[TensorType] = []
        outputs: list[TensorType] = []
        self.expect("(")
        self.listed(")", lambda: operands.append(self.value(scope)))
        attributes = self.dictionary() if self.token == "{" else {}
        self.expect(":")
        self.expect("(")
        self.listed(")", lambda: inputs.append(self.type()))
        self.expect("->")
        if self.accept("("):
            self.listed(")", lambda: outputs.append(self.type()))
        else:
            outputs.append(self.type())
        loc = self.location() if self.accept("loc") else Loc()
        if [value.type for value in operands] != inputs:
            found = ", ".join(str(value.type) for value in operands)
            self.fail(f"{mnemonic}: operands are ({found}), the signature says ({', '.join(map(str, inputs))})", at=at)
        op = self.build(cls, operands, attributes, outputs, loc, at)
        if [value.type for value in op.results] != outputs:
            found = ", ".join(str(value.type) for value in op.results)
            self.fail(f"{mnemonic}: results are ({found}), the text says ({', '.join(map(str, outputs))})", at=at)
        if len(names) != len(op.results):
            self.fail(f"{mnemonic} has {len(op.results)} results, {len(names)} are named", at=at)
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
        fields = self.grouped(cls, spec, operands, attributes.pop("operandSegmentSizes", None), at)
        if "types" in spec.signature:
            fields["types"] = tuple(outputs)
        elif "type" in spec.signature:
            if len(outputs) != 1:
                self.fail(f"{cls.mnemonic} has one result, the text says {len(outputs)}", at=at)
            fields["type"] = outputs[0]
        unknown = [name for name in attributes if name not in spec.attributes]
        missing = [name for name in spec.attributes if name not in attributes]
        if unknown:
            help = nearest(unknown[0], spec.attributes)
            self.fail(f"{cls.mnemonic}: unknown attribute {', '.join(unknown)}", at=at, help=help)
        if missing:
            self.fail(f"{cls.mnemonic}: missing attribute {', '.join(missing)}", at=at)
        for name, value in attributes.items():
            mismatch = attribute_mismatch(cls, name, value)
            if mismatch is not None:
                self.fail(f"{cls.mnemonic}: {mismatch}", at=at)
        build: Callable[..., Op] = cls
        try:
            op = build(**fields, **attributes, loc=loc)
            op.verify()
        except InvalidOpError as error:
            self.fail(f"{cls.mnemonic}: {error}", code="G4C-V011", at=at)
        return op

    def grouped(
        self, cls: type[Op], spec: Layout, operands: list[Value], segments: Attribute | None, at: int
    ) -> dict[str, object]:
        """The operand fields: one value each unless `segments` (or the only field's being variadic) says otherwise."""
        counts = [1] * len(spec.operands)
        if spec.segmented:
            if not isinstance(segments, tuple) or len(segments) != len(spec.operands):
                wanted = ", ".join(spec.operands)
                self.fail(f"{cls.mnemonic} needs operandSegmentSizes, one number each for {wanted}", at=at)
            counts = [size if isinstance(size, int) else 0 for size in segments]
        elif spec.optional | spec.variadic:
            counts = [len(operands)]
        if sum(counts) != len(operands) or min(counts, default=0) < 0:
            self.fail(f"{cls.mnemonic} takes ({', '.join(spec.operands)}), got {len(operands)} operands", at=at)
        fields: dict[str, object] = {}
        start = 0
        for name, count in zip(spec.operands, counts, strict=True):
            group = operands[start : start + count]
            start += count
            if name in spec.variadic:
                fields[name] = tuple(group)
            elif count == 1 or (count == 0 and name in spec.optional):
                fields[name] = group[0] if group else None
            else:
                self.fail(f"{cls.mnemonic}: operand {name} is one value, got {count}", at=at)
        return fields

    def value(self, scope: dict[str, Value]) -> Value:
        at, name = self.start, self.take("value")
        if name not in scope:
            self.fail(f"{name} is used but not defined above", at=at, help=nearest(name, scope))
        return scope[name]


def _source(key: object, type: object) -> Source:
    if not isinstance(key, str) or not isinstance(type, TensorType):
        raise InvalidOpError("sources are strings, source_types are types")
    return Source(key, type)
