"""The Python subset: what the NKI compiler's parser does not have, found in a kernel's source.

In: a kernel function; its source and that of the plain functions it calls, as far as they are found by name in its
module or closure.
Out: nothing, or the refusal of the first construct that the compiler does not know.
Invariant: only what is documented as unsupported is refused; identity tests with None are accepted, because AWS's own
kernels of the same releases use them.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import inspect
import operator
import textwrap
import types
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from g4c.lowering.nki.simulator.diagnostics import Site, error
from g4c.lowering.nki.simulator.objects import NKIObject

_RULE = "a kernel's source is parsed by the NKI compiler, which knows a subset of Python"
_NODES: dict[type[ast.AST], str] = {
    ast.Try: "try",
    ast.Yield: "a generator (yield)",
    ast.YieldFrom: "a generator (yield from)",
    ast.GeneratorExp: "a generator expression",
    ast.Await: "await",
    ast.AsyncFor: "async for",
    ast.AsyncWith: "async with",
    ast.AsyncFunctionDef: "async def",
    ast.Set: "a set",
    ast.SetComp: "a set comprehension",
    ast.Global: "global",
    ast.Nonlocal: "nonlocal",
    ast.Match: "match",
}
_CLASSES = (NKIObject, Enum, BaseException)
_METACLASSES = (type, type(Enum))
_BUILTIN = (set, frozenset, complex, bytes, bytearray)
_ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.LShift: operator.lshift,
    ast.Pow: operator.pow,
}
_LARGEST = {ast.LShift: 64, ast.Pow: 64}  # right operands
_OWN = "g4c.lowering.nki.simulator"
# Functions of packages other than the kernel's own are not followed: a kernel calls them with compile-time values.


def check_source(function: Callable[..., Any]) -> None:
    """Refuse `function`, and the functions it calls, for Python that the compiler does not have."""
    pending, seen = [function], set()
    while pending:
        current = pending.pop()
        if not isinstance(current, types.FunctionType) or current in seen or str(current.__module__).startswith(_OWN):
            continue
        seen.add(current)
        findings, callees = _examine(current)
        for line, what in findings:
            site = Site(current.__code__.co_filename, line, current.__name__)
            raise error("G4C-K001", f"{current.__name__} uses {what}", _RULE, site)
        pending += callees


@functools.cache
def _examine(function: types.FunctionType) -> tuple[list[tuple[int, str]], list[Any]]:
    """Findings of one function as (line, what), and the functions that it names."""
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return [], []
    definition = next((n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)), None)
    if definition is None or definition.name != function.__name__:
        return [], []
    named = list(_named(function, definition))
    violations = [*_violations(definition), *_foreign_classes(named)]
    attributes = {node.attr for node in ast.walk(definition) if isinstance(node, ast.Attribute)}
    callees = [function for _, value in named for function in _functions(value, attributes)]
    return sorted((first + node.lineno - 1, what) for node, what in violations), callees


def _violations(definition: ast.FunctionDef) -> Iterator[tuple[Any, str]]:
    """Every construct of a function body that the compiler does not know."""
    dictionaries = _dictionaries(definition)
    for node in ast.walk(definition):
        what = _NODES.get(type(node))
        if what is not None:
            yield node, what
        elif isinstance(node, ast.FunctionDef | ast.Lambda) and node.args.kwonlyargs:
            yield node, "keyword-only parameters"
        elif isinstance(node, ast.Compare):
            for compared, value in zip(node.ops, node.comparators, strict=True):
                if isinstance(compared, ast.Is | ast.IsNot) and not (_is_none(value) or _is_none(node.left)):
                    yield node, "`is` (use ==)"
        elif isinstance(node, ast.Constant) and isinstance(node.value, complex | bytes):
            yield node, f"a {type(node.value).__name__} constant"
        elif isinstance(node, ast.stmt | ast.expr):
            yield from ((node, f"the 64-bit integer {value}") for value in _wide_integers(node))
        if _has_other_keys(node, dictionaries):
            yield node, "a dictionary with keys that are not strings"
        elif isinstance(node, ast.ClassDef) and node in definition.body:
            yield node, "a class definition inside of a function"


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_no_string(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and not isinstance(node.value, str)


def _has_other_keys(node: ast.AST, dictionaries: set[str]) -> bool:
    """Whether a dictionary gets keys here that are no strings, as far as the text says."""
    if isinstance(node, ast.Dict):
        return any(_is_no_string(key) for key in node.keys)
    if isinstance(node, ast.DictComp):
        return _counts(node)
    stored = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and _is_no_string(node.slice)
    return stored and isinstance(node.value, ast.Name) and node.value.id in dictionaries


def _wide_integers(parent: ast.AST) -> Iterator[int]:
    """Values beyond 32 bits of the constant expressions directly below `parent`."""
    if _constant(parent) is None:
        for node in ast.iter_child_nodes(parent):
            value = _constant(node)
            if value is not None and not -(2**31) <= value < 2**32:
                yield value


def _constant(node: ast.AST) -> int | None:
    """The value of an integer constant or of arithmetic on such."""
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _constant(node.operand)
        return None if value is None else -value
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _constant(node.left), _constant(node.right)
        if left is None or right is None or not 0 <= right <= _LARGEST.get(type(node.op), right):
            return None
        return _ARITHMETIC[type(node.op)](left, right)
    return None


def _dictionaries(definition: ast.FunctionDef) -> set[str]:
    """Local names that are dictionaries and nothing else."""
    found, others = set(), set()
    for node in ast.walk(definition):
        if isinstance(node, ast.Assign):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            (found if isinstance(node.value, ast.Dict | ast.DictComp) else others).update(names)
    return found - others


def _counts(node: ast.DictComp) -> bool:
    """Whether the keys are the numbers of a range."""
    ranges = {
        generator.target.id
        for generator in node.generators
        if isinstance(generator.target, ast.Name)
        and isinstance(generator.iter, ast.Call)
        and getattr(generator.iter.func, "id", None) == "range"
    }
    return isinstance(node.key, ast.Name) and node.key.id in ranges


def _foreign_classes(named: list[tuple[ast.expr, Any]]) -> Iterator[tuple[Any, str]]:
    """Classes that a function names and the compiler cannot take over."""
    for node, value in named:
        if not isinstance(value, type):
            continue
        if value in _BUILTIN:
            yield node, f"the type {value.__name__}"
        elif value.__module__ != "builtins":
            own = [base for base in value.__mro__ if base.__module__.partition(".")[0] == _package(value)]
            if not all(issubclass(base, _CLASSES) for base in own):
                yield node, f"the class {value.__name__} (classes derive from nl.NKIObject)"
            elif any("__slots__" in vars(base) for base in own) or type(value) not in _METACLASSES:
                yield node, f"the class {value.__name__} (slots and metaclasses are unknown to the compiler)"


def _package(value: Any) -> str:
    return str(value.__module__).partition(".")[0]


def _functions(value: Any, attributes: set[str]) -> Iterator[Any]:
    """A function, or the methods of a class that are used: those that make an instance, and those in `attributes`."""
    if not isinstance(value, type):
        yield value
        return
    for base in value.__mro__:
        if _package(base) == _package(value):
            for name, member in vars(base).items():
                if name in attributes or name in ("__init__", "__post_init__"):
                    yield getattr(member, "fget", None) or getattr(member, "__func__", member)


def _named(function: types.FunctionType, definition: ast.FunctionDef) -> Iterator[tuple[ast.expr, Any]]:
    """Functions and classes of the kernel's own package, and some of Python's, that the body names."""
    variables: dict[str, Any] = {name: value for name, value in vars(builtins).items() if value in _BUILTIN}
    variables |= function.__globals__
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            variables[name] = cell.cell_contents
    for node in ast.walk(definition):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            value = variables.get(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = variables.get(node.value.id)
            value = getattr(module, node.attr, None) if isinstance(module, types.ModuleType) else None
        else:
            continue
        value = inspect.unwrap(value) if callable(value) and not isinstance(value, type) else value
        if not isinstance(value, types.FunctionType | type):
            continue
        if value in _BUILTIN or _package(value) == _package(function):
            yield node, value
