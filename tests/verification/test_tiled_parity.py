"""Programs in tiles against Hugging Face's logits: on XLA's CPU backend, and tile by tile in the interpreter.

Small models with the structure of E2B, E4B and 31B, the whole pipeline before the tiles. Tiles of 12 by 8 make
schedules that skip: prompts are chunks past window and ring. Tiles of 128 meet a chunk that is no multiple of them.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from compiled import Compiled
from small_variants import SMALL_VARIANTS
from test_pass_parity import SMALL_RINGS, TOKENS, config_of, wanted

from g4c.frontend.oracle import all_logits, build_oracle
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.ir import ops
from g4c.ir.interpreter import interpret
from g4c.ir.module import Module
from g4c.ir.types import Array, DType
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import TILED_PIPELINE
from g4c.runtime.random_weights import RandomWeights
from g4c.verification.measures import compare
from g4c.verification.verify import stored_tensors

SMALL_TILES = f"{SMALL_RINGS},tile-contractions{{q-tile=12,kv-tile=8}}"
BUCKET = 24
LENGTHS = (17, 60, 6)
STEPS = 12


@cache
def chunks_of_24(name: str) -> Module:
    return trace_programs(config_of(name), TraceOptions(3, 128, (BUCKET,), DType.F32))


def run(module: Module, pipeline: str) -> dict[str, Array]:
    """Run `pipeline` on `module`; returns its weights."""
    run_pipeline(module, parse_pipeline(pipeline), PipelineOptions(repro_dir=None))
    drawn = RandomWeights(0)
    return {key: weight.materialize(drawn.stored) for key, weight in module.weights.items()}


def check(found: list[Array], reference: Array, lengths: tuple[int, ...], steps: int) -> None:
    for sequence, length in enumerate(lengths):
        row = compare(f"{lengths}", found[sequence], reference[sequence, length - 1 : length + steps])
        assert row.positions == steps + 1
        assert row.max_relative <= 1e-4, row
        assert row.same_argmax == row.positions, row


def attentions(module: Module) -> list[ops.TiledAttentionOp]:
    return [op for function in module.functions.values() for op in function.ops_of(ops.TiledAttentionOp)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "e2b-like")) for name in SMALL_VARIANTS]
)
def test_xla(name: str) -> None:
    """Three sequences of different lengths in chunks of 24, then decode."""
    module = chunks_of_24(name).copy()
    weights = run(module, SMALL_TILES)
    assert sum(op.skipped for op in attentions(module)) > 0
    assert {len(op.q) for op in attentions(module)} == {2, 4}
    programs = Compiled(module, weights)
    check(programs.logits(TOKENS, LENGTHS, BUCKET, STEPS), wanted(name), LENGTHS, STEPS)


class Interpreted(Compiled):
    """The same on the reference interpreter."""

    def __init__(self, module: Module, weights: dict[str, Array]) -> None:
        self.module = module
        self.arrays = weights
        self.states = {name: np.zeros(c.type.shape, c.type.dtype.numpy) for name, c in module.caches.items()}

    def run(self, name: str, *inputs: Array) -> Array:
        params = self.module.functions[name].params
        given = dict(zip([param.name for param in params], [np.asarray(x, np.int32) for x in inputs], strict=False))
        results = interpret(self.module, name, {**given, **self.states}, self.arrays)
        self.states = {cache: results[cache] for cache in self.states}
        return results["logits"]


@pytest.mark.parametrize("name", SMALL_VARIANTS)
def test_the_interpreter(name: str) -> None:
    """Every tile of keys on its own, in the order of the schedule."""
    module = chunks_of_24(name).copy()
    programs = Interpreted(module, run(module, SMALL_TILES))
    check(programs.logits(TOKENS, LENGTHS, BUCKET, 3), wanted(name), LENGTHS, 3)


def test_a_chunk_that_is_no_multiple_of_a_tile() -> None:
    """129 rows, K equals V on full layers; a second chunk of 57 positions and padding, then decode."""
    name, bucket, length, steps = "31b-like", 129, 129 + 57, 2
    module = trace_programs(config_of(name), TraceOptions(1, 256, (bucket,), DType.F32))
    weights = run(module, TILED_PIPELINE)
    tails = {cut.tail for op in attentions(module) for cut in op.cuts if cut.name == "chunk" and cut.extent == bucket}
    assert tails == {1}
    tokens = np.random.default_rng(3).integers(0, 256, (1, length + steps + 1)).astype(np.int32)
    tensors = stored_tensors(RandomWeights(0), config_of(name), DType.F32)
    model = build_oracle(config_of(name), tensors(DType.F32), DType.F32)
    found = Compiled(module, weights).logits(tokens, (length,), bucket, steps)
    check(found, all_logits(model, tokens), (length,), steps)
