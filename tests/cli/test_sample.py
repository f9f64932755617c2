"""`g4c compile --sample on-device`: the same tokens as on the host, from candidates; what they cannot do is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from g4c.cli.main import main
from g4c.compile_options import MAX_CANDIDATES
from g4c.frontend.variants import VARIANTS
from g4c.lowering.neuron.rules.ordering import MAX_ROUNDS
from g4c.runtime.bundle import open_bundle
from g4c.runtime.candidates import Candidates
from g4c.runtime.cpu import CpuClient
from g4c.runtime.engine import Engine, GenerationOptions, Token
from g4c.runtime.random_weights import RandomWeights
from g4c.runtime.sampling import GREEDY, Sampling
from g4c.runtime.session import Session
from g4c.runtime.weights import WeightStore

K = 8
SHAPES = ["--buckets", "4", "--max-context", "32", "--batch", "2", "--logit-rows", "2"]
PROMPTS = [[2, 17, 4, 9, 1, 3, 8, 300, 44, 5, 6], [2, 5, 9]]


@pytest.fixture(scope="module", autouse=True)
def each_program_is_compiled_once() -> Iterator[None]:
    """Sessions share what XLA made of the same program: it takes seconds, and has no state."""
    with patch.object(CpuClient, "compile", cache(CpuClient.compile)):
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of tiny-e2b, one of each attention kind."""
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0}
    path = tmp_path_factory.mktemp("config") / "two.json"
    path.write_text(json.dumps({**VARIANTS["tiny-e2b"].config_json(), **layers}))
    return path


@pytest.fixture(scope="module")
def bundles(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sample")
    made = {"host": root / "host", f"on-device:{K}": root / "device"}
    for sample, path in made.items():
        assert main(["compile", str(config), *SHAPES, "--sample", sample, "-o", str(path), "-q"]) == 0
    return {path.name: path for path in made.values()}


@pytest.fixture(scope="module")
def engines(bundles: dict[str, Path]) -> dict[str, Engine]:
    opened = {name: open_bundle(path) for name, path in bundles.items()}
    return {
        name: Engine(Session(bundle, WeightStore(bundle.weights, RandomWeights(0)))) for name, bundle in opened.items()
    }


def test_the_bundle_says_what_it_gives(bundles: dict[str, Path]) -> None:
    host, device = (open_bundle(bundles[name]) for name in ("host", "device"))
    assert (host.candidates, device.candidates) == (0, K)
    assert host.vocabulary == device.vocabulary == 1024
    assert device.manifest["options"]["sample"] == {"value": f"on-device:{K}", "origin": "command line"}
    assert f",split-logits{{k={K}}},specialize-layers" in device.manifest["pipeline"]
    assert "split-logits" not in host.manifest["pipeline"]
    for name, rows in (("prefill_4", 2), ("decode", 1)):
        outputs = [(output.name, output.type.shape) for output in device.program(name).outputs]
        assert outputs == [("tokens", (2, rows, K)), ("logprobs", (2, rows, K))]
        assert device.program(name).weights == host.program(name).weights


def test_the_head_takes_the_form_that_the_cpu_runs_fast(config: Path, tmp_path: Path) -> None:
    """One sequence in bf16: no product of one row is left, that of the head included."""
    arguments = ["--buckets", "8", "--max-context", "16", "--sample", "on-device", "-o", str(tmp_path / "b"), "-q"]
    assert main(["compile", str(config), *arguments, "--dump-dir", str(tmp_path / "dump")]) == 0
    (path,) = (tmp_path / "dump/cpu").glob("*_split-matvec.mlir")
    decode = path.read_text().partition("func.func @decode(")[2].partition("func.func")[0]
    assert '"g4.top_k"' in decode
    assert '"g4.linear"' in decode
    assert "tensor<1024x8x16xbf16>" in decode
    assert "tensor<1024x128xbf16>) -> tensor<1x1x1024xbf16>" not in decode


def test_rows_of_a_prefill_and_a_step(engines: dict[str, Engine]) -> None:
    """As many rows as are asked for, of each the best of the logits that the other bundle returns."""
    ids = [[2, 17, 4], [5, 6, 7]]
    calls = ([[2], [1]], [[2, 0], [1, 2]])
    for rows in calls:
        found = {}
        for name, engine in engines.items():
            engine.runner.reset()
            found[name] = engine.runner.prefill(ids, [range(3)] * 2, rows)
        logits, candidates = found["host"], found["device"]
        assert isinstance(candidates, Candidates)
        assert not isinstance(logits, Candidates)
        assert candidates.tokens.shape == (2, len(rows[0]), K)
        order = np.argsort(-logits.astype(np.float32), axis=-1, kind="stable")[..., :K]
        np.testing.assert_array_equal(candidates.tokens, order)


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(top_k=K // 2, top_p=1.0),
        Sampling(temperature=0.7, top_k=7, top_p=0.8, seed=5),
        Sampling(temperature=3.0, top_k=1),
    ],
    ids=str,
)
def test_the_same_tokens_with_the_same_seed(engines: dict[str, Engine], sampling: Sampling) -> None:
    """Prompts of several chunks and of one, of different lengths, together."""
    options = GenerationOptions(max_new_tokens=20, sampling=sampling, logprobs=True)
    tokens: dict[str, list[Token]] = {
        name: list(engine.generate_batch(PROMPTS, options)) for name, engine in engines.items()
    }
    host, device = tokens["host"], tokens["device"]
    assert [(t.sequence, t.id, t.finish_reason) for t in device] == [(t.sequence, t.id, t.finish_reason) for t in host]
    assert len({token.id for token in host}) > (10 if sampling.top_k == K // 2 else 1)
    for a, b in zip(host, device, strict=True):
        assert b.logprob == pytest.approx(a.logprob, rel=1e-6, abs=2e-6)


def events(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_token_events_say_how_likely_the_token_was(
    bundles: dict[str, Path], engines: dict[str, Engine], capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", str(bundles["device"]), "--random-weights", "0", "--token-ids", "2,17,4", "--greedy", "--ignore-eos"]
    found = [event for event in events(capsys, *run, "--max-new-tokens", "4") if event["event"] == "token"]
    wanted = list(engines["host"].generate([2, 17, 4], GenerationOptions(max_new_tokens=4, logprobs=True)))
    assert [event["id"] for event in found] == [token.id for token in wanted]
    for event, token in zip(found, wanted, strict=True):
        assert -12 < event["logprob"] < 0
        assert event["logprob"] == pytest.approx(token.logprob, abs=2e-6)


def test_verify_compares_candidates_with_hugging_face(
    bundles: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["verify", str(bundles["device"]), "--random-weights", "0", "--lengths", "1,7", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if "max_relative" in line]
    assert [row["label"] for row in rows] == ["1 + 31", "7 + 25"]
    assert all(row["passes"] and row["min_cosine"] is None for row in rows)


@pytest.mark.parametrize(
    ("sampling", "needed", "way_out"),
    [("--top-k 9", 9, "on-device:9"), ("", 64, "on-device:64"), ("--top-k 0", 1024, "host")],
)
def test_sampling_among_more_is_refused(
    bundles: dict[str, Path], capsys: pytest.CaptureFixture[str], sampling: str, needed: int, way_out: str
) -> None:
    run = ["run", str(bundles["device"]), "--random-weights", "0", "--token-ids", "2", *sampling.split()]
    assert main(run) == 1
    captured = capsys.readouterr()
    assert f"error[G4C-R070]: sampling needs the {needed} most likely tokens, the bundle gives {K}" in captured.err
    assert f"compile with --sample {way_out}\n" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("--sample device", "C002", "did you mean 'on-device'?"),
        ("--sample on-device:0", "C040", "K from 1 to 256, got on-device:0"),
        ("--sample on-device:257", "C040", "got on-device:257"),
        ("--sample on-device:", "C040", "got on-device:"),
        ("--sample on-device:-1", "C040", "got on-device:-1"),
        ("--sample host:1", "C040", "got host:1"),
        ("--sample on-device:8 --pipeline split-logits{k=8}", "C041", "--pipeline has it already"),
    ],
)
def test_bad_values_are_refused_before_tracing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: str, words: str
) -> None:
    assert main(["compile", "tiny-e2b", *arguments.split(), "-o", str(tmp_path / "b")]) == 2
    captured = capsys.readouterr()
    assert f"error[G4C-{code}]" in captured.err
    assert words in captured.err
    assert "trace" not in captured.err
    assert not (tmp_path / "b").exists()


def test_more_candidates_than_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {"vocab_size": 64, "vocab_size_per_layer_input": 64}
    (tmp_path / "small.json").write_text(json.dumps({**VARIANTS["tiny-e2b"].config_json(), **small}))
    assert main(["compile", str(tmp_path / "small.json"), "--sample", "on-device:65", "-o", str(tmp_path / "b")]) == 2
    assert "error[G4C-C040]: --sample on-device:65 asks for more candidates than the model has tokens, 64" in (
        capsys.readouterr().err
    )


def test_every_number_of_candidates_can_be_lowered() -> None:
    assert MAX_CANDIDATES == MAX_ROUNDS
