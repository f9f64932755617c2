"""What a layer adds to its residual stream: O projection, MLP, per-layer gate; one of them, or in turn.

In: a kernel function. Out: its `ResidualProblem`; what a kernel of it takes and is called.
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
class ResidualProblem:
    """hidden + norm(attended @ o), then + norm(mlp(norm(hidden))), then + norm(gate(hidden)), then * scalar.

    `attention`: features of `attended`, 0 where the part is absent; `mlp`: width of the gated MLP, 0 likewise;
    `per_layer`: width of the per-layer input, 0 likewise; `scaled`: whether the layer's scalar comes last; `gain_in`:
    whether the norm in front of the MLP has a weight. `rows`: leading shape of `hidden`. Sums are rounded to `dtype`
    where the stream is.
    Operands, of the parts that there are:
    hidden [*rows, width]; attended [*rows, attention], o_proj [attention, width], o_gain [width];
    mlp_gain_in [width], gate_up [width, 2 mlp], down [mlp, width], mlp_gain [width];
    per_layer_input [*rows, per_layer], gate [width, per_layer], projection [per_layer, width], per_layer_gain [width];
    scalar [1].
    """

    rows: tuple[int, ...]
    width: int
    dtype: DType
    epsilon: float
    attention: int = 0
    mlp: int = 0
    per_layer: int = 0
    scaled: bool = False
    gain_in: bool = True

    @property
    def count(self) -> int:
        """How many rows there are."""
        return math.prod(self.rows)


def from_function(function: Function) -> ResidualProblem:
    """What a kernel function computes: the names of its params say which parts there are, see `ResidualProblem`."""
    kinds = {param.name: param.type for param in function.params}
    hidden = kinds["hidden"]
    return ResidualProblem(
        rows=hidden.shape[:-1],
        width=hidden.shape[-1],
        dtype=hidden.dtype,
        epsilon=next(function.ops_of(RmsNormOp)).epsilon,
        attention=kinds["attended"].shape[-1] if "attended" in kinds else 0,
        mlp=kinds["down"].shape[0] if "down" in kinds else 0,
        per_layer=kinds["per_layer_input"].shape[-1] if "per_layer_input" in kinds else 0,
        scaled="scalar" in kinds,
        gain_in="down" not in kinds or "mlp_gain_in" in kinds,
    )


def operands(problem: ResidualProblem) -> tuple[tuple[str, TensorType], ...]:
    """Names and types of what the kernel takes, in order."""

    def of(*shape: int) -> TensorType:
        return TensorType(shape, problem.dtype)

    width, attention, mlp, per_layer = problem.width, problem.attention, problem.mlp, problem.per_layer
    found = [("hidden", of(*problem.rows, width))]
    if attention:
        found += [("attended", of(*problem.rows, attention)), ("o_proj", of(attention, width)), ("o_gain", of(width))]
    if mlp and problem.gain_in:
        found += [("mlp_gain_in", of(width))]
    if mlp:
        found += [("gate_up", of(width, 2 * mlp)), ("down", of(mlp, width)), ("mlp_gain", of(width))]
    if per_layer:
        found += [("per_layer_input", of(*problem.rows, per_layer)), ("gate", of(width, per_layer))]
        found += [("projection", of(per_layer, width)), ("per_layer_gain", of(width))]
    if problem.scaled:
        found += [("scalar", of(1))]
    return tuple(found)


def kernel_name(problem: ResidualProblem) -> str:
    """What the kernel is called."""
    parts = [("o_proj", problem.attention), ("mlp", problem.mlp), ("per_layer", problem.per_layer)]
    names = "_".join(f"{name}{size}" for name, size in parts if size)
    scaled = "_scaled" if problem.scaled else ""
    scaled += "" if problem.gain_in else "_plainly"
    return f"residual_{names}{scaled}_r{problem.count}_d{problem.width}_{problem.dtype.mlir}"


def summary(problem: ResidualProblem) -> tuple[str, ...]:
    """What the kernel computes, a line per part."""
    lines = [
        f"What a layer adds to its residual stream: {rows_of(problem.count)} of {problem.width}, {problem.dtype.mlir}."
    ]
    if problem.attention:
        lines.append(f"hidden += rms_norm(attended @ o_proj), {problem.attention} features of attention")
    if problem.mlp:
        lines.append(
            f"hidden += rms_norm((gelu(x @ gate) * (x @ up)) @ down), x = rms_norm(hidden), {problem.mlp} wide"
        )
    if problem.per_layer:
        lines.append(
            f"hidden += rms_norm((gelu(hidden @ gate) * per_layer_input) @ projection), {problem.per_layer} wide"
        )
    if problem.scaled:
        lines.append("y = hidden * scalar")
    return tuple(lines)
