"""Kernels for the head: (RMS norm +) projection to the vocabulary + soft cap, as logits or as the best of every tile.

In: `HeadProblem`. Out: candidates for its `HeadSchedule`, and the kernel that one of them makes.
Invariant: the weight is read once per 128 rows; with tiles, no logit but the best 8 of each is written to HBM.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from g4c.errors import G4cError
from g4c.ir.module import Function
from g4c.ir.ops import RmsNormOp, SoftcapOp, TopKOp, TransposeOp
from g4c.ir.types import DType, TensorType
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.linear.kernel_file import (
    NL_DTYPES,
    KernelText,
    load_folds,
    make_artifact,
    normalize_call,
    rows_of,
    sbuf_budget,
)
from g4c.lowering.nki.source_text import SourceText

BEST = 8  # how many of a tile
_MOST_SLOTS = 32
_BANKS = 8  # of 512 columns
_MOST_TILE = 2048


@dataclass(frozen=True)
class HeadProblem:
    """logits = cap * tanh(rms_norm(x) @ weight / cap); no norm where `epsilon` is None, no cap where `cap` is 0.

    `rows`: leading shape of x, whose last axis is `depth`. `tile` 0: the result is logits [*rows, vocabulary] of type
    `result`. Else it is values f32 and indices s32 [tiles, rows, 8]: the largest of every `tile` columns, descending,
    and which columns of the tile they are, equal ones in their order; and sums f32 [tiles, rows, 1] of
    exp(logit - the tile's largest). Logits are rounded to `result` first. `stored`: the weight is [vocabulary, depth],
    as a checkpoint has it and as tokens are looked up in it; up to 128 rows, and wherever there are tiles. Operands: x,
    gain [depth] (of a norm with a weight), weight [depth, vocabulary].
    """

    rows: tuple[int, ...]
    depth: int
    vocabulary: int
    dtype: DType
    cap: float = 0.0
    epsilon: float | None = None
    tile: int = 0
    result: DType = DType.F32
    gain: bool = True
    stored: bool = False

    def __post_init__(self) -> None:
        aligned = self.tile % 256 == 0 or self.tile == self.vocabulary
        if self.tile and (not aligned or not BEST <= self.tile <= _MOST_TILE or self.vocabulary % self.tile):
            raise G4cError(
                "G4C-K041",
                f"the best of tiles of {self.tile} of {self.vocabulary} columns",
                help=f"tiles of equal size, a multiple of 256 up to {_MOST_TILE}, or one of {BEST} columns or more",
            )
        if self.stored and self.count > 128:
            raise G4cError("G4C-K041", f"{self.count} rows of a weight as it is stored")
        if self.tile and not self.stored:
            raise G4cError("G4C-K041", "the best of tiles of a weight that is not as it is stored")

    @property
    def count(self) -> int:
        """How many rows there are."""
        return math.prod(self.rows)

    @property
    def tiles(self) -> int:
        """How many tiles the vocabulary has."""
        return self.vocabulary // self.tile if self.tile else 0


def from_function(function: Function) -> HeadProblem:
    """What a kernel function computes that gives logits or the best of their tiles; its params are x, gain (where there
    is a norm) and weight."""
    x, weight = function.param("x").type, function.param("weight")
    norms = list(function.ops_of(RmsNormOp))
    caps = list(function.ops_of(SoftcapOp))
    tops = list(function.ops_of(TopKOp))
    stored = not any(op.x is weight for op in function.ops_of(TransposeOp))
    return HeadProblem(
        rows=x.shape[:-1],
        depth=x.shape[-1],
        vocabulary=weight.shape[0 if stored else 1],
        dtype=x.dtype,
        cap=caps[0].cap if caps else 0.0,
        epsilon=norms[0].epsilon if norms else None,
        tile=tops[0].x.shape[-1] if tops else 0,
        result=tops[0].x.dtype if tops else function.results[0].value.dtype,
        gain=not norms or norms[0].w is not None,
        stored=stored,
    )


@dataclass(frozen=True)
class HeadSchedule:
    """`columns`: whose sums are in PSUM together, `banks` of them in all; `slots`: of the ring, each of 256 rows and
    `columns` columns. `cores`: that share the vocabulary.
    """

    columns: int
    banks: int
    slots: int
    cores: int = 1


def schedules(problem: HeadProblem, generation: int, cores: int = 1) -> tuple[HeadSchedule, ...]:
    """Candidates, best guess first; of `cores` 2 each does half of the vocabulary, if it can. G4C-K040: none fits."""
    found = []
    usable = sbuf_budget(generation)
    if problem.vocabulary % 512 or (problem.tile and problem.tiles % 2):
        cores = 1
    if problem.stored:
        return _stored_schedules(problem, usable, cores)
    banks = _BANKS if problem.count <= 128 else _BANKS - 2  # more rows are transposed while sums are in use
    for columns in (512 * (banks // 2), 1024):
        slots = min(_MOST_SLOTS, (usable - _resident_bytes(problem, columns)) // _slot_bytes(problem, columns))
        if slots >= 2:
            found.append(HeadSchedule(min(columns, problem.vocabulary // cores), banks, slots, cores))
    if not found:
        raise G4cError("G4C-K040", f"no schedule fits: {problem.depth} features leave no room for weights")
    return tuple(found)


def _stored_schedules(problem: HeadProblem, usable: int, cores: int) -> tuple[HeadSchedule, ...]:
    """As many columns as a PSUM bank has sums of, with tiles a part of one; a slot has 256 of them, whole."""
    columns = 256 * min(8, 256 // problem.count)
    if problem.tile:
        columns = next(
            n for n in range(columns, 0, -256) if problem.tile % n == 0 or problem.tile == problem.vocabulary
        )
    free = usable - _resident_bytes(problem, columns) - 4 * problem.depth * problem.dtype.bits // 8
    slots = min(_MOST_SLOTS, free // _slot_bytes(problem, problem.depth))
    if slots < 2:
        raise G4cError("G4C-K040", f"no schedule fits: {problem.depth} features leave no room for weights")
    return (HeadSchedule(columns, _BANKS, slots, cores),)


def _slot_bytes(problem: HeadProblem, columns: int) -> int:
    return 2 * columns * problem.dtype.bits // 8


def _resident_bytes(problem: HeadProblem, columns: int) -> int:
    """Bytes per partition of all but the ring."""
    size = problem.dtype.bits // 8
    tiles = -(-problem.depth // 128)
    rows = min(128, problem.count)
    features = problem.depth * size + tiles * rows * size
    normalized = tiles * rows * (size + 4) + 5 * 2048 + 512 + tiles * 4 if problem.epsilon is not None else 0
    results = 2 * (max(columns, problem.tile) * problem.result.bits // 8 + 2048)
    best = 2 * problem.tile * (problem.result.bits // 8 + 4) + 256
    return features + normalized + results + best * (problem.tile > 0)


def emit(problem: HeadProblem, schedule: HeadSchedule, generation: int) -> KernelArtifact:
    """The kernel of `schedule`."""
    order = f"{min(128, problem.count)} rows of x^T are stationary, weights move past them, 512 columns at a time"
    resident, width = _resident_bytes(problem, schedule.columns), schedule.columns
    if problem.stored:
        order = "tiles of the weights are transposed on the way, each while the one before is multiplied"
        resident, width = resident + 4 * problem.depth * problem.dtype.bits // 8, problem.depth
    shared = ("two programs, each of which does half of the vocabulary",) if schedule.cores == 2 else ()
    kernel = KernelText(
        name=kernel_name(problem),
        summary=_summary(problem),
        schedule=(*shared, order, f"weights stream through a ring of {schedule.slots} slots, 256 x {width} each"),
        inputs=operands(problem),
        outputs=results(problem),
        resident=resident + schedule.slots * _slot_bytes(problem, width),
        body=_body(problem, schedule),
        cores=schedule.cores,
    )
    return make_artifact(kernel, generation)


def operands(problem: HeadProblem) -> tuple[tuple[str, TensorType], ...]:
    """Names and types of what the kernel takes, in order."""
    x = ("x", TensorType((*problem.rows, problem.depth), problem.dtype))
    gain = ("gain", TensorType((problem.depth,), problem.dtype))
    shape = (problem.vocabulary, problem.depth) if problem.stored else (problem.depth, problem.vocabulary)
    weight = ("weight", TensorType(shape, problem.dtype))
    return (x, gain, weight) if problem.epsilon is not None and problem.gain else (x, weight)


def results(problem: HeadProblem) -> tuple[tuple[str, TensorType], ...]:
    """Names and types of what the kernel gives, in order."""
    if not problem.tile:
        return (("logits", TensorType((*problem.rows, problem.vocabulary), problem.result)),)
    sums = TensorType((problem.tiles, problem.count, 1), DType.F32)
    best = sums.with_shape((problem.tiles, problem.count, BEST))
    return (("values", best), ("indices", best.with_dtype(DType.S32)), ("sums", sums))


def kernel_name(problem: HeadProblem) -> str:
    """What the kernel is called."""
    parts = ["lm_head"]
    parts += [f"best{BEST}_of{problem.tile}"] if problem.tile else []
    parts += ["stored"] if problem.stored else []
    if problem.epsilon is not None:
        parts += ["normed"] if problem.gain else ["normed", "plainly"]
    parts += [f"r{problem.count}", f"k{problem.depth}", f"n{problem.vocabulary}", problem.dtype.mlir]
    return "_".join(parts)


def _summary(problem: HeadProblem) -> tuple[str, ...]:
    x = "x" if problem.epsilon is None else "rms_norm(x)"
    product = f"{x} @ weight{'.T' if problem.stored else ''}"
    logits = f"{problem.cap:g} * tanh({product} / {problem.cap:g})" if problem.cap else product
    what = f"the {BEST} largest of every {problem.tile} of" if problem.tile else "logits ="
    return (
        f"The head: {what} {logits}; {rows_of(problem.count)} of {problem.depth} features, {problem.vocabulary} "
        f"columns, {problem.dtype.mlir}.",
    )


def _body(problem: HeadProblem, schedule: HeadSchedule) -> str:
    text = SourceText()
    text.add(f"""
        ROWS = {problem.count}
        DEPTH = {problem.depth}
        VOCABULARY = {problem.vocabulary}
        COLUMNS = {schedule.columns}  # whose sums are in PSUM together
        SLOTS = {schedule.slots}
        CAP = {problem.cap!r}
    """)
    if problem.epsilon is not None:
        text.add(f"EPSILON = {problem.epsilon!r}")
    if schedule.cores == 2:
        text.add("SHARE = VOCABULARY // 2  # of a core\nassert nl.num_programs() == 2\ncore = nl.program_id(0)")
    for name, kind in results(problem):
        text.add(f"{name} = nl.ndarray({kind.shape}, dtype=nl.{NL_DTYPES[kind.dtype]}, buffer=nl.shared_hbm)")
    _add_results(text, problem, schedule)
    text.add("x_rows = x.reshape((ROWS, DEPTH))")
    text.add(f"ring = make_ring(SLOTS, {'DEPTH' if problem.stored else 'COLUMNS'}, x.dtype)\nloads = 0  # of its slots")
    if not problem.stored:
        text.add(f"banks = make_banks({schedule.banks})")
    text.add()
    if problem.count <= 128:
        folds = load_folds(problem.count, problem.depth)
        text.add(f"features = load_features(x_rows, 0, ROWS, place=0, folds={folds})")
        _add_norm(text, problem)
        _add_block(text, problem, schedule, "0", "ROWS")
    else:
        _add_norm(text, problem)
        with text.block("for row in range(0, ROWS, 128):"):
            text.add("rows = min(128, ROWS - row)\nfeatures = load_features(x_rows, row, rows, place=0, folds=1)")
            _add_block(text, problem, schedule, "row", "rows")
    text.add(f"return {', '.join(name for name, _ in results(problem))}")
    return str(text)


def _add_results(text: SourceText, problem: HeadProblem, schedule: HeadSchedule) -> None:
    """The results as rows, of two cores each one's own."""
    if not problem.tile:
        mine = "[:, core * SHARE : (core + 1) * SHARE]" if schedule.cores == 2 else ""
        text.add(f"logits_rows = logits.reshape((ROWS, VOCABULARY)){mine}")
        return
    count = problem.tiles * problem.count
    mine = f"[core * {count // 2} : (core + 1) * {count // 2}]" if schedule.cores == 2 else ""
    text.add("best = []  # rows of values, indices, sums: a tile after the other")
    for name, kind in results(problem):
        text.add(f"best.append({name}.reshape(({count}, {kind.shape[-1]})){mine})")


def _add_norm(text: SourceText, problem: HeadProblem) -> None:
    """What the norm needs for all rows."""
    if problem.epsilon is not None:
        text.add("mean = averager(DEPTH)")
        if problem.gain:
            text.add("gain_features = load_vector(gain, place=32)")


def _add_block(text: SourceText, problem: HeadProblem, schedule: HeadSchedule, row: str, rows: str) -> None:
    """The rows from `row` on, up to 128, whose features are there."""
    x = "features"
    if problem.epsilon is not None:
        x = "normed"
        text.add(f"""
            normed = nl.ndarray((128, {-(-problem.depth // 128)}, {rows}), dtype=x.dtype, buffer=nl.sbuf)
            {normalize_call("normed", "features", "DEPTH", rows, "gain_features" if problem.gain else "")}
        """)
    kept = "loads = " if row == "row" else ""  # in a loop
    weights = "weight, core * SHARE, SHARE" if schedule.cores == 2 else "weight, 0, VOCABULARY"
    shared = f"{weights}, {x}, {row}, {rows}, CAP, ring, loads"
    if problem.stored:
        found, tile = ("best", str(problem.tile)) if problem.tile else ("[logits_rows]", "COLUMNS")
        text.add(f"""
            {kept}stored_to_rows(
                {found}, {shared}, COLUMNS, {tile}, nl.{NL_DTYPES[problem.result]}
            )
        """)
    else:
        text.add(f"{kept}capped_to_rows(logits_rows, {shared}, banks, COLUMNS)")
