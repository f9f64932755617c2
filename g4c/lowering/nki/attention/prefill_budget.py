"""What a prefill kernel takes: SBUF, PSUM, instructions; and the docstring that says so.

In: a problem, a schedule, their plan and buffers. Out: figures and text.
Invariant: the figures are those of a run in the simulator.
"""

from __future__ import annotations

from g4c.lowering.nki.attention.prefill_plan import Plan
from g4c.lowering.nki.attention.prefill_problem import PrefillProblem
from g4c.lowering.nki.attention.prefill_schedule import Buffer, PrefillSchedule


def docstring(problem: PrefillProblem, schedule: PrefillSchedule, plan: Plan, held: tuple[Buffer, ...]) -> str:
    return '"""TODO"""'
