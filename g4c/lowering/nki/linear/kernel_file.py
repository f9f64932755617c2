"""Generated files of the linear family: the functions of `device` that a kernel uses, and the kernel.

In: a kernel's body and what it says of itself. Out: a `KernelArtifact` whose docstring ends in the kernel's budget, as
the simulator counts it in a dry run.
Invariant: a file holds the text of every function that it calls, and of no other.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from g4c.ir.types import DType, TensorType
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.linear.device import (
    epilogues,
    normalization,
    one_row,
    streaming,
    tiles,
    transposition,
    vocabulary,
)
from g4c.lowering.nki.simulator import source
from g4c.lowering.nki.simulator.generation import TARGETS, Generation
from g4c.lowering.nki.source_text import SourceText

FAMILY = "linear"
SUM_BANKS = 6  # of 8 in PSUM; transposes and norms use the others
NL_DTYPES = {DType.BF16: "bfloat16", DType.F32: "float32", DType.S32: "int32"}
_MARGIN = 12 * 1024
_TARGET = {2: "trn1", 3: "trn2", 4: "trn3"}
_HEAD = """
import nki
import nki.isa as nisa
import nki.language as nl
"""


@dataclass(frozen=True)
class KernelText:
    """A kernel before its budget is known.

    `summary`: what it computes; `schedule`: how, one line each; `inputs`, `outputs`: names and types; `resident`: bytes
    per partition of SBUF that its tiles take; `body`: its lines, which end in the return of the outputs; `cores`: 2
    where two programs share the work.
    """

    name: str
    summary: tuple[str, ...]
    schedule: tuple[str, ...]
    inputs: tuple[tuple[str, TensorType], ...]
    outputs: tuple[tuple[str, TensorType], ...]
    resident: int
    body: str
    cores: int = 1


def generation_of(number: int) -> Generation:
    """The generation 2, 3 or 4."""
    return TARGETS[_TARGET[number]]


def rows_of(count: int) -> str:
    """In words."""
    return "one row" if count == 1 else f"{count} rows"


def passes(count: int, rows: int) -> str:
    """How often the weights are read for `count` rows, `rows` at a time."""
    if count <= rows:
        return f"one pass over the weights for {'the row' if count == 1 else f'all {count} rows'}"
    return f"a pass over the weights for every {rows} rows"


def folds_of(rows: int, width: int) -> int:
    """Into how many lines of a multiple of 256 columns a row is folded, so that few rows fill more partitions."""
    if width % 256:
        return 1
    return max(n for n in range(1, width // 256 + 1) if n == 1 or (rows * n <= 128 and (width // 256) % n == 0))


def load_folds(rows: int, width: int) -> int:
    """Likewise for a load: a DMA engine brings 8 lines, short ones slowly, so that up to three rows are not folded."""
    return folds_of(rows, width) if rows > 3 else 1


def normalize_call(target: str, source: str, width: str, rows: str, gain: str) -> str:
    """The call of the device function that normalizes `rows`, without a weight where `gain` is ""."""
    if gain:
        return f"normalize({target}, {source}, {width}, {rows}, {gain}, EPSILON, mean)"
    return f"normalize_plainly({target}, {source}, {width}, {rows}, EPSILON, mean)"


def sbuf_budget(generation: int) -> int:
    """Bytes per partition that a kernel's tiles may take: some are left to neuronx-cc, which places them."""
    return generation_of(generation).sbuf_usable - _MARGIN


def row_blocks(count: int) -> list[int]:
    """Into blocks of how many rows `count` rows may be cut, most first: equal ones of up to 512, in tiles of 128."""
    passes = sorted({-(-count // most) for most in (512, 384, 256, 128)})
    return [min(count, -(-count // (128 * n)) * 128) for n in passes]


def most_columns(rows: int, widths: Iterable[int]) -> int:
    """Of how many columns, in multiples of 256, `SUM_BANKS` hold the sums of `rows` rows, features on the partitions.

    A last tile of less than 128 columns, which some of `widths` have, takes a bank of its own.
    """
    banks = SUM_BANKS - any(width % 128 for width in widths)
    return 128 * banks * (512 // rows) // 256 * 256


def make_artifact(kernel: KernelText, generation: int) -> KernelArtifact:
    """The kernel as a file. The budget in its docstring is that of a dry run under the rules of `generation`."""
    bare = _file(kernel, ())
    arrays = [np.empty(kind.shape, kind.dtype.numpy) for _, kind in kernel.inputs]
    function = source.load(bare, kernel.name).specialize(_TARGET[generation])
    run = (function if kernel.cores == 1 else function[kernel.cores]).run(*arrays, dry=True)
    _, psum = run.peaks[0]
    limit = generation_of(generation).sbuf_usable
    each = " of each program" if kernel.cores == 2 else ""
    budget = (
        f"Budget{each}: {run.instructions[0]} instructions; SBUF {kernel.resident} of {limit} bytes per partition; "
        f"PSUM {psum.amount:.0f} of 8 banks.",
    )
    return KernelArtifact(
        family=FAMILY,
        name=kernel.name,
        source=_file(kernel, budget),
        inputs=kernel.inputs,
        outputs=kernel.outputs,
        schedule="; ".join(kernel.schedule),
        cores=kernel.cores,
    )


def _file(kernel: KernelText, budget: Sequence[str]) -> str:
    """The whole file."""
    text = SourceText()
    paragraphs = [kernel.summary, tuple(f"{line[0].upper()}{line[1:]}." for line in kernel.schedule), budget]
    lines = "\n\n".join("\n".join(_wrap(line) for line in lines) for lines in paragraphs if lines)
    text.add(f'"""{lines}\n"""')
    text.add()
    text.add(_HEAD)
    for part in (*_used_functions(kernel.body), "@nki.jit"):
        text.add()
        text.add()
        text.add(part)
    parameters = ", ".join(name for name, _ in kernel.inputs)
    if len(kernel.name) + len(parameters) > 112:
        parameters = "".join(f"\n    {name}," for name, _ in kernel.inputs) + "\n"
    with text.block(f"def {kernel.name}({parameters}):"):
        text.add(kernel.body)
    return str(text)


def _wrap(line: str) -> str:
    return textwrap.fill(line, 110)


@functools.cache
def _library() -> dict[str, tuple[str, frozenset[str]]]:
    """The text of every function of `device`, in order, and which of them it names."""
    found = {}
    for module in (tiles, transposition, normalization, one_row, streaming, epilogues, vocabulary):
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                found[name] = inspect.getsource(function).strip()
    return {name: (text, _names(text) & found.keys()) for name, text in found.items()}


def _names(text: str) -> frozenset[str]:
    return frozenset(node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name))


def _used_functions(body: str) -> list[str]:
    """The texts of the device functions that a kernel's body calls, and that they call."""
    library = _library()
    used: set[str] = set()
    pending = _names(f"def kernel():\n{textwrap.indent(body, '    ')}") & library.keys()
    while pending:
        used |= pending
        pending = frozenset(callee for name in pending for callee in library[name][1]) - used
    return [text for name, (text, _) in library.items() if name in used]
