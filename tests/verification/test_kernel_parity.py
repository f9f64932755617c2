"""Bundles whose attention is kernels, run in the NKI simulator, against Hugging Face's logits.

Small widths, real head dims, layer kinds and donors. Prompts in chunks past window and rings, then decode steps. Every
attention of every program is a kernel, and no kernel is left out.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_variants import WINDOW, small_variant

from g4c.cli.main import main
from g4c.frontend.config import load_model_config
from g4c.ir.module import Module
from g4c.ir.ops import TiledAttentionOp
from g4c.ir.parser import parse_module
from g4c.ir.types import DType
from g4c.kernels import cpu_programs
from g4c.runtime.bundle import Bundle, open_bundle
from g4c.runtime.engine import Engine, GenerationOptions
from g4c.runtime.random_weights import RandomWeights
from g4c.runtime.sampling import GREEDY
from g4c.runtime.session import Session
from g4c.runtime.weights import WeightStore
from g4c.verification.measures import Comparison
from g4c.verification.verify import stored_tensors, verify_session

BUCKET = 24
SLIDING, FULL = "sliding_attention", "full_attention"
LAYERS: dict[str, dict[str, Any]] = {
    # An owner and a donor that slide, a full donor, and layers that share both: GQA 4:1.
    "e2b-like": {"layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL], "num_kv_shared_layers": 2},
    # K equals V where attention is full: GQA 8:4 and 8:2.
    "31b-like": {"layer_types": [SLIDING, FULL]},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@cache
def compiled(root: Path, name: str, dtype: str, *options: str) -> Bundle:
    layers = LAYERS[name]
    small_variant(name, root, **layers, num_hidden_layers=len(layers["layer_types"]))
    path = root / f"{name}-{dtype}{''.join(options)}"
    arguments = ["compile", "--config", str(root / f"{name}.json"), "-o", str(path), "--dtype", dtype, *options]
    arguments += ["--buckets", str(BUCKET), "--max-context", "160", "--kernels", "attention", "-q"]
    assert main(arguments) == 0
    return open_bundle(path)


def session(bundle: Bundle, kernels: str) -> Session:
    return Session(bundle, WeightStore(bundle.weights, RandomWeights(0)), form=cpu_programs(bundle, kernels))


def compared(bundle: Bundle, kernels: str, lengths: tuple[int, ...]) -> list[Comparison]:
    config = load_model_config(str(bundle.path / "config.json"))
    tensors = stored_tensors(RandomWeights(0), config, bundle.dtype)
    result = verify_session(session(bundle, kernels), tensors, config, lengths)
    assert result.passes
    return list(result.comparisons)


def module_of(bundle: Bundle) -> Module:
    return parse_module((bundle.path / "ir" / "module.mlir").read_text())


@pytest.mark.parametrize("rows", [1, BUCKET])
@pytest.mark.parametrize("name", LAYERS)
def test_every_attention_is_a_kernel(root: Path, name: str, rows: int) -> None:
    """One call per layer and program, one source per distinct kernel."""
    bundle = compiled(root, name, "float32", "--logit-rows", str(rows))
    module = module_of(bundle)
    attentions = [f.role for f in module.functions.values() for _ in f.ops_of(TiledAttentionOp)]
    assert set(attentions) == {"kernel"}
    assert len(bundle.kernels) == len(attentions)
    assert all(program.kernels for program in bundle.programs.values())
    for sha, kernel in bundle.kernels.items():
        assert kernel.file == bundle.path / "kernels" / sha / f"{kernel.name}.py"
        assert kernel.file.with_name("spec.json").is_file()


@pytest.mark.parametrize("rows", [1, BUCKET])
@pytest.mark.parametrize("name", LAYERS)
def test_f32_logits(root: Path, name: str, rows: int) -> None:
    """Below, at and past the window and the bucket; a prefill gives logits of its last row, or of all."""
    bundle = compiled(root, name, "float32", "--logit-rows", str(rows))
    lengths = (1, WINDOW + 1, 2 * BUCKET + 13) if rows == 1 else (BUCKET - 1, 2 * BUCKET + 13)
    for row in compared(bundle, "simulate", lengths):
        assert row.max_relative <= 1e-4, row
        assert row.same_argmax == row.positions, row


@pytest.mark.parametrize("name", LAYERS)
def test_bf16_error_is_that_of_bf16(root: Path, name: str) -> None:
    """As large as that of Hugging Face's own bf16 run, like that of the programs without kernels."""
    bundle = compiled(root, name, "bfloat16")
    for row in compared(bundle, "simulate", (2 * BUCKET + 13,)):
        assert row.contested == 0, row
        assert row.peer_rms is not None
        assert row.rms <= 1.5 * row.peer_rms, row


@pytest.mark.parametrize("name", LAYERS)
def test_simulated_kernels_give_the_tokens_of_their_reference(root: Path, name: str) -> None:
    """Greedy, 20 steps after a prompt past the window, in a batch of its own caches each."""
    bundle = compiled(root, name, "bfloat16")
    prompt = np.random.default_rng(1).integers(0, bundle.vocabulary, 2 * BUCKET + 5).tolist()
    found = {}
    for kernels in ("reference", "simulate"):
        generation = Engine(session(bundle, kernels)).generate(prompt, GenerationOptions(20, GREEDY, frozenset()))
        found[kernels] = [token.id for token in generation]
    assert len(found["simulate"]) == 20
    assert found["simulate"] == found["reference"]


def test_a_batch_with_sequences_at_different_places(root: Path) -> None:
    """Three sequences, one of which sits a step out: logits and caches of both forms, and -1 changes nothing."""
    bundle = compiled(root, "e2b-like", "float32", "--batch", "3")
    forms = [session(bundle, kernels) for kernels in ("reference", "simulate")]
    random = np.random.default_rng(2)
    counts = np.array([[BUCKET], [5], [BUCKET - 1]])
    places = np.arange(BUCKET)[None]
    steps = [(0, counts), (counts, np.minimum(counts, 7))]
    for start, count in steps:
        positions = np.where(places < count, places + start, -1)
        tokens = random.integers(0, bundle.vocabulary, positions.shape)
        one, other = (form.prefill(tokens, positions, count - 1) for form in forms)
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * np.abs(np.asarray(one)).max())
    at = counts + np.minimum(counts, 7)
    for step in range(6):
        positions = np.where((np.arange(3) == 1)[:, None] & (step % 2 == 0), -1, at)
        tokens = random.integers(0, bundle.vocabulary, positions.shape)
        one, other = (np.asarray(form.decode(tokens, positions))[positions[:, 0] >= 0] for form in forms)
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * np.abs(one).max())
        at = at + (positions >= 0)
    for name in bundle.caches:
        one, other = (form.cache(name) for form in forms)
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * np.abs(one).max())


def test_without_rounding_to_spare(root: Path) -> None:
    """A kernel with another scale would be seen: the f32 bound is far below what that changes."""
    bundle = compiled(root, "31b-like", "float32", "--logit-rows", "1")
    broken = session(bundle, "simulate")
    good = session(bundle, "reference")
    tokens = np.arange(BUCKET)[None]
    one = np.asarray(good.prefill(tokens, tokens, [[BUCKET - 1]]))
    shifted = np.asarray(broken.prefill(tokens, tokens + 1, [[BUCKET - 1]]))
    assert np.abs(shifted - one).max() > 1e-3 * np.abs(one).max()


# -- larger models -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tiny_e2b(tmp_path: Path, dtype: str) -> None:
    """All 35 layers, the real window: a prompt past it and decode steps."""
    arguments = ["compile", "tiny-e2b", "-o", str(tmp_path / "b"), "--dtype", dtype, "--kernels", "all", "-q"]
    assert main([*arguments, "--buckets", "128", "--max-context", "640"]) == 0
    bundle = open_bundle(tmp_path / "b")
    for row in compared(bundle, "simulate", (530,)):
        if bundle.dtype is DType.F32:
            assert row.max_relative <= 1e-4, row
        else:
            assert row.peer_rms is not None
            assert row.rms <= 1.5 * row.peer_rms, row
