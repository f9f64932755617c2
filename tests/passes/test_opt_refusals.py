"""What a user sees who gives `g4c opt` or `g4c compile` a pipeline that cannot be run: one error, no debris."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gemma_like import GemmaLike
from pass_testing import run_once

from g4c.cli.main import main
from g4c.ir.printer import print_module

SIZES = GemmaLike(pattern="SF", shared=0, hidden=8, mlp=8, ple=4, head_dims=(8, 16), heads=1, context=16)

# pipeline, code, what the caret is under, help
STRINGS = [
    ("canonicalise,dce", "P001", "canonicalise", "did you mean canonicalize?"),
    ("cse,window_kv_cache", "P001", "window_kv_cache", "did you mean window-kv-cache?"),
    ("cse,prune-prefil", "P001", "prune-prefil", "did you mean prune-prefill?"),
    ("cse,fuse", "P001", "fuse", None),
    ("window-kv-cache{pads=8}", "P002", "pads", "did you mean pad?"),
    ("tile-contractions{q_tile=8}", "P002", "q_tile", "did you mean q-tile?"),
    ("dce{pad=8}", "P002", "pad", None),
    ("window-kv-cache{pad=wide}", "P003", "wide", None),
    ("cse,split-logits{k=1.5}", "P003", "1.5", None),
    ("fold-norms{narrow=yes}", "P003", "yes", None),
    ("window-kv-cache{pad=8", "P004", "", None),
    ("window-kv-cache{pad}", "P004", "}", None),
    ("window-kv-cache{pad=8,pad=9}", "P004", "pad", None),
    ("cse,,dce", "P004", ",", None),
    ("cse,", "P004", "", None),
    ("cse dce", "P004", "d", None),
    ("{pad=8}", "P004", "{", None),
    ("prune-prefill,window-kv-cache", "P005", "prune-prefill", "prune-prefill runs after "),
    ("cse,fuse-projections,fold-norms", "P005", "fuse-projections", "fuse-projections runs after "),
    ("mask-kv-updates,window-kv-cache", "P005", "mask-kv-updates", "mask-kv-updates runs after "),
    ("tile-contractions,cse,split-matvec", "P006", "split-matvec", None),
]
ORDER = ("P005",)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in a file; the working directory is an empty one beside it."""
    path = tmp_path / "module.mlir"
    path.write_text(print_module(SIZES.module()))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return path


def refused(capsys: pytest.CaptureFixture[str], *command: str, exit_code: int) -> list[str]:
    """Run the command, which must say nothing on stdout and one error on stderr, whose lines are returned."""
    assert main(list(command)) == exit_code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("error[") == 1
    assert "Traceback" not in output.err
    return output.err.splitlines()


def check(lines: list[str], pipeline: str, code: str, token: str, help: str | None) -> None:
    assert lines[0].startswith(f"error[G4C-{code}]: ")
    assert lines[1] == f"     | {pipeline}"
    start = lines[2].index("^")
    assert lines[2] == f"     | {' ' * (start - 7)}^{'~' * (len(token) - 1)}"
    assert lines[1][start : start + len(token)] == token
    if token == "":
        assert start == len(lines[1]), "at the end"
    assert not any(line.startswith("  = repro") for line in lines)
    assert help is None or lines[3].startswith(f"  = help: {help}")


@pytest.mark.parametrize(("pipeline", "code", "token", "help"), STRINGS)
def test_a_pipeline_string(
    file: Path, capsys: pytest.CaptureFixture[str], pipeline: str, code: str, token: str, help: str | None
) -> None:
    """Nothing runs, and not even the directory for dumps is made."""
    lines = refused(capsys, "opt", str(file), "--pipeline", pipeline, "--dump-dir", "dumps", exit_code=2)
    check(lines, pipeline, code, token, help)
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(("pipeline", "code", "token", "help"), [row for row in STRINGS if row[1] not in ORDER])
def test_the_first_line_of_a_file(
    file: Path, capsys: pytest.CaptureFixture[str], pipeline: str, code: str, token: str, help: str | None
) -> None:
    """It is the rest of a pipeline, so what should have come before may have; all else is refused alike."""
    file.write_text(f"// pipeline: {pipeline}\n{file.read_text()}")
    check(refused(capsys, "opt", str(file), exit_code=2), pipeline, code, token, help)
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(("pipeline", "code", "token", "help"), STRINGS)
def test_compile_refuses_before_it_traces(
    file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    pipeline: str,
    code: str,
    token: str,
    help: str | None,
) -> None:
    monkeypatch.setattr("g4c.compiler._trace", lambda _: pytest.fail("traced"))
    command = ["compile", "tiny-e2b", "-o", "out", "-q", "--pipeline", pipeline]
    check(refused(capsys, *command, exit_code=2), pipeline, code, token, help)
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("flag", ["--start-from", "--stop-after", "--print-ir-before", "--print-ir-after"])
def test_a_place_that_is_none(file: Path, capsys: pytest.CaptureFixture[str], flag: str) -> None:
    lines = refused(capsys, "opt", str(file), "--pipeline", "canonicalize,cse,dce", flag, "csx", exit_code=2)
    assert lines == ["error[G4C-P007]: 'csx' is not in the pipeline", "  = help: did you mean cse?"]
    assert not list(Path.cwd().iterdir())


def test_a_module_of_another_level(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = SIZES.module()
    run_once(module, "tile-contractions")
    file.write_text(print_module(module))
    lines = refused(capsys, "opt", str(file), "--pipeline", "cse,window-kv-cache", "--dump-dir", "dumps", exit_code=2)
    assert lines[0] == "error[G4C-P006]: window-kv-cache runs at graph level, the module is at tiled"
    assert not list(Path.cwd().iterdir())


# -- what a pass cannot prove ------------------------------------------------------------------------------------------


def written_after_it_was_read(text: str) -> str:
    """Layer 1 writes the cache of layer 0 once more, after layer 0 has read it."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if "@decode" in line)
    update = next(i for i in range(start, len(lines)) if '"g4.kv_update"(%layers.0.k,' in lines[i])
    attention = next(i for i in range(update, len(lines)) if '"g4.attention"' in lines[i])
    return "\n".join(
        [*lines[: attention + 1], "    %again" + lines[update][lines[update].index(" =") :], *lines[attention + 1 :]]
    )


def layers_cut_out(_: str) -> str:
    module = SIZES.module()
    run_once(module, "specialize-layers")
    return print_module(module)


def without_context(text: str) -> str:
    return text.replace(", g4.max_context = 16 : i64", "").replace("g4.max_context = 16 : i64, ", "")


GRAPHS = [
    (written_after_it_was_read, "eliminate-shared-kv", "P020", 1, "eliminate-shared-kv", "decode:"),
    (written_after_it_was_read, "window-kv-cache{pad=4}", "P061", 1, "window-kv-cache{pad=4}", "decode:"),
    (layers_cut_out, "cse,window-kv-cache", "P042", 1, "window-kv-cache", "prefill_8"),
    (layers_cut_out, "prune-prefill", "P042", 1, "prune-prefill", "prefill_8"),
    (without_context, "canonicalize,precompute-rope{context=4}", "P041", 1, "precompute-rope{context=4}", "weight "),
    (str, "window-kv-cache{pad=0}", "P060", 2, "window-kv-cache{pad=0}", None),
    (str, "cse,tile-contractions{q-tile=7}", "P080", 2, "tile-contractions{q-tile=7}", None),
    (str, "split-logits{k=51}", "P091", 2, "split-logits{k=51}", "prefill_8"),
]


@pytest.mark.parametrize(("damage", "pipeline", "code", "exit_code", "step", "where"), GRAPHS)
def test_a_graph_it_cannot_prove(
    file: Path,
    capsys: pytest.CaptureFixture[str],
    damage: type,
    pipeline: str,
    code: str,
    exit_code: int,
    step: str,
    where: str | None,
) -> None:
    """The error names the pass and the place, and the command that it prints says the same again."""
    file.write_text(damage(file.read_text()))
    lines = refused(capsys, "opt", str(file), "--pipeline", pipeline, exit_code=exit_code)
    assert lines[0].startswith(f"error[G4C-{code}]: ")
    assert where is None or lines[1].startswith(f"  --> {where}")
    assert any(line.startswith(f"  = pass: {step}") for line in lines)
    repro = lines[-1].removeprefix("  = repro: ").split()
    assert repro[:2] == ["g4c", "opt"]
    assert [path.name for path in Path.cwd().iterdir()] == ["repro"]
    again = refused(capsys, *repro[1:], exit_code=exit_code)
    assert again[:2] == lines[:2]


def test_as_a_process(file: Path) -> None:
    """The exit code, and nothing on stdout, as a shell sees it."""
    command = [sys.executable, "-m", "g4c", "opt", str(file), "--pipeline", "canonicalise"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error[G4C-P001]: unknown pass 'canonicalise'",
        "     | canonicalise",
        "     | ^~~~~~~~~~~~",
        "  = help: did you mean canonicalize?",
    ]
