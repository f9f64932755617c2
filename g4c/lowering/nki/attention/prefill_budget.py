"""What a prefill kernel takes: SBUF, PSUM, instructions; and the docstring that says so.

In: a problem, a schedule, their plan and buffers. Out: figures and text.
Invariant: the number of instructions is that of a run in the simulator; no run needs more SBUF or PSUM.
"""

from __future__ import annotations

from textwrap import fill

from g4c.lowering.nki.attention.meaning import formula, title
from g4c.lowering.nki.attention.prefill_plan import Plan
from g4c.lowering.nki.attention.prefill_problem import P, PrefillProblem
from g4c.lowering.nki.attention.prefill_schedule import Buffer, PrefillSchedule

PSUM_BANK_BYTES = 2048


def psum_banks(held: tuple[Buffer, ...]) -> int:
    """Every tile in PSUM starts a bank."""
    tiles = [buffer for buffer in held if buffer.memory == "psum"]
    return sum(buffer.count * -(-buffer.bytes // buffer.count // PSUM_BANK_BYTES) for buffer in tiles)


def instructions(problem: PrefillProblem, schedule: PrefillSchedule, plan: Plan) -> int:
    """How many instructions the kernel executes; of two cores, the first one."""
    ragged = len(set(problem.widths)) > 1
    turn = len(problem.widths) * (2 if ragged else 1) + (0 if ragged else 1)
    count = schedule.sums_in_values(problem)
    if problem.causal and any(segment.kind == "chunk" for segment in problem.segments):
        count += 2 + (problem.window > 0)
    count += len({b for b, _, _, _ in plan.tiles}) * _of_batch(problem, schedule)
    count += len(plan.loads) * (2 + schedule.kv_heads * turn)
    if schedule.by_slot(problem):
        count += 2 * sum(problem.segments[segment].kind == "past" for _, _, segment, _, _ in plan.loads)
    count += sum(3 + (problem.block_span > 0) + _of_query(problem, start) for _, start, _, _ in plan.tiles)
    return count + sum(_of_step(problem, schedule, plan, step, turn) for step in plan.steps if step["banks"])


def _of_batch(problem: PrefillProblem, schedule: PrefillSchedule) -> int:
    """Masks of a sequence."""
    by_slot = schedule.by_slot(problem)
    masked = [s for s in problem.segments if problem.by_query(s) or (problem.by_batch(s) and not by_slot)]
    pieces = sum((2 if problem.by_batch(s) else 3) * -(-s.keys // problem.staged) for s in masked)
    return pieces + 3 * (problem.block_span > 0)


def _of_query(problem: PrefillProblem, start: int) -> int:
    """Masks of a query tile."""
    count, windowed = 0, problem.window > 0
    for segment in problem.segments:
        if problem.by_query(segment):
            past = segment.kind == "past"
            count += int(start + 1 < problem.window) if past else 1 + windowed
    by_query = any(problem.by_query(segment) for segment in problem.segments)
    return count + by_query * (1 + windowed) + 3 * (problem.block_span > 0)


def _of_step(problem: PrefillProblem, schedule: PrefillSchedule, plan: Plan, step: dict, turn: int) -> int:
    banks, opens, closes = len(step["banks"]), step["opens"], step["closes"]
    runs = sum(len(neighbors) for neighbors in step["runs"])
    tiles = sum(count for neighbors in step["runs"] for _, count, _ in neighbors)
    sums = not schedule.sums_in_values(problem)
    count = runs * (len(problem.widths) + 1) + 2 * tiles + banks + 1 + (problem.scale != 1)
    count += sum(len(r) if bank[3] == "slot" else 1 for bank, r in zip(step["banks"], step["runs"], strict=True))
    count += (turn + 1) * opens
    if plan.blocks:
        count += (not opens) + (not closes) + (not opens or not closes) + sums * (1 if opens else 2)
    if closes:
        count += 3 + (not problem.sees_itself) + (sums and not plan.blocks and banks > 1)
        count += (step["unit"] + 1) % schedule.heads == 0
    return count


def docstring(problem: PrefillProblem, schedule: PrefillSchedule, plan: Plan, held: tuple[Buffer, ...]) -> str:
    """What is computed, schedule, budget."""
    p = problem
    large = sorted((b for b in held if b.memory == "sbuf"), key=lambda b: -b.bytes)[:5]
    total = sum(buffer.bytes for buffer in held if buffer.memory == "sbuf")
    listed = ", ".join(f"{buffer.name} {buffer.bytes}" for buffer in large)
    segments = [(segment.kind, segment.keys) for segment in p.segments]
    paragraphs = (
        formula(p.batch, p.scale, segments, p.window, p.causal, p.block_span),
        _schedule(p, schedule, plan),
        f"Budget: SBUF {total} bytes per partition ({listed}, ...), PSUM {psum_banks(held)} banks, "
        f"{instructions(p, schedule, plan)} instructions.",
    )
    head = f"Prefill attention: {title(p.rows, p.heads, p.kv_heads, p.head_dim, p.dtype.mlir)}"
    return f'"""{head}\n\n' + "\n\n".join(fill(paragraph, 118) for paragraph in paragraphs) + '\n"""'


def _schedule(problem: PrefillProblem, schedule: PrefillSchedule, plan: Plan) -> str:
    tiles = schedule.kv_heads * problem.key_tiles
    if schedule.resident(problem):
        heads = f"{schedule.kv_heads} KV heads" if schedule.kv_heads > 1 else "a KV head"
        loaded = f"K and V of {heads}, {tiles} tiles of {P} keys, are loaded and transposed once"
    else:
        again = len(plan.loads) / (problem.batch * problem.kv_heads * problem.key_tiles)
        loaded = (
            f"{schedule.slots} of {problem.key_tiles} key tiles are in SBUF; {schedule.query_tiles} query tiles visit "
            f"them in turn, so that a key tile is loaded {again:.1f} times on average"
        )
    cores = f" Each of two cores does {schedule.passes(problem)} passes of {schedule.heads} heads."
    cores = cores if schedule.cores > 1 else ""
    sums = "a column of ones in V" if schedule.sums_in_values(problem) else "Scalar, with the exponentials"
    return (
        f"Schedule: {loaded}. A step is up to {schedule.banks} banks of 512 keys for one head of one query tile, with "
        "queries on the partitions: S = q K^T adds up over d tiles in PSUM, Vector masks and takes the maximum, "
        "Scalar the exponentials, PE transposes P and multiplies it by V; later steps of a unit rescale what it has. "
        f"Row sums: {sums}. PE works on steps n - 1 (S), n - {schedule.lag + 1} (P^T) and n - {schedule.lag + 2} (P V) "
        f"at a time, so that it does not wait for a softmax.{cores}"
    )
