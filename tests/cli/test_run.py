"""`g4c run` and `g4c list BUNDLE` on a compiled model: text on stdout, statistics on stderr, refusals with codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from g4c.cli.main import main
from g4c.frontend.config import decoder_tensors, load_model_config, stored_kv_is_dead
from g4c.frontend.variants import VARIANTS
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Source
from g4c.runtime.bundle import open_bundle
from g4c.runtime.random_weights import RandomWeights

SHAPES = ["--buckets", "8", "--max-context", "32"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ten layers, five of which share K/V, with the weights of seed 0 and without dead ones."""
    from safetensors.numpy import save_file

    config = VARIANTS["tiny-e2b"].config_json()
    layers = {"num_hidden_layers": 10, "layer_types": config["layer_types"][:10], "num_kv_shared_layers": 5}
    directory = tmp_path_factory.mktemp("checkpoint")
    (directory / "config.json").write_text(json.dumps({**config, **layers}))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 50]}))
    model = load_model_config(str(directory))
    random = RandomWeights(0)
    tensors = {
        f"model.{name}": random.stored(Source(name, TensorType(shape, DType.BF16)))
        for name, shape in decoder_tensors(model).items()
        if not stored_kv_is_dead(model, name)
    }
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, compiled with its weights packed."""
    target = tmp_path_factory.mktemp("bundle") / "packed"
    assert main(["compile", "--checkpoint", str(checkpoint), *SHAPES, "-o", str(target), "-q"]) == 0
    return target


def events(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_weights_are_packed_and_companions_copied(bundle: Path, checkpoint: Path) -> None:
    opened = open_bundle(bundle, full=True)
    assert [path.name for path in opened.packed_weights] == ["rank-0.safetensors"]
    assert opened.eos_token_ids == (1, 50)
    assert (bundle / "generation_config.json").read_bytes() == (checkpoint / "generation_config.json").read_bytes()
    assert opened.manifest["weights"]["layers.0.self_attn.qkv_proj.weight"]["shape"] == [2048 + 2 * 256, 128]
    assert len(opened.caches) == 10


def test_text_goes_to_stdout_and_statistics_to_stderr(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(bundle), "--prompt", "Hi", "--max-new-tokens", "4", "--ignore-eos"]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith("\n")
    assert len(captured.out) > 4
    lines = captured.err.splitlines()
    assert any("byte-level stand-in, NOT the model's tokenizer" in line for line in lines)
    assert lines[-2].startswith("prefill: 3 tokens in ")
    assert "tokens/s; ended by length" in lines[-1]


def test_packed_checkpoint_and_random_weights_are_the_same_model(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", str(bundle), "--token-ids", "2,17,4,9", "--max-new-tokens", "6", "--greedy", "--ignore-eos"]
    outputs = []
    for weights in ([], ["--random-weights", "0"]):
        assert main([*run, *weights, "-q"]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        outputs.append(captured.out)
    assert outputs[0] == outputs[1]
    assert len(outputs[0].split(",")) == 6


def test_events(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = events(capsys, "run", str(bundle), "--token-ids", "2,17", "--max-new-tokens", "3", "--ignore-eos")
    tokens = [event for event in found if event["event"] == "token"]
    assert [token["finish"] for token in tokens] == [None, None, "length"]
    assert found[-1]["event"] == "statistics"
    assert found[-1]["new_tokens"] == 3


def test_list_shows_the_bundle(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(bundle)]) == 0
    text = capsys.readouterr().out
    for words in (
        "prefill_8",
        "decode",
        "token_ids tensor<1x8xi32>",
        "logits tensor<1x1x1024xbf16>",
        "caches: 10 tensors",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("", "C011"),
        ("--prompt Hi --token-ids 2", "C011"),
        ("--token-ids 2 --random-weights 0 --checkpoint x", "C010"),
        ("--token-ids 2,x", "C001"),
        ("--token-ids 2,1024", "R057"),
        ("--token-ids -1", "R057"),
        ("--top-k -1 --token-ids 2", "R060"),
    ],
)
def test_refusals(bundle: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: str) -> None:
    assert main(["run", str(bundle), *arguments.split()]) in (1, 2)
    captured = capsys.readouterr()
    assert f"error[G4C-{code}]" in captured.err
    assert captured.err.count("error[") == 1
    assert captured.out == ""


def test_a_prompt_longer_than_the_context(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(bundle), "--token-ids", ",".join(["2"] * 33)]) == 1
    assert "error[G4C-R056]: the prompt has 33 tokens, the context 32 positions" in capsys.readouterr().err


def test_damaged_bundles(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    program = copy / "programs/decode.hlo.pb"
    data = bytearray(program.read_bytes())
    data[len(data) // 2] ^= 1
    program.write_bytes(data)
    run = ["run", str(copy), "--token-ids", "2"]
    assert main(run) == 1
    assert "error[G4C-R103]: decode.hlo.pb does not have the SHA-256 of the manifest" in capsys.readouterr().err
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    assert main(run) == 1
    assert "error[G4C-R102]: the bundle has schema version 99, this g4c reads 1" in capsys.readouterr().err


def test_a_bundle_without_weights_asks_for_some(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / "bare")
    assert main(["compile", str(checkpoint), *SHAPES, "-o", target, "--no-pack-weights", "-q"]) == 0
    assert main(["run", target, "--token-ids", "2"]) == 2
    assert "error[G4C-C010]" in capsys.readouterr().err


def test_a_checkpoint_that_lacks_a_tensor_is_refused_before_tracing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.numpy import load_file, save_file

    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.3.layer_scalar"]
    save_file(tensors, copy / "model.safetensors")
    assert main(["compile", "--checkpoint", str(copy), *SHAPES, "-o", str(tmp_path / "out/b")]) == 1
    captured = capsys.readouterr()
    assert "error[G4C-F025]: no tensor model.layers.3.layer_scalar" in captured.err
    assert "trace" not in captured.err
    whole = (checkpoint / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[:-1000])
    assert main(["compile", "--checkpoint", str(copy), *SHAPES, "-o", str(tmp_path / "out/b")]) == 1
    assert "error[G4C-F024]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
