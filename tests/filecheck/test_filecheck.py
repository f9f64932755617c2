"""Runs every .mlir file of this folder: the pipeline of its first line, then its CHECK directives on the result.

The IR is verified around every pass, the numbers of every program are compared before and after each pass, and the
pipeline is run once more on its own result, which it must leave alone, or refuse where it has raised the level.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from filecheck.matcher import Matcher
from filecheck.options import Options

from g4c.errors import G4cError
from g4c.ir.parser import parse_module
from g4c.ir.printer import print_module
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import header_pipeline, parse_pipeline

FILES = sorted(Path(__file__).parent.glob("*.mlir"))
DIRECTIVE = re.compile(r"// CHECK(-(DAG|COUNT-\d+|NOT|EMPTY|NEXT|SAME|LABEL))?: \S")
OPTIONS = PipelineOptions(check_numerics=True, repro_dir=None)


def malformed_directives(text: str) -> list[str]:
    """Lines that mention CHECK without being a directive that FileCheck would run."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if re.search(r"\bCHECK", line, re.IGNORECASE) and not DIRECTIVE.match(line)]


def check(checks: Path, output: Path) -> None:
    """Run the CHECK directives of `checks` on `output`."""
    text = checks.read_text(encoding="utf-8")
    assert not malformed_directives(text)
    assert text.count("// CHECK") >= 3, "a file without checks cannot fail"
    status = Matcher.from_opts(Options(match_filename=str(checks), input_file=str(output))).run()
    assert status == 0, output.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    pipeline = header_pipeline(text)
    assert pipeline, "the first line names the pipeline"
    module = parse_module(text, file=path.name)
    level = module.level
    assert run_pipeline(module, parse_pipeline(pipeline), OPTIONS).modified
    output = tmp_path / "output.mlir"
    output.write_text(print_module(module), encoding="utf-8")
    check(path, output)
    if module.level is not level:
        with pytest.raises(G4cError, match=f"runs at {level.value} level"):
            run_pipeline(module, parse_pipeline(pipeline), OPTIONS)
        return
    assert not run_pipeline(module, parse_pipeline(pipeline), OPTIONS).modified


@pytest.mark.parametrize("line", ["// CHECK-NXT: %0", "// CHECK : %0", "//CHECK: %0", "// check: %0", "// CHECK:"])
def test_a_malformed_directive_fails(line: str) -> None:
    assert malformed_directives(f"// CHECK: fine\n{line}\n") == [line]


def test_a_wrong_expectation_fails(tmp_path: Path) -> None:
    checks, output = tmp_path / "checks.mlir", tmp_path / "output.mlir"
    checks.write_text("// CHECK: one\n// CHECK-NEXT: two\n// CHECK-NEXT: three\n", encoding="utf-8")
    output.write_text("one\ntwo\n\nthree\n", encoding="utf-8")
    with pytest.raises(AssertionError):
        check(checks, output)
