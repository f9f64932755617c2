"""Dumps of a real compile, 35 layers: every pass is shown, and every file is IR that reads, resumes and is MLIR."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch_mlir import ir as mlir

from g4c.cli.main import main
from g4c.ir.parser import parse_module
from g4c.ir.printer import print_module
from g4c.ir.verifier import verify_module
from g4c.passes.pipelines import CPU_PIPELINE, DEFAULT_PIPELINE

PIPELINES = {".": DEFAULT_PIPELINE.split(","), "cpu": CPU_PIPELINE.split(",")}
DUMPS = [
    (directory, number, name)
    for directory, passes in PIPELINES.items()
    for number, name in enumerate(["input", *passes])
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the bundle `tiny` and its dumps, `dump`."""
    place = tmp_path_factory.mktemp("dumps")
    shapes = ("--buckets", "16", "--max-context", "64")
    command = ["compile", "--variant", "tiny-e2b", "-q", *shapes, "-o", str(place / "tiny")]
    assert main([*command, "--dump-dir", str(place / "dump")]) == 0
    return place


@pytest.fixture(scope="module")
def final(place: Path) -> str:
    """What was lowered."""
    return (place / "tiny/ir/module.mlir").read_text()


def dump(place: Path, directory: str, number: int, name: str) -> Path:
    return place / "dump" / directory / f"{number:02d}_{name}.mlir"


def body(path: Path) -> str:
    """A dump without its first line, which says what is still to be run."""
    return path.read_text().partition("\n")[2]


def opt(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `g4c opt` prints."""
    assert main(["opt", *arguments]) == 0
    return capsys.readouterr().out


def test_there_is_a_dump_for_every_pass_and_nothing_else(place: Path, final: str) -> None:
    found = sorted(path for path in (place / "dump").rglob("*") if path.is_file())
    assert found == sorted(dump(place, *which).resolve() for which in DUMPS)
    passes = PIPELINES["."]
    assert body(dump(place, ".", len(passes), passes[-1])) == final
    assert body(dump(place, "cpu", 0, "input")) == final
    texts = [body(dump(place, ".", number, name)) for number, name in enumerate(["input", *passes])]
    changed = [name for before, name, after in zip(texts, passes, texts[1:], strict=False) if before != after]
    assert {"precompute-rope", "specialize-layers", "eliminate-shared-kv"} <= set(changed)


@pytest.mark.parametrize(("directory", "number", "name"), DUMPS)
def test_a_dump_parses_back_and_is_mlir(place: Path, directory: str, number: int, name: str) -> None:
    path = dump(place, directory, number, name)
    text = path.read_text()
    rest = ",".join(PIPELINES[directory][number:])
    assert text.partition("\n")[0] == f"// pipeline: {rest}".rstrip()
    module = parse_module(text)
    verify_module(module)
    assert print_module(module) == body(path)
    with mlir.Context() as context:
        context.allow_unregistered_dialects = True
        parsed = mlir.Module.parse(text)
        assert parsed.operation.verify()
        assert len(list(parsed.body.operations)) >= len(module.functions)


@pytest.mark.parametrize(("directory", "number", "name"), DUMPS)
def test_a_dump_resumes(
    place: Path, capsys: pytest.CaptureFixture[str], directory: str, number: int, name: str
) -> None:
    passes = PIPELINES[directory]
    path = dump(place, directory, number, name)
    final = body(dump(place, directory, len(passes), passes[-1]))
    assert opt(capsys, str(path)) == final
    if number < len(passes):
        begin = f"{number + 1:02d}_{passes[number]}"
        assert opt(capsys, str(path), "--pipeline", ",".join(passes), "--start-from", begin) == final
        after = body(dump(place, directory, number + 1, passes[number]))
        assert opt(capsys, str(path), "--stop-after", "1") == after
