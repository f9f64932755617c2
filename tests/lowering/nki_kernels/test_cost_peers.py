"""The benchmark's peers compute attention, and its tables come out."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import islice
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


_TABLES = ((12, "window"), (4, "us"))  # columns, and the title of the second


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/nki_attention.py as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("nki_attention", BENCHMARKS / "nki_attention.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["nki_attention"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))


def attention(q, k, v, window):
    """Causal attention in fp64."""
    q, k, v = (array.astype(np.float64) for array in (q, k, v))
    row, column = np.arange(len(q))[:, None], np.arange(len(k))
    seen = (column <= row) & ((column > row - window) if window else True)
    scores = np.where(seen, q @ k.T, -np.inf)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True) @ v


@pytest.mark.parametrize("name", ["reloaded", "decomposed"])
@pytest.mark.parametrize(("length", "head_dim", "window"), [(512, 256, 0), (1024, 128, 300), (2560, 128, 0)])
def test_the_peers_compute_attention(benchmark, name, length, head_dim, window):
    rng = np.random.default_rng(length + window)
    q, k, v = (rng.standard_normal((length, head_dim)) for _ in range(3))
    q, k, v = ((x * s).astype(ml_dtypes.bfloat16) for x, s in ((q, 0.3), (k, 0.3), (v, 1.0)))
    kernel = getattr(benchmark.peers, name).specialize("trn2")
    error = np.abs(kernel(q, k, v, window).astype(np.float64) - attention(q, k, v, window))
    assert error.max() < 2**-5  # two units in the last place of a bf16 from 2 to 4; scores, P, result are rounded
    assert np.sqrt(np.mean(error**2)) < 2**-8


def test_pairs_of_queries_and_keys(benchmark):
    for length, window in ((1, 0), (7, 0), (7, 3), (7, 7), (7, 100), (300, 128)):
        row, column = np.arange(length)[:, None], np.arange(length)
        seen = (column <= row) & ((column > row - window) if window else True)
        assert benchmark.pairs(length, window) == seen.sum()


@pytest.mark.slow
def test_the_tables_of_the_page_are_what_the_benchmark_prints(benchmark, capsys):
    """docs/nki.md, "Beside others": every row, every figure."""
    assert benchmark.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    page = (BENCHMARKS.parent / "docs/nki.md").read_text(encoding="utf-8").partition("## Beside others")[2]
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    prefill, decode = ([row for row in rows if len(row) == columns and row[1] != title] for columns, title in _TABLES)
    assert prefill == [
        [
            str(row["head_dim"]),
            str(row["window"] or "-"),
            str(row["length"]),
            f"{row['ours_us']:,.0f}",
            f"{row['bound_us'] / row['ours_us']:.0%}",
            f"{row['reloaded_us']:,.0f}",
            f"{row['reloaded_us'] / row['ours_us']:.1f}",
            f"{row['reloaded_pe_us']:,.0f}",
            f"{row['reloaded_full_us']:,.0f}" if row["reloaded_full_us"] else "-",
            f"{row['decomposed_us']:,.0f}",
            f"{row['decomposed_us'] / row['ours_us']:.1f}",
            f"{row['bound_us']:,.0f}",
        ]
        for row in found["prefill"]
    ]
    assert decode == [
        [row["what"], f"{row['us']:,.1f}", f"{row['bound_us']:,.1f}", f"{row['bound_us'] / row['us']:.0%}"]
        for row in found["decode"]
    ]


def test_the_benchmark_runs(benchmark, capsys, monkeypatch):
    streams = benchmark.stream_rows
    monkeypatch.setattr(benchmark, "stream_rows", lambda *arguments: islice(streams(*arguments), 5))
    assert benchmark.main(["--lengths", "512", "--cached", "512", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["modelled"] is True
    for row in found["prefill"]:
        assert row["ours_us"] > row["bound_us"], row
        assert row["reloaded_us"] > row["ours_us"], row
    for row in found["decode"]:
        assert row["us"] > row["bound_us"] > 0, row
