"""The source of a prefill attention kernel: what it allocates, its loop over steps, and the functions that it calls.

In: a problem, a schedule, their plan and buffers. Out: Python text.
Invariant: what a problem does not need (masks, sums, blocks of keys) is not in its text.
"""

from __future__ import annotations

from g4c.lowering.nki.attention import prefill_masks as masks
from g4c.lowering.nki.attention import prefill_steps as steps
from g4c.lowering.nki.attention.prefill_text import KernelText
from g4c.lowering.nki.source_text import SourceText


def kernel(text: KernelText) -> None:
    """The decorated function."""
    problem = text.problem
    parameters = ", ".join(name for name, _ in problem.parameters)
    text.add("@nki.jit")
    long = len(problem.name) + len(parameters) > 112
    with text.block(f"def {problem.name}(\n    {parameters}\n):" if long else f"def {problem.name}({parameters}):"):
        text.add('"""y [sequence, query, head, head dim]."""')
        dtype = "bfloat16" if problem.itemsize == 2 else "float32"
        shape = (problem.batch, problem.rows, problem.heads, problem.head_dim)
        text.add(f"y = nl.ndarray({shape}, dtype=nl.{dtype}, buffer=nl.shared_hbm)")
        for names in ("keys", "values"):
            listed = ", ".join(f"{label}_{names}" for label in problem.labels)
            text.add(f"stored_{names} = ({listed}{',' * (len(problem.segments) == 1)})")
        _allocate(text)
        if text.schedule.cores > 1:
            text.add("""
                assert nl.num_programs() == 2, "each of two cores does a part: launch as kernel[2]"
                steps, loads, tiles = plan(nl.program_id(0))
            """)
        else:
            text.add("steps, loads, tiles = plan()")
        text.add("""
            fetched = 0  # loads of key tiles that were issued
            transposed = 0  # key tiles of which K^T is there
            asked = 0  # loads of query tiles that were issued
            opened = 0  # units of which q^T is there
            closed = 0  # units of which y is there
            bank = 0  # the next one of `scores`, in rotation
            turning = 0  # the next one of `turns`
        """)
        text.add("""
            # Iteration n works on five steps, so that PE always has one that is ready: step n gets K^T, q^T and masks,
            # step n - 1 scores and P, step n - TURNED P^T, step n - MULTIPLIED its product with V; step n - ADDED joins
            # what its unit has. Engines work in order: lines stand where what they wait for is there.
        """)
        with text.block("for n in range(ADDED, len(steps)):"):
            _load(text)
            _prepare(text)
            steps.add(text)
            steps.score(text)
            steps.divide(text)
            steps.weigh(text)
            steps.store(text)
        text.add("return y")


def _allocate(text: KernelText) -> None:
    """Tiles, and those contents that are the same for all steps."""
    for buffer in text.held:
        where = f"nl.{buffer.memory}"
        if buffer.count:
            made = f"rotation({buffer.count}, {buffer.shape}, nl.{buffer.dtype}, {where})"
        else:
            made = f"nl.ndarray({buffer.shape}, dtype=nl.{buffer.dtype}, buffer={where})"
        text.add(f"{buffer.name} = {made}  # {buffer.comment}")
    if not text.sums:
        text.call("memset", "dst=values[:, :, D : D + 1]", "value=1.0", "engine=nisa.engine.gpsimd")
    if text.has("band"):
        masks.band(text)


def _load(text: KernelText) -> None:
    """What DMA brings in an iteration."""
    text.add("# Loads run ahead as far as their tiles are free: of queries, and of keys that no step needs any more.")
    with text.block("for v in range(asked, min(len(tiles), -(-opened // HEADS) + 1)):"):
        text.tile("v")
        masks.load(text)
        text.add("""
            nisa.dma_copy(dst=raw_queries[v % 2][:rows, :], src=q[b, start:limit, head : head + HEADS, :])
            nisa.dma_copy(dst=at[v % 2][:rows, :], src=positions[b, start:limit])
        """)
        if text.problem.block_span:
            text.add("nisa.dma_copy(dst=own_blocks[v % 2][:rows, :], src=blocks[b, start:limit])")
        text.add("asked = v + 1")
    text.add("""
        room = steps[n - MULTIPLIED]["oldest"] + SLOTS
        limit = min(len(loads), transposed + AHEAD, room)
    """)
    _fetch(text)


def _fetch(text: KernelText) -> None:
    """Key tiles before `limit`."""
    held = ", past_held, raw_held" if text.has("raw_held") else ""
    text.add(f"fetched = fetch(loads, fetched, limit, stored_keys, stored_values, raw_keys, values{held})")


def _prepare(text: KernelText) -> None:
    """K^T, q^T and masks of step n."""
    text.add("""
        # Step n: K^T of key tiles that are new, and q^T of a unit that is.
        step = steps[n]
    """)
    with text.block('for m in range(transposed, step["needs"]):'):
        text.add("limit = min(len(loads), m + AHEAD, room)")
        _fetch(text)
        text.add("width = loads[m][4]")
        masks.of_slot(text)
        text.add("""
            for kv in range(TOGETHER):
                part = raw_keys[m % AHEAD][:width, kv * D : (kv + 1) * D]
                target = keys[:, m % SLOTS, kv * D_TILES : (kv + 1) * D_TILES]
                turn(part, turns[turning % 2], target, width)
                turning += 1
            transposed = m + 1
        """)
    with text.block('if step["opens"]:'):
        text.add("""
            unit = step["unit"]
            v = unit // HEADS
        """)
        text.tile("v")
        masks.of_batch(text)
        masks.of_query(text)
        text.add(f"""
            first = unit % HEADS * D
            part = raw_queries[v % 2][:rows, first : first + D]
            turn(part, turns[turning % 2], queries[unit % UNITS], rows)
            turning += 1
            nisa.memset(dst=peaks[unit % UNITS][:, 0:1], value={masks.FLOOR}, engine=nisa.engine.gpsimd)
            opened += 1
        """)


def functions(kernel: KernelText) -> str:
    """What the kernel calls: rotation, fetch, turn."""
    text, problem = SourceText(), kernel.problem
    text.add(_ROTATION)
    text.add()
    text.add()
    by_slot = kernel.has("raw_held")
    held = ", past_held, raw_held" if by_slot else ""
    with text.block(f"def fetch(loads, start, limit, stored_keys, stored_values, raw_keys, values{held}):"):
        text.add('"""Issue loads start <= m < limit of key tiles; gives how many have been issued."""')
        with text.block("for m in range(start, limit):"):
            text.add(_FETCH)
            if by_slot:
                with text.block(f"if segment == {kernel.past}:"):
                    slots = problem.segments[kernel.past].keys
                    text.add(f"row = past_held.ap([[0, P], [1, width]], offset=b * {slots} + k)")
                    text.add("nisa.dma_copy(dst=raw_held[m % AHEAD][:, :width], src=row)")
        text.add("return max(start, limit)")
    text.add()
    text.add()
    ragged = len(set(problem.widths)) > 1
    with text.block("def turn(data, buffer, target, rows):"):
        text.add('"""target[d, tile, row] = data[row, tile * P + d], through PSUM."""')
        with text.block("for c in range(D_TILES):"):
            text.add("""
                width = min(P, D - c * P)
                part = data[:, c * P : c * P + width]
                nisa.nc_transpose(dst=buffer[:width, c, :rows], data=part, engine=nisa.engine.tensor)
            """)
            if ragged:
                text.add("nisa.tensor_copy(dst=target[:width, c, :rows], src=buffer[:width, c, :rows])")
        if not ragged:
            source = f"buffer[:{max(problem.widths)}, :D_TILES, :rows]"
            text.add(f"nisa.tensor_copy(dst=target[:, :, :rows], src={source})")
    return str(text)


_ROTATION = '''
def rotation(count, shape, dtype, buffer):
    """`count` tiles that are used in turn."""
    tiles = []
    for _ in range(count):
        tiles.append(nl.ndarray(shape, dtype=dtype, buffer=buffer))
    return tiles
'''
_FETCH = """
b, g, segment, k, width = loads[m]
part = stored_keys[segment][b, k : k + width, g : g + TOGETHER, :]
nisa.dma_copy(dst=raw_keys[m % AHEAD][:width, :], src=part)
part = stored_values[segment][b, k : k + width, g : g + TOGETHER, :]
nisa.dma_copy(dst=values[:width, m % SLOTS, : TOGETHER * D], src=part)
"""
