"""Kernels for the projections in front of attention: (RMS norm +) linear, its columns to one or several results.

In: `ProjectionProblem`. Out: candidates for its `ProjectionSchedule`, and the kernel that one of them makes.
Invariant: every weight is read from HBM once per block of rows; the normalized rows stay in SBUF.
"""

from __future__ import annotations

from dataclasses import dataclass

from g4c.errors import G4cError
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.linear import one_row
from g4c.lowering.nki.linear.kernel_file import (
    SUM_BANKS,
    KernelText,
    make_artifact,
    most_columns,
    row_blocks,
    sbuf_budget,
)
from g4c.lowering.nki.linear.one_row import RowSchedule
from g4c.lowering.nki.linear.projection_problem import (
    ProjectionProblem,
    from_function,
    kernel_name,
    operands,
    results,
    summary,
)
from g4c.lowering.nki.source_text import SourceText

__all__ = ["ProjectionProblem", "ProjectionSchedule", "RowSchedule", "emit", "from_function", "schedules"]

_MOST_SLOTS = 32
_FULL_SPEED = 2048  # columns: 4 KiB of bf16, contiguous in HBM


@dataclass(frozen=True)
class ProjectionSchedule:
    """`rows`: that share one pass over the weights. `stationary`: the weights are, and products have their features on
    the partitions; else x is. `columns`: whose sums are in PSUM together. `slots`: of the ring, each of 256 rows and
    `columns` columns of the weight.
    """

    rows: int
    stationary: bool
    columns: int
    slots: int


def schedules(
    problem: ProjectionProblem, generation: int, cores: int = 1
) -> tuple[ProjectionSchedule | RowSchedule, ...]:
    """Candidates, best guess first. G4C-K040: none fits."""
    found: list[ProjectionSchedule | RowSchedule] = list(one_row.schedules(problem, generation))
    for rows, stationary in _forms(problem.count):
        columns = _columns(sum(problem.widths), rows, stationary)
        free = sbuf_budget(generation) - _resident_bytes(problem, rows, stationary, columns)
        slots = min(_MOST_SLOTS, free // _slot_bytes(problem, columns))
        if slots >= 2:
            found.append(ProjectionSchedule(rows, stationary, columns, slots))
    if not found:
        rows = min(128, problem.count)
        raise G4cError(
            "G4C-K040",
            f"no schedule fits: {rows} rows of {problem.depth} features take "
            f"{_resident_bytes(problem, rows, False, 512)} bytes per partition",
            help="split the contraction",
        )
    return tuple(found)


def _forms(count: int) -> list[tuple[int, bool]]:
    """(rows, stationary): in decode either way, many rows as stationary tiles of x."""
    if count <= 128:
        return [(count, True), (count, False)]
    return [(rows, False) for rows in row_blocks(count)]


def _columns(width: int, rows: int, stationary: bool) -> int:
    """Equal parts that fit the PSUM banks, where it can be of `_FULL_SPEED` columns or more."""
    most = most_columns(rows, (width,)) if stationary else 512 * (SUM_BANKS // -(-rows // 128))
    parts = -(-width // most)
    if width // parts >= 2 * _FULL_SPEED:
        parts = width // _FULL_SPEED
    return width if parts == 1 else min(most, -(-width // parts // 256) * 256)


def _slot_bytes(problem: ProjectionProblem, columns: int) -> int:
    return 2 * columns * problem.dtype.bits // 8


def _resident_bytes(problem: ProjectionProblem, rows: int, stationary: bool, columns: int) -> int:
    """Bytes per partition of all but the ring."""
    size = problem.dtype.bits // 8
    tiles = -(-problem.depth // 128)
    width = sum(problem.widths)
    loaded = -(-rows // 128) * problem.depth * size
    features = tiles * rows * size
    normalized = features + tiles * rows * 4 + 5 * 2048 + 512 + tiles * 4 if problem.epsilon is not None else 0
    result = -(-width // 128) * rows * size + width * size if stationary else 2 * columns * size
    return loaded + features + normalized + result


def emit(problem: ProjectionProblem, schedule: ProjectionSchedule | RowSchedule, generation: int) -> KernelArtifact:
    """The kernel of `schedule`."""
    if isinstance(schedule, RowSchedule):
        return make_artifact(one_row.kernel(problem, schedule), generation)
    kernel = KernelText(
        name=kernel_name(problem),
        summary=summary(problem),
        schedule=_schedule_lines(problem, schedule),
        inputs=operands(problem),
        outputs=results(problem),
        resident=_resident_bytes(problem, schedule.rows, schedule.stationary, schedule.columns)
        + schedule.slots * _slot_bytes(problem, schedule.columns),
        body=_body(problem, schedule, [name for name, _ in results(problem)]),
    )
    return make_artifact(kernel, generation)


def _schedule_lines(problem: ProjectionProblem, schedule: ProjectionSchedule) -> tuple[str, ...]:
    ring = f"a ring of {schedule.slots} slots, 256 x {schedule.columns} each"
    if schedule.stationary:
        order = "weights are stationary, x^T moves past them, products have their features on the partitions"
    else:
        order = "tiles of 128 rows of x^T are stationary, weights move past them, 512 columns at a time"
    return (f"{schedule.rows} rows share a pass over the weights", f"{order}", f"weights stream through {ring}")


def _body(problem: ProjectionProblem, schedule: ProjectionSchedule, names: list[str]) -> str:
    text = SourceText()
    width, count, tiles = sum(problem.widths), problem.count, -(-problem.depth // 128)
    constants = {"ROWS": count, "DEPTH": problem.depth, "WIDTH": width, "BLOCK": schedule.rows}
    constants |= {"COLUMNS": schedule.columns, "SLOTS": schedule.slots}
    for name, value in constants.items():
        text.add(f"{name} = {value}")
    if problem.epsilon is not None:
        text.add(f"EPSILON = {problem.epsilon!r}")
    start = 0
    for name, columns in zip(names, problem.widths, strict=True):
        shape = (*problem.rows, columns)
        text.add(f"{name} = nl.ndarray({shape}, dtype=x.dtype, buffer=nl.shared_hbm)")
    text.add("x_rows = x.reshape((ROWS, DEPTH))")
    text.add("outputs = []")
    for name, columns in zip(names, problem.widths, strict=True):
        text.add(f"outputs.append(({name}.reshape((ROWS, {columns})), {start}))")
        start += columns
    text.add("rows_of_x = load_rows(x_rows, 0, min(BLOCK, ROWS), 0)  # before anything else")
    text.add("ring = make_ring(SLOTS, COLUMNS, x.dtype)")
    text.add(f"banks = make_banks({SUM_BANKS})")
    if problem.epsilon is not None:
        text.add(f"gains = [{'load_vector(gain, 32)' if problem.gain else ''}]")
        text.add("mean = averager(DEPTH)")
    text.add("loads = 0")
    with text.block("for row in range(0, ROWS, BLOCK):"):
        text.add("rows = min(BLOCK, ROWS - row)")
        with text.block("if row > 0:"):
            text.add("rows_of_x = load_rows(x_rows, row, rows, 0)")
        text.add(f"features = nl.ndarray((128, {tiles}, rows), dtype=x.dtype, buffer=nl.sbuf)")
        text.add("rows_to_features(features, rows_of_x)")
        if problem.epsilon is not None:
            text.add(f"normed = nl.ndarray((128, {tiles}, rows), dtype=x.dtype, buffer=nl.sbuf)")
            text.add("normalize(normed, features, DEPTH, rows, gains, EPSILON, mean)")
            text.add("features = normed")
        if schedule.stationary:
            text.add(
                f"""
                products = nl.ndarray((128, {-(-width // 128)}, rows), dtype=x.dtype, buffer=nl.sbuf)
                loads = project_to_features(products, weight, features, rows, ring, loads, banks, COLUMNS)
                store_features(outputs, products, row, rows)
                """
            )
        else:
            text.add("loads = project_to_rows(outputs, weight, features, row, rows, ring, loads, banks, COLUMNS)")
    text.add(f"return {', '.join(names)}")
    return str(text)
