"""g4c estimate: its figures, as text and as JSON, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from closed_forms import ClosedForms

from g4c.cli.main import main
from g4c.errors import catalogue
from g4c.estimate.estimator import estimate_model
from g4c.estimate.options import EstimateOptions
from g4c.estimate.report import report
from g4c.estimate.result import Estimate, ProgramFigures
from g4c.estimate.timing import COLLECTIVE_BANDWIDTH, COLLECTIVE_SECONDS
from g4c.frontend.variants import VARIANTS
from g4c.passes.pipelines import DEFAULT_PIPELINE

UNPRUNED = "canonicalize,precompute-rope,eliminate-shared-kv,specialize-layers"


class Silent:
    @contextmanager
    def phase(self, name: str) -> Any:
        yield SimpleNamespace(result=name)

    def detail(self, text: str) -> None:
        pass


@pytest.fixture(scope="module")
def text() -> dict[str, Any]:
    """E2B at small widths, in ten layers: 0-3 and 5-8 slide, 4 and 9 are full; 5-9 share."""
    config = VARIANTS["tiny-e2b"].config_json()
    return config | {"layer_types": config["layer_types"][:10], "num_hidden_layers": 10, "num_kv_shared_layers": 5}


@pytest.fixture(scope="module")
def forms(text: dict[str, Any]) -> ClosedForms:
    return ClosedForms(text)


@pytest.fixture(scope="module")
def model(text: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its config.json."""
    path = tmp_path_factory.mktemp("model") / "small.json"
    path.write_text(json.dumps(text))
    return str(path)


@pytest.fixture(scope="module")
def estimated(model: str) -> Callable[..., Estimate]:
    """Estimates of that model, each made once."""
    made: dict[EstimateOptions, Estimate] = {}

    def estimate(**options: Any) -> Estimate:
        wanted = EstimateOptions(model, **{"buckets": (64,), "context": 1024, "prompt": 150, **options})
        if wanted not in made:
            made[wanted] = estimate_model(wanted, Silent())
        return made[wanted]

    return estimate


def program(estimate: Estimate, name: str) -> ProgramFigures:
    (found,) = (figures for figures in estimate.programs if figures.name == name)
    return found


def test_figures_hang_together(estimated: Callable[..., Estimate], forms: ClosedForms) -> None:
    estimate = estimated()
    assert estimate.pipeline == DEFAULT_PIPELINE
    assert [figures.name for figures in estimate.programs] == ["prefill_64", "decode"]
    assert estimate.parameters.decoder == forms.decoder_parameters
    for figures in estimate.programs:
        for field in ("flops", "kv_read_bytes", "kv_written_bytes", "activation_bytes", "layers"):
            parts = sum(getattr(kind, field) for kind in figures.layer_kinds)
            assert parts == getattr(figures.total, field), (figures.name, field)
        assert sum(figures.total.flops_by.values()) == figures.total.flops
        last = estimate.passes[-1].after
        assert last.flops[figures.name] == figures.total.flops
        assert last.weight_bytes[figures.name] == figures.total.weight_bytes
        assert last.peak_activation_bytes[figures.name] == figures.peak_activation_bytes
    memory = estimate.memory
    assert memory.ple_table_bytes == 2 * forms.ple_table
    assert memory.weight_bytes + memory.ple_table_bytes == estimate.passes[-1].after.stored_weight_bytes
    assert memory.cache_bytes == estimate.passes[-1].after.cache_bytes
    parts = memory.weight_bytes + memory.cache_bytes + memory.reserve_bytes + memory.microcode_bytes
    assert memory.total_bytes == parts + memory.ple_table_bytes
    assert memory.total_bytes_without_ple_table == parts
    assert memory.fits
    assert memory.peak_activation_bytes == max(figures.peak_activation_bytes for figures in estimate.programs)


def test_passes_chain(estimated: Callable[..., Estimate], forms: ClosedForms) -> None:
    passes = estimated().passes
    assert [effect.name for effect in passes] == DEFAULT_PIPELINE.split(",")
    for before, after in pairwise(passes):
        assert before.after == after.before
    (shared,) = (effect for effect in passes if effect.name == "eliminate-shared-kv")
    assert shared.modified
    dead = sum(forms.kv_weights(layer, 2) for layer in forms.layers if layer.shared)
    for name, tokens in {"prefill_64": 64, "decode": 1}.items():
        assert shared.before.flops[name] - shared.after.flops[name] == 2 * tokens * dead


def test_passes_off(estimated: Callable[..., Estimate], forms: ClosedForms) -> None:
    estimate = estimated(passes_off=("eliminate-shared-kv", "canonicalize"))
    names = estimate.pipeline.split(",")
    assert names == [
        name for name in DEFAULT_PIPELINE.split(",") if name not in ("eliminate-shared-kv", "canonicalize")
    ]
    dead = sum(forms.kv_weights(layer, 2) + layer.d for layer in forms.layers if layer.shared)
    assert estimate.parameters.decoder == forms.decoder_parameters + dead


def test_times_are_the_larger_bound(estimated: Callable[..., Estimate], forms: ClosedForms) -> None:
    estimate = estimated()
    machine, timing = estimate.machine, estimate.timing
    for figures in estimate.programs:
        total = figures.total
        moved = total.weight_bytes + total.kv_read_bytes + total.kv_written_bytes
        assert figures.modelled_compute_seconds == pytest.approx(total.flops / machine.flops)
        assert figures.modelled_bandwidth_seconds == pytest.approx(moved / machine.bandwidth)
        assert figures.modelled_collective_seconds == 0
        slower = max(figures.modelled_compute_seconds, figures.modelled_bandwidth_seconds)
        limit = {figures.modelled_compute_seconds: "compute", figures.modelled_bandwidth_seconds: "bandwidth"}[slower]
        assert figures.modelled_limit == limit
    chunks = [(chunk.program, chunk.tokens, chunk.cached) for chunk in timing.chunks]
    assert chunks == [("prefill_64", 64, 0), ("prefill_64", 64, 64), ("prefill_64", 22, 128)]
    figures = program(estimate, "prefill_64")
    slower = max(figures.modelled_compute_seconds, figures.modelled_bandwidth_seconds)
    assert timing.modelled_ttft_seconds == pytest.approx(3 * slower)
    assert timing.modelled_ttft_seconds_skipping < timing.modelled_ttft_seconds
    assert timing.modelled_tpot_seconds == program(estimate, "decode").modelled_bandwidth_seconds
    assert timing.modelled_tokens_per_second == pytest.approx(1 / timing.modelled_tpot_seconds)


def test_attention_counts(estimated: Callable[..., Estimate], forms: ClosedForms) -> None:
    """A prompt of 150 tokens in three chunks, then a token, is 151 rows of a causal triangle within 512 and 1024."""
    counts = estimated(pipeline=UNPRUNED).attention
    assert [count.what for count in counts] == ["prompt of 150 tokens", "token after 150", "token after 1023"]
    layers = forms.layers
    assert counts[0].seen_flops == sum(forms.attention(layer, 150 * 151 // 2) for layer in layers)
    assert counts[0].computed_flops == sum(forms.attention(layer, 3 * 64 * 1024) for layer in layers)
    assert counts[1].seen_flops == sum(forms.attention(layer, 151) for layer in layers)
    assert counts[2].seen_flops == sum(forms.attention(layer, layer.window or 1024) for layer in layers)
    for count in counts:
        assert count.total_flops - count.total_seen_flops == count.computed_flops - count.seen_flops


def test_tensor_parallelism_is_an_even_split_with_heads_replicated(
    estimated: Callable[..., Estimate], forms: ClosedForms
) -> None:
    """E2B has one KV head: both cores project, keep and read all K and V."""
    one, two = estimated(pipeline=UNPRUNED), estimated(pipeline=UNPRUNED, tp=2, instance="trn1.2xlarge")
    kv = sum(map(forms.kv_weights, forms.layers))
    for name, tokens in {"prefill_64": 64, "decode": 1}.items():
        whole, half = program(one, name), program(two, name)
        assert whole.total == half.total  # what the program does, however it is split
        replicated = 2 * tokens * kv
        flops = (whole.total.flops - replicated) / 2 + replicated
        assert half.modelled_compute_seconds == pytest.approx(flops / two.machine.flops, rel=1e-6)
        layers = len(forms.layers)
        sent = 3 * layers * 2 * tokens * forms.h * 2 / 2  # all-reduces: o_proj, down_proj, per-layer projection
        sent += (2 * tokens * layers * forms.ple + 2 * forms.vocab) / 2  # all-gathers: PLE projection, logits
        seconds = (3 * layers + 2) * COLLECTIVE_SECONDS + sent / COLLECTIVE_BANDWIDTH
        assert half.modelled_collective_seconds == pytest.approx(seconds)
    assert two.memory.cache_bytes == one.memory.cache_bytes
    assert two.memory.ple_table_bytes == one.memory.ple_table_bytes / 2
    text = " ".join(two.assumptions)
    assert "no pass for it yet" in text
    assert "replicated" in text
    assert "5 us" in text


RINGS = "canonicalize,precompute-rope,eliminate-shared-kv,window-kv-cache"


@pytest.mark.parametrize(
    ("pipeline", "recommended", "fits"),
    [(RINGS, True, False), (f"{RINGS},rebuild-keys", False, True), ("canonicalize,precompute-rope", False, False)],
)
def test_v_only_is_recommended_where_it_alone_fits(
    tmp_path: Path, pipeline: str, recommended: bool, fits: bool
) -> None:
    """12B's heads in narrow layers, with so many sequences that K and V fill a core; without rings V does, too."""
    config = VARIANTS["12b"].config_json()
    text = config["text_config"]
    text |= {"num_hidden_layers": 24, "layer_types": text["layer_types"][:24], "hidden_size": 16}
    text |= {"intermediate_size": 16, "vocab_size": 64}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    options = EstimateOptions(str(path), context=131072, buckets=(16,), pipeline=pipeline, batch=20)
    estimate = estimate_model(options, Silent())
    choice, memory = estimate.kv.choice, estimate.memory
    assert (estimate.kv.recommendation is not None) == recommended, choice.reason
    assert ("recommended: --kv v-only" in report(estimate)) == recommended
    assert memory.cache_bytes == (choice.v_only_bytes if estimate.kv.rebuilt else choice.full_bytes)
    assert estimate.kv.rebuilt or choice.other_bytes == memory.total_bytes - memory.cache_bytes
    assert not estimate.kv.rebuilt or choice.rebuilt_bytes <= memory.peak_activation_bytes <= 1.1 * choice.rebuilt_bytes
    assert memory.fits == fits
    assert ("DOES NOT FIT" in report(estimate)) != fits


def test_float32_doubles_bytes(estimated: Callable[..., Estimate], forms: ClosedForms) -> None:
    half, full = estimated(), estimated(dtype="float32")
    assert full.memory.cache_bytes == 2 * half.memory.cache_bytes
    assert full.machine.flops < half.machine.flops
    assert [p.total.flops for p in full.programs] == [p.total.flops for p in half.programs]


def test_the_text_says_modelled(estimated: Callable[..., Estimate], forms: ClosedForms) -> None:
    estimate = estimated(pipeline=UNPRUNED, tp=2, instance="trn1.2xlarge")
    text = report(estimate)
    for line in text.splitlines():
        times = re.search(r"\d (ms|us)\b|tokens/s", line)
        assert not times or "modelled" in line or line.startswith("  - "), line
    for line in estimate.assumptions:
        assert f"  - {line}" in text
    assert "1.62 times as slow" in text  # 820 GiB/s of HBM against 544 GB/s of DMA
    for words in ("sliding_own", "full_shared", "eliminate-shared-kv", "per-layer-embedding table", "3 x prefill_64"):
        assert words in text


def test_json_is_one_event_with_stable_keys(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["estimate", "--config", model, "--buckets", "16", "--context", "64", "--prompt", "20", "--json"]
    assert main(arguments) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["phase"] for line in lines if line["event"] == "end"] == ["load config", "trace", "passes", "count"]
    found = lines[-1]
    assert set(found) == {"event", *(field.name for field in dataclasses.fields(Estimate))}
    assert (found["event"], found["schema"], found["model"]) == ("estimate", 1, "small")
    assert found["timing"]["prompt_tokens"] == 20
    assert {"modelled_ttft_seconds", "modelled_tpot_seconds"} <= set(found["timing"])
    assert found["machine"]["instance"] == "trn2.3xlarge"
    decode = found["programs"][-1]
    assert set(decode["total"]["flops_by"]) == {"projections", "mlp", "attention", "ple", "ple_projection", "head"}


def test_text_goes_to_stdout_and_progress_to_stderr(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", model, "--buckets", "16", "--context", "64", "--passes-off", "cse,dce"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("small: bfloat16, batch 1, context 64, buckets 16\n")
    assert "modelled TTFT" in captured.out
    assert "trace" in captured.err
    assert "modelled" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "C003 no model"),
        ("e2b --variant e2b", "C003 several models"),
        ("e3b", "F001 did you mean"),
        ("--config missing.json", "F002 missing.json"),
        ("e2b --instance trn2.3xlrage", "C002 did you mean 'trn2.3xlarge'?"),
        ("e2b --instance tpu", "C002 one of: inf2.xlarge"),
        ("e2b --tp 3", "C020 degrees that do: 1, 2, 4, 8"),
        ("e2b --tp 0", "C020 at least 1"),
        ("e2b --tp 8", "C020 trn2.3xlarge has 4 logical cores"),
        ("e2b --tp 16 --instance trn2.48xlarge", "C020 does not divide the model's 8 query heads"),
        ("e2b --tp two", "C001 expected an integer"),
        ("e2b --context 131073", "C006 exceeds the model's 131072 positions"),
        ("e2b --context 0", "C005 --context must be at least 1"),
        ("e2b --batch 0", "C005 --batch must be at least 1"),
        ("e2b --buckets 0", "C005 at least 1"),
        ("e2b --buckets 64,64", "C005 twice"),
        ("e2b --context 64", "C005 the bucket 512 is longer than the context, --context 64"),
        ("e2b --prompt 2049", "C021 --prompt 2049 is not within the context, 1 to 2048 tokens"),
        ("e2b --prompt 0", "C021 give a larger --context"),
        ("e2b --pipeline canonicalise", "P001 did you mean canonicalize?"),
        ("e2b --pipeline dce,", "P004 expected a pass"),
        ("e2b --pipeline canonicalize{iterations=x}", "P003 is an integer"),
        ("e2b --pipeline eliminate-shared-kv,precompute-rope,canonicalize", "P005 precompute-rope runs before"),
        ("e2b --passes-off", "C001 expected one argument"),
        ("e2b --passes-off cs", "C002 did you mean 'cse'?"),
        ("e2b --passes-off split-matvec", "C002 one of: canonicalize"),
        ("e2b --passes-off cse --pipeline dce", "C022 both given"),
        ("e2b --dtype bf16", "C002 did you mean 'bfloat16'?"),
        ("e2b --instnce inf2.xlarge", "C001 did you mean --instance?"),
    ],
)
def test_refusals(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(["estimate", "-q", *arguments.split()])
    captured = capsys.readouterr()
    name, _, words = expected.partition(" ")
    assert captured.out == ""
    assert f"error[G4C-{name}]" in captured.err
    assert words in captured.err
    assert captured.err.count("error[") == 1
    assert "Traceback" not in captured.err
    assert code == catalogue()[f"G4C-{name}"].exit_code
    assert list(tmp_path.iterdir()) == []


def test_a_pass_that_refuses_leaves_no_debris(
    model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = "specialize-layers,window-kv-cache"
    assert main(["estimate", model, "--buckets", "16", "--context", "64", "--pipeline", pipeline]) == 1
    captured = capsys.readouterr()
    assert "error[G4C-P042]" in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []
