"""Progress: what a verb tells its user while it works.

In: phases, notes, details, the product. Out, by kind of reader: a terminal gets one updating line per phase, anything
else plain lines and a heartbeat, a program JSON events. Invariant: people's lines go to stderr, stdout carries only
the product (or, with --json, only events), and no phase is silent for more than `heartbeat` seconds.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

HEARTBEAT_SECONDS = 10.0


@dataclass
class Phase:
    """One running phase. Whoever runs it sets `result`, the few words that its line ends with."""

    number: int
    name: str
    result: str = ""
    seconds: float = 0.0


class Reporter:
    """Plain lines on `stream`; the base of the other two. `check` is called around phases and may raise (Ctrl-C)."""

    def __init__(
        self,
        stream: TextIO,
        *,
        quiet: bool = False,
        verbose: bool = False,
        heartbeat: float = HEARTBEAT_SECONDS,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._stream = stream
        self._quiet = quiet
        self._verbose = verbose
        self._heartbeat = heartbeat
        self._check = check
        self._total = 0
        self._number = 0
        self._log: TextIO | None = None

    # -- what verbs call -----------------------------------------------------------------------------------------------
    def plan(self, total: int) -> None:
        """Say how many phases there will be."""
        self._total = total

    @contextmanager
    def phase(self, name: str) -> Iterator[Phase]:
        """Run the block as the next phase."""
        self._check()
        self._number += 1
        phase = Phase(self._number, name)
        start = time.monotonic()
        done = threading.Event()

        def beat() -> None:
            while not done.wait(self._heartbeat):
                self._alive(phase, time.monotonic() - start)

        watch = threading.Thread(target=beat, daemon=True)
        outcome = "failed"
        self._begin(phase)
        watch.start()
        try:
            yield phase
            outcome = "done"
        except KeyboardInterrupt:
            outcome = "interrupted"
            raise
        finally:
            done.set()
            watch.join()
            phase.seconds = time.monotonic() - start
            self._end(phase, outcome)
        self._check()

    def note(self, text: str) -> None:
        """A line for the user."""
        self._write_log(text)
        if not self._quiet:
            self._line(text)

    def detail(self, text: str) -> None:
        """A line for the log, and for a user who asked for -v."""
        self._write_log(text)
        if self._verbose:
            self._line(text)

    def product(self, text: str) -> None:
        """The product: the one thing that goes to stdout."""
        print(text, flush=True)

    @contextmanager
    def logging(self, path: Path) -> Iterator[None]:
        """Copy every line to the file `path` while the block runs."""
        with path.open("w", encoding="utf-8") as log:
            self._log, self._log_path = log, path
            try:
                yield
            finally:
                self._log = None

    # -- what the kinds of readers change ------------------------------------------------------------------------------
    def _begin(self, phase: Phase) -> None:
        pass

    def _alive(self, phase: Phase, elapsed: float) -> None:
        text = f"{self._tag(phase)} {phase.name}: running for {elapsed:.0f} s"
        self.note(text + (f", log {self._log_path}" if self._log else ""))

    def _end(self, phase: Phase, outcome: str) -> None:
        self.note(self._summary(phase, outcome))

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    # -- shared --------------------------------------------------------------------------------------------------------
    def _tag(self, phase: Phase) -> str:
        return f"[{phase.number}/{self._total}]" if self._total else f"[{phase.number}]"

    def _summary(self, phase: Phase, outcome: str) -> str:
        result = phase.result if outcome == "done" else outcome
        return f"{self._tag(phase)} {phase.name:<20} {result:<72} {phase.seconds:7.2f} s"

    def _write_log(self, text: str) -> None:
        if self._log:
            print(text, file=self._log, flush=True)


class TerminalReporter(Reporter):
    """One updating line per phase, by rich."""

    def __init__(self, stream: TextIO, **options: Any) -> None:
        from rich.console import Console

        super().__init__(stream, **options)
        self._console = Console(file=stream)
        self._live: Any = None

    def _begin(self, phase: Phase) -> None:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        if not self._quiet:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self._live = Progress(*columns, console=self._console, transient=True)
            self._live.add_task(f"{self._tag(phase)} {phase.name}", total=None)
            self._live.start()

    def _alive(self, phase: Phase, elapsed: float) -> None:
        self._write_log(f"{self._tag(phase)} {phase.name}: running for {elapsed:.0f} s")

    def _end(self, phase: Phase, outcome: str) -> None:
        if self._live:
            self._live.stop()
            self._live = None
        super()._end(phase, outcome)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class JsonReporter(Reporter):
    """Events on stdout, one JSON object per line."""

    def product(self, text: str) -> None:
        self.event("product", path=text)

    def event(self, kind: str, **fields: Any) -> None:
        print(json.dumps({"event": kind, **fields}, ensure_ascii=False), file=self._stream, flush=True)

    def _begin(self, phase: Phase) -> None:
        self.event("begin", number=phase.number, of=self._total or None, phase=phase.name)

    def _alive(self, phase: Phase, elapsed: float) -> None:
        self._write_log(f"{self._tag(phase)} {phase.name}: running for {elapsed:.0f} s")
        self.event("alive", number=phase.number, phase=phase.name, seconds=round(elapsed, 3))

    def _end(self, phase: Phase, outcome: str) -> None:
        self._write_log(self._summary(phase, outcome))
        fields = {"number": phase.number, "phase": phase.name, "outcome": outcome, "result": phase.result}
        self.event("end", **fields, seconds=round(phase.seconds, 3))

    def _line(self, text: str) -> None:
        self.event("note", text=text)


def make_reporter(*, quiet: bool, verbose: bool, json: bool, check: Callable[[], None] = lambda: None) -> Reporter:
    """The reporter for this process's stdout and stderr. TERM=dumb and non-terminals get plain lines."""
    if json:
        return JsonReporter(sys.stdout, quiet=quiet, verbose=verbose, check=check)
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return TerminalReporter(sys.stderr, quiet=quiet, verbose=verbose, check=check)
    return Reporter(sys.stderr, quiet=quiet, verbose=verbose, check=check)
