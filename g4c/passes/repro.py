"""What a failing pass leaves behind: `repro/<pass>/` with its input, the environment and the error.

In: the text of the module before the pass. Out: a directory, and the one command that runs the pass again on the same
input. Invariant: the first line of `input.mlir` is the pipeline, so `g4c opt repro/<pass>/input.mlir` needs nothing
else.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
from pathlib import Path

import g4c
from g4c.passes.pipeline import Entry, pipeline_header

PACKAGES = ("torch", "transformers", "torch-mlir", "jaxlib", "numpy", "ml_dtypes", "networkx")


def write_repro(directory: Path, entry: Entry, text: str, error: str, flags: list[str]) -> str:
    """Write `directory/<pass>/{input.mlir,environment.json,error.txt}`; returns the command to reproduce the error."""
    target = directory / entry.step.name
    target.mkdir(parents=True, exist_ok=True)
    source = target / "input.mlir"
    source.write_text(pipeline_header(str(entry)) + text, encoding="utf-8")
    (target / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n", encoding="utf-8")
    (target / "error.txt").write_text(error.rstrip() + "\n", encoding="utf-8")
    return shlex.join(["g4c", "opt", *flags, str(source)])


def environment() -> dict[str, str]:
    """Versions that a report needs."""
    versions = {"g4c": g4c.__version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions
