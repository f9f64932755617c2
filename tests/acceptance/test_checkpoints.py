"""Checkpoints in every form that Hugging Face saves: compiled, run, and equal to Hugging Face's own generation.

The prompt is longer than the largest bucket and than the window, so that prefill, decode of a prompt and decode of new
tokens all reach past the window. Two forms are compiled; for the others it is shown that they are the same network with
the same weights, bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from small_checkpoints import CONTEXT, VOCABULARY, make_model, save

from g4c.cli.main import main
from g4c.frontend.checkpoint import CheckpointIndex
from g4c.frontend.config import load_model_config
from g4c.runtime.bundle import open_bundle
from g4c.runtime.session import Session
from g4c.runtime.weights import WeightStore, open_packed

CAUSAL, CONDITIONAL = "Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"
PROMPT = np.random.default_rng(1).integers(3, VOCABULARY, 600).tolist()
NEW_TOKENS = 200
BUCKET = 512


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices are faster on one thread, and the sums come out the same on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: make_model(name) for name in (CAUSAL, CONDITIONAL)}


@pytest.fixture(scope="module")
def published(models: dict[str, Any], place: Path) -> Path:
    """As the published checkpoints are: multimodal, sharded, with the leftover K/V of KV-shared layers."""
    return save(models[CONDITIONAL], place / "published", sharded=True, leftovers=True)


@pytest.fixture(scope="module")
def plain(models: dict[str, Any], place: Path) -> Path:
    """A text-only model in a single file, without leftovers."""
    return save(models[CAUSAL], place / "plain")


@pytest.fixture(scope="module")
def bundle(plain: Path, place: Path) -> Path:
    return compiled(plain, place / "bundle")


def compiled(checkpoint: Path, output: Path, *options: str) -> Path:
    chosen = options or ("--buckets", str(BUCKET), "--max-context", str(CONTEXT), "--dtype", "float32")
    assert main(["compile", "--checkpoint", str(checkpoint), "-o", str(output), "-q", *chosen]) == 0
    return output


def generated(capsys: pytest.CaptureFixture[str], bundle: Path, prompt: list[int], *options: str) -> list[int]:
    """What `g4c run` prints: greedy, end tokens ignored."""
    ids = ",".join(map(str, prompt))
    greedy = ("--greedy", "--ignore-eos", "--threads", "1", "-q")
    assert main(["run", str(bundle), "--token-ids", ids, *greedy, *options]) == 0
    return [int(token) for token in capsys.readouterr().out.splitlines()[-1].split(",")]


def hf_model(checkpoint: Path, architecture: str, dtype: torch.dtype = torch.float32) -> Any:
    """Hugging Face's model of the files of `checkpoint`, with eager attention."""
    loaded = getattr(transformers, architecture).from_pretrained(checkpoint, attn_implementation="eager", dtype=dtype)
    return loaded.eval()


def hf_generated(checkpoint: Path, architecture: str) -> list[int]:
    """What Hugging Face's `generate` makes of PROMPT: greedy, f32, end tokens ignored."""
    ids = torch.tensor([PROMPT])
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    model = hf_model(checkpoint, architecture)
    found: list[int] = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0].tolist()
    assert found[: len(PROMPT)] == PROMPT
    return found[len(PROMPT) :]


def test_a_plain_checkpoint_generates_what_hugging_face_does(
    plain: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = hf_generated(plain, CAUSAL)
    assert len(wanted) == NEW_TOKENS
    assert len(set(wanted)) > 40
    assert generated(capsys, bundle, PROMPT, "--max-new-tokens", str(NEW_TOKENS)) == wanted


def test_a_published_checkpoint_generates_what_hugging_face_does(
    published: Path, bundle: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = hf_generated(published, CONDITIONAL)
    whole = compiled(published, place / "published-bundle")
    assert generated(capsys, whole, PROMPT, "--max-new-tokens", str(NEW_TOKENS)) == wanted
    for name, program in open_bundle(bundle).programs.items():
        assert open_bundle(whole).program(name).file.read_bytes() == program.file.read_bytes()


@pytest.mark.parametrize(
    ("architecture", "sharded", "leftovers"),
    [
        (CAUSAL, True, False),
        (CAUSAL, False, True),
        (CAUSAL, True, True),
        (CONDITIONAL, False, False),
        (CONDITIONAL, True, False),
        (CONDITIONAL, False, True),
    ],
)
def test_every_other_form_is_the_same_model(
    models: dict[str, Any],
    plain: Path,
    bundle: Path,
    tmp_path: Path,
    architecture: str,
    sharded: bool,
    leftovers: bool,
) -> None:
    directory = save(models[architecture], tmp_path, sharded=sharded, leftovers=leftovers)
    config, reference = load_model_config(str(directory)), load_model_config(str(plain))
    same_but = {"architecture": CAUSAL, "source": reference.source, "checkpoint": plain}
    assert dataclasses.replace(config, **same_but) == reference
    assert config.text_config_json == reference.text_config_json
    index = CheckpointIndex.open(directory)
    report = index.check(config)
    shared = [name for name, reason in report.dropped.items() if reason == "K/V of a KV-shared layer"]
    assert len(shared) == (3 * 5 if leftovers else 0)
    weights = open_bundle(bundle).weights
    packed = open_packed(open_bundle(bundle).packed_weights[0], weights)
    for name, array in WeightStore(weights, index).items():
        assert np.array_equal(array, packed[name]), name


def test_a_bundle_without_weights_runs_on_the_checkpoint(
    published: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--buckets", "16", "--max-context", "32", "--dtype", "float32")
    bare = compiled(published, tmp_path / "bare", *small, "--no-pack-weights")
    assert open_bundle(bare).packed_weights == ()
    options = ("--max-new-tokens", "8")
    found = generated(capsys, bare, PROMPT[:20], "--checkpoint", str(published), *options)
    assert found == generated(capsys, bundle, PROMPT[:20], *options)


def test_a_bf16_checkpoint_runs_in_bf16(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = save(hf_model(plain, CAUSAL, torch.bfloat16), tmp_path / "half", sharded=True)
    assert load_model_config(str(half)).dtype == "bf16"
    whole = compiled(half, tmp_path / "bundle", "--buckets", "128", "--max-context", "160", "--logit-rows", "128")
    opened = open_bundle(whole, full=True)
    assert opened.dtype.mlir == "bf16"
    packed = open_packed(opened.packed_weights[0], opened.weights)
    prompt = PROMPT[:128]
    logits = (
        Session(opened, packed, threads=1).prefill([prompt], [range(128)], [list(range(128))])[0].astype(np.float32)
    )
    with torch.no_grad():
        exact, rounded = (
            hf_model(half, CAUSAL, dtype)(torch.tensor([prompt])).logits[0].float().numpy()
            for dtype in (torch.float32, torch.bfloat16)
        )
    assert np.square(logits - exact).mean() < 1.5**2 * np.square(rounded - exact).mean()
    assert len(generated(capsys, whole, PROMPT[:140], "--max-new-tokens", "10")) == 10
