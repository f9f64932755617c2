"""The benchmarks run: arguments, both sides, and nothing left behind. No figure is asserted.

They run on a model of four layers with E2B's head dims, so that the subprocesses take seconds.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from g4c.frontend.variants import VARIANTS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A config.json: sliding and full layers that own their K/V, then one of each that shares."""
    config = VARIANTS["tiny-e2b"].config_json()
    layers = {"num_hidden_layers": 4, "num_kv_shared_layers": 2}
    config |= {**layers, "layer_types": ["sliding_attention", "full_attention"] * 2, "vocab_size": 256}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return path


def run(tmp_path: Path, benchmark: str, *arguments: str) -> dict[str, Any]:
    """The JSON that `benchmark` prints, run outside of the repository; its scratch space must be empty again."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, str(BENCHMARKS / f"{benchmark}.py"), *arguments, "--json"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "TMPDIR": str(scratch)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not list(scratch.iterdir())
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_cli_startup(tmp_path: Path) -> None:
    result = run(tmp_path, "cli_startup", "--runs", "2")
    assert result["g4c --help"]["median_ms"] > result["python -c pass"]["fastest_ms"] > 0


@pytest.mark.slow
def test_compile(tmp_path: Path, model: Path) -> None:
    result = run(tmp_path, "compile", "--variant", model.name, "--buckets", "8", "--max-context", "32")
    assert result["programs"] == ["prefill_8", "decode"]
    assert "trace" in {phase["name"] for phase in result["g4c"]["phases"]}
    peer = [phase["name"] for phase in result["torch_mlir"]["phases"]]
    assert peer[-3:] == ["decode: export", "decode: decompose", "decode: to StableHLO"]
    for side in ("g4c", "torch_mlir"):
        figures = result[side]
        assert 0 < sum(phase["seconds"] for phase in figures["phases"]) <= figures["seconds"]
        assert 0 < max(phase["peak_bytes"] for phase in figures["phases"]) <= figures["peak_bytes"]
    first = result["torch_mlir_first_program"]
    assert first["seconds"] < result["torch_mlir"]["seconds"]
    assert result["ratio"]["first"]["seconds"] > result["ratio"]["all"]["seconds"] > 0


def test_compile_reports_a_failing_side(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "compile.py"), "--variant", "e3b"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "G4C-F001" in done.stderr


@pytest.mark.slow
def test_decode_cpu(tmp_path: Path, model: Path) -> None:
    shapes = ["--buckets", "8", "--max-context", "32", "--threads", "1"]
    result = run(tmp_path, "decode_cpu", "--variant", model.name, *shapes, "--steps", "3", "--repeat", "1")
    assert list(result["seconds"]) == ["prefill of 8 tokens", "decode"]
    samples = [sample for sides in result["seconds"].values() for side in sides for sample in side]
    assert len(samples) == 4
    assert all(math.isfinite(sample) and sample > 0 for sample in samples)
    assert result["cosine"] > 0.99


@pytest.mark.slow
def test_passes(tmp_path: Path, model: Path) -> None:
    sizes = ["--hidden", "64", "--vocabulary", "128", "--bucket", "8", "--max-context", "32", "--threads", "1"]
    chosen = ["--passes", "prune-prefill", "--add", "rebuild-keys", "--steps", "2", "--repeat", "1"]
    result = run(tmp_path, "passes", "--variant", model.name, *sizes, *chosen)
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["all passes", "prune-prefill", "rebuild-keys, added"]
    for row in rows.values():
        samples = [
            sample for side in (row["off"], row["on"]) for name in ("prefill", "decode") for sample in side[name]
        ]
        assert len(samples) == 4
        assert all(math.isfinite(sample) and sample > 0 for sample in samples)
        assert all(ratio > 0 for ratio in row["ratios"].values())
    whole, pruned = rows["all passes"], rows["prune-prefill"]
    assert whole["cosine"] > 0.999
    assert pruned["cosine"] > 0.999
    assert not rows["rebuild-keys, added"]["changed"], "K is not V in this model"
    assert whole["ratios"]["prefill_flops"] > pruned["ratios"]["prefill_flops"] > 1
    assert pruned["ratios"]["decode_flops"] == pruned["ratios"]["kv_bytes"] == 1
    assert whole["ratios"]["kv_bytes"] > 1
    assert whole["on"]["costs"]["weight_bytes"] < whole["off"]["costs"]["weight_bytes"]
    assert whole["on"]["costs"]["prefill_hlo"] > 0
