"""Whatever is wrong, `g4c` ends in one coded error and exit code 1 or 2, without a traceback and without debris."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_checkpoints import make_model, save

from g4c.cli.main import main
from g4c.frontend.variants import VARIANTS
from g4c.runtime import weights as weights_module
from g4c.runtime.bundle import BundleWriter

SHAPES = ("--buckets", "16", "--max-context", "32", "--dtype", "float32")
OUTPUT = ("-o", "out/deep/bundle")
RUN = ("--greedy", "--max-new-tokens", "2", "--threads", "1")
BYTE_POSITIONS = 60


class Refusals:
    """Runs commands that must be refused, in a directory that they must leave as it is."""

    def __init__(self, place: Path, temporary: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.place = place
        self.temporary = temporary
        self.capsys = capsys

    def __call__(self, code: str, *arguments: str) -> str:
        """What the command says on stderr; its one error must be `code`, and stdout empty."""
        before = listing(self.place)
        self.capsys.readouterr()
        exit_code = main(arguments)
        captured = self.capsys.readouterr()
        assert f"error[G4C-{code}]: " in captured.err
        assert captured.err.count("error[") == 1
        assert "Traceback" not in captured.err
        assert exit_code in (1, 2)
        assert captured.out == ""
        assert listing(self.place) == before
        assert listing(self.temporary) == []
        return captured.err


def listing(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusals:
    place, temporary = tmp_path / "place", tmp_path / "temporary"
    place.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return Refusals(place, temporary, capsys)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_model("Gemma4ForCausalLM"), tmp_path_factory.mktemp("bad-input") / "checkpoint")


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    output = checkpoint.parent / "bundle"
    assert main(["compile", "--checkpoint", str(checkpoint), "-o", str(output), "-q", *SHAPES]) == 0
    return output


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["e3b", "E2B", "", "tiny-e2b ", "e2b/", "gemma-4"])
def test_unknown_variant(refused: Refusals, name: str) -> None:
    assert "known variants: e2b" in refused("F001", "compile", "--variant", name, *OUTPUT)


def write_config(**changes: Any) -> str:
    config = {**VARIANTS["tiny-e2b"].config_json(), **changes}
    Path("config.json").write_text(json.dumps(config))
    return "config.json"


def rope(kind: str, **changes: Any) -> dict[str, Any]:
    """rope_parameters with one kind changed."""
    parameters = VARIANTS["tiny-e2b"].config_json()["rope_parameters"]
    return {"rope_parameters": {**parameters, kind: {**parameters[kind], **changes}}}


LAYER_TYPES = VARIANTS["tiny-e2b"].config_json()["layer_types"]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"layer_types": LAYER_TYPES[:-1]}, "F009", "34 entries"),
        ({"layer_types": []}, "F009", "0 entries"),
        ({"layer_types": [*LAYER_TYPES, LAYER_TYPES[-1]]}, "F009", "36 entries"),
        ({"layer_types": ["full_attention"] * 15 + LAYER_TYPES[15:]}, "F011", "K/V of a sliding_attention layer"),
        ({"num_kv_shared_layers": 31}, "F011", "K/V of a full_attention layer"),
        ({"num_kv_shared_layers": 35}, "F011", "no layer is left"),
        (rope("full_attention", rope_type="yarn"), "F012", "'yarn'"),
        (rope("sliding_attention", rope_type="Default"), "F012", "'Default'"),
        (rope("full_attention", rope_type=None), "F013", "rope_type is missing"),
        ({"num_hidden_layers": 10**9, "layer_types": None}, "F008", "at most"),
        ({"hidden_size": 10**12}, "F008", "at most"),
        ({"rms_norm_eps": 10**400}, "F008", "a positive number"),
        ({"bos_token_id": "<bos>"}, "F008", "a token id"),
    ],
)
def test_bad_config(refused: Refusals, changes: dict[str, Any], code: str, words: str) -> None:
    text = refused(code, "compile", "--config", write_config(**changes), *OUTPUT)
    assert words in text
    assert "  --> config.json" in text


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "F004"), (b"{", "F004"), (b"[]", "F004"), (b"[" * 100_000, "F004"), (b"\xff\xfe", "F003"), (b"{}", "F006")],
)
def test_unreadable_config(refused: Refusals, content: bytes, code: str) -> None:
    Path("config.json").write_bytes(content)
    refused(code, "compile", "--config", "config.json", *OUTPUT)
    refused(code, "compile", ".", *OUTPUT)


def test_missing_config(refused: Refusals) -> None:
    refused("F002", "compile", "--config", "config.json", *OUTPUT)
    refused("F005", "compile", "--config", ".", *OUTPUT)
    Path("config.json").mkdir()
    refused("F003", "compile", ".", *OUTPUT)
    Path("loop.json").symlink_to("loop.json")
    refused("F002", "compile", "--config", "loop.json", *OUTPUT)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("--tp 0", "C004"),
        ("--tp 2", "C004"),
        ("--tp -1", "C004"),
        ("--buckets 128,2049", "C005"),
        ("--buckets 64 --max-context 63", "C005"),
        ("--max-context 8193", "C006"),
        ("--max-context 0 --buckets 1", "C005"),
        ("--dump-dir out/deep/bundle/dump", "C014"),
        ("--dump-dir out/deep/bundle", "C014"),
    ],
)
def test_bad_options(refused: Refusals, options: str, code: str) -> None:
    refused(code, "compile", "--variant", "tiny-e2b", *options.split(), *OUTPUT)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def without_a_tensor(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["model.layers.3.layer_scalar"]


def with_a_wrong_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.4.self_attn.k_proj.weight"] = torch.zeros(256, 96)


def with_an_unknown_tensor(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.10.layer_scalar"] = torch.ones(1)


def with_integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = torch.ones(96, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (without_a_tensor, "F025"),
        (with_a_wrong_shape, "F026"),
        (with_integers, "F027"),
        (with_an_unknown_tensor, "F028"),
    ],
)
def test_bad_tensors(
    refused: Refusals,
    checkpoint: Path,
    bundle: Path,
    change: Callable[[dict[str, torch.Tensor]], None],
    code: str,
) -> None:
    shutil.copytree(checkpoint, "copy")
    tensors = load_file("copy/model.safetensors")
    change(tensors)
    save_file(tensors, "copy/model.safetensors")
    refused(code, "compile", "--checkpoint", "copy", *SHAPES, *OUTPUT)
    refused(code, "run", str(bundle), "--checkpoint", "copy", "--token-ids", "5", *RUN)


@pytest.mark.parametrize(("keep", "code"), [(0, "F023"), (7, "F023"), (900, "F024"), (-1, "F024"), (-100_000, "F024")])
def test_truncated_checkpoint(refused: Refusals, checkpoint: Path, bundle: Path, keep: int, code: str) -> None:
    shutil.copytree(checkpoint, "copy")
    file = Path("copy/model.safetensors")
    file.write_bytes(file.read_bytes()[:keep])
    refused(code, "compile", "--checkpoint", "copy", *SHAPES, *OUTPUT)
    refused(code, "run", str(bundle), "--checkpoint", "copy", "--token-ids", "5", *RUN)


def test_missing_checkpoint(refused: Refusals, bundle: Path) -> None:
    refused("F002", "compile", "--checkpoint", "missing", *OUTPUT)
    refused("F002", "run", str(bundle), "--checkpoint", "missing", "--token-ids", "5", *RUN)


# -- bundles -----------------------------------------------------------------------------------------------------------


def test_a_changed_byte_in_any_file(refused: Refusals, bundle: Path) -> None:
    shutil.copytree(bundle, "copy")
    files = [path for path in sorted(Path("copy").rglob("*")) if path.is_file() and path.name != "compile.log"]
    assert {path.suffix for path in files} == {".json", ".mlir", ".pb", ".safetensors"}
    for path in files:
        data = path.read_bytes()
        changed = bytearray(data)
        changed[len(data) * 2 // 3] ^= 1
        path.write_bytes(changed)
        code = "R101" if path.name == "manifest.json" else "R103"
        refused(code, "run", "copy", "--token-ids", "5", "-q", *RUN)
        path.write_bytes(data)


def test_a_changed_byte_anywhere_in_the_manifest(refused: Refusals, bundle: Path) -> None:
    shutil.copytree(bundle, "copy")
    path = Path("copy/manifest.json")
    data = path.read_bytes()
    for number in range(BYTE_POSITIONS):
        changed = bytearray(data)
        changed[(2 * number + 1) * len(data) // (2 * BYTE_POSITIONS)] ^= 1
        path.write_bytes(changed)
        refused("R101", "run", "copy", "--token-ids", "5", "-q", *RUN)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_schema_version(refused: Refusals, bundle: Path, version: object) -> None:
    shutil.copytree(bundle, "copy")
    path = Path("copy/manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    for verb in ("run", "verify"):
        prompt = ("--token-ids", "5", *RUN) if verb == "run" else ()
        assert f"schema version {version!r}" in refused("R102", verb, "copy", *prompt)


@pytest.mark.parametrize("name", ["weights/rank-0.safetensors", "programs/decode.cpu.hlo.pb", "config.json"])
def test_a_missing_or_truncated_file(refused: Refusals, bundle: Path, name: str) -> None:
    shutil.copytree(bundle, "copy")
    path = Path("copy", name)
    path.write_bytes(path.read_bytes()[:-1])
    refused("R103", "run", "copy", "--token-ids", "5", *RUN)
    path.unlink()
    refused("R103", "run", "copy", "--token-ids", "5", *RUN)


def test_no_bundle(refused: Refusals, checkpoint: Path) -> None:
    for path in ("missing", ".", str(checkpoint), str(checkpoint / "config.json")):
        refused("R100", "run", path, "--token-ids", "5", *RUN)
        refused("R100", "verify", path)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--token-ids", ",".join(["5"] * 33)), "R056"),
        (("--prompt", "x" * 33), "R056"),
        (("--token-ids", "512"), "R057"),
        (("--token-ids", "-1"), "R057"),
        (("--token-ids", "5,"), "C001"),
        (("--token-ids", "5", "--prompt", "x"), "C011"),
        ((), "C011"),
        (("--token-ids", "5", "--random-weights", "-1"), "C001"),
        (("--token-ids", "5", "--random-weights", "0", "--checkpoint", "."), "C010"),
        (("--token-ids", "5", "--threads", "100000"), "C001"),
    ],
)
def test_bad_prompts_and_options_of_a_run(refused: Refusals, bundle: Path, options: tuple[str, ...], code: str) -> None:
    refused(code, "run", str(bundle), *options)


# -- places ------------------------------------------------------------------------------------------------------------


def test_outputs_that_cannot_be(refused: Refusals) -> None:
    Path("file").write_text("mine")
    Path("directory").mkdir()
    Path("directory/thesis.txt").write_text("mine")
    Path("loop").symlink_to("loop")
    outputs = {"file": "R104", "file/below": "R109", "directory": "R105", "loop": "R109", "n" * 300: "C013"}
    for output, code in outputs.items():
        refused(code, "compile", "--variant", "tiny-e2b", *SHAPES, "-o", output)
    assert Path("file").read_text() == Path("directory/thesis.txt").read_text() == "mine"


def test_a_dump_directory_that_is_a_file(refused: Refusals) -> None:
    Path("file").write_text("mine")
    refused("P014", "compile", write_config(**few_layers()), *SHAPES, "-q", *OUTPUT, "--dump-dir", "file")


def few_layers() -> dict[str, Any]:
    """Changes that make tiny-e2b quick to compile."""
    return {"num_hidden_layers": 10, "num_kv_shared_layers": 5, "layer_types": LAYER_TYPES[:10]}


@pytest.mark.parametrize(
    "name",
    [
        "compile.log",
        "ir/module.mlir",
        "programs/prefill_16.hlo.pb",
        "programs/decode.cpu.hlo.pb",
        "config.json",
        "manifest.json",
    ],
)
def test_a_disk_that_is_full_when_a_file_is_written(
    refused: Refusals, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The kernel's own full device stands in for the disk."""
    place = BundleWriter.place

    def place_on_full_device(self: BundleWriter, wanted: str) -> Path:
        path = place(self, wanted)
        if wanted == name:
            path.symlink_to("/dev/full")
        return path

    monkeypatch.setattr(BundleWriter, "place", place_on_full_device)
    refused("R108", "compile", str(checkpoint), "-q", *SHAPES, *OUTPUT)


def test_a_disk_that_is_full_when_weights_are_packed(
    refused: Refusals, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(weights_module.os, "posix_fallocate", full)
    refused("R002", "compile", str(checkpoint), "-q", *SHAPES, *OUTPUT)


def test_a_full_disk_keeps_the_bundle_that_was_there(
    refused: Refusals, checkpoint: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shutil.copytree(bundle, "copy")
    before = Path("copy/manifest.json").read_bytes()
    with monkeypatch.context() as patches:
        patches.setattr("g4c.runtime.bundle.os.fsync", full)
        refused("R108", "compile", str(checkpoint), "-q", "--force", *SHAPES, "-o", "copy")
    assert Path("copy/manifest.json").read_bytes() == before
    assert main(["run", "copy", "--token-ids", "5", "-q", *RUN]) == 0
