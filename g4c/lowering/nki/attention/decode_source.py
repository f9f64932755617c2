"""The source of a decode attention kernel: docstring, constants, the kernel, and what it calls of `decode_text`.

In: a `DecodeProblem` and a `DecodeSchedule`.
Out: the `KernelArtifact`; its docstring has the shape, the schedule and the budget that a dry run measured.
Invariant: loads are issued in the order in which they are used, each as early as its tile is free; the tensor engine
multiplies the keys of one step while those of the next ones are transposed and copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from string import Template

import numpy as np

from g4c.ir.types import DType, TensorType
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.attention import decode_text as parts_of_text
from g4c.lowering.nki.attention.decode import (
    BANK,
    DecodeProblem,
    DecodeSchedule,
    blocks,
    pairs,
    parts,
    psum_banks,
    result_rows,
    sbuf_bytes,
    score_columns,
)
from g4c.lowering.nki.simulator.source import load
from g4c.lowering.nki.source_text import SourceText

TARGETS = {2: "trn1", 3: "trn2", 4: "trn3"}
NL = {DType.BF16: "nl.bfloat16", DType.F32: "nl.float32"}


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
    budget = measure(code, problem.name, inputs, generation)
    source = _docstring(problem, schedule, budget, generation) + "\n" + code
    return KernelArtifact(
        "decode_attention", problem.name, source, inputs, tuple(outputs), tuple(aliases), str(schedule)
    )


def operands(problem: DecodeProblem) -> tuple[tuple[str, TensorType], ...]:
    """q, per segment keys, values and, unless it is the chunk, held positions; positions."""
    shape = (problem.batch, problem.rows, problem.heads, problem.head_dim)
    result = [("q", TensorType(shape, problem.dtype))]
    for segment in problem.segments:
        keys = TensorType((problem.batch, segment.keys, problem.kv_heads, problem.head_dim), problem.dtype)
        result += [(f"{segment.kind}_keys", keys), (f"{segment.kind}_values", keys)]
        if segment.kind != "chunk":
            result.append((f"{segment.kind}_held", TensorType((problem.batch, segment.keys), DType.S32)))
    result.append(("positions", TensorType((problem.batch, problem.rows), DType.S32)))
    return tuple(result)


def measure(code: str, name: str, inputs: tuple[tuple[str, TensorType], ...], generation: int) -> Budget:
    """The budget of a kernel's code."""
    arrays = [np.zeros(kind.shape, kind.dtype.numpy) for _, kind in inputs]
    run = load(code, name).specialize(TARGETS[generation]).run(*arrays, dry=True)
    sbuf, psum = run.peaks[0]
    return Budget(run.instructions[0], round(sbuf.amount), round(psum.amount))


def _docstring(problem: DecodeProblem, schedule: DecodeSchedule, budget: Budget, generation: int) -> str:
    p, text = problem, SourceText()
    loads, row = blocks(p, schedule.columns), schedule.columns * p.slot * p.itemsize
    keys = " and ".join(f"{segment.keys} keys ({segment.kind})" for segment in p.segments)
    window = f", window {p.window}" if p.window else ""
    update = "; the chunk's rows are written into the past" if p.update else ""
    text.add(f'"""Decode attention: {p.rows} rows of {p.heads} heads over {p.kv_heads} KV heads of {p.head_dim}.')
    text.add()
    text.add(f"Shape: batch {p.batch}, {keys}{window}, {p.dtype.mlir}{update}.")
    text.add(f"""
        Schedule: {schedule}.
            {len(loads)} loads of a sequence's keys, as many of its values, of up to {row} contiguous bytes per
            partition. The tensor engine transposes the keys; scores are [keys, queries], and all of a part are there
            before its softmax, while values come in.
        Budget on NeuronCore-v{generation}: {budget.instructions} instructions; every tile in a place of its own takes
            {sbuf_bytes(p, schedule)} bytes of SBUF per partition and {psum_banks(p, schedule)} PSUM banks; what lives
            at once takes {budget.sbuf} and {budget.psum}.
    """)
    text.add('"""')
    return str(text)


def _code(problem: DecodeProblem, schedule: DecodeSchedule) -> str:
    p, dtype = problem, NL[problem.dtype]
    text = SourceText()
    text.add("import nki\nimport nki.isa as nisa\nimport nki.language as nl")
    text.add()
    _constants(text, p, schedule)
    text.add()
    text.add()
    text.add("@nki.jit")
    with text.block(f"def {p.name}("):
        text.add(", ".join(name for name, _ in operands(p)))
    with text.block("):"):
        text.add(f'"""y [batch, rows, heads, head_dim]{", and the updated cache" if p.update else ""}."""')
        text.add(f"y = nl.ndarray((BATCH, ROWS, HEADS, HEAD_DIM), dtype={dtype}, buffer=nl.shared_hbm)")
        _start(text, p, schedule)
        _tiles(text, p, schedule)
        _passes(text, p, schedule)
    functions = [parts_of_text.FETCH, parts_of_text.QUERIES, _masks(p)]
    if p.chunk:
        functions.append(parts_of_text.NEW_ROWS + _chunk_scores(p))
    functions += [parts_of_text.KEYS, parts_of_text.SOFTMAX, parts_of_text.VALUES]
    functions += [parts_of_text.MERGE] if schedule.parts > 1 else []
    functions += [parts_of_text.UPDATE] if p.update else []
    words = {
        "dtype": dtype,
        "mask": "[0, ROWS * HEADS]" if p.row_masks == 1 else "[1, ROWS], [0, HEADS]",
        "ahead": ", ahead" if p.rows > 1 else "",
        "locate": _locate(p),
    }
    return str(text) + "".join("\n" + Template(function).substitute(words) for function in functions)


def _constants(text: SourceText, problem: DecodeProblem, schedule: DecodeSchedule) -> None:
    p, (rows, heads) = problem, result_rows(problem, schedule)
    ranges = _tuple(f"({first}, {limit})" for first, limit in parts(p, schedule))
    text.add(f"""
        BATCH, ROWS, HEADS, KV_HEADS, HEAD_DIM = {p.batch}, {p.rows}, {p.heads}, {p.kv_heads}, {p.head_dim}
        GROUP = {p.group}  # query heads of a KV head
        SLOT = {p.slot}  # elements of one key of all KV heads
        WIDTH = {p.width}  # head dims of one contraction
        CHUNKS = {p.chunks}  # contractions of one product of q and k
        SCALE = {p.scale!r}
        MASKED = -1.0e30  # added to the scores of keys that a query does not see
    """)
    if p.window:
        text.add(f"WINDOW = {p.window}")
    if p.update:
        text.add(f"SLOTS = {p.past}")
    text.add(f"""

        SEQUENCES = {schedule.sequences}  # at once
        QUERIES = {schedule.sequences * p.queries}  # rows and heads of these
        TILES = {schedule.tiles}  # loads that are in SBUF at once
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


def _start(text: SourceText, problem: DecodeProblem, schedule: DecodeSchedule) -> None:
    """The list of loads; what is loaded first, each as it is needed."""
    p, stored, dtype = problem, [segment.kind for segment in problem.stored], NL[problem.dtype]
    text.add("""
        # Blocks of a sequence's keys: (segment, first key, keys between partitions, partitions, columns, first column).
        # Each partition has consecutive keys: masks go by position, so their order is free.
        blocks = []
    """)
    column = 0
    for number, segment in enumerate(p.stored):
        if segment.columns:
            whole = segment.columns % schedule.columns == 0
            count = "COLUMNS" if whole else f"min(COLUMNS, {segment.columns} - first)"
            at = f"{column} + first" if column else "first"
            with text.block(f"for first in range(0, {segment.columns}, COLUMNS):"):
                text.add(f"blocks.append(({number}, first, {segment.columns}, 128, {count}, {at}))")
            column += segment.columns
        if segment.tail:
            text.add(f"blocks.append(({number}, 128 * {segment.columns}, 1, {segment.tail}, 1, {column}))")
            column += 1
    keys, values = (_tuple(f"{kind}_{what}" for kind in stored) for what in ("keys", "values"))
    lengths = _tuple(str(segment.keys) for segment in p.stored)
    text.add(f"""

        # Loads in the order of their use: (tensor, first element, elements between partitions, partitions, elements).
        lengths = {lengths}
        transfers = []
        for first in range(0, BATCH, SEQUENCES):
            for start, limit in PARTS:
                for tensors in ({keys}, {values}):
                    for sequence in range(first, first + SEQUENCES):
                        for n in range(start, limit):
                            segment, key, pitch, partitions, columns, _ = blocks[n]
                            element = (sequence * lengths[segment] + key) * SLOT
                            transfers.append((tensors[segment], element, pitch * SLOT, partitions, columns * SLOT))
        pool = []
        for _ in range(TILES):
            pool.append(nl.ndarray((128, COLUMNS * SLOT), dtype={dtype}, buffer=nl.sbuf))
    """)
    text.add(f"""

        identity = nl.shared_identity_matrix(128, dtype=nl.float32)
        ones = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=ones, value=1.0)
        query_rows = load_queries(q)
        fetch(transfers, 0, pool)
        wanted, held = load_positions(positions, {", ".join(f"{kind}_held" for kind in stored)})
    """)
    if p.dtype is not DType.F32:
        text.add(f"""
            counters = nl.ndarray((128, 128), dtype={dtype}, buffer=nl.sbuf)  # ones that add up weights
            nisa.memset(dst=counters, value=1.0)
        """)
    if p.chunk:
        text.add("""
            new_keys = load_rows(chunk_keys)
            new_values = load_rows_by_sequence(chunk_values)
        """)
    if p.update:
        rows = "new_values[:, 0]" if p.batch == 1 else "load_rows(chunk_values)"
        text.add(f"new_value_rows = {rows}")
        text.add("position = load_column(positions)")
    text.add("""
        for n in range(1, TILES):
            fetch(transfers, n, pool)
        queries = transpose_queries(query_rows)
        hidden, valid = make_masks(wanted, held, ones)
    """)
    if p.chunk:
        text.add("turned_keys = transpose_new_keys(new_keys)")
    if p.chunk and p.rows > 1:
        text.add("ahead = mask_new_keys()")


def _tiles(text: SourceText, problem: DecodeProblem, schedule: DecodeSchedule) -> None:
    dtype = NL[problem.dtype]
    text.add(f"""

        banks, turned, products = [], [], []  # transposed keys in PSUM and in SBUF, their products in PSUM
        for _ in range(KEY_TILES):
            banks.append(nl.ndarray((WIDTH, PAIRS, CHUNKS, 128), dtype={dtype}, buffer=nl.psum))
            turned.append(nl.ndarray((WIDTH, PAIRS, CHUNKS, 128), dtype={dtype}, buffer=nl.sbuf))
        for _ in range(2):
            products.append(nl.ndarray((128, COLUMNS, ROWS, HEADS), dtype=nl.float32, buffer=nl.psum))
        scores = nl.ndarray((128, SEQUENCES, SCORE_COLUMNS, ROWS, HEADS), dtype=nl.float32, buffer=nl.sbuf)
        weights = nl.ndarray((128, SEQUENCES, SCORE_COLUMNS, ROWS, HEADS), dtype={dtype}, buffer=nl.sbuf)
        result = nl.ndarray((WIDTH, CHUNKS, RESULT_ROWS, RESULT_HEADS), dtype=nl.float32, buffer=nl.psum)
    """)
    if schedule.parts > 1:
        text.add("""
            running_peak = nl.ndarray((128, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
            running_sum = nl.ndarray((128, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
            running_result = nl.ndarray((WIDTH, CHUNKS, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
        """)


def _passes(text: SourceText, problem: DecodeProblem, schedule: DecodeSchedule) -> None:
    """The loops over sequences and parts, and what is left to do after them."""
    p, many = problem, schedule.parts > 1
    text.add()
    text.add("used_up = 0  # loads whose tiles have been read")
    with (
        text.block("for first in range(0, BATCH, SEQUENCES):"),
        text.block("for part in range(len(PARTS)):" if many else "for start, limit in PARTS:"),
    ):
        if many:
            text.add("start, limit = PARTS[part]")
        text.add("""
            base = blocks[start][5]
            used = blocks[limit - 1][5] + blocks[limit - 1][4] - base  # columns of scores
        """)
        if p.chunk:
            ahead = ", ahead" if p.rows > 1 else ""
            with text.block("if start == 0:  # the chunk is the last column of the first part"):
                text.add(f"score_new_keys(turned_keys, queries, first, scores, used{ahead})")
                text.add("used += 1")
        _key_steps(text)
        if p.update:
            text.add("""
                last_pass = first + SEQUENCES == BATCH and limit == len(blocks)
                if last_pass:  # all old keys have been read
                    index = locate_rows(position)
                    write_rows(past_keys, index, new_keys)
            """)
        _softmax(text, p, many)
        _value_steps(text, p, many)
        if p.update:
            text.add("""
                if last_pass:
                    write_rows(past_values, index, new_value_rows)
            """)
    text.add("return y, past_keys, past_values" if p.update else "return y")


def _key_steps(text: SourceText) -> None:
    text.add("""

        # Keys are transposed KEY_TILES - 1 steps ahead of their products.
        steps = []  # (load, sequence, block, first pair, pairs, whether they are the block's last)
        for sequence in range(SEQUENCES):
            for n in range(start, limit):
                total = blocks[n][4] * KV_HEADS
                for pair in range(0, total, PAIRS):
                    count = min(PAIRS, total - pair)
                    steps.append((used_up, sequence, n, pair, count, pair + count == total))
                used_up += 1
        for step in range(len(steps) + KEY_TILES - 1):
            if step < len(steps):
                number, sequence, n, pair, count, last = steps[step]
                bank, ready = banks[step % KEY_TILES], turned[step % KEY_TILES]
                transpose_keys(pool[number % TILES], blocks[n][3], pair, count, bank, ready, step)
                if last:
                    fetch(transfers, number + TILES, pool)
            if step >= KEY_TILES - 1:
                number, sequence, n, pair, count, last = steps[step - KEY_TILES + 1]
                partitions, columns, column = blocks[n][3], blocks[n][4], blocks[n][5]
                ready, product = turned[(step - KEY_TILES + 1) % KEY_TILES], products[number % 2]
                multiply_keys(ready, partitions, pair, count, queries, first + sequence, product)
                if last:
                    masks = ((first + sequence) * MASK_COLUMNS + column) * MASK_ROWS
                    place = scores[:, sequence, column - base : column - base + columns]
                    mask_scores(product, partitions, columns, hidden, masks, place)

    """)


def _softmax(text: SourceText, problem: DecodeProblem, many: bool) -> None:
    counters = "ones" if problem.dtype is DType.F32 else "counters"
    text.add("peaks = find_peaks(scores, used, identity, ones)")
    if not many:
        text.add(f"""
            exponentiate(scores, peaks, used, weights)
            inverse = invert(add_up(weights, used, {counters}), valid, first)
        """)
        return
    text.add(f"""
        if part == 0:
            nisa.tensor_copy(dst=running_peak, src=peaks)
        else:
            decay = raise_peaks(peaks, running_peak)
        exponentiate(scores, running_peak, used, weights)
        total = add_up(weights, used, {counters})
        if part == 0:
            nisa.tensor_copy(dst=running_sum, src=total)
        else:
            merge(running_sum, decay, total)
    """)


def _value_steps(text: SourceText, problem: DecodeProblem, many: bool) -> None:
    with text.block("for sequence in range(SEQUENCES):"):
        text.add("sums = result[:, :, sequence * ROWS : (sequence + 1) * ROWS, :HEADS]")
        started = "start == 0 or n > start" if problem.chunk else "n > start"
        if problem.chunk:
            with text.block("if start == 0:"):
                rows = "new_values[:, first + sequence]"
                text.add(
                    f"own = weights[:, sequence, used - 1 : used]\nmultiply_values({rows}, ROWS, 1, own, sums, False)"
                )
        text.add(f"""
            for n in range(start, limit):
                partitions, columns, column = blocks[n][3], blocks[n][4], blocks[n][5] - base
                part_weights = weights[:, sequence, column : column + columns]
                values = pool[used_up % TILES]
                multiply_values(values, partitions, columns, part_weights, sums, {started})
                fetch(transfers, used_up + TILES, pool)
                used_up += 1
        """)
    if not many:
        text.add("store(result[:, :, : SEQUENCES * ROWS, :HEADS], inverse, first, y)")
        return
    text.add("""
        filled = result[:, :, : SEQUENCES * ROWS, :HEADS]
        if part == 0:
            nisa.tensor_copy(dst=running_result, src=filled)
        else:
            merge(running_result, decay.ap([[QUERIES, WIDTH], [0, CHUNKS], [1, QUERIES]]), filled)
        if part == len(PARTS) - 1:
            store(running_result, invert(running_sum, valid, first), first, y)
    """)


def _masks(problem: DecodeProblem) -> str:
    """The function that loads positions and says which stored keys a row does not see."""
    p, text, column = problem, SourceText(), 0
    held = ", ".join(f"{segment.kind}_held" for segment in p.stored)
    mixed: list[tuple[int, int]] = []
    with text.block(f"def load_positions(positions, {held}):"):
        text.add('''
            """positions [1, row] and those held by stored keys [128, sequence, column], -1 where there is no key."""
            rows = BATCH * ROWS
            wanted = nl.ndarray((1, rows), dtype=nl.int32, buffer=nl.sbuf)
            nisa.dma_copy(dst=wanted, src=positions.ap([[rows, 1], [1, rows]]))
            held = nl.ndarray((128, BATCH, MASK_COLUMNS), dtype=nl.int32, buffer=nl.sbuf)
        ''')
        for segment in p.stored:
            name, count, first = f"{segment.kind}_held", segment.columns, column
            if count:
                text.add(f"""
                    keys = {name}.ap([[{count}, 128], [{segment.keys}, BATCH], [1, {count}]])
                    nisa.dma_copy(dst=held[:, :, {column}:{column + count}], src=keys)
                """)
                column += count
            if segment.tail:
                text.add(f"""
                    nisa.memset(dst=held[:, :, {column}], value=-1)
                    keys = {name}.ap([[1, {segment.tail}], [{segment.keys}, BATCH], [1, 1]], offset={128 * count})
                    nisa.dma_copy(dst=held[:{segment.tail}, :, {column}], src=keys)
                """)
                column += 1
            mixed += [(first, column)] if segment.kind == "mixed" else []
        text.add("return wanted, held")
    text.add()
    text.add()
    with text.block("def make_masks(positions, held, ones):"):
        text.add('''
            """hidden [128, sequence, column, row]: 1.0: a stored key is not seen; valid [128, row]: 0.0: padding."""
            rows = BATCH * ROWS
            numbers = nl.ndarray((1, rows), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_copy(dst=numbers, src=positions)
            wanted = nl.ndarray((128, rows), dtype=nl.float32, buffer=nl.psum)  # on every partition
            nisa.nc_matmul(dst=wanted, stationary=ones[:1], moving=numbers, accumulate=False)
            valid = nl.ndarray((128, rows), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_scalar(dst=valid, data=wanted, op0=nl.greater_equal, operand0=0.0)
            hidden = nl.ndarray((128, BATCH, MASK_COLUMNS, MASK_ROWS), dtype=nl.float32, buffer=nl.sbuf)
        ''')
        if not p.window and not mixed:
            text.add("nisa.tensor_scalar(dst=hidden, data=held, op0=nl.less, operand0=0.0)")
        else:
            _row_masks(text, p, mixed)
        text.add("return hidden, valid")
    return "\n" + str(text)


def _row_masks(text: SourceText, problem: DecodeProblem, mixed: list[tuple[int, int]]) -> None:
    if problem.window:
        text.add("""
            oldest = nl.ndarray((128, rows), dtype=nl.float32, buffer=nl.sbuf)  # what lies behind the window
            behind = float(WINDOW)
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
        text.add("mask = hidden[:, sequence, :, row]")
        text.add(f"nisa.tensor_scalar(dst=mask, data=held[:, sequence], op0=nl.less_equal, operand0={low})")
        for first, limit in mixed:
            text.add(f"""
                later = hidden[:, sequence, {first}:{limit}, row]
                nisa.scalar_tensor_tensor(
                    dst=later,
                    data=held[:, sequence, {first}:{limit}],
                    op0=nl.greater,
                    operand0=newest[:, n : n + 1],
                    op1=nl.maximum,
                    operand1=later,
                )
            """)


def _locate(problem: DecodeProblem) -> str:
    """Statements that make `index` of `position`."""
    t, several = parts_of_text, problem.batch > 1
    offsets = t.SEQUENCE_OFFSETS if several else ""
    if problem.past & (problem.past - 1) == 0:
        return t.LOCATE_POWER + offsets + (t.ADD_POWER if several else "")
    return t.LOCATE + offsets + (t.ADD if several else "")


def _chunk_scores(problem: DecodeProblem) -> str:
    if problem.rows == 1:
        return parts_of_text.SCORE_ONE
    windowed = problem.window and problem.window < problem.rows
    return parts_of_text.SCORE_MANY + (parts_of_text.SCORE_WINDOW if windowed else "    return ahead\n")


def _tuple(items: Iterable[str]) -> str:
    """As Python writes it."""
    listed = list(items)
    return f"({listed[0]},)" if len(listed) == 1 else f"({', '.join(listed)})"
