"""Masks of a prefill kernel: bytes, 1 where a query sees a key.

In: the text of a kernel. Out: the lines that make masks, and those that apply them to a bank of scores.
Invariant: a mask costs nothing more than the maximum that a softmax needs anyway: one instruction selects and reduces.
Five kinds, as `visits` names them: band (causality and window, by row indices: one strip for all), batch (keys that all
queries of a sequence see), slot (the same, by key tile), query (held positions against each query's), block (images).
"""

from __future__ import annotations

from g4c.lowering.nki.attention.prefill_problem import P
from g4c.lowering.nki.attention.prefill_text import KernelText

# Scores of what is not seen. A running maximum starts at FLOOR, so that their exponentials are 0, also where nothing is
# seen at all.
UNSEEN, FLOOR = "-1.0e30", "-1.0e20"
_PARTS = {
    "band": "band[:rows, column : column + width]",
    "batch": "{}[:rows, column : column + width]",
    "query": 'seen_by_query[step["unit"] // HEADS % {}][:rows, column : column + width]',
    "block": 'seen_in_block[step["unit"] // HEADS % {}][:rows, column : column + width]',
}


def band(text: KernelText) -> None:
    """The strip of which every bank on the diagonal, or at a window's edge, takes its columns."""
    width = text.problem.band + P
    below = " < WINDOW" if text.problem.window else ""
    chosen = ("on_true_tile=band", "on_false_value=0.0", "cmp_op=nl.greater_equal")
    text.add(f"# Row r sees the key that is x - BAND rows after the tile's first query iff 0 <= r - (x - BAND){below}.")
    text.call("memset", "dst=band", "value=1", "engine=nisa.engine.gpsimd")
    pattern = (f"pattern=[[-1, {width}]]", "channel_multiplier=1", "offset=BAND")
    text.call("affine_select", "dst=band", *pattern, *chosen)
    if text.problem.window:
        pattern = (f"pattern=[[1, {width}]]", "channel_multiplier=-1", "offset=WINDOW - 1 - BAND")
        text.call("affine_select", "dst=band", *pattern, *chosen)


def _first(text: KernelText) -> str:
    """Whether query tile v is a sequence's first."""
    return "v == 0" if text.problem.batch == 1 else "(v == 0 or tiles[v - 1][0] != b)"


def _masked(text: KernelText) -> list[int]:
    """Segments whose held positions are needed on all partitions."""
    held = text.has("held")
    segments = enumerate(text.problem.segments)
    return [i for i, s in segments if held and (text.problem.by_query(s) or text.problem.by_batch(s))]


def _early(text: KernelText) -> bool:
    """Whether held positions have room to be loaded with the queries, all at once."""
    masked = _masked(text)
    return len(masked) == 1 and text.problem.segments[masked[0]].keys == text.problem.staged


def load(text: KernelText) -> None:
    """With the queries of query tile v, before them: held positions, which the first scores wait for."""
    if _early(text):
        with text.block(f"if {_first(text)}:"):
            _load_held(text, _masked(text)[0], "0", str(text.problem.staged))


def _load_held(text: KernelText, index: int, k: str, width: str) -> None:
    """Positions of keys k to k + width of a segment, on all partitions."""
    segment = text.problem.segments[index]
    source = "positions" if segment.kind == "chunk" else f"{text.problem.labels[index]}_held"
    at = f"b * {segment.keys}" + (f" + {k}" if k != "0" else "")
    text.add(f"row = {source}.ap([[0, P], [1, {width}]], offset={at})")
    text.call("dma_copy", f"dst=held[:, :{width}]", "src=row")


def of_batch(text: KernelText) -> None:
    """With the first query tile of a sequence: what data say of its keys, on all partitions."""
    problem = text.problem
    if not (text.has("held") or problem.block_span):
        return
    with text.block(f"if unit % HEADS == 0 and {_first(text)}:"):
        for index in _masked(text):
            _of_segment(text, index)
        if problem.block_span:
            text.add("# Image blocks of the rows; text becomes -2, which is nobody's block.")
            text.call("dma_copy", "dst=raw_blocks", "src=blocks.ap([[0, P], [1, ROWS]], offset=b * ROWS)")
            negative = ("op0=nl.less", "operand0=0.0", "op1=nl.multiply", "operand1=-1.0")
            text.call("tensor_scalar", "dst=row_blocks", "data=raw_blocks", *negative)
            text.call("tensor_tensor", "dst=row_blocks", "data1=row_blocks", "data2=raw_blocks", "op=nl.add")


def _by_batch(text: KernelText, sequence: str) -> str:
    """The mask of a sequence: there are two of them where there are several sequences."""
    return f"seen_by_batch[{sequence} % 2]" if text.problem.batch > 1 else "seen_by_batch[0]"


def _of_segment(text: KernelText, index: int) -> None:
    """Which keys of a segment a sequence has; or their positions, empty slots far away."""
    problem, segment = text.problem, text.problem.segments[index]
    column = problem.mask_columns(index)
    at = f"{column} + k" if column else "k"
    with text.block(f"for k in range(0, {segment.keys}, {problem.staged}):  # of the {problem.labels[index]} keys"):
        text.add(f"width = min({problem.staged}, {segment.keys} - k)")
        if not _early(text):
            _load_held(text, index, "k", "width")
        if problem.by_batch(segment):
            text.add(f"seen = {_by_batch(text, 'b')}[:, {at} : {at} + width]")
            text.call("tensor_scalar", "dst=seen", "data=held[:, :width]", "op0=nl.greater_equal", "operand0=0.0")
            return
        far = "1.0e9" if segment.kind == "mixed" else "-1.0e9"
        empty = ("op0=nl.less", "operand0=0.0", "op1=nl.multiply", f"operand1={far}")
        text.add(f"row = key_positions[:, {at} : {at} + width]")
        text.call("tensor_scalar", "dst=row", "data=held[:, :width]", *empty)
        text.call("tensor_tensor", "dst=row", "data1=row", "data2=held[:, :width]", "op=nl.add")


def of_query(text: KernelText) -> None:
    """With the first head of a query tile: which rows are no padding, and what each sees of keys that data mask."""
    problem = text.problem
    at, own = "data=at[v % 2][:rows, :]", "position[0][:rows, :]"
    with text.block("if unit % HEADS == 0:"):
        real = f"dst=valid[v % {text.count('valid')}][:rows, :]"
        text.call("tensor_scalar", real, at, "op0=nl.greater_equal", "operand0=0.0")
        if text.has("seen_by_query"):
            text.add(f"seen = seen_by_query[v % {text.count('seen_by_query')}]")
            text.call("tensor_scalar", f"dst={own}", at, "op0=nl.add", "operand0=0.0")
            if problem.window:
                last = ("op0=nl.subtract", "operand0=1.0 * WINDOW")
                text.call("tensor_scalar", "dst=position[1][:rows, :]", at, *last)
        for index, segment in enumerate(problem.segments):
            if problem.by_query(segment):
                _seen(text, index)
        if problem.block_span:
            block = "data=own_blocks[v % 2][:rows, :]"
            text.call("tensor_scalar", f"dst={own}", block, "op0=nl.add", "operand0=0.0")
            text.add(f"width = min(ROWS - start, {problem.reach})")
            text.add(f"seen = seen_in_block[v % {text.count('seen_in_block')}]")
            same = ("data=row_blocks[:rows, start : start + width]", "op0=nl.equal", f"operand0={own}")
            text.call("tensor_scalar", "dst=seen[:rows, :width]", *same)
            text.add("own = seen[:rows, :rows]")
            text.add("before = band[:rows, BAND : BAND + rows]")
            text.call("tensor_tensor", "dst=own", "data1=own", "data2=before", "op=nl.maximum")


def _seen(text: KernelText, index: int) -> None:
    """Keys of a past or mixed segment that each row of the tile sees."""
    segment, low = text.problem.segments[index], text.problem.mask_columns(index)
    part = f"[:rows, {low}:{low + segment.keys}]"
    data, old = f"data=key_positions{part}", "operand0=position[1][:rows, :]"
    if segment.kind == "past":
        with text.block("if start + 1 < WINDOW:"):
            text.call("tensor_scalar", f"dst=seen{part}", data, "op0=nl.greater", old)
        return
    own = "operand0=position[0][:rows, :]"
    text.call("tensor_scalar", f"dst=seen{part}", data, "op0=nl.less_equal", own)
    if text.problem.window:
        both = ("op0=nl.greater", old, "op1=nl.multiply", f"operand1=seen{part}")
        text.call("scalar_tensor_tensor", f"dst=seen{part}", data, *both)


def of_slot(text: KernelText) -> None:
    """With a tile of past keys that is new in SBUF, number m of the loads: which keys are there."""
    if text.has("seen_by_slot"):
        with text.block(f"if loads[m][2] == {text.past}:"):
            text.add("there = seen_by_slot[:, m % SLOTS, :width]")
            data = "data=raw_held[m % AHEAD][:, :width]"
            text.call("tensor_scalar", "dst=there", data, "op0=nl.greater_equal", "operand0=0.0")


def maximum(text: KernelText) -> None:
    """The maximum of a bank, under its mask; of a bank whose mask lies in several places, one for each."""
    if "slot" not in text.masks:
        _select(text, "peak[:rows, 1 + j : 2 + j]")
        return
    with text.block('if mask == "slot":'):
        text.add("x = 0")
        with text.block('for slot, count, span in step["runs"][j]:'):
            text.add("""
                there = s[:, x : x + count * span]
                seen = seen_by_slot[:rows, slot : slot + count, :span]
                best = peak[:rows, used : used + 1]
            """)
            where = ("dst=there", "predicate=seen", "on_true=there", f"on_false={UNSEEN}", "reduce_res=best")
            text.call("select_reduce", *where, "reduce_cmd=nisa.reduce_cmd.reset_reduce")
            text.add("x += count * span")
            text.add("used += 1")
    with text.block("else:"):
        _select(text, "peak[:rows, used : used + 1]")
        text.add("used += 1")


def _select(text: KernelText, result: str) -> None:
    """One instruction, under the mask that the bank has."""
    parts = {mask: part for mask, part in _PARTS.items() if mask in text.masks}
    counts = {"query": "seen_by_query", "block": "seen_in_block"}
    masks = text.masks - {"slot"}
    alone = len(masks) == 1
    for position, (mask, part) in enumerate(parts.items()):
        which = text.count(counts[mask]) if mask in counts else _by_batch(text, 'step["b"]')
        line = f"seen = {part.format(which)}"
        if alone:
            text.add(line)
        else:
            with text.block(f'{"elif" if position else "if"} mask == "{mask}":'):
                text.add(line)
    select = ("dst=s", "predicate=seen", "on_true=s", f"on_false={UNSEEN}", f"reduce_res={result}")
    if "none" not in masks:
        text.call("select_reduce", *select, "reduce_cmd=nisa.reduce_cmd.reset_reduce")
        return
    plain = (f"dst={result}", "op=nl.maximum", "data=s", "axis=1")
    if not parts:
        text.call("tensor_reduce", *plain)
        return
    with text.block('if mask == "none":'):
        text.call("tensor_reduce", *plain)
    with text.block("else:"):
        text.call("select_reduce", *select, "reduce_cmd=nisa.reduce_cmd.reset_reduce")
