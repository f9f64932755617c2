"""The functions of a decode attention kernel that deal with positions: masks, and where the chunk's rows are written.

In: a `DecodeProblem`. Out: text that `decode_source` puts into the kernel's file.
Invariant: what is seen is decided by positions alone: 0 <= held <= position, and held > position - window. Of the past,
held <= position is known, and of the chunk what its row numbers say.
"""

from __future__ import annotations

from string import Template

from g4c.lowering.nki.attention import decode_memory as memory
from g4c.lowering.nki.attention import decode_text as templates
from g4c.lowering.nki.attention.decode_problem import DecodeProblem
from g4c.lowering.nki.source_text import SourceText


def write_masks(problem: DecodeProblem, halves: bool) -> str:
    """The functions that load positions and say which stored keys a row does not see.

    `halves`: two cores share the sequences, of which these are one's.
    """
    p, text, column = problem, SourceText(), 0
    stored = {name: segment for name, segment in p.labels.items() if name != "chunk"}
    held = ", ".join(f"{name}_held" for name in stored)
    mixed: list[tuple[int, int]] = []
    with text.block(f"def load_positions(positions, {held}):"):
        text.add('''
            """positions [1, row] and those held by stored keys [128, sequence, column], -1 where there is no key."""
            rows = BATCH * ROWS
            wanted = nl.ndarray((1, rows), dtype=nl.int32, buffer=nl.sbuf)
            nisa.dma_copy(dst=wanted, src=positions.ap([[rows, 1], [1, rows]]$positions_at))
            held = nl.ndarray((128, BATCH, MASK_COLUMNS), dtype=nl.int32, buffer=nl.sbuf)
        ''')
        for name, segment in stored.items():
            count, first = segment.columns, column
            start = f"nl.program_id(0) * BATCH * {segment.keys}" if halves else ""
            if count:
                text.add(f"""
                    pattern = [[{count}, 128], [{segment.keys}, BATCH], [1, {count}]]
                    keys = {name}_held.ap(pattern{start and f", offset={start}"})
                    nisa.dma_copy(dst=held[:, :, {column}:{column + count}], src=keys)
                """)
                column += count
            if segment.tail:
                text.add(f"""
                    nisa.memset(dst=held[:, :, {column}], value=-1)
                    tail = [[1, {segment.tail}], [{segment.keys}, BATCH], [1, 1]]
                    keys = {name}_held.ap(tail, offset={start and f"{start} + "}{128 * count})
                    nisa.dma_copy(dst=held[:{segment.tail}, :, {column}], src=keys)
                """)
                column += 1
            mixed += [(first, column)] if segment.kind == "mixed" else []
        text.add("return wanted, held")
    text.add()
    text.add()
    with text.block("def make_masks(positions, held, ones):"):
        text.add('''
            """seen [128, sequence, column, row]: 1: a row sees a stored key; valid [128, row]: 1.0: no padding."""
            rows = BATCH * ROWS
            numbers = nl.ndarray((1, rows), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_copy(dst=numbers, src=positions)
            wanted = nl.ndarray((128, rows), dtype=nl.float32, buffer=nl.psum)  # on every partition
            nisa.nc_matmul(dst=wanted, stationary=ones[:1], moving=numbers, accumulate=False)
            valid = nl.ndarray((128, rows), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_scalar(dst=valid, data=wanted, op0=nl.greater_equal, operand0=0.0)
            seen = nl.ndarray((128, BATCH, MASK_COLUMNS, MASK_ROWS), dtype=nl.uint8, buffer=nl.sbuf)
        ''')
        if not p.window and not mixed:
            text.add("nisa.tensor_scalar(dst=seen, data=held, op0=nl.greater_equal, operand0=0.0)")
        else:
            _row_masks(text, p, mixed)
        text.add("return seen, valid")
    return "\n" + str(text)


def _row_masks(text: SourceText, problem: DecodeProblem, mixed: list[tuple[int, int]]) -> None:
    if problem.window:
        text.add("""
            oldest = nl.ndarray((128, rows), dtype=nl.float32, buffer=nl.sbuf)  # what lies behind the window
            behind = 1.0 * WINDOW
            nisa.tensor_scalar(dst=oldest, data=wanted, op0=nl.subtract, operand0=behind, op1=nl.maximum, operand1=-1.0)
        """)
    if mixed:
        text.add("""
            newest = nl.ndarray((128, rows), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_copy(dst=newest, src=wanted)
        """)
    low = "oldest[:, n : n + 1]" if problem.window else "-1.0"
    with text.block("for sequence in range(BATCH):"), text.block("for row in range(ROWS):"):
        text.add("n = sequence * ROWS + row")
        text.add("mask = seen[:, sequence, :, row]")
        text.add(f"nisa.tensor_scalar(dst=mask, data=held[:, sequence], op0=nl.greater, operand0={low})")
        for first, limit in mixed:
            text.add(f"""
                mask = seen[:, sequence, {first}:{limit}, row]
                nisa.scalar_tensor_tensor(
                    dst=mask,
                    data=held[:, sequence, {first}:{limit}],
                    op0=nl.less_equal,
                    operand0=newest[:, n : n + 1],
                    op1=nl.multiply,
                    operand1=mask,
                )
            """)


def locate(problem: DecodeProblem, halves: bool) -> str:
    """Statements that make `index` of `position`; `halves`: two cores share the sequences, of which these are one's."""
    several = problem.batch > 1 or halves
    offsets = memory.SEQUENCE_OFFSETS if several else ""
    if problem.past & (problem.past - 1) == 0:
        found = memory.LOCATE_POWER + offsets + (memory.ADD_POWER if several else "")
    else:
        found = memory.LOCATE + offsets + (memory.ADD if several else "")
    first = ", offset=nl.program_id(0) * BATCH * ROWS" if halves else ""
    return Template(found).substitute(first_row=first, all="2 * BATCH" if halves else "BATCH")


def chunk_scores(problem: DecodeProblem) -> str:
    if problem.rows == 1:
        return templates.SCORE_ONE
    windowed = problem.window and problem.window < problem.rows
    return templates.SCORE_MANY + (templates.SCORE_WINDOW if windowed else "") + "    return visible\n"
