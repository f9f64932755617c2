"""Kernels for what a layer adds to its residual stream: O projection, MLP, per-layer gate; one of them, or in turn.

In: `ResidualProblem`. Out: candidates for its `ResidualSchedule`, and the kernel that one of them makes.
Invariant: between load and store everything has its features on the partitions, so that a product is the next one's
operand without a transpose; weights stream through one ring, the next part's while this one's are multiplied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from g4c.errors import G4cError
from g4c.ir.module import Function
from g4c.ir.ops import RmsNormOp
from g4c.ir.types import DType, TensorType
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.linear.kernel_file import (
    SUM_BANKS,
    KernelText,
    make_artifact,
    most_columns,
    row_blocks,
    sbuf_budget,
)
from g4c.lowering.nki.source_text import SourceText

_MOST_SLOTS = 32
_COLUMNS = (2048, 3072)  # 4 KiB of bf16 and more, contiguous in HBM
_LEAST_SLOTS = 3
_GAINS = {"o_gain": 64, "mlp_gain_in": 96, "mlp_gain": 64, "per_layer_gain": 96}  # and the partition of each


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


@dataclass(frozen=True)
class ResidualSchedule:
    """`rows`: that share one pass over the weights, all of which move past a stationary tile of the weights.

    `columns`: whose sums are in PSUM together. `slots`: of the ring, each of 256 rows and `columns` columns of a
    weight.
    """

    rows: int
    columns: int
    slots: int


def schedules(problem: ResidualProblem, generation: int, cores: int = 1) -> tuple[ResidualSchedule, ...]:
    """Two candidates, best guess first: the largest blocks of rows and columns that fit. G4C-K040: none fits."""
    found: list[ResidualSchedule] = []
    usable = sbuf_budget(generation)
    sizes = row_blocks(problem.count)
    for rows in sizes:
        widths = (problem.width, problem.mlp, problem.per_layer)
        most = min(most_columns(rows, widths), max(widths))
        for columns in sorted({min(most, n) for n in _COLUMNS}, reverse=True):
            slots = min(_MOST_SLOTS, (usable - _resident_bytes(problem, rows)) // _slot_bytes(problem, columns))
            if slots >= _LEAST_SLOTS and len(found) < 2:
                found.append(ResidualSchedule(rows, columns, slots))
    if not found:
        raise G4cError(
            "G4C-K040",
            f"no schedule fits: {sizes[-1]} rows take {_resident_bytes(problem, sizes[-1])} bytes per partition, there "
            f"are {usable}",
            help="split the MLP's width",
        )
    return tuple(found)


def _slot_bytes(problem: ResidualProblem, columns: int) -> int:
    return 2 * columns * problem.dtype.bits // 8


def _resident_bytes(problem: ResidualProblem, rows: int) -> int:
    """Bytes per partition of all but the ring: of the part that needs the most of them."""
    size = problem.dtype.bits // 8

    def features(width: int) -> int:
        return -(-width // 128) * rows * size

    stream, gate = features(problem.width), features(problem.per_layer)
    product = -(-problem.width // 128) * rows * 4
    loaded = -(-rows // 128) * (problem.width + problem.attention + problem.per_layer) * size
    gelu = SUM_BANKS * 2048
    most = max(
        loaded + features(problem.attention) + gate,
        features(problem.attention) + gate + product,
        features(problem.width) + gate + max(product, features(problem.mlp) + gelu) if problem.mlp else 0,
        features(problem.mlp) + gate + product,
        2 * gate + max(product, gelu),
        loaded,
    )
    small = 4 * (-(-problem.width // 128) * 4 + 512) + 5 * 2048 + 512 + 512
    return stream + most + small


def emit(problem: ResidualProblem, schedule: ResidualSchedule, generation: int) -> KernelArtifact:
    """The kernel of `schedule`."""
    kernel = KernelText(
        name=kernel_name(problem),
        summary=_summary(problem),
        schedule=_schedule_lines(schedule),
        inputs=operands(problem),
        outputs=(("y", TensorType((*problem.rows, problem.width), problem.dtype)),),
        resident=_resident_bytes(problem, schedule.rows) + schedule.slots * _slot_bytes(problem, schedule.columns),
        body=_body(problem, schedule),
    )
    return make_artifact(kernel, generation)


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


def _summary(problem: ResidualProblem) -> tuple[str, ...]:
    lines = [
        f"What a layer adds to its residual stream: {problem.count} rows of {problem.width}, {problem.dtype.mlir}."
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


def _schedule_lines(schedule: ResidualSchedule) -> tuple[str, ...]:
    return (
        f"{schedule.rows} rows share a pass over the weights",
        "weights are stationary, x^T moves past them, everything has its features on the partitions",
        f"weights stream through a ring of {schedule.slots} slots, 256 x {schedule.columns} each",
    )


def _body(problem: ResidualProblem, schedule: ResidualSchedule) -> str:
    text = SourceText()
    width, tiles = problem.width, -(-problem.width // 128)
    sizes = {"ROWS": problem.count, "WIDTH": width, "BLOCK": schedule.rows, "COLUMNS": schedule.columns}
    for name, value in {**sizes, "SLOTS": schedule.slots, "EPSILON": problem.epsilon}.items():
        text.add(f"{name} = {value!r}")
    text.add(f"y = nl.ndarray({(*problem.rows, width)}, dtype=hidden.dtype, buffer=nl.shared_hbm)")
    text.add("y_rows = y.reshape((ROWS, WIDTH))")
    text.add("hidden_rows = hidden.reshape((ROWS, WIDTH))")
    if problem.attention:
        text.add(f"attended_rows = attended.reshape((ROWS, {problem.attention}))")
    if problem.per_layer:
        text.add(f"per_layer_rows = per_layer_input.reshape((ROWS, {problem.per_layer}))")
    text.add("ring = make_ring(SLOTS, COLUMNS, hidden.dtype)")
    text.add(f"banks = make_banks({SUM_BANKS})")
    text.add("loads = 0")
    with text.block("for row in range(0, ROWS, BLOCK):"):
        text.add("rows = min(BLOCK, ROWS - row)")
        text.add("stream = load_features(hidden_rows, row, rows, 0)")
        if problem.attention:
            text.add("attention = load_features(attended_rows, row, rows, 32)")
        with text.block("if row == 0:"):
            text.add("mean = averager(WIDTH)")
            for name, place in _GAINS.items():
                if name in dict(operands(problem)):
                    text.add(f"{name}_features = load_vector({name}, {place})")
            if problem.scaled:
                text.add("scale = load_scalar(scalar)")
        if problem.per_layer:
            text.add("per_layer = load_features(per_layer_rows, row, rows, 0)")
        shared = "EPSILON, mean, ring, loads, banks, COLUMNS"
        if problem.attention:
            text.add()
            text.add(
                f"""
                loads = project_and_add(
                    stream, o_proj, attention, rows, o_gain_features, {shared}
                )
                """
            )
        if problem.mlp:
            text.add()
            text.add(
                f"""
                x = nl.ndarray((128, {tiles}, rows), dtype=hidden.dtype, buffer=nl.sbuf)
                normalize(x, stream, WIDTH, rows, [{"mlp_gain_in_features" if problem.gain_in else ""}], EPSILON, mean)
                gated = nl.ndarray((128, {-(-problem.mlp // 128)}, rows), dtype=hidden.dtype, buffer=nl.sbuf)
                loads = gated_gelu(gated, gate_up, x, rows, ring, loads, banks, COLUMNS)
                loads = project_and_add(
                    stream, down, gated, rows, mlp_gain_features, {shared}
                )
                """
            )
        if problem.per_layer:
            text.add()
            text.add(
                f"""
                gated = nl.ndarray((128, {-(-problem.per_layer // 128)}, rows), dtype=hidden.dtype, buffer=nl.sbuf)
                loads = gate_per_layer(gated, gate, per_layer, stream, rows, ring, loads, banks, COLUMNS)
                loads = project_and_add(
                    stream, projection, gated, rows, per_layer_gain_features, {shared}
                )
                """
            )
        text.add()
        if problem.scaled:
            text.add("scale_features(stream, WIDTH, rows, scale)")
        text.add("store_features([(y_rows, 0)], stream, row, rows)")
    text.add("return y")
    return str(text)
