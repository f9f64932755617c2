"""The text of a prefill kernel while it is written, with what decides what is written.

In: a problem, a schedule, their plan and buffers. Out: `KernelText`.
Invariant: `count` is the number of tiles that the kernel's own rotation of a buffer has.
"""

from __future__ import annotations

from g4c.lowering.nki.attention.prefill_plan import Plan
from g4c.lowering.nki.attention.prefill_problem import PrefillProblem
from g4c.lowering.nki.attention.prefill_schedule import Buffer, PrefillSchedule
from g4c.lowering.nki.source_text import SourceText

LONG = 84  # characters of a call that is broken into lines


class KernelText(SourceText):
    """Lines of one kernel."""

    def __init__(
        self, problem: PrefillProblem, schedule: PrefillSchedule, plan: Plan, held: tuple[Buffer, ...]
    ) -> None:
        super().__init__()
        self.problem, self.schedule, self.plan, self.held = problem, schedule, plan, held
        self.sums = not schedule.sums_in_values(problem)  # Scalar counts row sums
        self.past = next((index for index, s in enumerate(problem.segments) if s.kind == "past"), -1)
        self.masks = {mask for step in plan.steps for _, _, _, mask, _ in step["banks"]}

    def has(self, name: str) -> bool:
        """Whether the kernel has this buffer."""
        return any(buffer.name == name for buffer in self.held)

    def count(self, name: str) -> int:
        """How many tiles it has in rotation."""
        return next(buffer.count for buffer in self.held if buffer.name == name)

    def call(self, function: str, *arguments: str) -> None:
        """An instruction; on lines of its own where it is long."""
        line = f"nisa.{function}({', '.join(arguments)})"
        if len(line) <= LONG:
            self.add(line)
            return
        with self.block(f"nisa.{function}("):
            for argument in arguments:
                self.add(f"{argument},")
        self.add(")")

    def tile(self, number: str) -> None:
        """Unpack what query tile `number` is."""
        self.add(f"b, start, limit, head = tiles[{number}]")
        self.add("rows = limit - start")
