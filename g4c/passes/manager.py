"""The pass manager: runs a pipeline on a module, checks it around every pass, and shows what happened.

In: a module and a pipeline. Out: the module, edited in place, and a `PipelineReport`. Diagnostics go to
`PipelineOptions.sink` (stderr by default), never to stdout. Invariant: a module that leaves a pass verifies, and
differs from what went in exactly if the pass says so; otherwise there is an error that names the pass, and a directory
that reproduces it.
"""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from g4c.errors import G4cError
from g4c.ir.module import Module
from g4c.ir.op import InvalidOpError
from g4c.ir.printer import print_module
from g4c.ir.verifier import verify_module
from g4c.passes.contract import PassContext, PassResult
from g4c.passes.numerics import NumericsCheck
from g4c.passes.pipeline import Entry, Pipeline, dump_name, pipeline_header
from g4c.passes.repro import write_repro


def _stderr(text: str) -> None:
    print(text, file=sys.stderr)


@dataclass(frozen=True)
class PipelineOptions:
    """How a pipeline is run and watched.

    Places (`start_from`, `stop_after`, `print_ir_*`) are pass names, numbers or dump names; "all" prints around every
    pass. `dump_dir`: one file per pass, `00_input.mlir`, `01_canonicalize.mlir`, ...; each begins with the pipeline
    that is still to run. `repro_dir`: where a failing pass leaves its input; None: nowhere. `after_pass` is called
    after each pass, with the module as the pass left it.
    """

    verify_each: bool = True
    dump_dir: Path | None = None
    print_ir_before: tuple[str, ...] = ()
    print_ir_after: tuple[str, ...] = ()
    print_ir_after_change: bool = False
    start_from: str | None = None
    stop_after: str | None = None
    time: bool = False
    stats: bool = False
    check_numerics: bool = False
    repro_dir: Path | None = Path("repro")
    after_pass: Callable[[PassRun], None] | None = None
    sink: Callable[[str], None] = _stderr


@dataclass(frozen=True)
class PassRun:
    """One pass as it ran: its place and spelling in the pipeline, its result, wall time."""

    number: int
    entry: str
    modified: bool
    stats: dict[str, int]
    seconds: float


@dataclass(frozen=True)
class PipelineReport:
    """What ran, in order."""

    pipeline: str
    runs: tuple[PassRun, ...]

    @property
    def modified(self) -> bool:
        return any(run.modified for run in self.runs)

    def stats(self, name: str) -> dict[str, int]:
        """Sums of the stats of the passes called `name`."""
        total: dict[str, int] = {}
        for run in self.runs:
            if run.entry.partition("{")[0] == name:
                for key, count in run.stats.items():
                    total[key] = total.get(key, 0) + count
        return total

    def format_time(self) -> str:
        total = sum(run.seconds for run in self.runs)
        rows = [f"{run.seconds:>9.3f} s  {dump_name(run.number, run.entry)}" for run in self.runs]
        return "\n".join([*rows, f"{total:>9.3f} s  total"])

    def format_stats(self) -> str:
        rows = []
        for run in self.runs:
            counts = ", ".join(f"{key} {count:,}" for key, count in run.stats.items() if count) or "no change"
            rows.append(f"{dump_name(run.number, run.entry)}: {counts}")
        return "\n".join(rows)


class PassFailedError(G4cError):
    """An error inside a pipeline: the original error, the pass it happened in, and how to reproduce it."""

    def __init__(self, error: G4cError, step: str, history: tuple[str, ...], repro: str | None) -> None:
        super().__init__(error.code, error.message, where=error.where, help=error.help, excerpt=error.excerpt)
        self.error = error
        self.notes = [f"  = pass: {step}" + (f" (after {', '.join(history)})" if history else "")]
        if repro is not None:
            self.notes.append(f"  = repro: {repro}")

    def __str__(self) -> str:
        return "\n".join([str(self.error), *self.notes])


def run_pipeline(module: Module, pipeline: Pipeline, options: PipelineOptions | None = None) -> PipelineReport:
    """Run `pipeline` on `module` in place.

    Raises what a pass refuses (P codes) or the verifier finds (V codes) as `PassFailedError`; the module is then not
    usable.
    """
    return _Run(module, pipeline, options or PipelineOptions()).run()


_LOCATION = re.compile(r' loc\((?:"[^"]*"\()?(?:"[^"]*":\d+:\d+|unknown)\)?\)$', re.MULTILINE)


def structure(text: str) -> str:
    """A module's text without locations."""
    return _LOCATION.sub("", text)


class _Run:
    def __init__(self, module: Module, pipeline: Pipeline, options: PipelineOptions) -> None:
        self.module = module
        self.pipeline = pipeline
        self.options = options
        self.first = 0 if options.start_from is None else pipeline.index(options.start_from)
        self.end = len(pipeline) if options.stop_after is None else pipeline.index(options.stop_after) + 1
        if self.end <= self.first and len(pipeline):
            raise G4cError("G4C-P007", f"{options.stop_after!r} comes before {options.start_from!r}")
        self.shown_before = self.places(options.print_ir_before)
        self.shown_after = self.places(options.print_ir_after)
        self.text = ""

    def places(self, names: tuple[str, ...]) -> set[int]:
        """Indices of the passes that `names` mean; a plain name means all passes so called."""
        found: set[int] = set()
        for name in names:
            same = {i for i, other in enumerate(self.pipeline.names) if name in ("all", other)}
            found |= same or {self.pipeline.index(name)}
        return found

    def run(self) -> PipelineReport:
        options = self.options
        if options.verify_each:
            verify_module(self.module)
        self.check_level()
        self.prepare_dumps()
        self.text = print_module(self.module)
        if self.first == 0:
            self.dump(0, "input")
        numerics = NumericsCheck(self.module) if options.check_numerics else None
        runs = []
        for index in range(self.first, self.end):
            if index in self.shown_before:
                self.show("before", index)
            runs.append(self.run_pass(index, numerics))
            if options.after_pass is not None:
                options.after_pass(runs[-1])
            if index in self.shown_after or (options.print_ir_after_change and runs[-1].modified):
                self.show("after", index)
            self.dump(index + 1, self.pipeline.names[index])
        report = PipelineReport(str(self.pipeline), tuple(runs))
        if options.stats:
            options.sink(report.format_stats())
        if options.time:
            options.sink(report.format_time())
        return report

    def check_level(self) -> None:
        for entry in self.pipeline.entries[self.first : self.end]:
            wanted = entry.step.level_before
            if wanted is not None:
                if wanted is not self.module.level:
                    message = (
                        f"{entry.step.name} runs at {wanted.value} level, the module is at {self.module.level.value}"
                    )
                    raise G4cError("G4C-P006", message, where=f"module {self.module.name}")
                return

    def run_pass(self, index: int, numerics: NumericsCheck | None) -> PassRun:
        entry, module, options = self.pipeline.entries[index], self.module, self.options
        begin = time.perf_counter()
        try:
            result = entry.step.run(module, PassContext(self.pipeline.names[self.first : index], options.sink))
            seconds = time.perf_counter() - begin
            text = self.checked_text(entry, result)
            if numerics is not None and result.modified:
                numerics.compare(module, entry.step.name)
        except G4cError as error:
            raise self.failed(error, index) from error
        except Exception as error:
            kind = "built an invalid op" if isinstance(error, InvalidOpError) else f"crashed: {type(error).__name__}"
            crash = G4cError("G4C-P011", f"{entry.step.name} {kind}: {error}")
            raise self.failed(crash, index, traceback.format_exc()) from error
        self.text = text
        return PassRun(index + 1, str(entry), result.modified, result.stats, seconds)

    def checked_text(self, entry: Entry, result: PassResult) -> str:
        """The module's text after a pass, once it verifies and differs from before exactly if the pass says so."""
        if not self.options.verify_each:
            return print_module(self.module) if result.modified else self.text
        verify_module(self.module)
        if result.modified:
            text = print_module(self.module)
            same = structure(text) == structure(self.text)
        else:
            text = self.text
            same = print_module(self.module, locations=False) == structure(text)
        if same == result.modified:
            claim = "says it changed the module, which is as it was" if same else "changed the module unsaid"
            raise G4cError("G4C-P010", f"{entry.step.name} {claim}")
        return text

    def failed(self, error: G4cError, index: int, detail: str = "") -> PassFailedError:
        entry = self.pipeline.entries[index]
        command = None
        if self.options.repro_dir is not None:
            flags = ["--check-numerics"] if self.options.check_numerics else []
            command = write_repro(self.options.repro_dir, entry, self.text, f"{error}\n{detail}", flags)
        return PassFailedError(error, str(entry), self.pipeline.names[self.first : index], command)

    def show(self, when: str, index: int) -> None:
        self.options.sink(f"// IR {when} {dump_name(index + 1, str(self.pipeline.entries[index]))}\n{self.text}")

    def prepare_dumps(self) -> None:
        """Make the directory. What an earlier run left for passes that run now goes: it would mislead."""
        if self.options.dump_dir is None:
            return
        with _writing_dumps(self.options.dump_dir):
            self.options.dump_dir.mkdir(parents=True, exist_ok=True)
            for path in _dumps(self.options.dump_dir):
                if int(path.name[:2]) > self.first or self.first == 0:
                    path.unlink()

    def dump(self, done: int, name: str) -> None:
        if self.options.dump_dir is not None:
            rest = Pipeline(self.pipeline.entries[done:])
            path = self.options.dump_dir / f"{dump_name(done, name)}.mlir"
            with _writing_dumps(self.options.dump_dir):
                path.write_text(pipeline_header(rest) + self.text, encoding="utf-8")


@contextmanager
def _writing_dumps(directory: Path) -> Iterator[None]:
    """What the operating system refuses in this block is G4C-P014."""
    try:
        yield
    except OSError as error:
        raise G4cError("G4C-P014", f"cannot write dumps: {error.strerror}", where=str(directory)) from error


def _dumps(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.glob("[0-9][0-9]_*.mlir")) if path.is_file())
