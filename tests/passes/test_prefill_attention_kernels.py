"""Prefill attention kernels of modules that the pipeline made: the same numbers as the ops that they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gemma_like import GemmaLike

from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module
from g4c.ir.ops import AttentionOp, TiledAttentionOp
from g4c.ir.types import Array, DType
from g4c.lowering.nki.attention.prefill import PrefillProblem, Segment, emit, from_tiled_attention, schedules
from g4c.lowering.nki.simulator.source import load
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import TILED_PIPELINE

# Layers as E2B has them: sliding ones of d 256, full ones of d 512, the last ones with a donor's cache; heads 8:1.
E2B = GemmaLike(pattern="SSFSSFSF", shared=3, hidden=16, heads=8, mlp=16, context=300, window=96, buckets=(150,))


def kernels(sizes: GemmaLike) -> tuple[Module, dict[str, Function]]:
    module = sizes.module()
    options = PipelineOptions(repro_dir=None, sink=lambda _: None)
    run_pipeline(module, parse_pipeline(f"{TILED_PIPELINE},outline-kernels{{kernels=attention}}"), options)
    found = {name: function for name, function in module.functions.items() if function.role == "kernel"}
    return module, {name: function for name, function in found.items() if name.startswith("prefill_attention")}


def operands(function: Function, start: int, valid: int) -> dict[str, Array]:
    """A chunk of `valid` rows from `start` on, in slots that hold what precedes it."""
    rng, made = np.random.default_rng(start), {}
    for param in function.params:
        kind = param.type
        made[param.name] = (rng.standard_normal(kind.shape) * (0.1 if param.name == "q" else 1)).astype(
            kind.dtype.numpy
        )
        if param.name == "positions":
            rows = np.arange(kind.shape[1])
            made[param.name] = np.where(rows < valid, start + rows, -1).astype(np.int32).reshape(1, -1)
        if param.name.endswith("_held"):
            slots, last = np.arange(kind.shape[1]), start - 1
            held = np.maximum(last - (last - slots) % kind.shape[1], -1)
            made[param.name] = np.where(last < 0, -1, held).astype(np.int32).reshape(1, -1)
    return made


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_kernels_of_an_e2b_like_module(dtype: DType) -> None:
    module, found = kernels(replace(E2B, dtype=dtype))
    problems = set()
    for name, function in found.items():
        (attention,) = function.ops_of(TiledAttentionOp)
        problem = from_tiled_attention(attention)
        problems.add(problem)
        artifact = emit(problem, schedules(problem, 3)[0], 3)
        assert [str(param.type) for param in function.params] == [str(kind) for _, kind in artifact.inputs]
        for start, valid in ((0, 150), (0, 9), (40, 150), (149, 130)):
            given = operands(function, start, valid)
            (wanted,) = interpret(module, name, given, {}).values()
            y = load(artifact.source, artifact.name).specialize("trn2")(*(x.copy() for x in given.values()))
            scale = np.abs(wanted.astype(np.float32)).max()
            bound = 2e-6 if dtype is DType.F32 else 2**-7  # of bf16: one step of the result's largest
            assert np.abs(y.astype(np.float32) - wanted.astype(np.float32)).max() <= bound * scale, (name, start)
    heads = {"batch": 1, "rows": 150, "heads": 8, "kv_heads": 1, "dtype": dtype}
    chunk = Segment("chunk", 150)
    assert PrefillProblem(head_dim=512, segments=(Segment("past", 300), chunk), **heads) in problems
    assert any(p.head_dim == 256 and p.window == 96 and p.segments[1] == chunk for p in problems)


@pytest.mark.parametrize("window", [0, 100])
def test_the_op_before_tiles_gives_the_same(window: int) -> None:
    """AttentionOp over a ring and the chunk's own rows."""
    rng = np.random.default_rng(1)
    q, *cached = (rng.standard_normal((1, n, h, 256), np.float32) for n, h in ((140, 4), (160, 2), (140, 2)))
    values = [rng.standard_normal(k.shape, np.float32) for k in cached]
    positions = (np.arange(140) + 200).astype(np.int32).reshape(1, -1)
    held = (199 - (199 - np.arange(160)) % 160).astype(np.int32).reshape(1, -1)
    problem = PrefillProblem(
        1, 140, 4, 2, 256, (Segment("past", 160), Segment("chunk", 140)), window, scale=0.1, dtype=DType.F32
    )
    artifact = emit(problem, schedules(problem, 3)[0], 3)
    y = load(artifact.source, artifact.name)(q, cached[0], values[0], held, cached[1], values[1], positions)
    wanted = reference(problem, (q, *cached, *values, positions, held, positions))
    assert np.abs(y - wanted).max() <= 2e-6 * np.abs(wanted).max()


def reference(problem: PrefillProblem, given: tuple[Array, ...]) -> Array:
    """The graph-level op's own numbers."""
    function = Function("f", "program")
    types = dict(problem.parameters)
    q, *stored, at, held = (
        function.add_param(name, types[name])
        for name in ("q", "past_keys", "chunk_keys", "past_values", "chunk_values", "positions", "past_held")
    )
    keys, values = tuple(stored[:2]), tuple(stored[2:])
    op = AttentionOp(q, keys, values, at, (held, at), problem.scale, problem.window)
    return op.reference(*given)
