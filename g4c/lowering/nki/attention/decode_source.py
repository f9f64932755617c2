"""The source of a decode attention kernel: docstring, constants, the kernel, and the functions that it calls.

In: a `DecodeProblem` and a `DecodeSchedule`.
Out: the `KernelArtifact`; its docstring has the shape, the schedule and the budget that a dry run measured.
Invariant: the source depends on the problem and the schedule alone, but for the budget in its docstring.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import Template
from textwrap import fill

import numpy as np

from g4c.ir.types import TensorType
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.attention import decode_memory as memory
from g4c.lowering.nki.attention import decode_text as templates
from g4c.lowering.nki.attention.decode_body import NL, tuple_of, write_body
from g4c.lowering.nki.attention.decode_masks import chunk_scores, locate, write_masks
from g4c.lowering.nki.attention.decode_problem import DecodeProblem, operands
from g4c.lowering.nki.attention.decode_schedule import (
    BANK,
    DecodeSchedule,
    blocks,
    first_loads,
    pairs,
    parts,
    psum_banks,
    result_rows,
    sbuf_bytes,
    score_columns,
)
from g4c.lowering.nki.attention.meaning import formula, title
from g4c.lowering.nki.simulator.source import load
from g4c.lowering.nki.source_text import SourceText

TARGETS = {2: "trn1", 3: "trn2", 4: "trn3"}


@dataclass(frozen=True)
class Budget:
    """What a dry run of the kernel uses: bytes per partition and banks that live at once."""

    instructions: int
    sbuf: int
    psum: int


def write(problem: DecodeProblem, schedule: DecodeSchedule, generation: int) -> KernelArtifact:
    """The kernel of `schedule`, measured on `generation`."""
    inputs = operands(problem)
    outputs = [("y", inputs[0][1])]
    aliases = []
    if problem.update:
        names = [name for name, _ in inputs]
        for name in ("past_keys", "past_values"):
            aliases.append((names.index(name), len(outputs)))
            outputs.append(inputs[names.index(name)])
    code = _code(problem, schedule)
    budget = measure(code, problem.name, inputs, generation, schedule.cores)
    source = _docstring(problem, schedule, budget, generation) + "\n" + code
    return KernelArtifact(
        "decode_attention",
        problem.name,
        source,
        inputs,
        tuple(outputs),
        tuple(aliases),
        str(schedule),
        cores=schedule.cores,
    )


def measure(
    code: str, name: str, inputs: tuple[tuple[str, TensorType], ...], generation: int, cores: int = 1
) -> Budget:
    """The budget of a kernel's code; of two cores the first one's."""
    arrays = [np.zeros(kind.shape, kind.dtype.numpy) for _, kind in inputs]
    kernel = load(code, name).specialize(TARGETS[generation])
    run = (kernel if cores == 1 else kernel[cores]).run(*arrays, dry=True)
    sbuf, psum = run.peaks[0]
    return Budget(run.instructions[0], round(sbuf.amount), round(psum.amount))


def _docstring(problem: DecodeProblem, schedule: DecodeSchedule, budget: Budget, generation: int) -> str:
    p, own, loads = problem, schedule.own(problem), blocks(problem, schedule.columns)
    computed = formula(p.batch, p.scale, [(segment.kind, segment.keys) for segment in p.segments], p.window)
    update = f" The chunk's keys and values are written into the past, at position mod {p.past}." if p.update else ""
    paragraphs = (
        computed + update,
        f"Schedule: {schedule}. A sequence's keys come in {len(loads)} loads of up to "
        f"{schedule.columns * own.slot * own.itemsize} contiguous bytes per partition, its values in as many. PE "
        "transposes keys; scores are [keys, queries], and all of a part are there before its softmax, while values "
        "come in.",
        f"Budget on NeuronCore-v{generation}: {budget.instructions} instructions; every tile in a place of its own "
        f"takes {sbuf_bytes(own, schedule)} bytes of SBUF per partition and {psum_banks(own, schedule)} PSUM banks; "
        f"what lives at once takes {budget.sbuf} and {budget.psum}.",
    )
    head = f"Decode attention: {title(p.rows, p.heads, p.kv_heads, p.head_dim, p.dtype.mlir)}"
    return f'"""{head}\n\n' + "\n\n".join(fill(paragraph, 118) for paragraph in paragraphs) + '\n"""\n'


def _code(problem: DecodeProblem, schedule: DecodeSchedule) -> str:
    p, dtype = schedule.own(problem), NL[problem.dtype]
    text = SourceText()
    text.add("import nki\nimport nki.isa as nisa\nimport nki.language as nl")
    text.add()
    _constants(text, p, schedule)
    text.add()
    text.add()
    text.add("@nki.jit")
    with text.block(f"def {problem.name}("):
        text.add(", ".join(name for name, _ in operands(p)))
    with text.block("):"):
        text.add(f'"""y [batch, rows, heads, head_dim]{", and the updated cache" if p.update else ""}."""')
        if schedule.cores > 1:
            text.add('assert nl.num_programs() == 2, "each of two cores does a part: launch as kernel[2]"')
        shape = tuple_of(("2 * " if schedule.shares(of) else "") + name for of, name in _Y)
        text.add(f"y = nl.ndarray({shape}, dtype={dtype}, buffer=nl.shared_hbm)")
        write_body(text, p, schedule)
    heads = schedule.shares("heads")
    functions = [memory.FETCH_HEADS if heads else memory.FETCH]
    functions += [memory.ROWS_OF_HEADS, memory.QUERIES_OF_HEADS] if heads else [memory.QUERIES]
    functions += [templates.TRANSPOSE_QUERIES, write_masks(p, schedule.shares("sequences"))]
    if p.chunk:
        functions.append(templates.NEW_ROWS + chunk_scores(p))
    functions += [templates.KEYS, templates.SOFTMAX, templates.VALUES]
    functions.append(templates.STORE + (memory.STORE_HEADS if heads else memory.STORE_ROWS))
    functions += [templates.MERGE] if schedule.parts > 1 else []
    functions += [templates.JOIN] if schedule.shares("keys") else []
    functions += [memory.UPDATE] if p.update else []
    words = {
        "dtype": dtype,
        "mask": "[0, ROWS * HEADS]" if p.row_masks == 1 else "[1, ROWS], [0, HEADS]",
        "visible": ", visible" if p.rows > 1 else "",
        "locate": locate(p, schedule.shares("sequences")),
        "floor": templates.FLOOR if _floor(p, schedule) else "",
        "invert": templates.INVERT if p.chunk else templates.INVERT_FLOOR,
        **_places(schedule),
    }
    filled = [Template(function).substitute(words).strip("\n") for function in functions]
    return "\n\n\n".join([str(text).rstrip("\n"), *filled]) + "\n"


_Y = (("sequences", "BATCH"), ("", "ROWS"), ("heads", "HEADS"), ("", "HEAD_DIM"))  # and what cores may share


def _floor(problem: DecodeProblem, schedule: DecodeSchedule) -> bool:
    """Whether a row may see nothing of a part: of one with the chunk it sees itself, padding included."""
    return not problem.chunk or schedule.parts > 1


def _places(schedule: DecodeSchedule) -> dict[str, str]:
    """Words of the templates that say where in HBM a core has its own."""
    words = {"batch": "BATCH", "slot": "KEY_SIZE", "rows_at": "", "at_rows": "", "at_slot": "", "positions_at": ""}
    if schedule.shares("sequences"):
        before = "nl.program_id(0) * BATCH"
        words |= {"batch": "2 * BATCH", "rows_at": f"{before} * ROWS * HEADS * HEAD_DIM + "}
        words |= {"at_rows": f", offset={before} * ROWS * KEY_SIZE", "positions_at": f", offset={before} * ROWS"}
    if schedule.shares("heads"):
        own = ", offset=nl.program_id(0) * KEY_SIZE"
        words |= {"slot": "2 * KEY_SIZE", "at_rows": own, "at_slot": own}
    return words


def _constants(text: SourceText, problem: DecodeProblem, schedule: DecodeSchedule) -> None:
    p, (rows, heads) = problem, result_rows(problem, schedule)
    ranges = tuple_of(f"({first}, {limit})" for first, limit in parts(p, schedule))
    of_core = "  # of a core" if schedule.cores > 1 and not schedule.shares("keys") else ""
    text.add(f"""
        BATCH, ROWS, HEADS, KV_HEADS, HEAD_DIM = {p.batch}, {p.rows}, {p.heads}, {p.kv_heads}, {p.head_dim}{of_core}
        GROUP = {p.group}  # query heads of a KV head
        KEY_SIZE = {p.slot}  # elements of one key of all KV heads
        WIDTH = {p.width}  # head dims of one contraction
        D_TILES = {p.chunks}  # contractions of one product of q and k
        SCALE = {p.scale!r}
        MASKED = -1.0e30  # the scores of keys that a query does not see
    """)
    if _floor(p, schedule):
        text.add(
            "FLOOR = -1.0e20  # the least maximum: where nothing is seen, weights are exp(SCALE * (MASKED - FLOOR)) = 0"
        )
    if p.window:
        text.add(f"WINDOW = {p.window}  # positions that a query sees, itself included")
    if p.update:
        text.add(f"SLOTS = {p.past}  # of a sequence in a cache")
    text.add()
    text.add(f"""
        SEQUENCES = {schedule.sequences}  # at once
        QUERIES = {schedule.sequences * p.queries}  # rows and heads of these
        TILES = {schedule.tiles}  # loads that are in SBUF at once
        FIRST_LOADS = {first_loads(p, schedule)}  # that are issued before those of queries and positions
        COLUMNS = {schedule.columns}  # keys per partition and load
        PAIRS = {pairs(p)}  # (column, KV head) pairs whose keys are transposed in one step
        KEY_TILES = {schedule.key_tiles}  # banks of transposed keys
        SCALAR_EVERY = 3  # of so many copies of transposed keys, the Scalar Engine does one
        SCORE_COLUMNS = {score_columns(p, schedule)}  # columns of up to 128 keys that have scores at once
        MASK_COLUMNS, MASK_ROWS = {p.mask_columns}, {p.row_masks}  # of stored keys; one mask row: all rows see the same
        RESULT_ROWS, RESULT_HEADS = {rows}, {heads}  # SEQUENCES * ROWS and HEADS, padded so that banks hold whole ones
        PARTS = {ranges}  # ranges of blocks of keys that one softmax is over
    """)
    if p.chunk:
        pitch = p.batch * p.rows + (p.batch * p.rows) % 2
        text.add(f"""
            NEW_PITCH = {pitch}  # rows of the batch, even
            NEW_KEYS = {BANK // (pitch * p.itemsize)}  # of transposed new rows, so many contractions fill a PSUM bank
        """)
