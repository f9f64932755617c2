"""The op vocabulary on one page, from the docstrings: `python -m g4c.ir.vocabulary > docs/ops.md`.

In: the registries of ops and of transforms. Out: Markdown. Invariant: every op and every transform is on the page.
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Iterator

from g4c.ir import ops as _ops  # noqa: F401  (fills the registry)
from g4c.ir.op import REGISTRY, Op, layout
from g4c.ir.transform import fields_of
from g4c.ir.weights import TRANSFORMS, Transform

_INTRODUCTION = """\
# Ops

Every op of the IR, from the docstring of its class in `g4c/ir/ops` (`g4.rms_norm` is `RmsNormOp`). How a whole dump is
read is in [ir.md](ir.md).

- In parentheses the operands: `w?` may be absent, `xs...` is any number of values.
- In braces the attributes with their kinds.
- `-> type` where the result's type does not follow from the operands: in the text, the signature gives it.
- Unless an op says otherwise, operands share one element type, floats are computed in f32 and rounded once to the type
  of the result.

This page is generated: `python -m g4c.ir.vocabulary > docs/ops.md`.
"""
_TRANSFORMS = """\
Recorded steps from what a checkpoint stores to what a program loads (`transforms` of a `g4.weight`). They work on the
list of its sources: a step takes the entry `at`, or several from there on, and puts one in their place. `at` and
`count` are not written where they are 0.
"""
# The order of the page; a module that is not named here comes last.
_ORDER = ("structure", "contraction", "attention", "experts", "fused", "indexing", "ordering", "elementwise", "shape")
_KINDS = {"SymbolRef": "@symbol", "Dense": "constant", "tuple[int, ...]": "[int]", "tuple[str, ...]": "[str]"}


def _signature(op: type[Op]) -> str:
    spec = layout(op)
    marks = {**dict.fromkeys(spec.optional, "?"), **dict.fromkeys(spec.variadic, "...")}
    operands = ", ".join(name + marks.get(name, "") for name in spec.operands)
    kinds = {name: kind.__name__ if isinstance(kind, type) else str(kind) for name, kind in spec.kinds.items()}
    attributes = ", ".join(f"{name}: {_KINDS.get(kind, kind)}" for name, kind in kinds.items())
    results = "".join(f" -> {name}" for name in spec.signature)
    return f"{op.mnemonic}({operands})" + (f" {{{attributes}}}" if attributes else "") + results


def _entry(head: str, body: type[Op] | type[Transform]) -> str:
    return f"{head}\n{textwrap.indent(inspect.cleandoc(body.__doc__ or ''), '    ')}\n"


def _rank(module: str) -> int:
    name = module.rpartition(".")[2]
    return _ORDER.index(name) if name in _ORDER else len(_ORDER)


def _lines() -> Iterator[str]:
    yield _INTRODUCTION
    for module in sorted(dict.fromkeys(op.__module__ for op in REGISTRY.values()), key=_rank):
        yield f"## {module.rpartition('.')[2].capitalize()}\n"
        yield inspect.cleandoc(importlib.import_module(module).__doc__ or "") + "\n"
        yield "```text"
        yield "\n".join(_entry(_signature(op), op) for op in REGISTRY.values() if op.__module__ == module) + "```\n"
    yield "## Transforms of weights\n"
    yield _TRANSFORMS
    yield "```text"
    fields = {entry: ",".join(field.name for field in fields_of(entry)) for entry in TRANSFORMS.values()}
    yield "\n".join(_entry(f"{entry.name}{{{names}}}", entry) for entry, names in fields.items()) + "```\n"


def render() -> str:
    """The page."""
    return "\n".join(_lines()).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(render(), end="")
