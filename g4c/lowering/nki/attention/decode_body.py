"""The body of a decode attention kernel: what it loads first, its tiles, and the loops over sequences and parts.

In: a `DecodeProblem` and a `DecodeSchedule`. Out: statements, in a `SourceText`.
Invariant: loads are issued in the order in which they are used, each as early as its tile is free; the tensor engine
multiplies the keys of one step while those of the next ones are transposed and copied; what the Vector Engine does for
the update waits for nothing that comes later than the keys.
"""

from __future__ import annotations

from collections.abc import Iterable

from g4c.ir.types import DType
from g4c.lowering.nki.attention.decode_problem import DecodeProblem
from g4c.lowering.nki.attention.decode_schedule import DecodeSchedule
from g4c.lowering.nki.source_text import SourceText

_ALL_PARTS = "first_part, last_part = 0, len(PARTS) - 1"
_OWN_PARTS = """
    # Each core has half of the keys; both merge what they have at the end.
    core = nl.program_id(0)
    first_part, last_part = core * (len(PARTS) // 2), (core + 1) * (len(PARTS) // 2) - 1
"""
NL = {DType.BF16: "nl.bfloat16", DType.F32: "nl.float32"}


def write_body(text: SourceText, problem: DecodeProblem, schedule: DecodeSchedule) -> None:
    """The statements after the allocation of y."""
    _start(text, problem, schedule)
    _tiles(text, problem, schedule)
    _passes(text, problem, schedule)


def _start(text: SourceText, problem: DecodeProblem, schedule: DecodeSchedule) -> None:
    """The list of loads; what is loaded first, each as it is needed."""
    p, stored, dtype = problem, [name for name in problem.labels if name != "chunk"], NL[problem.dtype]
    if schedule.parts > 1:
        text.add(_OWN_PARTS if schedule.shares("keys") else _ALL_PARTS)
    text.add()
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
    element, pitch = "(sequence * lengths[segment] + key) * KEY_SIZE", "pitch * KEY_SIZE"
    if schedule.shares("sequences"):
        element = "((nl.program_id(0) * BATCH + sequence) * lengths[segment] + key) * KEY_SIZE"
    elif schedule.shares("heads"):
        element = "((sequence * lengths[segment] + key) * 2 + nl.program_id(0)) * KEY_SIZE"
        pitch = "pitch * 2 * KEY_SIZE"
    keys, values = (tuple_of(f"{name}_{what}" for name in stored) for what in ("keys", "values"))
    lengths = tuple_of(str(segment.keys) for segment in p.stored)
    text.add()
    text.add(f"""
        # Loads in the order of their use: (tensor, first element, elements between partitions, partitions, elements).
        lengths = {lengths}
        transfers = []
        for first in range(0, BATCH, SEQUENCES):
            for part in range({"first_part, last_part + 1" if schedule.parts > 1 else "len(PARTS)"}):
                for tensors in ({keys}, {values}):
                    for sequence in range(first, first + SEQUENCES):
                        for n in range(PARTS[part][0], PARTS[part][1]):
                            segment, key, pitch, partitions, columns, _ = blocks[n]
                            element = {element}
                            apart = {pitch}
                            transfers.append((tensors[segment], element, apart, partitions, columns * KEY_SIZE))
        pool = []
        for _ in range(TILES):
            pool.append(nl.ndarray((128, COLUMNS * KEY_SIZE), dtype={dtype}, buffer=nl.sbuf))
    """)
    text.add()
    text.add(f"""
        identity = nl.shared_identity_matrix(128, dtype=nl.float32)
        ones = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=ones, value=1.0)
        for n in range(FIRST_LOADS):
            fetch(transfers, n, pool)
        query_rows = load_queries(q)
        wanted, held = load_positions(positions, {", ".join(f"{name}_held" for name in stored)})
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
        for n in range(FIRST_LOADS, TILES):
            fetch(transfers, n, pool)
    """)
    if p.chunk and p.rows > 1:
        text.add("visible = mask_new_keys()")


def _tiles(text: SourceText, problem: DecodeProblem, schedule: DecodeSchedule) -> None:
    dtype = NL[problem.dtype]
    text.add()
    text.add(f"""
        banks, turned, products = [], [], []  # transposed keys in PSUM and in SBUF, their products in PSUM
        for _ in range(KEY_TILES):
            banks.append(nl.ndarray((WIDTH, PAIRS, D_TILES, 128), dtype={dtype}, buffer=nl.psum))
            turned.append(nl.ndarray((WIDTH, PAIRS, D_TILES, 128), dtype={dtype}, buffer=nl.sbuf))
        for _ in range(2):
            products.append(nl.ndarray((128, COLUMNS, ROWS, HEADS), dtype=nl.float32, buffer=nl.psum))
        scores = nl.ndarray((128, SEQUENCES, SCORE_COLUMNS, ROWS, HEADS), dtype=nl.float32, buffer=nl.sbuf)
        weights = nl.ndarray((128, SEQUENCES, SCORE_COLUMNS, ROWS, HEADS), dtype={dtype}, buffer=nl.sbuf)
        result = nl.ndarray((WIDTH, D_TILES, RESULT_ROWS, RESULT_HEADS), dtype=nl.float32, buffer=nl.psum)
    """)
    if schedule.parts > 1:
        text.add("""
            running_peak = nl.ndarray((128, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
            running_sum = nl.ndarray((128, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
            running_result = nl.ndarray((WIDTH, D_TILES, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
        """)


def _passes(text: SourceText, problem: DecodeProblem, schedule: DecodeSchedule) -> None:
    """The loops over sequences and parts, and what is left to do after them."""
    p, many = problem, schedule.parts > 1
    text.add()
    text.add("used_up = 0  # loads whose tiles have been read")
    with (
        text.block("for first in range(0, BATCH, SEQUENCES):"),
        text.block("for part in range(first_part, last_part + 1):" if many else "for start, limit in PARTS:"),
    ):
        if many:
            text.add("start, limit = PARTS[part]")
        text.add("""
            base = blocks[start][5]
            used = blocks[limit - 1][5] + blocks[limit - 1][4] - base  # columns of scores
        """)
        _key_steps(text, many)
        if p.chunk:
            visible = ", visible" if p.rows > 1 else ""
            with text.block("if start == 0:  # the chunk is the last column of the first part"):
                text.add("turned_keys = transpose_new_keys(new_keys)")
                text.add(f"score_new_keys(turned_keys, queries, first, scores, used{visible})")
                text.add("used += 1")
        if p.update:
            text.add(f"last_pass = first + SEQUENCES == BATCH{' and part == last_part' if many else ''}")
            with text.block("if last_pass:  # all old keys have been read"):
                text.add("index = locate_rows(position)")
                _write(text, schedule, 0, "past_keys", "new_keys")
        _softmax(text, p, many)
        _value_steps(text, p, schedule)
        if p.update:
            with text.block("if last_pass:"):
                _write(text, schedule, 1, "past_values", "new_value_rows")
    text.add("return y, past_keys, past_values" if p.update else "return y")


def _write(text: SourceText, schedule: DecodeSchedule, core: int, cache: str, rows: str) -> None:
    """The update of one cache; of two cores that share the keys `core` does it, when both have read."""
    if not schedule.shares("keys"):
        text.add(f"write_rows({cache}, index, {rows})")
        return
    text.add(f"nisa.core_barrier(data={cache}, cores=(0, 1))")
    with text.block(f"if core == {core}:"):
        text.add(f"write_rows({cache}, index, {rows})")


def _key_steps(text: SourceText, many: bool) -> None:
    text.add()
    text.add(f"""
        # Keys are transposed KEY_TILES - 1 steps ahead of their products.
        steps = []  # (load, sequence, block, first pair, pairs, whether they are the block's last)
        for sequence in range(SEQUENCES):
            for n in range(start, limit):
                total = blocks[n][4] * KV_HEADS
                for pair in range(0, total, PAIRS):
                    count = min(PAIRS, total - pair)
                    steps.append((used_up, sequence, n, pair, count, pair + count == total))
                used_up += 1
        for step in range(KEY_TILES - 1):
            transpose_step(steps, step, blocks, transfers, pool, banks, turned)
        if first == 0{" and part == first_part" if many else ""}:  # these loads come after the first keys
            queries = transpose_queries(query_rows)
            seen, valid = make_masks(wanted, held, ones)
        for step in range(len(steps)):
            transpose_step(steps, step + KEY_TILES - 1, blocks, transfers, pool, banks, turned)
            number, sequence, n, pair, count, last = steps[step]
            partitions, columns, column = blocks[n][3], blocks[n][4], blocks[n][5]
            ready, product = turned[step % KEY_TILES], products[number % 2]
            multiply_keys(ready, partitions, pair, count, queries, first + sequence, product)
            if last:
                masks = ((first + sequence) * MASK_COLUMNS + column) * MASK_ROWS
                place = scores[:, sequence, column - base : column - base + columns]
                mask_scores(product, partitions, columns, seen, masks, place)
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
        if part == first_part:
            nisa.tensor_copy(dst=running_peak, src=peaks)
        else:
            decay = raise_peaks(peaks, running_peak)
        exponentiate(scores, running_peak, used, weights)
        total = add_up(weights, used, {counters})
        if part == first_part:
            nisa.tensor_copy(dst=running_sum, src=total)
        else:
            merge(running_sum, decay, total)
    """)


def _value_steps(text: SourceText, problem: DecodeProblem, schedule: DecodeSchedule) -> None:
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
    if schedule.parts == 1:
        text.add("store(result[:, :, : SEQUENCES * ROWS, :HEADS], inverse, first, y)")
        return
    text.add("""
        filled = result[:, :, : SEQUENCES * ROWS, :HEADS]
        if part == first_part:
            nisa.tensor_copy(dst=running_result, src=filled)
        else:
            merge(running_result, decay.ap([[QUERIES, WIDTH], [0, D_TILES], [1, QUERIES]]), filled)
    """)
    with text.block("if part == last_part:"):
        if not schedule.shares("keys"):
            text.add("store(running_result, invert(running_sum, valid, first), first, y)")
            return
        text.add("join(running_peak, running_sum, running_result, 1 - core)")
        with text.block("if core == 0:"):
            text.add("store(running_result, invert(running_sum, valid, first), first, y)")


def tuple_of(items: Iterable[str]) -> str:
    """As Python writes it."""
    listed = list(items)
    return f"({listed[0]},)" if len(listed) == 1 else f"({', '.join(listed)})"
