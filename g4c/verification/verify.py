"""`g4c verify`: the programs of a bundle against Hugging Face's model on the same weights.

In: a bundle, weights. Out: a `Verification`: one comparison per prompt length (its positions and the decode steps after
it), and per layer if asked. The prompt is random tokens; one Hugging Face forward over the longest gives the logits of
all shorter ones, too. Invariant: what is compared comes from the bundle's own programs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from g4c.errors import G4cError
from g4c.frontend.config import ModelConfig, decoder_tensors
from g4c.frontend.oracle import Tensors, all_logits, build_oracle, layer_outputs
from g4c.ir.interpreter import interpret
from g4c.ir.op import Op
from g4c.ir.ops import CallOp
from g4c.ir.parser import parse_module
from g4c.ir.types import Array, DType, TensorType
from g4c.ir.weights import Source
from g4c.runtime.bundle import Bundle
from g4c.runtime.candidates import Candidates
from g4c.runtime.session import Session
from g4c.runtime.weights import Provider
from g4c.verification.measures import Comparison, compare, compare_candidates, relative_rms
from g4c.verification.predictions import predictions

DECODE_STEPS = 64
PREFILL_RUNS = 12


@dataclass(frozen=True)
class LayerError:
    """Relative RMS error of the hidden states after decoder layer `layer`, over a whole prompt."""

    layer: int
    rms: float


@dataclass(frozen=True)
class Verification:
    """One comparison per prompt length, and per layer if asked."""

    comparisons: tuple[Comparison, ...]
    layers: tuple[LayerError, ...] = ()

    @property
    def passes(self) -> bool:
        return all(comparison.passes for comparison in self.comparisons)


def default_lengths(bundle: Bundle, window: int) -> tuple[int, ...]:
    """1; below, at and past every bucket and the window; one length of several chunks, far past both."""
    edges = [length + step for length in (*bundle.prefill_buckets, window) for step in (-1, 0, 1)]
    longest = max(1, bundle.max_context - DECODE_STEPS)
    return tuple(sorted({n for n in (1, *edges, min(longest, 2 * window + 276)) if 1 <= n <= longest}))


def verify_session(
    session: Session,
    tensors: Callable[[DType], Tensors],
    config: ModelConfig,
    lengths: tuple[int, ...],
    *,
    seed: int = 0,
    report: Callable[[Comparison], None] = lambda _: None,
) -> Verification:
    """Compare prompts of `lengths` tokens and up to 64 decode steps after each. `tensors(dtype)`: the model's tensors,
    rounded to the bundle's dtype, then held in `dtype`.

    A prefill gives `logit_rows` positions per execution; of a prompt with more than 12 times as many, evenly spaced
    positions are compared, the first and the last among them. Hugging Face runs before the session binds its
    weights, so that only one of them is in memory.
    """
    bundle = session.bundle
    ends = {length: min(length + DECODE_STEPS, bundle.max_context) for length in lengths}
    total = max(ends.values())
    tokens = np.random.default_rng(seed).integers(0, bundle.vocabulary, total)
    wanted = _reference(config, tensors, bundle.dtype, tokens)
    peer = None
    if bundle.dtype != DType.F32:
        peer = all_logits(build_oracle(config, tensors(bundle.dtype), bundle.dtype), tokens[None])[0]
    flips = float(np.abs(peer - wanted).max()) if peer is not None and config.moe is not None else 0.0
    comparisons = []
    for length in lengths:
        end = ends[length]
        count = min(length, PREFILL_RUNS * session.logit_rows)
        positions = [*np.unique(np.linspace(0, length - 1, count).astype(int)).tolist(), *range(length, end)]
        found = predictions(session, tokens[:end].tolist(), length, positions)
        label = f"{length} + {end - length}"
        part = None if peer is None else peer[positions]
        if session.candidates:
            chosen = Candidates.stack([row for row in found if isinstance(row, Candidates)])
            comparisons.append(compare_candidates(label, chosen, wanted[positions], part, flips=flips))
        else:
            logits = np.stack([row for row in found if not isinstance(row, Candidates)])
            comparisons.append(compare(label, logits, wanted[positions], part, flips=flips))
        report(comparisons[-1])
    return Verification(tuple(comparisons))


def _reference(config: ModelConfig, tensors: Callable[[DType], Tensors], stored: DType, tokens: np.ndarray) -> Array:
    """Hugging Face's logits [positions, V] in f32 on the tensors as the bundle has them."""
    table = tensors(stored)("embed_tokens_per_layer.weight") if config.ple_width and stored != DType.F32 else None
    return all_logits(build_oracle(config, tensors(DType.F32), DType.F32, per_layer_table=table), tokens[None])[0]


def verify_layers(
    bundle: Bundle, weights: Mapping[str, Array], tensors: Callable[[DType], Tensors], config: ModelConfig
) -> tuple[LayerError, ...]:
    """The bundle's IR of its smallest prefill program, in the reference interpreter, against Hugging Face's layers.

    Layers that the program runs on the rows asked for only are compared there.
    """
    module = parse_module((bundle.path / "ir" / "module.mlir").read_text(), file="ir/module.mlir")
    bucket = bundle.prefill_buckets[0]
    program = module.functions[f"prefill_{bucket}"]
    tokens = np.random.default_rng(0).integers(0, bundle.vocabulary, (bundle.batch, bucket)).astype(np.int32)
    rows = np.linspace(0, bucket - 1, program.param("rows").shape[1]).astype(np.int32)
    positions = np.arange(bucket, dtype=np.int32)
    given = {
        "token_ids": tokens,
        "positions": np.tile(positions, (bundle.batch, 1)),
        "rows": np.tile(rows, (bundle.batch, 1)),
    }
    inputs = {p.name: given.get(p.name, np.zeros(p.type.shape, p.type.dtype.numpy)) for p in program.params}
    found: list[Array] = []

    def observe(function: str, op: Op, results: tuple[Array, ...]) -> None:
        if function == program.name and isinstance(op, CallOp) and module.functions[op.callee.name].role == "layer":
            found.append(next(array for array in results if array.ndim == 3)[:1].astype(np.float32))

    interpret(module, program.name, inputs, weights, observe=observe)
    wanted = layer_outputs(build_oracle(config, tensors(DType.F32), DType.F32), tokens[:1])
    if len(found) != len(wanted):
        message = f"the bundle's IR has {len(found)} layer calls for {len(wanted)} layers"
        raise G4cError("G4C-R120", message, help="compile with specialize-layers in the pipeline")
    pairs = ((a, b if a.shape == b.shape else b[:, rows]) for a, b in zip(found, wanted, strict=True))
    return tuple(LayerError(i, relative_rms(a, b)) for i, (a, b) in enumerate(pairs))


def stored_tensors(provider: Provider, config: ModelConfig, stored: DType) -> Callable[[DType], Tensors]:
    """The model's tensors as the bundle sees them, rounded to `stored`, in the dtype that is asked for."""
    shapes = decoder_tensors(config)

    def in_dtype(dtype: DType) -> Tensors:
        def tensor(name: str) -> np.ndarray:
            array = provider.stored(Source(name, TensorType(shapes[name], stored)))
            return array.astype(stored.numpy, copy=False).astype(dtype.numpy, copy=False)

        return tensor

    return in_dtype
