"""The command line as a whole: refusals, exit codes, explanations, lists."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from g4c.cli import explain as explain_verb
from g4c.cli.main import main
from g4c.errors import catalogue


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command that must print nothing on stdout and no traceback."""
    code = main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.count("error[") == 1
    return code, captured.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "C001 required: VERB"),
        ("cmpile", "C002 did you mean 'compile'?"),
        ("compile", "C003 no model"),
        ("compile e2b --variant e2b", "C003 several models: e2b, e2b"),
        ("compile e2b --bukets 128", "C001 did you mean --buckets?"),
        ("compile e2b --buckets 128;512", "C001 expected integers separated by commas, got '128;512'"),
        ("compile e2b --dtype bfloat", "C002 did you mean 'bfloat16'?"),
        ("compile e2b --target tnr2", "C002 did you mean 'trn2'?"),
        ("compile e2b --tp 0", "C004 supported: --tp 1"),
        ("compile e2b --tp 2", "C004 supported: --tp 1"),
        ("compile e2b --buckets 128,4096", "C005 the bucket 4096 is longer than the context, --max-context 2048"),
        ("compile e2b --buckets 128,128", "C005 twice"),
        ("compile e2b --buckets 0", "C005 at least 1"),
        ("compile e2b --batch 0", "C005 --batch must be at least 1, got 0"),
        ("compile e2b --logit-rows 200", "C005 --logit-rows 200 exceeds the smallest bucket, 128"),
        ("compile e2b --max-context 999999", "C006 exceeds the model's 131072 positions"),
        ("compile e3b", "F001 did you mean"),
        ("compile --variant ./e2b", "F001 known variants"),
        ("compile --config missing.json", "F002 missing.json"),
        ("compile --checkpoint missing", "F002 missing"),
        ("explain G4C-Z999", "C007 unknown error code"),
        ("list varants", "C002 did you mean 'variants'?"),
        ("opt missing.mlir", "C008 cannot read missing.mlir: No such file"),
        ("run missing --random-weights 0 --token-ids 2", "R100 missing does not exist"),
        ("run missing --random-weights 0 --token-ids 2 --top-p 2", "C001 must be above 0 and at most 1"),
        ("run missing --random-weights 0 --token-ids 2 --temperature -1", "C001 at least 0"),
        ("run missing --random-weights 0 --token-ids 2 --max-new-tokens 0", "C001 must be at least 1"),
        ("verify missing --random-weights x", "C001 expected an integer, got 'x'"),
    ],
)
def test_refusals(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = refused(capsys, *arguments.split())
    name, _, words = expected.partition(" ")
    assert f"error[G4C-{name}]" in text
    assert words in text
    assert code == catalogue()[f"G4C-{name}"].exit_code
    assert os.listdir(tmp_path) == []


def test_an_error_is_an_event_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "e2b", "--tp", "0", "--json"]) == 2
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert events[-1] == {
        "event": "error",
        "code": "G4C-C004",
        "message": "--tp 0 is not supported",
        "where": None,
        "help": "supported: --tp 1, one logical NeuronCore",
        "exit_code": 2,
    }


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("compile", "run", "verify", "estimate", "opt", "list", "explain"):
        assert f"    {verb}" in text
        assert main([verb, "--help"]) == 0
        assert f"usage: g4c {verb}" in capsys.readouterr().out


def test_every_code_has_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == sorted(catalogue())
    for code, page in catalogue().items():
        assert main(["explain", code.lower().removeprefix("g4c-")]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"{code}: {page.title}\n")
        assert f"exit code {page.exit_code} " in text
        assert len(page.explanation) > 40, code


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in ("e2b", "tiny-e2b", "trn2", "eliminate-shared-kv", "g4.rms_norm"):
        assert name in text


def run_verb(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """The exit code of a verb that fails with `error`."""

    def execute(options: object) -> int:
        raise error

    monkeypatch.setattr(explain_verb, "execute", execute)
    return main(["explain"])


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(monkeypatch, RuntimeError("wires crossed")) == 70
    text = capsys.readouterr().err
    assert "RuntimeError: wires crossed" in text
    assert text.endswith("internal error: this is a bug in g4c; the traceback above shows where\n")


def test_a_full_disk_is_a_coded_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "dumps/01_cse.mlir")
    assert run_verb(monkeypatch, full) == 1
    text = capsys.readouterr().err
    assert text.startswith("error[G4C-C009]: no space left on the disk\n  --> dumps/01_cse.mlir\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]

    def execute(options: object) -> int:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise ImportError("a library translated the interrupt") from None
        return 0

    monkeypatch.setattr(explain_verb, "execute", execute)
    assert main(["explain"]) == code
    assert capsys.readouterr().err == "interrupted\n"
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers


def test_a_closed_pipe_is_quiet() -> None:
    listing = subprocess.Popen(
        [sys.executable, "-m", "g4c", "explain"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert listing.stdout is not None
    listing.stdout.close()
    assert listing.stderr is not None
    assert listing.stderr.read() == ""
    assert listing.wait() == 141
