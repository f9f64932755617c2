"""Attention kernels on the heads of all variants, whole and as shards: the same numbers as ops and Hugging Face give.

The ops are those that a kernel stands for: g4.attention of the graph, and g4.tiled_attention with its tiles.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import decode_case
import numpy as np
import prefill_case
import pytest
import torch
from attention_reference import relative_error
from test_decode_attention import peer as decode_peer
from transformers.models.gemma4.modeling_gemma4 import eager_attention_forward

from g4c.ir.module import Function
from g4c.ir.ops import AttentionOp, SplitTilesOp, TiledAttentionOp
from g4c.ir.tiles import Cut, plan
from g4c.ir.types import DType
from g4c.lowering.nki.attention import decode, prefill

Array = np.ndarray
F32 = 2e-6  # relative error of some thousand products of f32, added up in f32 in any order
SLIDING, FULL = 256, 512  # head dims


@dataclass(frozen=True)
class Layer:
    """Heads as in the configurations (8:1), per core; a window of 0: full attention."""

    heads: str
    head_dim: int
    window: int

    @property
    def counts(self) -> tuple[int, int]:
        query, kv = map(int, self.heads.split(":"))
        return query, kv

    @property
    def past(self) -> int:
        """Slots: a ring that is longer than the window, as g4c rounds them up, or some."""
        return self.window + 128 if self.window else 520

    def __str__(self) -> str:
        return f"{self.heads.replace(':', 'on')}_d{self.head_dim}_w{self.window}"


# E2B 8:1, E4B 8:2, 12B 16:8 and 16:1, 26B 16:8 and 16:2, 31B 32:16 and 32:4, and what 2, 4 or 8 cores have of them.
LAYERS = [
    *(Layer(heads, SLIDING, 512) for heads in ("8:1", "8:2", "4:1", "2:1", "1:1")),
    *(Layer(heads, SLIDING, 1024) for heads in ("16:8", "8:4", "4:2", "2:1", "32:16")),
    *(Layer(heads, FULL, 0) for heads in ("8:1", "8:2", "4:1", "2:1", "1:1", "16:1", "16:2", "32:4")),
]


def prefill_of(layer: Layer, dtype: DType, rows: int, seed: int = 0) -> prefill_case.Case:
    """A chunk whose past wraps the ring, and ends where the window of a row does; some padding."""
    segments = (prefill.Segment("past", layer.past), prefill.Segment("chunk", rows))
    problem = prefill.PrefillProblem(1, rows, *layer.counts, layer.head_dim, segments, layer.window, dtype=dtype)
    start = 3 * layer.past + 7 if layer.window else layer.past - 9
    return prefill_case.make(problem, [(start, rows - 3)], seed)


def decode_of(layer: Layer, dtype: DType, rows: int, seed: int = 0) -> decode_case.Case:
    """Two sequences at places of their own."""
    segments = (decode.Segment("past", layer.past), decode.Segment("chunk", rows))
    shape = (2, rows, *layer.counts, layer.head_dim)
    problem = decode.DecodeProblem(*shape, segments, layer.window, dtype=dtype, update=True)
    start = 3 * layer.past + 7 if layer.window else layer.past - rows
    return decode_case.make(problem, [(start, rows), (130, rows - 1)], seed)


def by_ops(case: Any) -> tuple[Array, Array]:
    """g4.attention and g4.tiled_attention on the operands of a case."""
    p, function = case.problem, Function("f", "program")
    values = {name: function.add_param(name, kind) for name, kind in _types(case).items()}
    keys, stored = (tuple(values[f"{kind}_{what}"] for kind in ("past", "chunk")) for what in ("keys", "values"))
    held = (values["past_held"], values["positions"])
    whole = AttentionOp(values["q"], keys, stored, values["positions"], held, p.scale, p.window)
    split = SplitTilesOp(values["q"], 128, "")
    cuts = tuple(Cut.of(segment.kind, segment.keys, 512) for segment in p.segments)
    schedule = tuple(map(str, plan(Cut.of("q", p.rows, 128), cuts, p.window)))
    parts = function.append(split).results
    tiled = TiledAttentionOp(
        parts, keys, stored, values["positions"], held, p.scale, p.window, tuple(map(str, cuts)), schedule
    )
    q, *rest = (case.operands[value.name] for value in whole.operands)
    return whole.reference(q, *rest), tiled.reference(*split.reference(q), *rest)


def _types(case: Any) -> dict[str, Any]:
    if isinstance(case, prefill_case.Case):
        return dict(case.problem.parameters)
    return dict(decode.emit(case.problem, decode.schedules(case.problem, 3)[0], 3).inputs)


def by_hugging_face(case: Any) -> Array:
    """Its eager attention, with an additive mask that is made of positions here; padding gives 0."""
    p, given = case.problem, case.operands
    joined = [np.concatenate([getattr(keys, name) for keys in case.keys], 1).astype(np.float32) for name in "kv"]
    dtype = torch.float32 if p.dtype is DType.F32 else torch.bfloat16
    q, k, v = (torch.from_numpy(x.astype(np.float32)).to(dtype).transpose(1, 2) for x in (given["q"], *joined))
    held = torch.from_numpy(np.concatenate([keys.held for keys in case.keys], 1).astype(np.int64))[:, None]
    at = torch.from_numpy(given["positions"].astype(np.int64))[:, :, None]
    hidden = (held < 0) | (held > at) | ((at - held >= p.window) if p.window else torch.tensor(False))
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
    module = types.SimpleNamespace(num_key_value_groups=p.group, head_dim=p.head_dim, training=False)
    y, _ = eager_attention_forward(module, q, k, v, mask[:, None], scaling=p.scale)
    return np.where(given["positions"][:, :, None, None] < 0, 0, y.float().numpy())


def by_kernel(case: Any, generation: int) -> Array:
    if isinstance(case, prefill_case.Case):
        return case.run(generation).results
    return decode_case.run(case, generation)[0]


@pytest.mark.parametrize("make", [prefill_of, decode_of], ids=["prefill", "decode"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_ops_and_hugging_face_give_the_same(layer: Layer, make: Any) -> None:
    """In f32; v2, v3 and v4 in turn."""
    case = make(layer, DType.F32, 3 if make is decode_of else 140)
    y = by_kernel(case, 2 + LAYERS.index(layer) % 3)
    for wanted in (*by_ops(case), by_hugging_face(case), case.reference()):
        assert relative_error(y, wanted) <= F32


@pytest.mark.parametrize("make", [prefill_of, decode_of], ids=["prefill", "decode"])
def test_bf16_is_no_worse_than_a_plain_flash_attention_and_hugging_face(make: Any) -> None:
    """Root mean squares, over all layers, of relative errors of a flash attention in numpy and of eager attention.

    The flash attention has the kernel's tiles, sums in f32, and probabilities in bf16.
    """
    errors = []
    for seed, layer in enumerate(LAYERS):
        case = make(layer, DType.BF16, 4 if make is decode_of else 130, seed)
        reference = case.reference()
        peer = decode_peer(case) if make is decode_of else case.peer(prefill.schedules(case.problem, 3)[0])
        found = (by_kernel(case, 3), peer, by_hugging_face(case))
        errors.append([relative_error(y, reference) for y in found])
    ours, peers, theirs = np.sqrt(np.square(errors).mean(axis=0))
    assert ours <= min(peers, theirs)
