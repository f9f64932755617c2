"""LNC 2: two programs of one kernel that take turns, share HBM and meet in sendrecv and core_barrier.

In: two functions to run, one per program.
Out: their results; deadlocks and disagreements as coded errors.
Invariant: exactly one program runs at any time. It runs until it waits for the other, is ahead of it when it writes to
shared HBM, or ends: runs are repeatable, and unordered writes happen in lockstep, as on two equally fast cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from g4c.lowering.nki.simulator.diagnostics import error
from g4c.lowering.nki.simulator.memory import MemoryRegion, Storage
from g4c.lowering.nki.simulator.program import Program

Key = tuple[Any, ...]


class _Abandoned(BaseException):
    """The other program failed; this one ends silently."""


class Pair:
    """The baton and the mailboxes of two programs."""

    def __init__(self, programs: list[Program]) -> None:
        self._programs = programs
        self._batons = [threading.Lock(), threading.Lock()]
        self._batons[1].acquire()
        self._waiting: list[Key | None] = [None, None]
        self._finished = [False, False]
        self._posts: list[dict[Key, Any]] = [{}, {}]
        self._counts: list[dict[Key, int]] = [{}, {}]
        self._failure: BaseException | None = None

    def run(self, bodies: list[Callable[[], Any]]) -> list[Any]:
        """Run both bodies; raise what the first failing one raised."""
        results: list[Any] = [None, None]

        def work(number: int) -> None:
            try:
                self._take(number)
                results[number] = bodies[number]()
            except _Abandoned:
                pass
            except BaseException as failure:
                self._failure = self._failure or failure
            finally:
                self._finish(number)

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return results

    def _take(self, number: int) -> None:
        self._batons[number].acquire()
        if self._failure is not None:
            raise _Abandoned

    def _finish(self, number: int) -> None:
        self._finished[number] = True
        if not self._finished[1 - number]:
            self._batons[1 - number].release()

    def keep_pace(self, program: Program) -> None:
        """Let the other program catch up, unless it waits or has ended."""
        me, other = program.number, 1 - program.number
        while (
            self._programs[other].instructions < program.instructions
            and not self._finished[other]
            and self._waiting[other] is None
        ):
            self._give(me, other)

    def _give(self, me: int, other: int) -> None:
        """Pass the baton and wait for it."""
        self._batons[other].release()
        self._take(me)

    def exchange(self, program: Program, what: Key, payload: Any) -> tuple[Any, bool]:
        """Meet the other program's matching call: its payload, and whether it had arrived first."""
        me, other = program.number, 1 - program.number
        count = self._counts[me].get(what, 0)
        self._counts[me][what] = count + 1
        key = (*what, count)
        self._posts[me][key] = payload
        first_there = key in self._posts[other]
        while key not in self._posts[other]:
            stuck = self._waiting[other] is not None and self._waiting[other] not in self._posts[me]
            if self._finished[other] or stuck:
                theirs = "it has ended" if self._finished[other] else f"it waits in {_describe(self._waiting[other])}"
                raise error(
                    "G4C-K024",
                    f"program {me} waits in {_describe(key)}, which program {other} does not reach: {theirs}",
                    "both programs execute matching sendrecv and core_barrier calls in the same order",
                )
            self._waiting[me] = key
            self._give(me, other)
            self._waiting[me] = None
        return self._posts[other].pop(key), first_there


def _describe(key: Key | None) -> str:
    assert key is not None
    kind, *details, count = key
    return f"{kind}{tuple(details) if details else ''} number {count}"


def shared_storage(program: Program, shape: tuple[int, ...], dtype: str) -> Storage:
    """The storage of the next allocation in shared HBM: the first program that gets there makes it for both."""
    number = program.shared_allocations
    program.shared_allocations += 1
    made = program.launch.shared
    if number == len(made):
        storage = Storage(MemoryRegion.shared_hbm, shape, dtype)
        storage.shared = True
        made.append(storage)
    storage = made[number]
    if storage.shape != shape or storage.dtype != dtype:
        raise error(
            "G4C-K024",
            f"allocation {number} in shared HBM is {dtype}{list(shape)} in program {program.number} and "
            f"{storage.dtype}{list(storage.shape)} in the other ({storage.site})",
            "both programs allocate the same shared tensors in the same order",
        )
    return storage
