"""Ctrl-C in the middle of every phase of a compile and of a run: exit code 130, one line, nothing left behind."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_checkpoints import make_model, save

from g4c.cli.main import main

SHAPES = ("--buckets", "16", "--max-context", "1024", "--dtype", "float32")
RUN = ("--token-ids", "5,6,7", "--greedy", "--ignore-eos", "--threads", "1")

# What a phase calls on its way, and the how-manieth call the interrupt comes in.
COMPILE_PHASES = {
    "load config": ("g4c.frontend.checkpoint", "CheckpointIndex.check", 1),
    "trace": ("g4c.frontend.trace", "import_program", 2),
    "passes": ("g4c.passes.eliminate_shared_kv", "EliminateSharedKv.run", 1),
    "passes for the CPU": ("g4c.passes.mask_kv_updates", "MaskKvUpdates.run", 1),
    "lower": ("g4c.lowering.neuron.lower", "lower_program", 3),
    "pack weights": ("g4c.runtime.weights", "WeightStore.__getitem__", 20),
    "write bundle": ("g4c.runtime.bundle", "_sync", 2),
}
RUN_PHASES = {
    "open bundle": ("g4c.runtime.bundle", "file_digest", 4),
    "load weights": ("g4c.runtime.weights", "PackedWeights.__getitem__", 20),
    "prefill": ("g4c.runtime.session", "Session.prefill", 1),
    "decode": ("g4c.runtime.session", "Session.decode", 3),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_model("Gemma4ForCausalLM"), tmp_path_factory.mktemp("ctrl-c") / "checkpoint")


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    output = checkpoint.parent / "bundle"
    assert main(["compile", "--checkpoint", str(checkpoint), "-o", str(output), "-q", *SHAPES]) == 0
    return output


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, empty; `temporary` beside it stands in for the system's."""
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return place


def interrupt(monkeypatch: pytest.MonkeyPatch, module: str, name: str, call: int, *, swallowed: bool = False) -> None:
    """Send SIGINT in the `call`-th call of a function. `swallowed`: a library turns the interrupt into an error."""
    owner: Any = importlib.import_module(module)
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part)
    attribute = name.rpartition(".")[2]
    function: Callable[..., Any] = getattr(owner, attribute)
    calls = []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(attribute)
        if len(calls) != call:
            return function(*args, **kwargs)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if swallowed:
                raise RuntimeError("a library's own words for it") from None
            raise
        raise AssertionError("SIGINT was ignored")

    monkeypatch.setattr(owner, attribute, interrupted)


def check_interrupted(arguments: list[str], capsys: pytest.CaptureFixture[str], place: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    capsys.readouterr()
    assert main(arguments) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert os.listdir(place) == []
    assert os.listdir(place.parent / "temporary") == []
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("phase", COMPILE_PHASES)
def test_a_compile(
    phase: str, checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(monkeypatch, *COMPILE_PHASES[phase])
    check_interrupted(["compile", str(checkpoint), "-q", "-o", "out/bundle", *SHAPES], capsys, place)


@pytest.mark.parametrize("phase", ["trace", "lower", "pack weights"])
def test_a_compile_in_a_library_that_swallows_it(
    phase: str, checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(monkeypatch, *COMPILE_PHASES[phase], swallowed=True)
    check_interrupted(["compile", str(checkpoint), "-q", "-o", "out/bundle", *SHAPES], capsys, place)


def test_a_compile_in_a_finalizer(
    checkpoint: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python swallows what a finalizer raises."""

    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    lower = importlib.import_module("g4c.lowering.neuron.lower")
    lower_program = lower.lower_program

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        Finalized()
        return lower_program(*args, **kwargs)

    monkeypatch.setattr(lower, "lower_program", interrupted)
    check_interrupted(["compile", str(checkpoint), "-q", "-o", "out/bundle", *SHAPES], capsys, place)


@pytest.mark.parametrize("phase", RUN_PHASES)
def test_a_run(
    phase: str, bundle: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(monkeypatch, *RUN_PHASES[phase])
    check_interrupted(["run", str(bundle), "-q", *RUN], capsys, place)


def stopped_from_outside(place: Path, when: Callable[[dict[str, Any]], bool], *arguments: str) -> None:
    """Run a process of its own, and send it SIGINT at the first event for which `when` is true."""
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    environment["TMPDIR"] = str(place.parent / "temporary")
    command = [sys.executable, "-m", "g4c", *arguments, "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout is not None
        next(line for line in running.stdout if when(json.loads(line)))
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=120)
    assert (running.returncode, errors) == (130, "interrupted\n")
    assert os.listdir(place) == []
    assert os.listdir(place.parent / "temporary") == []


def test_a_compile_stopped_from_outside(checkpoint: Path, place: Path) -> None:
    def when(event: dict[str, Any]) -> bool:
        return event["event"] == "begin" and event["phase"] == "lower decode"

    stopped_from_outside(place, when, "compile", str(checkpoint), "-o", "out/bundle", *SHAPES)


@pytest.mark.parametrize("name", ["open bundle", "load prefill_16", "load decode"])
def test_a_run_stopped_from_outside_while_it_loads(name: str, bundle: Path, place: Path) -> None:
    """XLA gives up on a compile at once, but its threads go on."""

    def when(event: dict[str, Any]) -> bool:
        return event["event"] == "begin" and event["phase"] == name

    stopped_from_outside(place, when, "run", str(bundle), *RUN)


def test_a_run_stopped_from_outside_while_it_generates(bundle: Path, place: Path) -> None:
    tokens: list[int] = []

    def when(event: dict[str, Any]) -> bool:
        if event["event"] == "token":
            tokens.append(event["id"])
        return len(tokens) == 5

    stopped_from_outside(place, when, "run", str(bundle), *RUN, "--max-new-tokens", "1000")
