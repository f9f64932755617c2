"""Progress: lines, heartbeats, events; stdout stays the product's."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from g4c.cli.progress import JsonReporter, Reporter, TerminalReporter, make_reporter


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    reporter = Reporter(stream)
    reporter.plan(2)
    with reporter.phase("trace") as phase:
        phase.result = "3 programs"
    reporter.detail("only with -v")
    reporter.note("a note")
    reporter.product("build/e2b")
    line, note = stream.getvalue().splitlines()
    assert line.split() == ["[1/2]", "trace", "3", "programs", line.split()[-2], "s"]
    assert note == "a note"
    assert capsys.readouterr().out == "build/e2b\n"


def test_a_failed_phase_says_so() -> None:
    stream = io.StringIO()
    reporter = Reporter(stream)
    for error, word in ((ValueError(), "failed"), (KeyboardInterrupt(), "interrupted")):
        with pytest.raises(type(error)), reporter.phase("trace"):
            raise error
        assert word in stream.getvalue().splitlines()[-1]


def test_a_long_phase_is_never_silent(tmp_path: Path) -> None:
    stream = io.StringIO()
    reporter = Reporter(stream, heartbeat=0.02)
    with reporter.logging(tmp_path / "compile.log"), reporter.phase("trace"):
        time.sleep(0.2)
    beats = stream.getvalue().splitlines()[:-1]
    assert len(beats) >= 2
    assert beats[0] == f"[1] trace: running for 0 s, log {tmp_path / 'compile.log'}"
    assert (tmp_path / "compile.log").read_text() == stream.getvalue()


def test_quiet_says_nothing_and_verbose_more() -> None:
    quiet, verbose = io.StringIO(), io.StringIO()
    for reporter in (Reporter(quiet, quiet=True), Reporter(verbose, verbose=True)):
        with reporter.phase("trace"):
            reporter.detail("detail")
    assert quiet.getvalue() == ""
    assert verbose.getvalue().splitlines()[0] == "detail"


def test_a_swallowed_interrupt_ends_the_next_phase() -> None:
    def check() -> None:
        raise KeyboardInterrupt

    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Reporter(stream, check=check).phase("trace"):
        pytest.fail("the phase ran")


def test_events(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = make_reporter(quiet=False, verbose=False, json=True)
    assert isinstance(reporter, JsonReporter)
    reporter.plan(1)
    with reporter.phase("trace") as phase:
        phase.result = "3 programs"
    reporter.note("a note")
    reporter.product("build/e2b")
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert [event["event"] for event in events] == ["begin", "end", "note", "product"]
    assert events[0] == {"event": "begin", "number": 1, "of": 1, "phase": "trace"}
    assert events[1]["result"] == "3 programs"
    assert events[1]["outcome"] == "done"
    assert events[3]["path"] == "build/e2b"
    assert captured.err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_updating_line_per_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    reporter = make_reporter(quiet=False, verbose=False, json=False)
    assert isinstance(reporter, TerminalReporter)
    with reporter.phase("trace") as phase:
        phase.result = "3 programs [not markup]"
    assert "3 programs [not markup]" in stream.getvalue()
    assert "\r" in stream.getvalue()


def test_no_color_and_dumb_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    with TerminalReporter(stream).phase("trace") as phase:
        phase.result = "3 programs"
    assert "\x1b[3" not in stream.getvalue().replace("\x1b[3F", "")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stderr", stream)
    assert type(make_reporter(quiet=False, verbose=False, json=False)) is Reporter
