"""Kernels in files, and arguments written as text.

In: the path of a Python file with kernels; texts such as `q=1x2048x8x512xbf16` and `scale=0.125`.
Out: a `Kernel`, and its arguments in order.
Invariant: what is wrong with a file or a text is a coded error (G4C-K050 to K054), not an exception of Python.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Any

from g4c.errors import G4cError
from g4c.errors.suggest import nearest
from g4c.lowering.nki.simulator import dtypes
from g4c.lowering.nki.simulator.diagnostics import Site
from g4c.lowering.nki.simulator.kernel import Kernel
from g4c.lowering.nki.simulator.program import NoValuesError
from g4c.lowering.nki.simulator.source import load

_SHORT = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "s8": "int8",
    "s16": "int16",
    "s32": "int32",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
}
_SHAPE = re.compile(r"(\d+(?:x\d+)*)x([a-z]\w*)")


def load_kernel(path: Path, function: str | None = None) -> Kernel:
    """The kernel `function` of a file; None: its only one.

    Refusals: G4C-K051: the file cannot be run, or has no such kernel, or several and no name was given.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = _kernels(ast.parse(text))
    except (SyntaxError, ValueError) as problem:
        raise G4cError("G4C-K051", f"not a Python file: {problem}", where=str(path)) from problem
    if function is None and len(found) == 1:
        function = found[0]
    if function not in found:
        listing = f"its kernels: {', '.join(found)}" if found else "kernels are functions decorated with @nki.jit"
        if function is None:
            message = f"the file has {len(found)} kernels" if found else "the file has no kernel"
            raise G4cError("G4C-K051", message, where=str(path), help=f"{listing}; choose with --function")
        close = nearest(function, found)
        hint = f"did you mean {close!r}? {listing}" if close else listing
        raise G4cError("G4C-K051", f"the file has no kernel {function!r}", where=str(path), help=hint)
    with python_errors_of(str(path.resolve())):
        return load(text, function, str(path.resolve()))


def _kernels(tree: ast.Module) -> list[str]:
    """The names of the functions that are decorated with `jit`."""

    def decorated(node: ast.expr) -> bool:
        node = node.func if isinstance(node, ast.Call) else node
        return (node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)) == "jit"

    return [n.name for n in tree.body if isinstance(n, ast.FunctionDef) and any(map(decorated, n.decorator_list))]


@contextmanager
def python_errors_of(path: str) -> Iterator[None]:
    """Turn what Python raises in the code of a kernel's file into G4C-K054 at the line that raised it."""
    try:
        yield
    except (G4cError, NoValuesError, KeyboardInterrupt):
        raise
    except Exception as problem:
        lines = [frame.lineno for frame in extract_tb(problem.__traceback__) if frame.filename == path]
        if not lines:
            raise
        where = f"{path}:{lines[-1]}"
        excerpt = Site(path, lines[-1] or 0, "").excerpt()
        raise G4cError("G4C-K054", f"{type(problem).__name__}: {problem}", where=where, excerpt=excerpt) from problem


def parse_arguments(kernel: Kernel, texts: Sequence[str]) -> list[Any]:
    """`NAME=VALUE` texts as the kernel's arguments in order: shapes as ((sizes), dtype), else Python literals.

    Refusals: G4C-K050: a parameter has no argument; G4C-K052: a text is not NAME=VALUE, or the kernel lacks the name.
    """
    parameters = inspect.signature(kernel.func).parameters
    given: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise G4cError("G4C-K052", f"--arg {text!r}", help="--arg NAME=1x2048x8x512xbf16, or --arg NAME=0.125")
        if name not in parameters or name in given:
            what = "twice" if name in given else f"{kernel.__name__} has no parameter {name!r}"
            close = None if name in given else nearest(name, parameters)
            hint = f"did you mean {close!r}? " if close else ""
            raise G4cError("G4C-K052", f"--arg {text!r}: {what}", help=f"{hint}parameters: {', '.join(parameters)}")
        given[name] = parse_value(value, text)
    missing = [name for name, p in parameters.items() if name not in given and p.default is inspect.Parameter.empty]
    if missing:
        shape = f"--arg {missing[0]}=1x2048x8x512xbf16 for a tensor, --arg {missing[0]}=0.125 for a number"
        raise G4cError("G4C-K050", f"{kernel.__name__} needs arguments: {', '.join(missing)}", help=shape)
    return [given.get(name, p.default) for name, p in parameters.items()]


def parse_value(value: str, text: str) -> Any:
    """A shape with its type, or a literal of Python."""
    shape = _SHAPE.fullmatch(value)
    if shape is not None:
        sizes, name = shape.groups()
        dtype = _SHORT.get(name, name)
        if dtype not in dtypes.NUMPY:
            known = sorted(_SHORT)
            close = nearest(name, [*known, *dtypes.NUMPY])
            hint = f"did you mean {close!r}? " if close else ""
            raise G4cError("G4C-K052", f"--arg {text!r}: no type {name!r}", help=f"{hint}types: {', '.join(known)}")
        found = tuple(int(size) for size in sizes.split("x"))
        if 0 in found:
            raise G4cError("G4C-K052", f"--arg {text!r}: a dimension of size 0", help="sizes are at least 1")
        return found, dtypes.NUMPY[dtype]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        hint = "a shape with its type, such as 1x2048x8x512xbf16, or a number, True, False, None, a 'text', a tuple"
        raise G4cError("G4C-K052", f"--arg {text!r}: not a value", help=hint) from None
