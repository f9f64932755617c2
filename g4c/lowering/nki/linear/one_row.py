"""Kernels for projections of one row: decode of one sequence, where a kernel's start and end count.

In: a `ProjectionProblem` of one row. Out: its `RowSchedule`, and the kernel's text.
Invariant: nothing is loaded before the weights, whose stream never waits; when the last of them are there, the products
of up to 4 KiB of columns are left to do, and the result is stored from where it lies.
"""

from __future__ import annotations

from dataclasses import dataclass

from g4c.lowering.nki.linear.kernel_file import KernelText, sbuf_budget
from g4c.lowering.nki.linear.projection_problem import ProjectionProblem, kernel_name, operands, results, summary
from g4c.lowering.nki.source_text import SourceText

_GROUP_BYTES = (2048, 4096)  # of columns that come last: the fewer, the less is left to do, and the slower they come
_MOST_LINES = 128  # of 128 columns, of the other results


@dataclass(frozen=True)
class RowSchedule:
    """`slots`: of the ring of slabs, each of 256 rows of the weight; `group`: columns of the first result that are
    stored together, of which the first group's come last.
    """

    slots: int
    group: int


def schedules(problem: ProjectionProblem, generation: int) -> tuple[RowSchedule, ...]:
    """Candidates; none but for one row, features in whole slabs and columns in whole tiles."""
    first, *others = problem.widths
    whole = problem.depth % 256 == 0 and not any(width % 128 for width in problem.widths)
    slots = min(problem.depth // 256, (sbuf_budget(generation) - _small_bytes(problem)) // _slab_bytes(problem))
    if problem.count != 1 or not whole or slots < 2 or sum(others) > 128 * _MOST_LINES:
        return ()
    counts = sorted({-(-first * _size(problem) // most) for most in _GROUP_BYTES}, reverse=True)
    return tuple(RowSchedule(slots, first // count) for count in counts if first % (128 * count) == 0)


def _size(problem: ProjectionProblem) -> int:
    return problem.dtype.bits // 8


def _slab_bytes(problem: ProjectionProblem) -> int:
    return 2 * sum(problem.widths) * _size(problem)


def _small_bytes(problem: ProjectionProblem) -> int:
    """Bytes per partition of all but the ring: lines of x and gain, the norm, results."""
    size, tiles, width = _size(problem), problem.depth // 128, sum(problem.widths)
    lines = 4 * (problem.depth // 256 + 1) // 2 * 256 * size
    return lines + tiles * (4 + 4 + size) + 512 + 4 + width // 128 * size + 128 * size


def kernel(problem: ProjectionProblem, schedule: RowSchedule) -> KernelText:
    """The kernel of `schedule`."""
    slabs, run = problem.depth // 256, _slab_bytes(problem)
    ring = "all of them stay in SBUF" if schedule.slots == slabs else f"through a ring of {schedule.slots} slots"
    return KernelText(
        name=kernel_name(problem),
        summary=summary(problem),
        schedule=(
            f"weights stream in {slabs} slabs of 256 rows, {run} contiguous bytes per partition, {ring}",
            "weights are stationary, 128 columns at a time, x moves past them; all sums lie in one PSUM bank",
            f"{schedule.group} columns of the last slab come last: little is left to do when all weights are there",
        ),
        inputs=operands(problem),
        outputs=results(problem),
        resident=_small_bytes(problem) + schedule.slots * _slab_bytes(problem),
        body=_body(problem, schedule),
    )


def _body(problem: ProjectionProblem, schedule: RowSchedule) -> str:
    text = SourceText()
    (name, _), *others = results(problem)
    text.add(f"""
        DEPTH = {problem.depth}
        WIDTH = {sum(problem.widths)}
        SLABS = {problem.depth // 256}  # of 256 rows of the weight: rows 2 p and 2 p + 1 of a slab are on partition p
        SLOTS = {schedule.slots}
        FIRST = {problem.widths[0]}  # columns of {name}
        GROUP = {schedule.group}  # of them that are stored together
    """)
    if problem.epsilon is not None:
        text.add(f"EPSILON = {problem.epsilon!r}")
    for result, kind in results(problem):
        text.add(f"{result} = nl.ndarray({kind.shape}, dtype=x.dtype, buffer=nl.shared_hbm)")
    text.add()
    text.add("""
        slabs = weight.reshape((SLABS, 128, 2 * WIDTH))
        ring = []
        for _ in range(SLOTS):
            ring.append(nl.ndarray((128, 2 * WIDTH), dtype=weight.dtype, buffer=nl.sbuf))
        nisa.dma_copy(dst=ring[0], src=slabs[0])  # before anything else
    """)
    text.add()
    _add_features(text, problem)
    text.add()
    text.add("""
        groups = []
        for start in range(0, FIRST, GROUP):
            groups.append(neighbors(start, GROUP))
    """)
    if others:
        text.add("others = in_order(FIRST, WIDTH)")
    text.add("sums = nl.ndarray((128, WIDTH // 128), dtype=nl.float32, buffer=nl.psum)")
    with text.block("for g in range(SLABS - 1):"):
        text.add("""
            slab = ring[g % SLOTS]
            if g > 0:
                nisa.dma_copy(dst=slab, src=slabs[g])
        """)
        with text.block("for k in range(2 * g, 2 * g + 2):"):
            text.add("""
                for group in groups:
                    multiply_columns(sums, slab, group, features, k)
            """)
            if others:
                text.add("multiply_columns(sums, slab, others, features, k)")
    text.add()
    _last_slab(text, name, [result for result, _ in others])
    text.add(f"return {', '.join(result for result, _ in results(problem))}")
    return str(text)


def _add_features(text: SourceText, problem: ProjectionProblem) -> None:
    """features [128, tiles] of the operands' type: the row, normalized where there is a norm."""
    with_gain = problem.epsilon is not None and problem.gain
    text.add("x_lines = load_in_halves(x.reshape((DEPTH,)), 0)")
    if with_gain:
        text.add("gain_lines = load_in_halves(gain, 64)")
    text.add("x_features = lines_to_features(x_lines, DEPTH // 128)")
    if problem.epsilon is None:
        text.add("features = rounded(x_features, x.dtype)")
        return
    text.add("""
        features = nl.ndarray((128, DEPTH // 128), dtype=x.dtype, buffer=nl.sbuf)
        scale = inverse_rms(x_features, DEPTH, EPSILON)
    """)
    if not with_gain:
        text.add("nisa.tensor_scalar(dst=features, data=x_features, op0=nl.multiply, operand0=scale)")
        return
    text.add("""
        gain_features = rounded(lines_to_features(gain_lines, DEPTH // 128), nl.float32)
        nisa.scalar_tensor_tensor(
            dst=features, data=x_features, op0=nl.multiply, operand0=scale, op1=nl.multiply, operand1=gain_features
        )
    """)


def _last_slab(text: SourceText, name: str, others: list[str]) -> None:
    """What comes last: the results in the order in which they are complete."""
    text.add(f"""
        # The last slab but for the first group of its rows 2 p: with it all other columns are complete.
        slab = ring[(SLABS - 1) % SLOTS]
        last = slabs[SLABS - 1]
        even, odd = 2 * SLABS - 2, 2 * SLABS - 1
        target = {name}.reshape((FIRST,))
        nisa.dma_copy(dst=slab[:, GROUP:], src=last[:, GROUP:])
    """)
    if others:
        text.add("""
            multiply_columns(sums, slab, others, features, odd)
            multiply_columns(sums, slab, others, features, even)
            columns = rounded(sums[:, FIRST // 128 : WIDTH // 128], x.dtype)
        """)
    text.add("""
        for n in range(1, len(groups)):
            multiply_columns(sums, slab, groups[n], features, odd)
            multiply_columns(sums, slab, groups[n], features, even)
            store_neighbors(target[n * GROUP : (n + 1) * GROUP], sums[:, n * GROUP // 128 : (n + 1) * GROUP // 128])
    """)
    if others:
        listed = f"[{', '.join(others)}]"
        text.add(f"store_lines({listed}, columns)")
    text.add("""
        multiply_columns(sums, slab, groups[0], features, odd)

        # The first group: little is left to do when all weights are there.
        nisa.dma_copy(dst=slab[:, :GROUP], src=last[:, :GROUP])
        multiply_columns(sums, slab, groups[0], features, even)
        store_neighbors(target[:GROUP], sums[:, : GROUP // 128])
    """)
