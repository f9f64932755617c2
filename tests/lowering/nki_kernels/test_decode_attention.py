"""Decode attention kernels against attention in double precision: shapes of all variants, rings, padding, updates."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from attention_reference import relative_error
from decode_case import Case, make, run

from g4c.ir.types import DType
from g4c.lowering.nki.attention.decode import DecodeProblem, DecodeSchedule, Segment, schedules

F32 = 2e-6  # some thousand products of f32, added up in f32 in any order: 8 ulp
# Of the peer's error, in one case: the kernel divides by the sum of what it has rounded to bf16, the peer by that of
# exact weights. Of all layers together the kernel's error is the smaller one, without a factor: test_attention_parity.
PEER = 1.01


def problem(heads: str, head_dim: int, past: int, rows: int = 1, batch: int = 1, **changes: object) -> DecodeProblem:
    """A decode step with an update, f32 unless said otherwise; `heads` like 8:1."""
    many, few = (int(n) for n in heads.split(":"))
    segments = (Segment("past", past), Segment("chunk", rows))
    changes = {"dtype": DType.F32, "update": True} | changes
    return DecodeProblem(batch, rows, many, few, head_dim, segments, **changes)


def check(case: Case, generation: int = 3, schedule: DecodeSchedule | None = None) -> None:
    """The result is the reference's (bf16: no worse than the peer's), zero for padding; caches are equal to the bit."""
    y, *caches = run(case, generation, schedule)
    reference = case.reference()
    bf16 = case.problem.dtype is DType.BF16
    assert relative_error(y, reference) <= (PEER * relative_error(peer(case), reference) if bf16 else F32)
    assert np.all(y[case.operands["positions"] < 0] == 0)
    assert len(caches) == (2 if case.problem.update else 0)
    for cache, what in zip(caches, ("keys", "values"), strict=False):
        np.testing.assert_array_equal(cache.view(np.uint8), case.updated(what).view(np.uint8))


def peer(case: Case) -> np.ndarray:
    """Attention in bf16, straightforwardly: products of bf16 in f32, softmax in f32 over all keys, as the kernel tiles.

    Probabilities are rounded to bf16 where they meet the values, the result once at the end.
    """
    p, positions, q = case.problem, case.operands["positions"], case.operands["q"].astype(np.float32)
    k, v = (np.concatenate([getattr(keys, name) for keys in case.keys], 1).astype(np.float32) for name in "kv")
    held = np.concatenate([keys.held for keys in case.keys], 1)
    y = np.zeros(q.shape, np.float32)
    for sequence, row in np.argwhere(positions >= 0):
        at = positions[sequence, row]
        seen = (held[sequence] >= 0) & (held[sequence] <= at) & ((held[sequence] > at - p.window) | (p.window == 0))
        for head in range(p.heads):
            scores = k[sequence, :, head // p.group] @ q[sequence, row, head] * np.float32(p.scale)
            weights = np.exp(np.where(seen, scores, -np.inf) - scores[seen].max())
            rounded = weights.astype(ml_dtypes.bfloat16).astype(np.float32)
            y[sequence, row, head] = rounded @ v[sequence, :, head // p.group] / weights.sum()
    return y.astype(ml_dtypes.bfloat16)


# (query heads : KV heads, head dim, window) of every variant, whole and as tensor parallelism shards them.
SLIDING = ["8:1", "8:2", "4:1", "2:1", "16:8", "4:2", "32:16", "8:4"]
FULL = ["8:1", "8:2", "4:1", "2:1", "16:1", "16:2", "32:4", "1:1"]


@pytest.mark.parametrize("heads", SLIDING)
def test_sliding_layers(heads: str) -> None:
    """A ring of as many slots as the window, wrapped several times: 512 for E2B and E4B, 1024 for the others."""
    window = 512 if heads in ("8:1", "8:2", "4:1", "2:1") else 1024
    check(make(problem(heads, 256, window, window=window), [(5 * window + 77, 1)]))


@pytest.mark.parametrize("heads", FULL)
def test_full_layers(heads: str) -> None:
    check(make(problem(heads, 512, 640), [(577, 1)]))


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("slots", [1, 127, 128, 129, 511, 512, 513, 640])
def test_caches_of_any_length(slots: int, dtype: DType) -> None:
    """Full, filled in part, and empty: three sequences."""
    case = make(problem("4:1", 512, slots, batch=3, dtype=dtype), [(slots, 1), ((slots + 1) // 2, 1), (0, 1)])
    check(case)


@pytest.mark.parametrize("cached", [1, 127, 128, 129, 511, 513, 2047])
def test_cached_lengths(cached: int) -> None:
    """What lies beyond them in a cache of 2048 slots has large values."""
    check(make(problem("8:1", 512, 2048, dtype=DType.BF16), [(cached, 1)]))


@pytest.mark.parametrize("slots", [4095, 4096])
def test_thousands_of_slots(slots: int) -> None:
    check(make(problem("2:1", 512, slots, 2, 2), [(slots - 2, 2), (slots // 2, 1)]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("slots", [4096, 8192])
def test_long_caches(slots: int, dtype: DType) -> None:
    check(make(problem("8:1", 512, slots, dtype=dtype), [(slots - 5, 1)]))
    check(make(problem("8:2", 512, slots, rows=3, dtype=dtype), [(slots // 2, 3)]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("cached", [1, 4000])
@pytest.mark.parametrize("heads", FULL)
def test_full_layers_of_any_length(heads: str, cached: int, dtype: DType) -> None:
    """Every variant and shard, v2 to v4 in turn."""
    check(make(problem(heads, 512, 4096, 2, dtype=dtype), [(cached, 2)]), 2 + FULL.index(heads) % 3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("position", [1, 1023, 100_000])
@pytest.mark.parametrize("heads", SLIDING)
def test_sliding_layers_at_any_position(heads: str, position: int, dtype: DType) -> None:
    """Rings of 1024 slots with a window of 1024 before, at and past the end; three sequences, one idle."""
    shape = problem(heads, 256, 1024, 2, 3, window=1024, dtype=dtype)
    check(make(shape, [(position, 2), (position // 2, 1), (0, 0)]), 2 + SLIDING.index(heads) % 3)


@pytest.mark.parametrize("generation", [2, 3, 4])
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_generations(generation: int, dtype: DType) -> None:
    """Four sequences: one past many wraps, one at the start, one that sits out, one just at its window."""
    case = make(problem("8:2", 256, 512, 2, 4, window=512, dtype=dtype), [(99_991, 2), (0, 1), (0, 0), (511, 2)])
    check(case, generation)


@pytest.mark.parametrize("rows", [1, 2, 5, 8])
@pytest.mark.parametrize("window", [0, 512])
def test_rows_and_padding(rows: int, window: int) -> None:
    """Rows after the valid ones are padding: not written, and zeros in the result."""
    starts = [(131, rows), (509, rows), (3, (rows + 1) // 2), (640 - rows, rows)]
    check(make(problem("8:1", 256, 640, rows, 4, window=window), starts))


@pytest.mark.parametrize("slots", [512, 520])
def test_rows_that_straddle_the_end_of_a_ring(slots: int) -> None:
    """Five rows at the last slots and the first ones, after many wraps; 520 is no power of two."""
    check(make(problem("4:2", 256, slots, 5, 2, window=512), [(slots * 500 - 2, 5), (slots * 3 - 4, 5)]))


def test_positions_up_to_the_longest_context() -> None:
    """262143, where slots that are no power of two need an exact quotient."""
    check(make(problem("2:1", 256, 520, 1, 2, window=512), [(262_143, 1), (262_080, 1)]))


def test_a_window_shorter_than_the_chunk() -> None:
    check(make(problem("2:1", 64, 128, 8, window=3), [(70, 8)]))


@pytest.mark.parametrize("head_dim", [64, 128])
def test_narrow_heads_and_scales(head_dim: int) -> None:
    check(make(problem("4:2", head_dim, 300, 2, scale=head_dim**-0.5), [(250, 2)]))


@pytest.mark.parametrize("spread", [0.0, 0.01, 30.0, 1e4])
@pytest.mark.parametrize("parts", [1, 3])
def test_flat_and_sharp_softmax(spread: float, parts: int) -> None:
    """Scores that are equal or nearly so, and scores so large that exponentials of them overflow."""
    case = make(problem("4:2", 256, 513, 4, 2, dtype=DType.BF16), [(480, 4), (3, 4)], spread=spread)
    check(case, schedule=DecodeSchedule(1, 5, 2, parts))


def test_a_layer_that_reads_its_donors_cache() -> None:
    """The donor's new rows are read, nothing is written."""
    check(make(problem("8:1", 512, 384, 2, update=False, dtype=DType.BF16), [(300, 2)]))


@pytest.mark.parametrize("window", [0, 200])
@pytest.mark.parametrize("others", [["past"], ["mixed"], []])
def test_one_row_over_a_whole_chunk(others: list[str], window: int) -> None:
    """A pruned prefill layer: keys in any order, some ahead of the row, some behind its window; one sequence idle."""
    segments = (*(Segment(kind, 384) for kind in others), Segment("mixed", 257))
    shape = DecodeProblem(3, 1, 8, 2, 256, segments, window, dtype=DType.F32)
    check(make(shape, [(300, 1), (0, 0), (90, 1)]))


@pytest.mark.parametrize(("parts", "sequences", "tiles"), [(1, 1, 2), (2, 4, 7), (3, 1, 5), (5, 2, 40)])
def test_schedules_give_the_same(parts: int, sequences: int, tiles: int) -> None:
    """Few loads in SBUF, sequence after sequence, part after part (flash decoding)."""
    case = make(problem("8:2", 256, 641, 3, 4, window=512), [(3000, 3), (0, 2), (0, 0), (510, 3)])
    check(case, schedule=DecodeSchedule(1, tiles, sequences, parts, 2))


@pytest.mark.parametrize(("parts", "sequences", "dtype"), [(2, 2, DType.F32), (4, 1, DType.BF16)])
def test_two_cores(parts: int, sequences: int, dtype: DType) -> None:
    """Each has half of the keys, the first one the chunk; one writes the keys' cache, one that of the values."""
    case = make(problem("4:2", 256, 513, 3, 2, window=512, dtype=dtype), [(3000, 3), (511, 2)])
    check(case, schedule=DecodeSchedule(1, 5, sequences, parts, 2, cores=2))


SHARED = [
    # heads, head dim, slots, rows, window, and per sequence where it starts and how many rows are valid
    ("4:1", 512, 300, 1, 0, [(200, 1), (0, 1)]),
    ("4:2", 256, 512, 3, 512, [(3000, 3), (511, 2), (0, 0), (7, 3)]),
    ("8:2", 256, 513, 2, 512, [(513 * 40 - 1, 2)]),
    ("16:8", 256, 300, 5, 0, [(290, 5)]),
    ("32:4", 512, 256, 8, 0, [(100, 6)]),
    ("4:2", 64, 130, 2, 64, [(1000, 2), (5, 1), (0, 0)]),
]


@pytest.mark.parametrize(("heads", "head_dim", "slots", "rows", "window", "starts"), SHARED)
@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_two_cores_share_sequences_or_heads(
    heads: str, head_dim: int, slots: int, rows: int, window: int, starts: list[tuple[int, int]], dtype: DType
) -> None:
    """The first two have an even batch; sequences alone have the same bits. Both parts of the caches are written."""
    shape = problem(heads, head_dim, slots, rows, len(starts), window=window, dtype=dtype)
    case, found = make(shape, starts), schedules(shape, 3, 2)
    share = "heads" if len(starts) % 2 else "sequences"
    assert {(one.cores, one.share) for one in found} == {(2, share)}
    check(case, schedule=found[0])
    if share == "sequences":
        alone = run(case, 3, replace(found[0], cores=1, sequences=1))
        for one, two in zip(alone, run(case, 3, replace(found[0], sequences=1)), strict=True):
            np.testing.assert_array_equal(two, one)


@pytest.mark.parametrize("segments", [(Segment("past", 384), Segment("mixed", 257)), (Segment("mixed", 300),)])
@pytest.mark.parametrize("batch", [1, 2])
def test_two_cores_share_what_a_pruned_layer_reads(segments: tuple[Segment, ...], batch: int) -> None:
    shape = DecodeProblem(batch, 1, 8, 2, 256, segments, 200, dtype=DType.F32)
    check(make(shape, [(300, 1), (90, 1)][:batch]), schedule=schedules(shape, 3, 2)[0])


def test_an_odd_batch_of_one_kv_head_is_not_shared() -> None:
    shape = problem("8:1", 512, 640, batch=3)
    assert schedules(shape, 3, 2) == schedules(shape, 3)


def test_a_part_of_which_nothing_is_seen() -> None:
    """The first half of the keys is behind the window: however large its values, they add nothing."""
    shape = DecodeProblem(1, 1, 2, 1, 128, (Segment("mixed", 256),), 64, dtype=DType.F32)
    case = make(shape, [(1000, 1)])
    held = np.concatenate([np.arange(0, 128), np.arange(873, 1001)])
    case.operands["mixed_held"] = held.reshape(2, 128).T.reshape(1, 256).astype(np.int32)
    case.operands["mixed_values"].reshape(128, 2, 128)[:, 0] = 3e38
    check(case, schedule=DecodeSchedule(1, 4, 1, 2))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_row_that_sees_nothing_gives_zeros(parts: int) -> None:
    """All keys are ahead of the second row."""
    case = make(DecodeProblem(1, 2, 2, 1, 128, (Segment("mixed", 256),), dtype=DType.F32), [(300, 2)])
    case.operands["mixed_held"] = np.random.default_rng(0).permutation(256)[None].astype(np.int32) + 20
    case.operands["positions"][:] = 300, 10
    check(case, schedule=DecodeSchedule(1, 4, 1, parts))


@pytest.mark.parametrize("generation", [3, 4])
@pytest.mark.parametrize("window", [0, 96])
def test_keys_in_empty_slots_may_be_anything(generation: int, window: int) -> None:
    """NaN, as memory that nobody has written may be, and values as large as they get. On v2 transposes spread NaN."""
    case = make(problem("4:2", 256, 300, 2, 2, window=window), [(131, 2), (0, 1)])
    empty = case.operands["past_held"] < 0
    case.operands["past_keys"][empty], case.operands["past_values"][empty] = np.nan, 3e38
    for parts in (1, 2):
        check(case, generation, DecodeSchedule(1, 4, 1, parts))
