"""What projections in front of attention compute: (RMS norm +) linear, its columns to one or several results.

In: a kernel function. Out: its `ProjectionProblem`; what a kernel of it takes, gives and is called.
Invariant: all that is no choice, and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from g4c.ir.module import Function
from g4c.ir.ops import RmsNormOp
from g4c.ir.types import DType, TensorType
from g4c.lowering.nki.linear.kernel_file import rows_of


@dataclass(frozen=True)
class ProjectionProblem:
    """outputs = columns of rms_norm(x) @ weight, or of x @ weight where `epsilon` is None.

    `rows`: leading shape of x, whose last axis is `depth`; `widths`: columns of each output, in order. Operands:
    x [*rows, depth], gain [depth] (of a norm with a weight), weight [depth, sum of widths], all of `dtype`.
    """

    rows: tuple[int, ...]
    depth: int
    widths: tuple[int, ...]
    dtype: DType
    epsilon: float | None = None
    gain: bool = True

    @property
    def count(self) -> int:
        """How many rows there are."""
        return math.prod(self.rows)


def from_function(function: Function) -> ProjectionProblem:
    """What a kernel function computes whose params are x, gain (where there is a norm) and weight."""
    x = function.param("x").type
    norms = list(function.ops_of(RmsNormOp))
    return ProjectionProblem(
        rows=x.shape[:-1],
        depth=x.shape[-1],
        widths=tuple(result.value.shape[-1] for result in function.results),
        dtype=x.dtype,
        epsilon=norms[0].epsilon if norms else None,
        gain=not norms or norms[0].w is not None,
    )


def operands(problem: ProjectionProblem) -> tuple[tuple[str, TensorType], ...]:
    """Names and types of what the kernel takes, in order."""
    x = ("x", TensorType((*problem.rows, problem.depth), problem.dtype))
    gain = ("gain", TensorType((problem.depth,), problem.dtype))
    weight = ("weight", TensorType((problem.depth, sum(problem.widths)), problem.dtype))
    return (x, gain, weight) if problem.epsilon is not None and problem.gain else (x, weight)


def results(problem: ProjectionProblem) -> tuple[tuple[str, TensorType], ...]:
    """Names and types of what the kernel gives, in order."""
    names = ["y"] if len(problem.widths) == 1 else [f"y{n}" for n in range(len(problem.widths))]
    shapes = [(*problem.rows, n) for n in problem.widths]
    return tuple((n, TensorType(shape, problem.dtype)) for n, shape in zip(names, shapes, strict=True))


def kernel_name(problem: ProjectionProblem) -> str:
    """What the kernel is called."""
    norm = "projection" if problem.epsilon is None else f"projection_normed{'' if problem.gain else '_plainly'}"
    widths = "_".join(str(width) for width in problem.widths)
    return f"{norm}_r{problem.count}_k{problem.depth}_n{widths}_{problem.dtype.mlir}"


def summary(problem: ProjectionProblem) -> tuple[str, ...]:
    """What the kernel computes."""
    x = "x" if problem.epsilon is None else "rms_norm(x)"
    split = "" if len(problem.widths) == 1 else f", the columns split into {', '.join(map(str, problem.widths))}"
    return (
        f"y = {x} @ weight: {rows_of(problem.count)} of {problem.depth} features to {sum(problem.widths)}{split}, "
        f"{problem.dtype.mlir}.",
    )
