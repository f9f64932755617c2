"""Prefill attention: tiles of 128 queries against keys that stay in SBUF, with an online softmax.

In: a `PrefillProblem`, a `PrefillSchedule`. Out: `schedules`, the choices that fit a generation, and `emit`, the kernel
of one of them. Invariant: every key tile is loaded and transposed once for all query heads and query tiles of its KV
head as long as all of them fit in SBUF; tiles that no query can see are neither loaded for it nor computed.

How a kernel works: queries lie on the partitions of S = q K^T, keys on its free axis, so that a row's maximum and sum
are one instruction. P is transposed by PE, and P V has head dims on the free axis. PE runs through three steps at a
time: S of one, P^T of the one before, P V of the one before that, so that it never waits for a softmax.
"""

from __future__ import annotations

from g4c.errors import G4cError
from g4c.ir.types import TensorType
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.attention.prefill_budget import docstring
from g4c.lowering.nki.attention.prefill_candidates import schedules
from g4c.lowering.nki.attention.prefill_plan import constants, planned
from g4c.lowering.nki.attention.prefill_problem import PrefillProblem, Segment, from_tiled_attention
from g4c.lowering.nki.attention.prefill_schedule import PrefillSchedule, buffers
from g4c.lowering.nki.attention.prefill_source import functions, kernel
from g4c.lowering.nki.attention.prefill_text import KernelText
from g4c.lowering.nki.source_text import SourceText

__all__ = ["PrefillProblem", "PrefillSchedule", "Segment", "emit", "from_tiled_attention", "schedules"]


def emit(problem: PrefillProblem, schedule: PrefillSchedule, generation: int) -> KernelArtifact:
    """The kernel of `schedule`, which is one of `schedules(problem, generation)`."""
    plan = planned(problem, schedule)
    if problem.batch * problem.heads % (schedule.heads * schedule.cores):
        raise G4cError("G4C-K040", f"passes of {schedule.heads} heads are not {schedule.cores} equal parts")
    if not plan.fits:
        raise G4cError("G4C-K040", f"no room for the keys of {problem.name} in {schedule.slots} tiles of SBUF")
    held = buffers(problem, schedule, plan.blocks)
    text = SourceText()
    text.add(docstring(problem, schedule, plan, held))
    text.add()
    text.add("""
        import nki
        import nki.isa as nisa
        import nki.language as nl
    """)
    text.add()
    for name, value, comment in constants(problem, schedule):
        text.add(f"{name} = {value!r}" + (f"  # {comment}" if comment else ""))
    body = KernelText(problem, schedule, plan, held)
    kernel(body)
    for part in (body, plan.text, functions(body)):
        text.add()
        text.add()
        text.add(str(part).rstrip())
    y = TensorType((problem.batch, problem.rows, problem.heads, problem.head_dim), problem.dtype)
    return KernelArtifact(
        family="prefill_attention",
        name=problem.name,
        source=str(text),
        inputs=problem.parameters,
        outputs=(("y", y),),
        schedule=schedule.text(problem),
        cores=schedule.cores,
    )
