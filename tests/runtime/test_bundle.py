"""Bundles: written whole or not at all, checked when opened."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from g4c.errors import G4cError
from g4c.ir.op import Dense
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Cast, Concat, Reshape, RopeTable, Scale, Source, Take, Weight
from g4c.runtime import bundle as bundle_module
from g4c.runtime.bundle import BundleWriter, open_bundle, tensor_json, type_json, weight_json

CACHE = TensorType((1, 16, 1, 4), DType.F32)
WEIGHTS = {
    "w": Weight(
        "w", (Source("layers.0.w", TensorType((2, 3), DType.BF16)),), transforms=(Reshape((3, 2)), Cast(DType.F32))
    ),
    "table": Weight("table", value=Dense(TensorType((2,), DType.F32), bytes(8)), transforms=(RopeTable("cos", 16),)),
    "qk": Weight(
        "qk",
        tuple(Source(key, TensorType(shape, DType.BF16)) for key, shape in (("q", (8, 4)), ("k", (4, 4)), ("n", (4,)))),
        transforms=(Take(0, 4, ((2, 4), (0, 2))), Scale(1, at=1), Concat(0, 2)),
    ),
}


def manifest(name: str = "tiny") -> dict[str, Any]:
    program = {
        "file": "programs/decode.hlo.pb",
        "inputs": [tensor_json("token_ids", TensorType((1, 1), DType.S32))],
        "outputs": [tensor_json("logits", TensorType((1, 1, 8), DType.F32))],
        "caches": ["layers.0.k"],
        "weights": ["w", "table"],
        "flops": 12,
        "bytes": 34,
    }
    return {
        "name": name,
        "dtype": "f32",
        "vocabulary": 8,
        "batch": 1,
        "max_context": 16,
        "eos_token_ids": [1, 106],
        "programs": {"decode": program, "prefill_8": program, "prefill_4": program},
        "caches": {"layers.0.k": type_json(CACHE)},
        "weights": {symbol: weight_json(weight) for symbol, weight in WEIGHTS.items()},
    }


def write(target: Path, name: str = "tiny") -> Path:
    with BundleWriter(target) as writer:
        writer.write("programs/decode.hlo.pb", b"program " * 100)
        writer.place("weights/rank-0.safetensors").write_bytes(b"weights")
        writer.add("weights/rank-0.safetensors")
        return writer.commit(manifest(name))


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def code_of(path: Path, **options: bool) -> str:
    with pytest.raises(G4cError) as caught:
        open_bundle(path, **options)
    return caught.value.code


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    target = write(tmp_path / "out" / "tiny")
    bundle = open_bundle(target, full=True)
    decode = bundle.program("decode")
    assert decode.inputs[0].type == TensorType((1, 1), DType.S32)
    assert decode.outputs[0].name == "logits"
    assert decode.file == decode.cpu_file == target / "programs/decode.hlo.pb"
    assert (decode.caches, decode.weights, decode.flops, decode.bytes) == (("layers.0.k",), ("w", "table"), 12, 34)
    assert dict(bundle.weights) == WEIGHTS
    assert bundle.caches["layers.0.k"].type == CACHE
    assert bundle.prefill_buckets == (4, 8)
    assert bundle.vocabulary == 8
    assert bundle.candidates == 0
    assert bundle.eos_token_ids == (1, 106)
    assert (bundle.batch, bundle.max_context, bundle.dtype) == (1, 16, DType.F32)
    assert bundle.packed_weights == (target / "weights/rank-0.safetensors",)
    assert tree(tmp_path) == [
        "out",
        "out/tiny",
        "out/tiny/manifest.json",
        "out/tiny/programs",
        "out/tiny/programs/decode.hlo.pb",
        "out/tiny/weights",
        "out/tiny/weights/rank-0.safetensors",
    ]


def test_an_unknown_program_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(G4cError, match="no program 'prefill_16'") as caught:
        open_bundle(write(tmp_path / "b")).program("prefill_16")
    assert caught.value.code == "G4C-R107"
    assert "prefill_4" in str(caught.value)


def test_an_earlier_bundle_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "b", "first")
    write(tmp_path / "b", "second")
    assert open_bundle(tmp_path / "b").manifest["name"] == "second"
    assert os.listdir(tmp_path) == ["b"]


def test_an_empty_directory_and_a_link_to_a_bundle_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to("b")
    write(tmp_path / "b", "first")
    write(tmp_path / "link", "second")
    assert open_bundle(tmp_path / "b").manifest["name"] == "second"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("bug"), SystemExit(1)])
def test_a_failed_write_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    write(tmp_path / "b", "first")
    before = tree(tmp_path)
    for target in (tmp_path / "b", tmp_path / "new" / "deep" / "b"):
        with pytest.raises(type(error)), BundleWriter(target) as writer:
            writer.write("programs/decode.hlo.pb", b"half")
            raise error
    assert tree(tmp_path) == before
    assert open_bundle(tmp_path / "b").manifest["name"] == "first"


def test_a_full_disk_is_a_coded_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(tmp_path / "b", "first")
    before = tree(tmp_path)
    monkeypatch.setattr(bundle_module.os, "fsync", full)
    with pytest.raises(G4cError, match="no space left") as caught:
        write(tmp_path / "b", "second")
    assert caught.value.code == "G4C-R108"
    assert tree(tmp_path) == before


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(G4cError) as caught:
        write(tmp_path / "b")
    assert caught.value.code == "G4C-R104"
    with pytest.raises(G4cError) as caught:
        write(tmp_path / "b" / "inside")
    assert caught.value.code == "G4C-R109"
    assert (tmp_path / "b").read_text() == "mine"


def test_somebody_elses_directory_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(G4cError) as caught:
        write(tmp_path / "b")
    assert caught.value.code == "G4C-R105"
    assert tree(tmp_path) == ["b", "b/thesis.txt"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as first:
        with pytest.raises(G4cError) as caught:
            write(tmp_path / "b")
        assert caught.value.code == "G4C-R106"
        first.write("programs/decode.hlo.pb", b"program")
        first.commit(manifest())
    assert open_bundle(tmp_path / "b").manifest["name"] == "tiny"


def test_what_a_killed_writer_left_is_cleared(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, pathlib\n"
        "from g4c.runtime.bundle import BundleWriter\n"
        "with BundleWriter(pathlib.Path(sys.argv[1])) as writer:\n"
        "    writer.write('programs/half', b'x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "b")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [".b.partial"]
    write(tmp_path / "b")
    assert os.listdir(tmp_path) == ["b"]
    assert "programs/half" not in tree(tmp_path / "b")


def test_a_writer_killed_while_replacing_loses_nothing(tmp_path: Path) -> None:
    write(tmp_path / "b", "first")
    (tmp_path / "b").rename(tmp_path / ".b.replaced")
    with pytest.raises(RuntimeError), BundleWriter(tmp_path / "b"):
        raise RuntimeError
    assert open_bundle(tmp_path / "b").manifest["name"] == "first"


def test_an_interrupt_while_cleaning_up_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = bundle_module._remove

    def interrupted_remove(path: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        remove(path)

    monkeypatch.setattr(bundle_module, "_remove", interrupted_remove)
    with pytest.raises(KeyboardInterrupt), BundleWriter(tmp_path / "b") as writer:
        writer.write("programs/decode.hlo.pb", b"half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_missing_things(tmp_path: Path) -> None:
    assert code_of(tmp_path / "nothing") == "G4C-R100"
    (tmp_path / "file").touch()
    assert code_of(tmp_path / "file") == "G4C-R100"
    assert code_of(tmp_path) == "G4C-R100"


def test_damaged_manifests(tmp_path: Path) -> None:
    path = write(tmp_path / "b") / "manifest.json"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert code_of(tmp_path / "b") == "G4C-R101"
    path.write_bytes(b"\xff\xfe")
    assert code_of(tmp_path / "b") == "G4C-R101"
    path.write_bytes(b"[]")
    assert code_of(tmp_path / "b") == "G4C-R101"
    for key in ("programs", "weights", "caches", "files"):
        entries = json.loads(whole)
        del entries[key]
        path.write_text(json.dumps(entries))
        assert code_of(tmp_path / "b") == "G4C-R101", key
    entries = json.loads(whole)
    entries["weights"]["w"]["transforms"] = ["squeeze{axis=1}"]
    path.write_text(json.dumps(entries))
    assert code_of(tmp_path / "b") == "G4C-R101"


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_schema_versions(tmp_path: Path, version: object) -> None:
    path = write(tmp_path / "b") / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    assert code_of(tmp_path / "b") == "G4C-R102"


def test_a_changed_byte_of_a_program(tmp_path: Path) -> None:
    path = write(tmp_path / "b") / "programs/decode.hlo.pb"
    data = bytearray(path.read_bytes())
    data[400] ^= 1
    path.write_bytes(data)
    assert code_of(tmp_path / "b") == "G4C-R103"
    path.write_bytes(data[:-1])
    assert code_of(tmp_path / "b") == "G4C-R103"
    path.unlink()
    assert code_of(tmp_path / "b") == "G4C-R103"


def test_packed_weights_are_hashed_when_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "b") / "weights/rank-0.safetensors"
    path.write_bytes(b"Weights")
    open_bundle(tmp_path / "b")
    assert code_of(tmp_path / "b", full=True) == "G4C-R103"
    path.write_bytes(b"weight")
    assert code_of(tmp_path / "b") == "G4C-R103"
