"""Kernels for what a layer adds to its residual stream: O projection, MLP, per-layer gate; one of them, or in turn.

In: `ResidualProblem`. Out: candidates for its `ResidualSchedule`, and the kernel that one of them makes.
Invariant: between load and store everything has its features on the partitions, so that a product is the next one's
operand without a transpose; weights stream through one ring, the next part's while this one's are multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

from g4c.errors import G4cError
from g4c.ir.types import TensorType
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.linear.kernel_file import (
    SUM_BANKS,
    KernelText,
    folds_of,
    load_folds,
    make_artifact,
    most_columns,
    normalize_call,
    passes,
    row_blocks,
    sbuf_budget,
)
from g4c.lowering.nki.linear.residual_problem import (
    ResidualProblem,
    from_function,
    kernel_name,
    operands,
    summary,
)
from g4c.lowering.nki.source_text import SourceText

__all__ = ["ResidualProblem", "ResidualSchedule", "emit", "from_function", "operands", "schedules"]

_MOST_SLOTS = 32
_COLUMNS = (2048, 3072)  # 4 KiB of bf16 and more, contiguous in HBM
_LEAST_SLOTS = 3
_GAINS = {"o_gain": 64, "mlp_gain_in": 96, "mlp_gain": 64, "per_layer_gain": 96}  # and the partition of each


@dataclass(frozen=True)
class ResidualSchedule:
    """`rows`: that share one pass over the weights, all of which move past a stationary tile of the weights.

    `columns`: whose sums are in PSUM together. `slots`: of the ring, each of 256 rows and `columns` columns of a
    weight. `cores`: that share the rows.
    """

    rows: int
    columns: int
    slots: int
    cores: int = 1


def schedules(problem: ResidualProblem, generation: int, cores: int = 1) -> tuple[ResidualSchedule, ...]:
    """Two candidates, best guess first: the largest blocks of rows and columns that fit. G4C-K040: none fits.

    Of `cores` 2 each does half of the rows, where they are many. Few share nothing: every norm is over all columns of
    a product, and every product takes all features of the one before, so that cores would exchange them five times.
    """
    found: list[ResidualSchedule] = []
    usable = sbuf_budget(generation)
    if problem.count <= 128 or problem.count % 2:
        cores = 1
    sizes = row_blocks(problem.count // cores)
    for rows in sizes:
        widths = (problem.width, problem.mlp, problem.per_layer)
        most = min(most_columns(rows, widths), max(widths))
        for columns in sorted({min(most, n) for n in _COLUMNS}, reverse=True):
            slots = min(_MOST_SLOTS, (usable - _resident_bytes(problem, rows)) // _slot_bytes(problem, columns))
            if slots >= _LEAST_SLOTS and len(found) < 2:
                found.append(ResidualSchedule(rows, columns, slots, cores))
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
        summary=summary(problem),
        schedule=_schedule_lines(problem, schedule),
        inputs=operands(problem),
        outputs=(("y", TensorType((*problem.rows, problem.width), problem.dtype)),),
        resident=_resident_bytes(problem, schedule.rows) + schedule.slots * _slot_bytes(problem, schedule.columns),
        body=_body(problem, schedule),
        cores=schedule.cores,
    )
    return make_artifact(kernel, generation)


def _schedule_lines(problem: ResidualProblem, schedule: ResidualSchedule) -> tuple[str, ...]:
    lines = (
        passes(problem.count // schedule.cores, schedule.rows),
        "weights are stationary, x^T moves past them, everything has its features on the partitions",
        f"weights stream through a ring of {schedule.slots} slots, 256 x {schedule.columns} each",
    )
    return lines if schedule.cores == 1 else ("two programs, each of which does half of the rows", *lines)


def _body(problem: ResidualProblem, schedule: ResidualSchedule) -> str:
    text = SourceText()
    width = problem.width
    text.add(f"""
        ROWS = {problem.count}
        WIDTH = {width}
        COLUMNS = {schedule.columns}  # whose sums are in PSUM together
        SLOTS = {schedule.slots}
        EPSILON = {problem.epsilon!r}
        y = nl.ndarray({(*problem.rows, width)}, dtype=hidden.dtype, buffer=nl.shared_hbm)
        y_rows = y.reshape((ROWS, WIDTH))
        hidden_rows = hidden.reshape((ROWS, WIDTH))
    """)
    if problem.attention:
        text.add(f"attended_rows = attended.reshape((ROWS, {problem.attention}))")
    if problem.per_layer:
        text.add(f"per_layer_rows = per_layer_input.reshape((ROWS, {problem.per_layer}))")
    text.add(f"""
        ring = make_ring(SLOTS, COLUMNS, hidden.dtype)
        loads = 0  # of its slots
        banks = make_banks({SUM_BANKS})
    """)
    share = problem.count // schedule.cores
    first, limit = "0", "ROWS"
    if schedule.cores == 2:
        text.add(f"SHARE = {share}  # rows of a core\nassert nl.num_programs() == 2\ncore = nl.program_id(0)")
        first, limit = "core * SHARE", "(core + 1) * SHARE"
    if share <= schedule.rows:
        text.add()
        _add_block(text, problem, first, "ROWS" if schedule.cores == 1 else "SHARE", schedule)
    else:
        _load_vectors(text, problem)
        text.add(f"BLOCK = {schedule.rows}  # rows that share a pass over the weights")
        text.add()
        with text.block(f"for row in range({first}, {limit}, BLOCK):"):
            text.add(f"rows = min(BLOCK, {limit} - row)")
            _add_block(text, problem, "row", "rows", schedule)
    text.add("return y")
    return str(text)


def _load_vectors(text: SourceText, problem: ResidualProblem) -> None:
    """What does not depend on rows."""
    names = dict(operands(problem))
    text.add("mean = averager(WIDTH)")
    for name, place in _GAINS.items():
        if name in names:
            text.add(f"{name}_features = load_vector({name}, place={place})")
    if problem.scaled:
        text.add("scale = load_scalar(scalar)")


def _add_block(text: SourceText, problem: ResidualProblem, row: str, rows: str, schedule: ResidualSchedule) -> None:
    """The rows from `row` on: what they add, part by part. If they are all, vectors are loaded after them."""
    tiles, alone = -(-problem.width // 128), row != "row"
    shared = "EPSILON, mean, ring, loads, banks, COLUMNS"

    def load(name: str, rows_name: str, width: int, place: int) -> None:
        folds = load_folds(schedule.rows, width) if alone else 1
        text.add(f"{name} = load_features({rows_name}, {row}, {rows}, place={place}, folds={folds})")

    load("stream", "hidden_rows", problem.width, 0)
    if problem.attention:
        load("attention", "attended_rows", problem.attention, 32)
    if alone:
        _load_vectors(text, problem)
    if problem.per_layer:
        load("per_layer", "per_layer_rows", problem.per_layer, 0)
    if problem.attention:
        text.add()
        text.add(f"""
            # hidden += rms_norm(attended @ o_proj)
            loads = project_and_add(
                stream, o_proj, attention, {rows}, o_gain_features, {shared}
            )
        """)
    if problem.mlp:
        gain = "mlp_gain_in_features" if problem.gain_in else ""
        text.add()
        text.add(f"""
            # hidden += rms_norm((gelu(x @ gate) * (x @ up)) @ down), x = rms_norm(hidden)
            x = nl.ndarray((128, {tiles}, {rows}), dtype=hidden.dtype, buffer=nl.sbuf)
            {normalize_call("x", "stream", "WIDTH", rows, gain)}
            gated = nl.ndarray((128, {-(-problem.mlp // 128)}, {rows}), dtype=hidden.dtype, buffer=nl.sbuf)
            loads = gated_gelu(gated, gate_up, x, {rows}, ring, loads, banks, COLUMNS)
            loads = project_and_add(
                stream, down, gated, {rows}, mlp_gain_features, {shared}
            )
        """)
    if problem.per_layer:
        text.add()
        text.add(f"""
            # hidden += rms_norm((gelu(hidden @ gate) * per_layer_input) @ projection)
            gated = nl.ndarray((128, {-(-problem.per_layer // 128)}, {rows}), dtype=hidden.dtype, buffer=nl.sbuf)
            loads = gate_per_layer(gated, gate, per_layer, stream, {rows}, ring, loads, banks, COLUMNS)
            loads = project_and_add(
                stream, projection, gated, {rows}, per_layer_gain_features, {shared}
            )
        """)
    text.add()
    if problem.scaled:
        text.add(f"scale_features(stream, WIDTH, {rows}, scale)")
    folds = folds_of(schedule.rows, problem.width) if alone else 1
    text.add(f"store_features([(y_rows, 0)], stream, {row}, {rows}, folds={folds})")
