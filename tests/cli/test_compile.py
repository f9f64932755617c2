"""`g4c compile`, whole: what it prints, writes, reuses and leaves behind when it is stopped."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from g4c.cli.main import main
from g4c.cli.progress import Phase, Reporter
from g4c.frontend.variants import VARIANTS
from g4c.ir.parser import parse_module
from g4c.ir.printer import print_module
from g4c.runtime import bundle as bundle_module
from g4c.runtime.bundle import open_bundle

SMALL = ["compile", "--variant", "tiny-e2b", "--buckets", "16", "--max-context", "64"]
PHASES = ["load config", "trace", "passes", "lower prefill_16", "lower decode", "write bundle"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A compiled tiny-e2b, with dumps, and what the command printed."""
    directory = tmp_path_factory.mktemp("compiled")
    return directory, g4c(*SMALL, "-o", "tiny", "--dump-dir", "dump", cwd=directory)


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A compile of the first ten layers, five of which share K/V: quick, and with every layer kind of tiny-e2b."""
    config = VARIANTS["tiny-e2b"].config_json()
    layers = {"num_hidden_layers": 10, "layer_types": config["layer_types"][:10], "num_kv_shared_layers": 5}
    path = tmp_path_factory.mktemp("shallow") / "shallow.json"
    path.write_text(json.dumps({**config, **layers}))
    return ["compile", "--config", str(path), "--buckets", "16", "--max-context", "64"]


def g4c(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "g4c", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_stdout_is_the_product_and_stderr_the_progress(
    compiled: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    directory, done = compiled
    assert done.returncode == 0, done.stderr
    assert done.stdout == "tiny\n"
    lines = [line for line in done.stderr.splitlines() if ": running for " not in line]
    for number, (phase, line) in enumerate(zip(PHASES, lines, strict=False), 1):
        assert line.startswith(f"[{number}/{len(PHASES)}] {phase} "), line
        assert line.endswith(" s"), line
    log = [line for line in (directory / "tiny/compile.log").read_text().splitlines() if ": running for " not in line]
    assert [line for line in lines if line.startswith("[3")] == [line for line in log if line.startswith("[3")]


def test_it_says_what_is_not_done_and_how_to_go_on(compiled: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    directory, done = compiled
    assert "not done here: NEFFs for trn2. On a machine with the Neuron SDK" in done.stderr
    commands = [line for line in done.stderr.splitlines() if line.startswith("  neuronx-cc compile --framework XLA ")]
    assert len(commands) == 2
    for program, command in zip(open_bundle(directory / "tiny").programs.values(), commands, strict=True):
        assert str(program.file) in command


def test_the_bundle_is_whole(compiled: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    directory, _ = compiled
    bundle = open_bundle(directory / "tiny", full=True)
    assert set(bundle.programs) == {"prefill_16", "decode"}
    assert [tensor.name for tensor in bundle.program("prefill_16").inputs] == ["token_ids", "positions", "rows"]
    assert [tensor.name for tensor in bundle.program("decode").inputs] == ["token_ids", "positions"]
    assert bundle.program("decode").outputs[0].type.shape == (1, 1, 1024)
    assert len(bundle.caches) == 30
    used = {symbol for program in bundle.programs.values() for symbol in program.weights}
    assert used == set(bundle.weights)
    manifest = bundle.manifest
    assert manifest["variant"] == "tiny-e2b"
    assert manifest["options"]["buckets"] == {"value": [16], "origin": "command line"}
    assert manifest["options"]["batch"] == {"value": 1, "origin": "default"}
    assert {"g4c", "torch", "transformers", "torch_mlir", "jaxlib", "python"} <= set(manifest["versions"])
    assert manifest["pipeline"].startswith("canonicalize")
    for program in manifest["programs"].values():
        assert program["flops"] > 0
        assert program["bytes"] > 0
        assert manifest["files"][program["file"]]["sha256"] == program["sha256"]
    config = json.loads((directory / "tiny/config.json").read_text())
    assert config["vocab_size"] == 1024


def test_every_dump_parses_back_and_the_last_is_what_was_lowered(
    compiled: tuple[Path, subprocess.CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    directory, _ = compiled
    dumps = sorted((directory / "dump").glob("*.mlir"))
    pipeline = open_bundle(directory / "tiny").manifest["pipeline"].split(",")
    names = ["input", *(entry.partition("{")[0] for entry in pipeline)]
    assert [path.name for path in dumps] == [f"{number:02d}_{name}.mlir" for number, name in enumerate(names)]
    final = (directory / "tiny/ir/module.mlir").read_text()
    for path in dumps:
        text = path.read_text()
        header, _, body = text.partition("\n")
        assert header.startswith("// pipeline:")
        assert print_module(parse_module(text)) == body
    assert body == final
    for path in (dumps[0], dumps[len(dumps) // 2], dumps[-1]):
        assert main(["opt", str(path)]) == 0
        assert capsys.readouterr().out == final


def test_the_same_compile_is_reused(
    shallow: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*shallow, "-o", "b"]) == 0
    capsys.readouterr()

    def manifest_after(*arguments: str) -> tuple[list[str], Any]:
        before = (tmp_path / "b/manifest.json").stat().st_mtime_ns
        assert main([*arguments, "-o", "b", "--json"]) == 0
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert events[-1] == {"event": "product", "path": "b"}
        rewritten = (tmp_path / "b/manifest.json").stat().st_mtime_ns != before
        phases = [event["phase"] for event in events if event["event"] == "end"]
        assert rewritten == ("trace" in phases)
        return phases, open_bundle(tmp_path / "b").manifest

    phases, first = manifest_after(*shallow)
    assert phases == ["load config"]
    phases, forced = manifest_after(*shallow, "--force")
    assert phases == PHASES
    volatile = ("files", "options", "manifest_sha256")
    assert {key: value for key, value in forced.items() if key not in volatile} == {
        key: value for key, value in first.items() if key not in volatile
    }
    phases, other = manifest_after(*shallow, "--dtype", "float32")
    assert phases == PHASES
    assert other["key"] != first["key"]
    assert other["dtype"] == "f32"
    program = tmp_path / "b/programs/decode.hlo.pb"
    program.write_bytes(program.read_bytes()[:-1])
    phases, _ = manifest_after(*shallow, "--dtype", "float32")
    assert phases == PHASES


def interrupted(command: list[str], phase: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `g4c command --json` and send it SIGINT when `phase` begins."""
    with subprocess.Popen(
        [sys.executable, "-m", "g4c", *command, "--json"],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            event = json.loads(line)
            if event["event"] == "begin" and event["phase"] == phase:
                running.send_signal(signal.SIGINT)
        assert running.stderr is not None
        return subprocess.CompletedProcess(command, running.wait(), "", running.stderr.read())


def test_ctrl_c_while_frameworks_are_loading(tmp_path: Path) -> None:
    done = interrupted([*SMALL, "-o", "out/b"], "trace", tmp_path)
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith("interrupted\n")
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_in_every_phase(
    shallow: list[str],
    phase: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = Reporter._begin

    def press(self: Reporter, running: Phase) -> None:
        begin(self, running)
        if running.name == phase:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Reporter, "_begin", press)
    assert main([*shallow, "-o", "out/b"]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("interrupted\n")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_leaves_nothing_behind(
    shallow: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bundle_module.os, "fsync", full)
    assert main([*shallow, "-o", "out/b"]) == 1
    assert "error[G4C-R108]: no space left on the disk" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_outputs_that_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory/thesis.txt").write_text("mine")
    assert main([*SMALL, "-o", "out/b", "--dump-dir", "file"]) == 1
    assert "error[G4C-P014]: cannot write dumps: File exists" in capsys.readouterr().err
    for output, code in (("file", "G4C-R104"), ("directory", "G4C-R105"), ("file/below", "G4C-R109")):
        assert main([*SMALL, "-o", output]) == 1
        captured = capsys.readouterr()
        assert f"error[{code}]" in captured.err
        assert "trace" not in captured.err
        assert captured.out == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["directory", "file", "thesis.txt"]
