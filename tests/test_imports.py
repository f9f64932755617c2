"""The import rules: who may import whom, where frameworks live, and that the command line starts without them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "g4c"
FILES = sorted(ROOT.rglob("*.py"))

# package -> packages of ours that it may import; what is not listed (cli, compiler, verification) may import all.
ALLOWED = {
    "errors": set(),
    "ir": {"errors"},
    "formats": {"errors", "ir"},
    "passes": {"errors", "ir"},
    "estimate": {"errors", "frontend", "ir", "passes"},
    "lowering": {"errors", "ir"},
    "frontend": {"errors", "formats", "ir"},
    "runtime": {"errors", "formats", "ir"},
}
# framework -> where it may be imported
HOMES = {
    "torch": ("frontend/",),
    "transformers": ("frontend/", "runtime/tokenizer.py"),
    "torch_mlir": ("lowering/neuron/",),
    "jaxlib": ("lowering/neuron/", "runtime/cpu"),
    "networkx": ("passes/",),
    "nki": ("link_kernel.py",),
    "rich": ("cli/",),
    "tokenizers": ("runtime/",),
}


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every imported module with its statement; the package and the modules in it for `from package import module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            yield node, node.module
            if node.module == "g4c":
                yield from ((node, f"g4c.{alias.name}") for alias in node.names)


def type_checking_only(tree: ast.AST) -> set[ast.AST]:
    """Statements under `if TYPE_CHECKING:`, which never run."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_design(path: Path) -> None:
    relative = path.relative_to(ROOT)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unused = type_checking_only(tree)
    package = relative.parts[0]
    for node, name in imports(tree):
        where = f"{relative}:{node.lineno} imports {name}"
        parts = name.split(".")
        if parts[0] == "g4c" and len(parts) > 1 and package in ALLOWED:
            assert parts[1] in ALLOWED[package] | {package, "__version__"}, where
        if node not in unused:
            homes = HOMES.get(parts[0])
            assert homes is None or str(relative).startswith(homes), where


@pytest.mark.parametrize("package", ["g4c.ir", "g4c.passes"])
def test_the_core_loads_without_any_framework(package: str) -> None:
    names = [".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in FILES]
    names = [name for name in names if name.startswith(package)]
    loaded = modules_after(f"import {', '.join(name.removesuffix('.__init__') for name in names)}")
    assert not loaded & {"torch", "transformers", "jaxlib", "torch_mlir", "rich", "networkx"}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["compile", "--help"], ["run", "--help"], ["estimate", "--help"], ["explain", "G4C-C001"]],
)
def test_the_command_line_starts_without_any_framework(arguments: list[str]) -> None:
    loaded = modules_after(f"from g4c.cli.main import main\nassert main({arguments!r}) == 0")
    assert "g4c" in loaded
    assert not loaded & {"torch", "transformers", "jaxlib", "torch_mlir", "rich", "numpy", "networkx", "ml_dtypes"}


def modules_after(code: str) -> set[str]:
    """Top-level modules that are loaded once `code` ran in a fresh interpreter."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))
