"""A pruned prefill gives Hugging Face's logits at any rows of a chunk, wherever they are asked for.

Three sequences of different lengths go through chunks that are padded on the right; of each chunk four rows are asked
for per sequence, in any order, some twice. Through XLA's CPU backend, with the CPU's own form of the programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from compiled import Compiled
from small_variants import WINDOW, small_variant

from g4c.frontend.config import ModelConfig
from g4c.frontend.oracle import all_logits, build_oracle
from g4c.frontend.trace import TraceOptions, trace_programs
from g4c.ir import ops
from g4c.ir.module import Module
from g4c.ir.types import Array, DType
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import CPU_PIPELINE
from g4c.runtime.random_weights import RandomWeights
from g4c.verification.measures import compare
from g4c.verification.verify import stored_tensors

BUCKET, ROWS = WINDOW + 4, 4
LENGTHS = (3 * WINDOW + 5, BUCKET + 1, 3)
TOKENS = np.random.default_rng(5).integers(0, 256, (3, max(LENGTHS))).astype(np.int32)
PRUNED = "canonicalize,precompute-rope,eliminate-shared-kv,canonicalize,cse,dce,prune-prefill,precompute-ple"
PIPELINE = f"{PRUNED},canonicalize,cse,dce,specialize-layers,{CPU_PIPELINE}"


def chunks() -> Iterator[tuple[Array, Array, Array]]:
    """Token ids, positions and rows of each chunk. A sequence that has ended asks for a row of padding."""
    random = np.random.default_rng(0)
    for start in range(0, max(LENGTHS), BUCKET):
        places = start + np.arange(BUCKET)
        positions = np.stack([np.where(places < length, places, -1) for length in LENGTHS])
        ids = np.where(positions >= 0, np.pad(TOKENS, ((0, 0), (0, BUCKET)))[:, places], 0)
        valid = [max(1, min(BUCKET, length - start)) for length in LENGTHS]
        rows = np.stack([random.integers(0, count, ROWS) for count in valid])
        rows[:, 1] = [count - 1 for count in valid]
        yield ids, positions, rows


@cache
def config_of(name: str) -> ModelConfig:
    with TemporaryDirectory() as directory:
        return small_variant(name, Path(directory))


def pruned(name: str, dtype: DType) -> Module:
    module = trace_programs(config_of(name), TraceOptions(len(LENGTHS), 128, (BUCKET,), dtype, logit_rows=ROWS))
    del module.functions["decode"]
    run_pipeline(module, parse_pipeline(PIPELINE), PipelineOptions(repro_dir=None))
    narrow = [op for f in module.functions.values() for op in f.ops_of(ops.AttentionOp) if op.q.shape[1] == ROWS]
    assert narrow
    return module


@cache
def logits(name: str, dtype: DType) -> tuple[Array, list[tuple[int, int]]]:
    """Logits [n, V] of all rows that are asked for, and the sequence and position of each."""
    module, drawn = pruned(name, dtype), RandomWeights(0)
    programs = Compiled(module, {key: weight.materialize(drawn.stored) for key, weight in module.weights.items()})
    found, places = [], []
    for ids, positions, rows in chunks():
        given = programs.run(f"prefill_{BUCKET}", ids, positions, rows)
        for sequence, row in np.ndindex(rows.shape):
            position = positions[sequence, rows[sequence, row]]
            if position >= 0:
                found.append(given[sequence, row])
                places.append((sequence, int(position)))
    return np.stack(found), places


def hugging_face(name: str, stored: DType, dtype: DType, places: list[tuple[int, int]]) -> Array:
    config = config_of(name)
    model = build_oracle(config, stored_tensors(RandomWeights(0), config, stored)(dtype), dtype)
    every = all_logits(model, TOKENS)
    return np.stack([every[place] for place in places])


@pytest.mark.parametrize("name", ["e2b-like", "31b-like"])
def test_f32(name: str) -> None:
    found, places = logits(name, DType.F32)
    assert len(places) == ROWS * (3 + 2 + 1)
    assert len(set(places)) >= 15
    result = compare(name, found, hugging_face(name, DType.F32, DType.F32, places))
    assert result.max_relative <= 1e-4, result
    assert result.same_argmax == result.positions, result


@pytest.mark.parametrize("name", ["e2b-like", "31b-like"])
def test_bf16(name: str) -> None:
    """The rule of `g4c verify`: at most 1.5 times the error of Hugging Face's own bf16 run, no contested argmax."""
    found, places = logits(name, DType.BF16)
    reference = hugging_face(name, DType.BF16, DType.F32, places)
    peer = hugging_face(name, DType.BF16, DType.BF16, places)
    result = compare(name, found, reference, peer)
    assert result.contested == 0, result
    assert result.peer_rms is not None
    assert result.rms <= 1.5 * result.peer_rms, result


def test_rows_that_are_not_those_asked_for_are_noticed() -> None:
    found, places = logits("e2b-like", DType.F32)
    moved = [(sequence, max(position - 1, 0)) for sequence, position in places]
    assert compare("", found, hugging_face("e2b-like", DType.F32, DType.F32, moved)).max_relative > 1e-2
