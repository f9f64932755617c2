"""The documentation is true: its commands parse or run, its Python runs, the files and folders it names exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from g4c.cli.main import main, make_parser
from g4c.frontend.config import load_model_config
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.ir.printer import print_function
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import DEFAULT_PIPELINE

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """Every command of the page's shell blocks, as words; `a && b` is two commands."""
    lines = [line for block in blocks(path, "sh") for line in block.splitlines() if line]
    return [shlex.split(part) for line in lines for part in line.split(" && ")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_g4c_command_parses(path: Path) -> None:
    for words in commands(path):
        if Path(words[0]).name == "g4c":
            make_parser()[0].parse_args(words[1:])


def test_the_readme_has_two_set_up_commands() -> None:
    first, second = blocks(ROOT / "README.md", "sh")
    for block in (first, second):
        assert len(block.splitlines()) == 1
        assert block.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ")
    test_command = second.split(" && ")[-1].strip().removeprefix(".venv/bin/")
    assert test_command in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()


@pytest.mark.slow
def test_the_command_line_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in commands(ROOT / "docs/command-line.md"):
        assert words[0] == "g4c"
        assert main(words[1:]) == 0, (words, capsys.readouterr().err)
        assert capsys.readouterr().out, words


@pytest.mark.parametrize("path", [page for page in PAGES if blocks(page, "python")], ids=lambda path: path.name)
def test_python_on_a_page_runs(path: Path, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks(path, "python")), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_folders_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [path.parent / link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    names = re.findall(r"`((?:g4c|tests|docs|benchmarks|\.ci)(?:/[\w./-]*)?)`", text)
    missing = [str(target) for target in [*links, *(ROOT / name for name in names)] if not target.exists()]
    missing = [name for name in missing if "verb_noun" not in name]
    assert not missing


def test_the_ir_in_the_readme_is_what_a_compile_of_e2b_makes() -> None:
    (excerpt,) = blocks(ROOT / "README.md", "mlir")
    module = trace_programs(load_model_config("e2b"), TraceOptions(buckets=(1,)))
    run_pipeline(module, parse_pipeline(DEFAULT_PIPELINE), PipelineOptions(verify_each=False))
    lines = [line.strip() for line in print_function(module.functions["decode.sliding_shared"])]
    assert "\n".join(lines[2:7]) == excerpt.rstrip()
    calls = [name for name in module.callees(module.functions["decode"]) if name == "decode.sliding_shared"]
    assert len(calls) == 16
