"""Measuring a child process: its wall time and peak memory, in total and per phase; and the load of the machine.

In: a command that prints one JSON object per line: `{"event": "begin", "phase": NAME}`, then `{"event": "end",
"phase": NAME}`; other lines are ignored. Out: a `Run`. Phases do not nest. Time is taken here, when the events
arrive; memory is the resident set of the child and its descendants, sampled through /proc (Linux). Invariant: the
totals cover the whole life of the process, also what no phase covers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLE_SECONDS = 0.01
AT_START, AT_END = "at the start", "at the end"
BUSY_LOAD = 0.7
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ChildError(Exception):
    """The measured command did not exit with 0; the text is the end of what it wrote to stderr."""


@dataclass(frozen=True)
class Phase:
    """One phase: seconds, and the peak of the resident bytes while it ran."""

    name: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Run:
    """One process from start to exit. `phases` is in order; what lies between them is in the totals only."""

    phases: tuple[Phase, ...]
    seconds: float
    peak_bytes: int


def measure(command: Sequence[str]) -> Run:
    """Run `command` in the repository's root to its end. Raises ChildError.

    The child gets a temporary directory of its own: torch, and torch-mlir where it fails, leave files behind.
    """
    phases: list[Phase] = []
    with tempfile.TemporaryFile() as stderr, tempfile.TemporaryDirectory() as scratch:
        start = begin = time.perf_counter()
        environment = {**os.environ, "TMPDIR": scratch}
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=REPOSITORY, env=environment
        )
        assert child.stdout is not None
        with child.stdout, _Sampler(child.pid) as sampler:
            for line in child.stdout:
                event = _event(line)
                if event.get("event") == "begin":
                    begin = time.perf_counter()
                    sampler.restart()
                elif event.get("event") == "end":
                    phases.append(Phase(str(event["phase"]), time.perf_counter() - begin, sampler.peak_bytes))
                    sampler.restart()
            _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            stderr.seek(0)
            raise ChildError(stderr.read().decode(errors="replace")[-2000:])
    # The kernel knows the child's own peak exactly; only the samples know about its descendants.
    return Run(tuple(phases), seconds, max(sampler.overall_bytes, usage.ru_maxrss * 1024))


def machine() -> dict[str, object]:
    """What a figure depends on besides the code: usable CPUs, and the load averages of 1, 5 and 15 minutes."""
    return {"cpus": len(os.sched_getaffinity(0)), "load": [round(load, 2) for load in os.getloadavg()]}


def print_machine(when: str) -> None:
    """Print `machine()` as a line, to stderr. At the start it warns of other work."""
    facts = machine()
    print(f"machine {when}: {facts['cpus']} CPUs, load {facts['load']}", file=sys.stderr, flush=True)
    if when == AT_START and os.getloadavg()[0] > BUSY_LOAD:
        print("warning: the machine is busy; what is printed now is not worth comparing", file=sys.stderr, flush=True)


def model(text: str) -> str:
    """An argument that names a model: a variant as it is, a path as it reads from the repository's root."""
    return str(Path(text).resolve()) if Path(text).exists() else text


def _event(line: str) -> dict[str, object]:
    if not line.startswith("{"):
        return {}
    event: dict[str, object] = json.loads(line)
    return event


class _Sampler:
    """A thread that watches the resident bytes of process `pid` and of its descendants."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = self.overall_bytes = 0

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def restart(self) -> None:
        """Start a new phase: its peak is at least what is resident now."""
        self.peak_bytes = 0
        self._sample()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        resident = _resident_bytes(self._pid)
        self.peak_bytes = max(self.peak_bytes, resident)
        self.overall_bytes = max(self.overall_bytes, resident)


def _resident_bytes(pid: int) -> int:
    """Resident bytes of `pid` and its descendants; 0 for a process that has ended."""
    process = Path("/proc") / str(pid)
    try:
        pages = int((process / "statm").read_text().split()[1])
        children = [child for task in (process / "task").iterdir() for child in (task / "children").read_text().split()]
    except (OSError, IndexError):
        return 0
    return pages * _PAGE_BYTES + sum(_resident_bytes(int(child)) for child in children)
