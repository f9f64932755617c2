"""Decode attention kernels of modules that the pipeline made: the same numbers as the ops that they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gemma_like import GemmaLike

from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module
from g4c.ir.ops import KvUpdateOp, TiledAttentionOp
from g4c.ir.types import Array, DType
from g4c.lowering.nki.attention.decode import emit, from_tiled_attention, schedules
from g4c.lowering.nki.simulator.source import load
from g4c.passes.manager import PipelineOptions, run_pipeline
from g4c.passes.pipeline import parse_pipeline
from g4c.passes.pipelines import TILED_PIPELINE

# Layers as E2B has them: sliding ones of d 256, full ones of d 512, the last with a donor's cache; 8 heads, 1 KV head.
E2B = GemmaLike(pattern="SSFSSFSF", shared=3, hidden=16, heads=8, mlp=16, context=160, window=96, buckets=(128,))


def kernels(sizes: GemmaLike) -> tuple[Module, dict[str, Function]]:
    module = sizes.module()
    options = PipelineOptions(repro_dir=None, sink=lambda _: None)
    run_pipeline(module, parse_pipeline(f"{TILED_PIPELINE},outline-kernels{{kernels=attention}}"), options)
    found = {name: function for name, function in module.functions.items() if function.role == "kernel"}
    return module, {name: function for name, function in found.items() if name.startswith("decode_attention")}


def operands(function: Function, position: int) -> dict[str, Array]:
    """A step at `position`, in slots that hold what precedes it."""
    rng, made = np.random.default_rng(position), {}
    for param in function.params:
        kind = param.type
        spread = 2 * kind.shape[-1] ** -0.5 if param.name == "q" else 1.0  # for scores of a few units
        made[param.name] = (rng.standard_normal(kind.shape) * spread).astype(kind.dtype.numpy)
        if param.name == "positions":
            made[param.name] = np.full(kind.shape, position, np.int32)
        if param.name.endswith("_held"):
            slots = np.arange(kind.shape[1])
            ahead = 1 if param.name == "past_held" else 0  # mixed keys hold the row's own, too
            last = position - ahead
            held = np.maximum(last - (last - slots) % kind.shape[1], -1).astype(np.int32)
            made[param.name] = np.broadcast_to(held, kind.shape).copy()
    return made


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_kernels_of_an_e2b_like_module(dtype: DType) -> None:
    """Owner layers update their caches, shared layers read them; the last prompt row of pruned layers is one, too."""
    module, found = kernels(replace(E2B, dtype=dtype))
    # Both round probabilities and result to bf16, half a unit each time: four of 2^-9 at most.
    bound = 4e-6 if dtype is DType.F32 else 2**-7
    kinds = set()
    for name, function in found.items():
        (attention,) = function.ops_of(TiledAttentionOp)
        updates = sum(1 for _ in function.ops_of(KvUpdateOp))
        problem = from_tiled_attention(attention, update=updates == 2)
        kinds.add((problem.head_dim, problem.window, problem.update, *(segment.kind for segment in problem.segments)))
        artifact = emit(problem, schedules(problem, 3)[0], 3)
        assert [str(param.type) for param in function.params] == [str(kind) for _, kind in artifact.inputs]
        for position in (0, 5, 95, 96, 130):
            given = operands(function, position)
            wanted = interpret(module, name, given, {})
            results = load(artifact.source, artifact.name).specialize("trn2")(*(x.copy() for x in given.values()))
            y, *caches = results if updates else (results,)
            (first, *others) = wanted.values()
            scale = np.abs(first.astype(np.float32)).max()
            assert np.abs(y.astype(np.float32) - first.astype(np.float32)).max() <= bound * scale, (name, position)
            for cache, other in zip(caches, others, strict=True):
                np.testing.assert_array_equal(cache.view(np.uint8), other.view(np.uint8))
    assert kinds == {
        (256, 96, True, "past", "chunk"),
        (512, 0, True, "past", "chunk"),
        (256, 96, False, "mixed"),
        (512, 0, False, "mixed"),
        (256, 96, False, "mixed", "mixed"),
    }
