"""Bundles whose programs call kernels, run in the NKI simulator, against Hugging Face's logits.

Small widths, real head dims, layer kinds and donors. Prompts in chunks past window and rings, then decode steps. Every
attention of every program is a kernel, with `--kernels all` also what is around it, and no kernel is left out.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_variants import small_variant

from g4c.cli.main import main
from g4c.frontend.config import load_model_config
from g4c.frontend.oracle import build_oracle
from g4c.frontend.variants import VARIANTS
from g4c.ir.ops import TiledAttentionOp, TiledLinearOp
from g4c.ir.parser import parse_module
from g4c.ir.types import Array, DType
from g4c.kernels import cpu_programs
from g4c.runtime.bundle import Bundle, open_bundle
from g4c.runtime.engine import Engine, GenerationOptions
from g4c.runtime.random_weights import RandomWeights
from g4c.runtime.sampling import GREEDY
from g4c.runtime.session import Session
from g4c.runtime.weights import WeightStore
from g4c.verification.measures import Comparison, compare
from g4c.verification.predictions import predictions
from g4c.verification.verify import stored_tensors, verify_session

BUCKET = 24
LENGTH, STEPS = 2 * BUCKET + 13, 20  # of a prompt: three chunks, past the window; after it
SLIDING, FULL = "sliding_attention", "full_attention"
LAYERS: dict[str, dict[str, Any]] = {
    # A donor of each kind and layers that share from them: GQA 4:1.
    "e2b-like": {"layer_types": [SLIDING, FULL, SLIDING, FULL], "num_kv_shared_layers": 2},
    # K equals V where attention is full: GQA 8:4 and 8:2.
    "31b-like": {"layer_types": [SLIDING, FULL]},
}


# Of the f32 bundles: logits of every row, so that no layer is pruned; sequences of their own.
OPTIONS = {"e2b-like": ("--logit-rows", str(BUCKET)), "31b-like": ("--batch", "3")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@cache
def compiled(root: Path, name: str, dtype: str, kernels: str, *options: str) -> Bundle:
    layers = LAYERS[name]
    small_variant(name, root, **layers, num_hidden_layers=len(layers["layer_types"]))
    path = root / f"{name}-{dtype}-{kernels}{''.join(options)}"
    arguments = ["compile", "--config", str(root / f"{name}.json"), "-o", str(path), "--dtype", dtype, *options]
    context = str(LENGTH + STEPS)
    arguments += ["--buckets", str(BUCKET), "--max-context", context, "--kernels", kernels, "-q"]
    assert main(arguments) == 0
    return open_bundle(path)


SESSIONS: dict[tuple[Path, str], Session] = {}


def session(bundle: Bundle, kernels: str) -> Session:
    """One per bundle and way to run kernels: XLA takes longer to compile a program than the tests to run it."""
    key = bundle.path, kernels
    if key not in SESSIONS:
        weights = WeightStore(bundle.weights, RandomWeights(0))
        SESSIONS[key] = Session(bundle, weights, form=cpu_programs(bundle, kernels))
    SESSIONS[key].reset()
    return SESSIONS[key]


def compared(bundle: Bundle) -> Comparison:
    """A prompt and the steps after it, kernels simulated, against Hugging Face."""
    config = load_model_config(str(bundle.path / "config.json"))
    tensors = stored_tensors(RandomWeights(0), config, bundle.dtype)
    result = verify_session(session(bundle, "simulate"), tensors, config, (LENGTH,))
    assert result.passes
    (row,) = result.comparisons
    return row


@pytest.mark.parametrize("name", LAYERS)
def test_f32_logits(root: Path, name: str) -> None:
    """Of every position of the prompt, or of twelve, and of the steps."""
    row = compared(compiled(root, name, "float32", "all", *OPTIONS[name]))
    assert row.positions == (LENGTH if name == "e2b-like" else 12) + STEPS
    assert row.max_relative <= 1e-4, row
    assert row.same_argmax == row.positions, row


def test_bf16_error_is_that_of_bf16(root: Path) -> None:
    """As large as that of Hugging Face's own bf16 run. The last layer of a prefill is down to one row."""
    row = compared(compiled(root, "31b-like", "bfloat16", "all"))
    assert row.contested == 0, row
    assert row.peer_rms is not None
    assert row.rms <= 1.5 * row.peer_rms, row


def test_simulated_kernels_give_the_tokens_of_their_reference(root: Path) -> None:
    """Greedy, after a prompt past the window."""
    bundle = compiled(root, "e2b-like", "float32", "all", *OPTIONS["e2b-like"])
    prompt = np.random.default_rng(1).integers(0, bundle.vocabulary, LENGTH).tolist()
    found = {}
    for kernels in ("reference", "simulate"):
        generation = Engine(session(bundle, kernels)).generate(prompt, GenerationOptions(STEPS, GREEDY, frozenset()))
        found[kernels] = [token.id for token in generation]
    assert len(found["simulate"]) == STEPS
    assert found["simulate"] == found["reference"]


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_that_could_be_a_kernel_is_left(root: Path, name: str) -> None:
    """Every kernel function has a kernel; every attention and every product with a stored weight is in one."""
    bundle = compiled(root, name, "float32", "all", *OPTIONS[name])
    module = parse_module((bundle.path / "ir" / "module.mlir").read_text())
    kernels = [function for function in module.functions.values() if function.role == "kernel"]
    assert len(bundle.kernels) == len(kernels)
    left = [
        f"{function.name}: {op.loc.path}"
        for function in module.functions.values()
        for op in function.ops
        if function.role != "kernel" and isinstance(op, TiledAttentionOp | TiledLinearOp)
    ]
    assert not left
    assert all(program.kernels for program in bundle.programs.values())


@pytest.mark.slow
def test_a_batch_with_sequences_at_different_places(root: Path) -> None:
    """Three sequences, one of which sits a step out: logits and caches of both forms, and -1 changes nothing."""
    bundle = compiled(root, "31b-like", "float32", "all", *OPTIONS["31b-like"])
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


# -- larger models -----------------------------------------------------------------------------------------------------

CHUNK, LONG = 128, 530  # a bucket; a prompt past the window of 512


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [DType.BF16])
def test_tiny_e2b(tmp_path: Path, dtype: DType) -> None:
    """All 35 layers, the real window: a prompt past it and decode steps."""
    check_larger(tmp_path, dtype, "tiny-e2b")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [DType.BF16])
def test_a_slice_of_e2b(tmp_path: Path, dtype: DType) -> None:
    """Two layers of its real width and heads, one of each kind, over its real vocabulary."""
    text = VARIANTS["e2b"].config_json()["text_config"]
    text |= {"layer_types": [SLIDING, FULL], "num_hidden_layers": 2, "num_kv_shared_layers": 0}
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Gemma4ForCausalLM"], **text}))
    check_larger(tmp_path, dtype, "--config", str(tmp_path / "config.json"))


def check_larger(path: Path, dtype: DType, *model: str) -> None:
    """The last position of each chunk of the prompt, then 20 steps; f32 is tight, bf16 as good as Hugging Face's."""
    arguments = ["compile", *model, "-o", str(path / "b"), "--dtype", dtype.numpy.name, "--kernels", "all", "-q"]
    assert main([*arguments, "--buckets", str(CHUNK), "--max-context", str(LONG + STEPS)]) == 0
    bundle = open_bundle(path / "b")
    config = load_model_config(str(bundle.path / "config.json"))
    tensors = stored_tensors(RandomWeights(0), config, dtype)
    tokens = np.random.default_rng(0).integers(0, bundle.vocabulary, LONG + STEPS)
    positions = [*range(CHUNK - 1, LONG, CHUNK), *range(LONG - 1, LONG + STEPS)]

    def wanted(held: DType) -> Array:
        model = build_oracle(config, tensors(held), held)
        kept = torch.tensor(positions)
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens)[None], use_cache=False, logits_to_keep=kept).logits
        return logits[0].float().numpy()

    reference, peer = wanted(DType.F32), None if dtype == DType.F32 else wanted(dtype)
    found = np.stack(predictions(session(bundle, "simulate"), tokens.tolist(), LONG, positions))
    row = compare(str(dtype), found, reference, peer)
    if row.peer_rms is None:
        assert row.max_relative <= 1e-4, row
        assert row.same_argmax == row.positions, row
    else:
        assert row.rms <= 1.5 * row.peer_rms, row
        assert row.contested == 0, row
