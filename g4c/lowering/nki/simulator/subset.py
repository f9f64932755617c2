"""The Python subset: what the NKI compiler's parser does not have, found in a kernel's source.

In: a kernel function; its source and that of the plain functions it calls, as far as they are found by name in its
module or closure.
Out: nothing, or the refusal of the first construct that the compiler does not know.
Invariant: only what is documented as unsupported is refused; identity tests with None are accepted, because AWS's own
kernels of the same releases use them.
"""

from __future__ import annotations

import ast
import functools
import inspect
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
_OWN = "g4c.lowering.nki.simulator"
# Functions of packages other than the kernel's own are not followed: a kernel calls them with compile-time values.


def check_source(function: Callable[..., Any]) -> None:
    """Refuse `function`, and the functions it calls, for Python that the compiler does not have."""
    pending, seen = [function], set()
    while pending:
        current = pending.pop()
        if not isinstance(current, types.FunctionType) or current in seen:
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
    called = list(_called(function, definition))
    violations = [*_violations(definition), *_foreign_classes(called)]
    return [(first + node.lineno - 1, what) for node, what in violations], [callee for _, callee in called]


def _violations(definition: ast.FunctionDef) -> Iterator[tuple[Any, str]]:
    """Every construct of a function body that the compiler does not know."""
    for node in ast.walk(definition):
        what = _NODES.get(type(node))
        if what is not None:
            yield node, what
        elif isinstance(node, ast.FunctionDef) and node.args.kwonlyargs:
            yield node, "keyword-only parameters"
        elif isinstance(node, ast.Compare):
            for operator, value in zip(node.ops, node.comparators, strict=True):
                if isinstance(operator, ast.Is | ast.IsNot) and not (_is_none(value) or _is_none(node.left)):
                    yield node, "`is` (use ==)"
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, complex | bytes):
                yield node, f"a {type(node.value).__name__} constant"
            elif type(node.value) is int and not -(2**31) <= node.value < 2**32:
                yield node, f"the 64-bit integer {node.value}"
        elif isinstance(node, ast.Dict):
            for key in node.keys:
                if isinstance(key, ast.Constant) and not isinstance(key.value, str):
                    yield node, "a dictionary with keys that are not strings"
        elif isinstance(node, ast.ClassDef) and node in definition.body:
            yield node, "a class definition inside of a function"


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _foreign_classes(called: list[tuple[ast.Call, Any]]) -> Iterator[tuple[Any, str]]:
    """Instances that a function makes of classes that the compiler cannot take over."""
    for node, callee in called:
        if isinstance(callee, type) and not issubclass(callee, _CLASSES):
            yield node, f"the class {callee.__name__} (classes derive from nl.NKIObject)"


def _called(function: types.FunctionType, definition: ast.FunctionDef) -> Iterator[tuple[ast.Call, Any]]:
    """Functions and classes of the kernel's own package that are called by name."""
    package = function.__module__.partition(".")[0]
    closure = {}
    if function.__closure__:
        closure = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
    for node in ast.walk(definition):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        name = node.func.id
        callee = function.__globals__.get(name)
        if name in closure:
            try:
                callee = closure[name].cell_contents
            except ValueError:
                continue
        if not isinstance(callee, types.FunctionType | type) or callee.__module__.startswith(_OWN):
            continue
        if callee.__module__.partition(".")[0] == package:
            yield node, callee
