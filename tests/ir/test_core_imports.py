"""The core of the IR is plain Python: arrays come in only where ops are executed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import g4c.ir

ROOT = Path(g4c.ir.__file__).parent
EXECUTES = {ROOT / "interpreter.py", *(ROOT / "ops").glob("*.py")}
ARRAYS = {"numpy", "ml_dtypes"}


@pytest.mark.parametrize("path", sorted(set(ROOT.glob("*.py")) - EXECUTES), ids=lambda path: path.name)
def test_no_array_library_at_import_time(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not ARRAYS & {name.partition(".")[0] for name in names}, f"{path.name}:{node.lineno}"


def test_types_ops_modules_and_printing_load_without_arrays() -> None:
    """The parser, the verifier and the builder need the op classes, whose references are written with numpy."""
    names = ("types", "op", "weights", "module", "printer", "spelling", "lexer", "attribute_parser")
    code = f"import sys, {', '.join(f'g4c.ir.{name}' for name in names)}; assert not {ARRAYS} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_typed_as_anything() -> None:
    for path in ROOT.rglob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert "Any" not in names, path
