"""Prefill attention kernels in the simulator: against fp64, a flash attention in numpy, and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attention_reference import attention, relative_error
from prefill_case import Case, make

from g4c.ir.types import DType
from g4c.lowering.nki.attention.prefill import PrefillProblem, PrefillSchedule, Segment, schedules

# What a bf16 kernel may err more than its peer in numpy, in one case: sums in another order, both rounded at the same
# places. Of all layers together the kernel's error is the smaller one, without a factor: test_attention_parity.
ORDER = 1.001
F32 = 2e-6  # relative error of f32 kernels; sums of up to 4096 terms of one size have less than 1e-6


def problem(heads: str, head_dim: int, rows: int, past: int = 0, batch: int = 1, **changes: object) -> PrefillProblem:
    """`heads` is written as in the configurations, 8:1; `past` 0: a first chunk."""
    query, kv = map(int, heads.split(":"))
    segments = ((Segment("past", past),) if past else ()) + (Segment("chunk", rows),)
    return PrefillProblem(batch, rows, query, kv, head_dim, segments, **changes)  # type: ignore[arg-type]


def check(case: Case, generation: int = 3, schedule: PrefillSchedule | None = None) -> None:
    """The kernel errs no more than its peer (bf16) or than F32, and padding gives exactly 0."""
    schedule = schedule or schedules(case.problem, generation)[0]
    y, reference = case.run(generation, schedule).results, case.reference()
    bound = F32
    if case.problem.dtype is DType.BF16:
        bound = relative_error(case.peer(schedule), reference) * ORDER
    assert relative_error(y, reference) <= bound
    assert not y[case.operands["positions"] < 0].any()


def first(heads: str, head_dim: int, rows: int, **changes: object) -> Case:
    return make(problem(heads, head_dim, rows, **changes), [(0, rows)])


# E2B, E4B, 12B, 26B, 31B as they are, and shards of them.
SLIDING = ["8:1", "8:2", "4:1", "16:8", "8:4", "4:2", "32:16", "2:1"]
FULL = ["8:1", "8:2", "4:1", "16:1", "16:2", "32:4"]


@pytest.mark.parametrize("heads", SLIDING)
def test_sliding_layers(heads: str) -> None:
    check(first(heads, 256, 200, window=1024 if heads.startswith(("16", "32")) else 512))


@pytest.mark.parametrize("heads", FULL)
def test_full_layers(heads: str) -> None:
    check(first(heads, 512, 200))


@pytest.mark.parametrize("rows", [1, 17, 127, 128, 129, 511, 512, 513, 640, 1000])
def test_lengths(rows: int) -> None:
    """Below, at and past a tile and a bank; past the window where that is reached."""
    check(first("2:1", 256, rows, window=512))
    check(first("1:1", 512, rows))


@pytest.mark.parametrize(("window", "rows"), [(512, 1300), (1024, 1300), (130, 400), (128, 300), (127, 300), (1, 140)])
def test_windows(window: int, rows: int) -> None:
    check(first("2:1", 256, rows, window=window))


@pytest.mark.parametrize(
    ("head_dim", "rows", "past", "window", "generation"), [(512, 2049, 700, 0, 2), (256, 4095, 1024, 1024, 4)]
)
def test_thousands_of_rows_after_a_past(head_dim: int, rows: int, past: int, window: int, generation: int) -> None:
    """In f32, where no row can be wrong unseen."""
    start = 3 * past + 11 if window else past
    check(make(problem("1:1", head_dim, rows, past, window=window, dtype=DType.F32), [(start, rows - 5)]), generation)


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "head_dim", "window"), [("2:1", 256, 512), ("2:1", 256, 1024), ("2:1", 512, 0)])
def test_long_prompts(heads: str, head_dim: int, window: int) -> None:
    check(first(heads, head_dim, 4096, window=window))


@pytest.mark.parametrize("start", [0, 1, 500, 1000])
@pytest.mark.parametrize(("past", "window", "head_dim"), [(1000, 0, 512), (512, 512, 256), (513, 512, 256)])
def test_chunks_after_a_past(start: int, past: int, window: int, head_dim: int) -> None:
    """Linear caches and rings; the last rows of a chunk are padding."""
    check(make(problem("2:1", head_dim, 300, past, window=window), [(start, 271)]))


@pytest.mark.parametrize(("head_dim", "past", "window"), [(256, 512, 512), (512, 640, 0)])
def test_batches(head_dim: int, past: int, window: int) -> None:
    """Sequences of their own lengths and histories; one sits out."""
    starts = [(700, 130), (3, 100), (0, 0), (0, 129)]
    check(make(problem("4:2", head_dim, 130, past, 4, window=window), starts))
    check(make(problem("4:2", head_dim, 130, 0, 4, window=window), [(0, count) for _, count in starts]))


@pytest.mark.parametrize("window", [0, 512])
@pytest.mark.parametrize("rows", [1, 9, 200])
@pytest.mark.parametrize("keys", [(900,), (512, 300)], ids=str)
def test_rows_over_keys_in_any_order(keys: tuple[int, ...], rows: int, window: int) -> None:
    """As pruned layers have them: picked rows, keys whose positions only data tell, some ahead of the rows.

    Of two segments, one is a ring before its update, the other the chunk.
    """
    kind = PrefillProblem(2, rows, 4, 2, 256, tuple(Segment("mixed", count) for count in keys), window=window)
    check(make(kind, [(600, rows), (40, max(1, rows - 3))]))


@pytest.mark.parametrize(
    ("head_dim", "heads", "rows"), [(64, "4:4", 100), (64, "2:2", 700), (72, "4:4", 130), (72, "3:3", 560)]
)
def test_vision(head_dim: int, heads: str, rows: int) -> None:
    """No causality; patches that are padding; an image that is all padding."""
    kind = problem(heads, head_dim, rows, batch=2, causal=False)
    check(make(kind, [(0, rows), (0, rows - rows // 3)]))
    check(make(kind, [(0, 0), (0, rows)]))


@pytest.mark.parametrize("window", [128, 512, 1024])
def test_image_blocks(window: int) -> None:
    """Blocks that begin and end within tiles, lie next to each other, are longer than a window, or end the chunk."""
    kind = problem("2:1", 256, 1300, window=window, block_span=420)
    case = make(kind, [(0, 1290)])
    blocks = np.full((1, 1300), -1, np.int32)
    for block, (start, limit) in enumerate([(3, 283), (300, 428), (428, 560), (561, 562), (640, 1060), (1100, 1290)]):
        blocks[:, start:limit] = block
    case = Case(kind, {**case.operands, "blocks": blocks})
    y, reference = case.run().results, case.reference()
    causal = Case(kind, {**case.operands, "blocks": np.full_like(blocks, -1)})
    assert relative_error(y, reference) <= relative_error(causal.peer(schedules(kind, 3)[0]), causal.reference()) * 1.05
    assert relative_error(causal.run().results, reference) > 0.05  # blocks make a difference


@pytest.mark.parametrize(("past", "window"), [(512, 512), (200, 0)])
def test_image_blocks_after_a_past(past: int, window: int) -> None:
    """Two sequences: a block over the edge of a tile, one that begins a chunk, one that ends at the padding."""
    kind = problem("2:1", 256, 300, past, 2, window=window, block_span=140, dtype=DType.F32)
    case = make(kind, [(700 if window else 200, 300), (3, 290)])
    blocks = np.full((2, 300), -1, np.int32)
    blocks[0, 60:200], blocks[1, :100], blocks[1, 250:290] = 0, 0, 1
    case = Case(kind, {**case.operands, "blocks": blocks})
    for generation in (2, 3):
        assert relative_error(case.run(generation).results, case.reference()) <= F32


@pytest.mark.parametrize("generation", [2, 3, 4])
@pytest.mark.parametrize("dtype", [DType.BF16, DType.F32])
def test_generations(generation: int, dtype: DType) -> None:
    check(make(problem("4:2", 256, 300, 512, window=512, dtype=dtype), [(600, 290)]), generation)
    check(make(problem("2:1", 512, 300, 300, dtype=dtype), [(300, 300)]), generation)
    check(make(problem("2:2", 72, 200, causal=False, dtype=dtype), [(0, 190)]), generation)


@pytest.mark.parametrize(
    ("head_dim", "scale"), [(64, 0.125), (72, 0.1), (80, 1.0), (128, 0.1), (160, 1.0), (320, 0.125)]
)
def test_head_dims_and_scales(head_dim: int, scale: float) -> None:
    """Also those that no multiple of 128 is; a scale that is applied to scores, not to q."""
    check(make(problem("2:1", head_dim, 140, 20, scale=scale), [(11, 140)]))


@pytest.mark.parametrize("spread", [0.0, 0.01, 30.0, 1e4])
def test_flat_and_sharp_softmax(spread: float) -> None:
    """Scores that are equal or nearly so, and scores so large that exponentials of them overflow."""
    check(make(problem("2:1", 512, 700, 600), [(600, 700)], spread=spread))


def test_a_block_of_which_nothing_is_seen_changes_nothing() -> None:
    """The first blocks of keys are empty slots of large values; a running maximum must not come from them."""
    kind = problem("1:1", 256, 130, 5000, scale=1.0)
    case = make(kind, [(4990, 130)])
    case.operands["past_held"][:, :4500] = -1
    case.operands["past_keys"][:, :4500] = 100.0
    case.operands["past_values"][:, :4500] = -1000.0
    assert len(schedules(kind, 3)) > 0
    check(case)


@pytest.mark.parametrize(("past", "window"), [(1300, 0), (300, 96)])
def test_keys_in_empty_slots_may_be_anything(past: int, window: int) -> None:
    """NaN, as memory that nobody has written may be, and values as large as they get. On v2 transposes spread NaN."""
    case = make(problem("2:1", 256, 150, past, 2, window=window, dtype=DType.F32), [(131, 140), (0, 150)])
    empty = case.operands["past_held"] < 0
    case.operands["past_keys"][empty], case.operands["past_values"][empty] = np.nan, 3e38
    check(case)


@pytest.mark.parametrize(("head_dim", "window", "rows"), [(256, 100, 300), (512, 0, 200)])
def test_torch_gives_the_same(head_dim: int, window: int, rows: int) -> None:
    """scaled_dot_product_attention in f64, with a mask of its own."""
    case = first("4:2", head_dim, rows, window=window, dtype=DType.F32)
    q, k, v = (torch.from_numpy(case.operands[n]).double().transpose(1, 2) for n in ("q", "chunk_keys", "chunk_values"))
    at = torch.arange(rows)
    mask = at[:, None] >= at
    mask = mask & (at[:, None] - at < window) if window else mask
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=1.0, enable_gqa=True)
    wanted = wanted.transpose(1, 2).numpy()
    assert relative_error(case.reference(), wanted) < 1e-12
    assert relative_error(case.run().results, wanted) <= F32


def test_the_reference_is_the_formula() -> None:
    """Three keys by hand: position 1 sees itself and position 0, half each."""
    case = first("1:1", 64, 3, dtype=DType.F32)
    zero = np.zeros_like(case.operands["q"])
    y = attention(zero, case.keys, case.operands["positions"], scale=1.0)
    np.testing.assert_allclose(y[0, 1, 0], case.operands["chunk_values"][0, :2, 0].astype(np.float64).mean(axis=0))
