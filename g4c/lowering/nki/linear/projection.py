"""Kernels for the projections in front of attention: (RMS norm +) linear, its columns to one or several results.

In: `ProjectionProblem`. Out: candidates for its `ProjectionSchedule`, and the kernel that one of them makes.
Invariant: every weight is read from HBM once per block of rows; the normalized rows stay in SBUF.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from g4c.errors import G4cError
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.linear import one_row
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
    rows_of,
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
_LEAST_PIECE = 128  # columns that are stored together
_FULL_SPEED = 2048  # columns: 4 KiB of bf16, contiguous in HBM


@dataclass(frozen=True)
class ProjectionSchedule:
    """`rows`: that share one pass over the weights. `stationary`: the weights are, and products have their features on
    the partitions; else x is. `columns`: whose sums are in PSUM together. `slots`: of the ring, each of 256 rows and
    `columns` columns of the weight. `shared`: what each of two cores does a half of, "columns" or "rows"; "" where a
    core does all.
    """

    rows: int
    stationary: bool
    columns: int
    slots: int
    shared: str = ""

    @property
    def cores(self) -> int:
        """How many cores share the work."""
        return 2 if self.shared else 1


def schedules(
    problem: ProjectionProblem, generation: int, cores: int = 1
) -> tuple[ProjectionSchedule | RowSchedule, ...]:
    """Candidates, best guess first; with `cores` 2 such that two cores share, if they can. G4C-K040: none fits."""
    halves = _halves(problem) if cores == 2 else []
    found: list[ProjectionSchedule | RowSchedule] = []
    for shared in halves:
        found += _of_a_core(problem, generation, shared)
    if not found:
        found = [*one_row.schedules(problem, generation), *_of_a_core(problem, generation, "")]
    if not found:
        rows = min(128, problem.count)
        raise G4cError(
            "G4C-K040",
            f"no schedule fits: {problem.depth} features of {rows_of(rows)} take "
            f"{_resident_bytes(problem, ProjectionSchedule(rows, False, 512, 0))} bytes per partition",
            help="split the contraction",
        )
    return tuple(found)


def _halves(problem: ProjectionProblem) -> list[str]:
    """What two cores can share: columns, if not too small pieces of the results make up a half; many rows."""
    pieces = sum(problem.widths) % 2 == 0 and _piece(problem) >= _LEAST_PIECE
    return ["columns"] * pieces + ["rows"] * (problem.count > 128 and problem.count % 2 == 0)


def _piece(problem: ProjectionProblem) -> int:
    """Columns: of how many a result is, and a core's half of them all, a multiple."""
    return math.gcd(*problem.widths, sum(problem.widths) // 2)


def _of_a_core(problem: ProjectionProblem, generation: int, shared: str) -> list[ProjectionSchedule]:
    """Candidates for what a core does, all or a half."""
    found = []
    for rows, stationary in _forms(problem.count // 2 if shared == "rows" else problem.count):
        schedule = ProjectionSchedule(rows, stationary, 0, 0, shared)
        schedule = replace(schedule, columns=_columns(_width(problem, schedule), rows, stationary))
        free = sbuf_budget(generation) - _resident_bytes(problem, schedule)
        slots = min(_MOST_SLOTS, free // _slot_bytes(problem, schedule))
        if problem.count <= 128:  # more rows may want those of two parts at once
            parts = -(-_width(problem, schedule) // schedule.columns)
            slots = min(slots, max(2, -(-problem.depth // 256) * parts))
        if slots >= 2:
            found.append(replace(schedule, slots=slots))
    return found


def _forms(count: int) -> list[tuple[int, bool]]:
    """(rows, stationary): in decode either way, many rows as stationary tiles of x."""
    if count <= 128:
        return [(count, True), (count, False)]
    return [(rows, False) for rows in row_blocks(count)]


def _width(problem: ProjectionProblem, schedule: ProjectionSchedule) -> int:
    """Columns that a core computes."""
    return sum(problem.widths) // (2 if schedule.shared == "columns" else 1)


def _columns(width: int, rows: int, stationary: bool) -> int:
    """Equal parts that fit the PSUM banks, where it can be of `_FULL_SPEED` columns or more."""
    most = most_columns(rows, (width,)) if stationary else 512 * (SUM_BANKS // -(-rows // 128))
    parts = -(-width // most)
    if width // parts >= 2 * _FULL_SPEED:
        parts = width // _FULL_SPEED
    return width if parts == 1 else min(most, -(-width // parts // 256) * 256)


def _slot_bytes(problem: ProjectionProblem, schedule: ProjectionSchedule) -> int:
    return 2 * schedule.columns * problem.dtype.bits // 8


def _resident_bytes(problem: ProjectionProblem, schedule: ProjectionSchedule) -> int:
    """Bytes per partition of all but the ring."""
    size, rows, width = problem.dtype.bits // 8, schedule.rows, _width(problem, schedule)
    tiles = -(-problem.depth // 128)
    loaded = -(-rows // 128) * problem.depth * size
    features = tiles * rows * size
    normalized = features + tiles * rows * 4 + 5 * 2048 + 512 + tiles * 4 if problem.epsilon is not None else 0
    if schedule.stationary:
        return loaded + features + normalized + -(-width // 128) * rows * size + width * size
    return loaded + features + normalized + 2 * schedule.columns * size


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
        resident=_resident_bytes(problem, schedule) + schedule.slots * _slot_bytes(problem, schedule),
        body=_body(problem, schedule),
        cores=schedule.cores,
    )
    return make_artifact(kernel, generation)


def _schedule_lines(problem: ProjectionProblem, schedule: ProjectionSchedule) -> tuple[str, ...]:
    if schedule.stationary:
        order = "weights are stationary, x^T moves past them, products have their features on the partitions"
    else:
        order = "tiles of 128 rows of x^T are stationary, weights move past them, 512 columns at a time"
    lines = (
        passes(problem.count // (2 if schedule.shared == "rows" else 1), schedule.rows),
        order,
        f"weights stream through a ring of {schedule.slots} slots, 256 x {schedule.columns} each",
    )
    return (f"two programs, each of which does half of the {schedule.shared}", *lines) if schedule.shared else lines


def _body(problem: ProjectionProblem, schedule: ProjectionSchedule) -> str:
    text = SourceText()
    width = sum(problem.widths)
    text.add(f"ROWS = {problem.count}\nDEPTH = {problem.depth}\nWIDTH = {width}")
    text.add(f"COLUMNS = {schedule.columns}  # whose sums are in PSUM together\nSLOTS = {schedule.slots}")
    if problem.epsilon is not None:
        text.add(f"EPSILON = {problem.epsilon!r}")
    if schedule.shared:
        text.add("assert nl.num_programs() == 2\ncore = nl.program_id(0)")
    for name, kind in results(problem):
        text.add(f"{name} = nl.ndarray({kind.shape}, dtype=x.dtype, buffer=nl.shared_hbm)")
    text.add()
    _add_outputs(text, problem, schedule)
    rows = problem.count // 2 if schedule.shared == "rows" else problem.count
    first, every = ("core * SHARE", "SHARE") if schedule.shared == "rows" else ("0", "ROWS")
    text.add("x_rows = x.reshape((ROWS, DEPTH))")
    if rows <= schedule.rows:
        text.add(f"lines = load_rows(x_rows, {first}, {every}, place=0, folds={load_folds(rows, problem.depth)})")
    text.add(f"""
        ring = make_ring(SLOTS, COLUMNS, x.dtype)
        loads = 0  # of its slots
        banks = make_banks({SUM_BANKS})
    """)
    if problem.epsilon is not None:
        text.add("mean = averager(DEPTH)")
        if problem.gain:
            text.add("gain_features = load_vector(gain, place=32)")
    text.add()
    if rows <= schedule.rows:
        _add_block(text, problem, schedule, first, every)
    else:
        text.add(f"BLOCK = {schedule.rows}  # rows that share a pass over the weights")
        limit = "(core + 1) * SHARE" if schedule.shared == "rows" else "ROWS"
        with text.block(f"for row in range({first}, {limit}, BLOCK):"):
            text.add(f"rows = min(BLOCK, {limit} - row)\nlines = load_rows(x_rows, row, rows, place=0, folds=1)")
            _add_block(text, problem, schedule, "row", "rows")
    text.add(f"return {', '.join(name for name, _ in results(problem))}")
    return str(text)


def _add_outputs(text: SourceText, problem: ProjectionProblem, schedule: ProjectionSchedule) -> None:
    """outputs: where columns go, as pairs of a tensor of rows and its first column."""
    named = [f"{name}.reshape((ROWS, {kind.shape[-1]}))" for name, kind in results(problem)]
    if schedule.shared == "rows":
        text.add(f"SHARE = {problem.count // 2}  # rows of a core")
    if schedule.shared != "columns":
        starts = [sum(problem.widths[:n]) for n in range(len(named))]
        text.add("outputs = []  # and the first column of each")
        for name, start in zip(named, starts, strict=True):
            text.add(f"outputs.append(({name}, {start}))")
        return
    text.add(f"""
        SHARE = WIDTH // 2  # columns of a core, which make up whole pieces of results
        PIECE = {_piece(problem)}
        pieces = []
        for result in [{", ".join(named)}]:
            for start in range(0, result.shape[1], PIECE):
                pieces.append(result[:, start : start + PIECE])
        outputs = []  # of this core, and the first column of each
        for n in range(SHARE // PIECE):
            outputs.append((pieces[core * SHARE // PIECE + n], n * PIECE))
    """)


def _add_block(text: SourceText, problem: ProjectionProblem, schedule: ProjectionSchedule, row: str, rows: str) -> None:
    """The rows from `row` on, whose `lines` are loaded."""
    tiles, width = -(-problem.depth // 128), _width(problem, schedule)
    text.add(f"""
        features = nl.ndarray((128, {tiles}, {rows}), dtype=x.dtype, buffer=nl.sbuf)
        rows_to_features(features, lines)
    """)
    if problem.epsilon is not None:
        text.add(f"""
            normed = nl.ndarray((128, {tiles}, {rows}), dtype=x.dtype, buffer=nl.sbuf)
            {normalize_call("normed", "features", "DEPTH", rows, "gain_features" if problem.gain else "")}
        """)
    x = "features" if problem.epsilon is None else "normed"
    weights = "weight, core * SHARE, SHARE" if schedule.shared == "columns" else "weight, 0, WIDTH"
    kept = "loads = " if row == "row" else ""  # in a loop
    if schedule.stationary:
        text.add(f"""
            products = nl.ndarray((128, {-(-width // 128)}, {rows}), dtype=x.dtype, buffer=nl.sbuf)
            {kept}project_to_features(products, {weights}, {x}, {rows}, ring, loads, banks, COLUMNS)
            store_features(outputs, products, {row}, {rows}, folds={_folds(problem, schedule)})
        """)
    else:
        text.add(f"{kept}project_to_rows(outputs, {weights}, {x}, {row}, {rows}, ring, loads, banks, COLUMNS)")


def _folds(problem: ProjectionProblem, schedule: ProjectionSchedule) -> int:
    """Into how many lines a row of results is folded: of several results, or parts of one, only a row alone is."""
    width, parts = _width(problem, schedule), problem.widths
    if schedule.shared == "columns":
        parts = (_piece(problem), _piece(problem))
    folds = folds_of(schedule.rows, width)
    aligned = schedule.rows == 1 and width == 256 * folds and not any(part % 256 for part in parts)
    return folds if len(parts) == 1 or aligned else 1
