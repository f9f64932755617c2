"""Checkpoints written by Hugging Face's save_pretrained, single and sharded, and the same with one thing wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from g4c.errors import G4cError
from g4c.frontend.checkpoint import CheckpointIndex
from g4c.frontend.config import decoder_tensors, load_model_config, stored_kv_is_dead
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Source

SMALL = {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 64, "hidden_size_per_layer_input": 8}
SMALL |= {"vocab_size_per_layer_input": 64, "num_attention_heads": 2}


def text_config() -> Any:
    from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig

    return Gemma4TextConfig(**{**load_model_config("tiny-e2b").text_config_json, **SMALL})


def multimodal_model() -> Any:
    from transformers.models.gemma4.configuration_gemma4 import Gemma4AudioConfig, Gemma4Config, Gemma4VisionConfig
    from transformers.models.gemma4.modeling_gemma4 import Gemma4ForConditionalGeneration

    vision = Gemma4VisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        head_dim=16, position_embedding_size=16, use_clipped_linears=True, standardize=True,
    )  # fmt: skip
    audio = Gemma4AudioConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, output_proj_dims=32)
    return Gemma4ForConditionalGeneration(
        Gemma4Config(text_config=text_config(), vision_config=vision, audio_config=audio)
    )


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers.models.gemma4.modeling_gemma4 import Gemma4ForCausalLM

    torch.manual_seed(0)
    return Gemma4ForCausalLM(text_config()).to(torch.bfloat16)


@pytest.fixture(scope="module")
def single(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single")
    model.save_pretrained(path)
    assert (path / "model.safetensors").exists()
    return path


@pytest.fixture(scope="module")
def sharded(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sharded")
    model.save_pretrained(path, max_shard_size="1MB")
    assert len(list(path.glob("*.safetensors"))) > 2
    return path


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("multimodal")
    multimodal_model().save_pretrained(path)
    return path


@pytest.fixture
def copy_of(single: Path, tmp_path: Path) -> Path:
    return shutil.copytree(single, tmp_path / "checkpoint")


def rewrite(directory: Path, changes: dict[str, torch.Tensor | None], rename: tuple[str, str] = ("", "")) -> None:
    """Replace, add or (None) remove tensors of a single-file checkpoint."""
    path = directory / "model.safetensors"
    tensors: dict[str, torch.Tensor | None] = {k.replace(*rename, 1): v for k, v in load_file(path).items()}
    tensors.update(changes)
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def refusal(directory: Path) -> G4cError:
    config = load_model_config(str(directory))
    with pytest.raises(G4cError) as caught:
        CheckpointIndex.open(directory).check(config)
    assert caught.value.where
    return caught.value


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_every_decoder_tensor_is_found(kind: str, model: Any, request: pytest.FixtureRequest) -> None:
    directory = request.getfixturevalue(kind)
    config = load_model_config(str(directory))
    assert (config.checkpoint, config.dtype) == (directory, "bf16")
    index = CheckpointIndex.open(directory)
    assert index.prefix == "model."
    report = index.check(config)
    state = model.model.state_dict()
    assert set(report.used) == set(state) == set(index.tensors)
    assert report.dropped == {}
    for name in report.used:
        array = index.array(name)
        assert (array.dtype.name, array.flags.writeable, array.shape) == ("bfloat16", False, index.tensors[name].shape)
        assert np.array_equal(array.view(np.uint16), state[name].view(torch.int16).numpy().view(np.uint16))


def test_arrays_are_mapped_not_copied(single: Path) -> None:
    index = CheckpointIndex.open(single)
    first, second = index.array("embed_tokens.weight"), index.array("embed_tokens.weight")
    assert np.shares_memory(first, second)


def test_multimodal_checkpoint(multimodal: Path) -> None:
    config = load_model_config(str(multimodal))
    assert config.architecture == "Gemma4ForConditionalGeneration"
    index = CheckpointIndex.open(multimodal)
    report = index.check(config)
    assert index.prefix == "model.language_model."
    assert config.layers[4].head_dim == 512
    stored = {name for file in multimodal.glob("*.safetensors") for name in load_file(file)}
    used = {index.tensors[name].name for name in report.used}
    assert used | set(report.dropped) == stored
    assert used.isdisjoint(report.dropped)
    assert set(report.dropped.values()) == {"vision tower", "vision embedder", "audio tower", "audio embedder"}


def test_leftover_kv_and_tied_head_are_dropped(copy_of: Path) -> None:
    config = load_model_config(str(copy_of))
    dead = {n: s for n, s in decoder_tensors(config).items() if stored_kv_is_dead(config, n)}
    rewrite(copy_of, {f"model.{name}": torch.full(shape, float("nan")) for name, shape in dead.items()})
    rewrite(copy_of, {"lm_head.weight": torch.zeros(64, 32)})
    report = CheckpointIndex.open(copy_of).check(config)
    assert set(report.dropped) == {f"model.{name}" for name in dead} | {"lm_head.weight"}
    assert report.dropped["lm_head.weight"] == "tied to embed_tokens.weight"
    assert not set(report.used) & set(dead)


def test_absent_dead_kv_reads_as_zeros_of_the_asked_type(single: Path) -> None:
    index = CheckpointIndex.open(single)
    source = Source("layers.20.self_attn.k_proj.weight", TensorType((256, 32), DType.BF16))
    with pytest.raises(G4cError) as caught:
        index.stored(source)
    assert caught.value.code == "G4C-F025"
    index.check(load_model_config(str(single)))
    zeros = index.stored(source)
    assert (zeros.shape, zeros.dtype.name, float(zeros.astype(np.float32).sum())) == ((256, 32), "bfloat16", 0.0)


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model.model.", "language_model.", ""])
def test_other_prefixes(prefix: str, copy_of: Path) -> None:
    rewrite(copy_of, {}, rename=("model.", prefix))
    index = CheckpointIndex.open(copy_of)
    index.check(load_model_config(str(copy_of)))
    assert index.prefix == prefix


@pytest.mark.parametrize("name", ["embed_tokens.weight", "layers.7.layer_scalar", "layers.14.self_attn.k_norm.weight"])
def test_missing_tensor(name: str, copy_of: Path) -> None:
    rewrite(copy_of, {f"model.{name}": None})
    error = refusal(copy_of)
    assert (error.code, error.message) == ("G4C-F025", f"no tensor model.{name}")


def test_many_missing_tensors_are_counted(copy_of: Path) -> None:
    rewrite(copy_of, {"model.norm.weight": None, "model.layers.0.layer_scalar": None})
    assert refusal(copy_of).message.endswith("(and 1 more)")


def test_wrong_shape(copy_of: Path) -> None:
    rewrite(copy_of, {"model.layers.14.self_attn.k_proj.weight": torch.zeros(256, 32)})
    error = refusal(copy_of)
    assert error.code == "G4C-F026"
    assert "[256, 32], the config needs [512, 32]" in error.message


def test_wrong_dtype(copy_of: Path) -> None:
    rewrite(copy_of, {"model.norm.weight": torch.zeros(32, dtype=torch.int8)})
    assert refusal(copy_of).code == "G4C-F027"


@pytest.mark.parametrize(
    "name", ["model.layers.35.layer_scalar", "model.layers.0.self_attn.q_proj.bias", "model.surprise", "foo"]
)
def test_unexpected_tensor(name: str, copy_of: Path) -> None:
    rewrite(copy_of, {name: torch.zeros(1)})
    error = refusal(copy_of)
    assert error.code == "G4C-F028"
    assert name in error.message


def test_two_decoders(copy_of: Path) -> None:
    rewrite(copy_of, {"model.language_model.norm.weight": torch.zeros(32)})
    assert refusal(copy_of).code == "G4C-F029"


def test_no_decoder(copy_of: Path) -> None:
    save_file({"vision_tower.x": torch.zeros(1)}, copy_of / "model.safetensors")
    assert refusal(copy_of).code == "G4C-F029"


@pytest.mark.parametrize("keep", [0.2, 0.9, 0.999999])
def test_truncated_file(keep: float, copy_of: Path) -> None:
    path = copy_of / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert refusal(copy_of).code == "G4C-F024"


def test_truncated_within_the_header(copy_of: Path) -> None:
    path = copy_of / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert refusal(copy_of).code == "G4C-F024"


def header(entries: object) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        (4).to_bytes(8, "little") + b"{{{{",
        header([]),
        header({"a": 1}),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}) + b"0000",
        header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}) + b"0000",
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + b"0000",
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}) + b"0000",
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}) + b"00000000",
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"00000000",
    ],
)
def test_bad_header(data: bytes, copy_of: Path) -> None:
    (copy_of / "model.safetensors").write_bytes(data)
    assert refusal(copy_of).code == "G4C-F023"


def test_no_weights(copy_of: Path) -> None:
    (copy_of / "model.safetensors").unlink()
    assert load_model_config(str(copy_of)).checkpoint is None
    assert refusal(copy_of).code == "G4C-F020"


def test_file_that_the_system_refuses(copy_of: Path) -> None:
    (copy_of / "model.safetensors").unlink()
    (copy_of / "model.safetensors").mkdir()
    assert refusal(copy_of).code == "G4C-F031"


def test_index_that_names_an_absent_file(sharded: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(sharded, tmp_path / "checkpoint")
    victim = sorted(directory.glob("*.safetensors"))[1]
    victim.unlink()
    error = refusal(directory)
    assert error.code == "G4C-F022"
    assert victim.name in error.message


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": "../b.safetensors"}}'],
)
def test_bad_index(text: str, sharded: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(sharded, tmp_path / "checkpoint")
    (directory / "model.safetensors.index.json").write_text(text)
    assert refusal(directory).code == "G4C-F021"


def test_index_that_promises_a_tensor_elsewhere(sharded: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(sharded, tmp_path / "checkpoint")
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    files = sorted(set(index["weight_map"].values()))
    name = next(name for name, file in index["weight_map"].items() if file == files[0])
    index["weight_map"][name] = files[1]
    path.write_text(json.dumps(index))
    error = refusal(directory)
    assert error.code == "G4C-F030"
    assert name in error.message


def test_shards_without_an_index(sharded: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(sharded, tmp_path / "checkpoint")
    (directory / "model.safetensors.index.json").unlink()
    CheckpointIndex.open(directory).check(load_model_config(str(directory)))
    shutil.copy(sorted(directory.glob("*.safetensors"))[0], directory / "z.safetensors")
    assert refusal(directory).code == "G4C-F030"
