"""Module -> text, in MLIR's generic operation syntax.

In: a module. Out: text that `parse_module` reads back equal and that MLIR tools accept with unregistered dialects
allowed.
Invariant: deterministic; two modules are equal exactly if they print the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

from g4c.ir.module import Function, Module
from g4c.ir.op import Attribute, Dense, Loc, Op, SymbolRef, Value, layout
from g4c.ir.spelling import format_float, format_symbol, is_bare, is_valid_name, quote
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Weight

__all__ = [
    "format_attribute",
    "format_symbol",
    "is_valid_name",
    "print_function",
    "print_module",
    "print_op",
    "structural_hash",
    "value_names",
]


def print_module(module: Module, *, locations: bool = True) -> str:
    """The text of `module`; without `locations` provenance is left out (for comparing structure)."""
    return "\n".join(_module_lines(module, locations)) + "\n"


def structural_hash(module: Module) -> str:
    """SHA-256 of the text without locations: equal for modules that mean the same, op by op."""
    return hashlib.sha256(print_module(module, locations=False).encode()).hexdigest()


def _module_lines(module: Module, locations: bool) -> Iterator[str]:
    attributes: dict[str, Attribute] = {"level": module.level.value, **module.attributes}
    text = ", ".join(f"{_key(f'g4.{key}')} = {format_attribute(value)}" for key, value in attributes.items())
    yield f"module {format_symbol(module.name)} attributes {{{text}}} {{"
    for weight in module.weights.values():
        yield "  " + _weight(weight)
    for cache in module.caches.values():
        yield f'  "g4.cache"() {{sym_name = {quote(cache.name)}, type = {cache.type}}} : () -> ()'
    for function in module.functions.values():
        yield ""
        yield from print_function(function, locations=locations)
    yield "}"


def print_function(function: Function, *, locations: bool = True, indent: str = "  ") -> Iterator[str]:
    """The lines of one function: header, one line per op, return, closing brace."""
    names = value_names(function)
    params = ", ".join(f"{names[p]}: {p.type}{_cache_attribute(p.cache)}" for p in function.params)
    results = ", ".join(
        f"{r.value.type} {{g4.name = {quote(r.name)}"
        + (f", g4.cache = {format_symbol(r.cache)}" if r.cache is not None else "")
        + "}"
        for r in function.results
    )
    yield (
        f"{indent}func.func {format_symbol(function.name)}({params}) -> ({results}) "
        f"attributes {{g4.role = {quote(function.role)}}} {{"
    )
    for op in function.ops:
        yield f"{indent}  {print_op(op, names, locations=locations)}"
    values = ", ".join(names[r.value] for r in function.results)
    types = ", ".join(str(r.value.type) for r in function.results)
    yield f"{indent}  return {values} : {types}" if values else f"{indent}  return"
    yield f"{indent}}}"


def print_op(op: Op, names: dict[Value, str], *, locations: bool = True) -> str:
    """One op on one line. Values that `names` does not hold print as `%?`."""
    lhs = ""
    if op.results:
        base = names.get(op.results[0], "%?").partition("#")[0]
        lhs = f"{base}:{len(op.results)} = " if len(op.results) > 1 else f"{base} = "
    operands = ", ".join(names.get(value, "%?") for value in op.operands)
    attributes = [f"{key} = {format_attribute(value)}" for key, value in op.attributes().items()]
    spec = layout(type(op))
    if spec.segmented:
        counts = [sum(name == field for name, _ in op.named_operands()) for field in spec.operands]
        attributes.append(f"operandSegmentSizes = array<i32: {', '.join(map(str, counts))}>")
    braces = f" {{{', '.join(attributes)}}}" if attributes else ""
    inputs = ", ".join(str(value.type) for value in op.operands)
    outputs = ", ".join(str(value.type) for value in op.results)
    if len(op.results) != 1:
        outputs = f"({outputs})"
    loc = f" {_location(op.loc)}" if locations and op.loc != Loc() else ""
    return f'{lhs}"{op.mnemonic}"({operands}){braces} : ({inputs}) -> {outputs}{loc}'


def value_names(function: Function) -> dict[Value, str]:
    """`%name` for parameters, `%0`, `%1`, ... for results (`%4#0`, `%4#1` where an op has several)."""
    names: dict[Value, str] = {param: f"%{param.name}" for param in function.params}
    for number, op in enumerate(op for op in function.ops if op.results):
        if len(op.results) == 1:
            names[op.results[0]] = f"%{number}"
        else:
            names.update((value, f"%{number}#{i}") for i, value in enumerate(op.results))
    return names


def format_attribute(value: Attribute) -> str:
    """An attribute as MLIR writes it."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value} : i64"
        case float():
            return f"{format_float(value)} : f64"
        case str():
            return quote(value)
        case DType():
            return value.mlir
        case TensorType():
            return str(value)
        case SymbolRef():
            return format_symbol(value.name)
        case Dense():
            return _dense(value)
        case tuple() if value and isinstance(value[0], (str, TensorType)):
            return f"[{', '.join(format_attribute(item) for item in value)}]"
        case tuple():
            return f"array<i64: {', '.join(map(str, value))}>" if value else "array<i64>"
    raise TypeError(f"not an attribute: {value!r}")


def _key(name: str) -> str:
    return name if is_bare(name) else quote(name)


def _dense(value: Dense) -> str:
    """A rank-0 number in decimal, where that is exact; all else as the bytes."""
    if value.type.rank == 0:
        scalar = float(value.array())
        if value.type.dtype == DType.PRED:
            return f"dense<{'true' if scalar else 'false'}> : {value.type}"
        if not value.type.dtype.is_float:
            return f"dense<{int(scalar)}> : {value.type}"
        if math.isfinite(scalar):
            return f"dense<{format_float(scalar)}> : {value.type}"
    return f'dense<"0x{value.data.hex().upper()}"> : {value.type}'


def _weight(weight: Weight) -> str:
    fields = [f"sym_name = {quote(weight.name)}", f"type = {weight.type}"]
    if weight.value is not None:
        fields.append(f"value = {_dense(weight.value)}")
    elif [(s.key, s.type) for s in weight.sources] != [(weight.name, weight.type)]:
        fields.append(f"sources = {format_attribute(tuple(s.key for s in weight.sources))}")
        fields.append(f"source_types = {format_attribute(tuple(s.type for s in weight.sources))}")
    if weight.transforms:
        fields.append(f"transforms = {format_attribute(tuple(map(str, weight.transforms)))}")
    return f'"g4.weight"() {{{", ".join(fields)}}} : () -> ()'


def _cache_attribute(cache: str | None) -> str:
    return "" if cache is None else f" {{g4.cache = {format_symbol(cache)}}}"


def _location(loc: Loc) -> str:
    source = f"{quote(loc.file)}:{loc.line}:0" if loc.file else "unknown"
    return f"loc({quote(loc.path)}({source}))" if loc.path else f"loc({source})"
