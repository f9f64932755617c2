"""Which schedule a kernel gets: the one whose modelled time is least.

In: a problem, its family (`schedules` and `emit`, see families.py), a NeuronCore generation and how many cores a
logical core has.
Out: the artifact and its `Profile`, and what else was compared.
Invariant: deterministic: the same problem gives the same kernel, of equal times the earlier guess. A problem is
costed once per process. Times are modelled, in dry runs: of two cores that share the work, that of the pair.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Protocol

from g4c.errors import G4cError
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.cost import Profile, profile


class Schedules(Protocol):
    """A family: a module, or a `families.Family`."""

    def schedules(self, problem: Any, generation: int, cores: int, /) -> tuple[Any, ...]: ...

    def emit(self, problem: Any, schedule: Any, generation: int, /) -> KernelArtifact: ...


@dataclass(frozen=True)
class Candidate:
    """A schedule that was compared, and its modelled time in us."""

    schedule: Any
    line: str
    us: float


@dataclass(frozen=True)
class Choice:
    """The cheapest kernel, its profile (without timelines), and all candidates in the family's order."""

    artifact: KernelArtifact
    profile: Profile
    compared: tuple[Candidate, ...]


@cache
def compare(problem: Hashable, family: Schedules, generation: int, cores: int = 1) -> Choice:
    """The kernel of `problem` with the least modelled time on `generation` (2, 3, 4), and what it was compared with.

    `cores`: of a logical core, 1 or 2: of two, a schedule may let each do a part.

    Refusals: what the family refuses (G4C-K040: no schedule fits), G4C-K048: its kernels are for other generations, and
    what the simulator refuses of a candidate.
    """
    compared: list[Candidate] = []
    best: tuple[KernelArtifact, Profile] | None = None
    for schedule in family.schedules(problem, generation, cores):
        artifact = family.emit(problem, schedule, generation)
        if generation not in artifact.generations:
            known = ", ".join(f"v{number}" for number in artifact.generations)
            raise G4cError("G4C-K048", f"{artifact.family} kernels are for NeuronCore-{known}, not v{generation}")
        found = profile(artifact, None, f"gen{generation}")
        compared.append(Candidate(schedule, artifact.schedule or repr(schedule), found.us))
        if best is None or found.us < best[1].us:
            best = artifact, replace(found, recorders=(), lines=())
    assert best is not None, "a family refuses what it has no schedule for"
    return Choice(*best, tuple(compared))
