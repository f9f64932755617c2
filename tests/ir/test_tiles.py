"""Schedules of tiles: what is visited is what can be seen, the text both ways, and what the ops make of a schedule."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import v

from g4c.ir.op import InvalidOpError
from g4c.ir.ops import AttentionOp, HeldPositionsOp, LinearOp, SplitTilesOp, TiledAttentionOp, TiledLinearOp
from g4c.ir.tiles import KINDS, Cut, QueryTile, Run, Visits, check, parse_cut, parse_query_tile, plan
from g4c.ir.types import DType

many = settings(max_examples=100, deadline=None)
sizes = st.integers(1, 40)


@given(sizes, sizes, sizes, sizes, sizes, st.integers(0, 45), st.data())
@many
def test_visited_is_what_some_query_sees_from_some_start(
    rows: int, slots: int, q_tile: int, kv_tile: int, past_tile: int, window: int, data: st.DataObject
) -> None:
    """By enumeration of pairs, in a ring that has gone round any number of times; all queries, all starts."""
    segments = [Cut.of("past", slots, past_tile), Cut.of("chunk", rows, kv_tile)]
    tiles = plan(Cut.of("q", rows, q_tile), segments, window)
    i, j = np.arange(rows)[:, None], np.arange(rows)[None, :]
    chunk = (j <= i) & ((window == 0) | (j > i - window))
    past = np.zeros((rows, slots), bool)
    for start in range(2 * slots + 1):
        held = start - 1 - (start - 1 - np.arange(slots)) % slots
        past |= (held >= 0) & ((window == 0) | (held > start + i - window))
    for tile in tiles:
        for visits, cut, seen in zip(tile.segments, segments, (past, chunk), strict=True):
            wanted = {t for t, (low, high) in enumerate(cut) if seen[tile.start : tile.limit, low:high].any()}
            assert {t for t, _ in visits.tiles()} == wanted
            if cut.name == "chunk":
                whole = {t for t in wanted if seen[tile.start : tile.limit, slice(*cut.bounds(t))].all()}
                assert {t for t, masked in visits.tiles() if not masked} == whole
    assert [(tile.start, tile.limit) for tile in tiles] == list(Cut.of("q", rows, q_tile))
    check(tiles, rows, segments, window)
    drop_each(tiles, rows, segments, window)


def drop_each(tiles: tuple[QueryTile, ...], rows: int, segments: list[Cut], window: int) -> None:
    """Without any one of its visited runs, named as skipped for either reason, the schedule is refused."""
    for at, tile in enumerate(tiles):
        for n, visits in enumerate(tile.segments):
            for run, reason in itertools.product(visits.visited, ("ahead", "old")):
                others = tuple(other for other in visits.visited if other is not run)
                skipped = (*visits.skipped, replace(run, masked=False, reason=reason))
                segment = replace(visits, visited=others, skipped=skipped)
                broken = replace(tile, segments=(*tile.segments[:n], segment, *tile.segments[n + 1 :]))
                with pytest.raises(InvalidOpError, match=f"is skipped as {reason}"):
                    check((*tiles[:at], broken, *tiles[at + 1 :]), rows, segments, window)


@given(sizes, sizes, sizes, st.sampled_from(KINDS), st.integers(0, 45))
@many
def test_text_both_ways(rows: int, width: int, q_tile: int, kind: str, window: int) -> None:
    segments = [Cut.of(kind, rows, width)]
    assert [parse_cut(str(cut)) for cut in segments] == segments
    for tile in plan(Cut.of("q", rows, q_tile), segments, window):
        assert parse_query_tile(str(tile), segments) == tile


def test_how_schedules_read() -> None:
    """A chunk of 1024 after a ring of 512, window 512: tiles behind the window and ahead of the query go."""
    segments = [Cut.of("past", 512, 128), Cut.of("chunk", 1024, 128)]
    texts = [str(tile) for tile in plan(Cut.of("q", 1024, 128), segments, 512)]
    assert texts == [
        "q 0:128 | past * | chunk 0~ (1:8 ahead)",
        "q 128:256 | past * | chunk 0 1~ (2:8 ahead)",
        "q 256:384 | past * | chunk 0:2 2~ (3:8 ahead)",
        "q 384:512 | past * | chunk 0:3 3~ (4:8 ahead)",
        "q 512:640 | past - (* old) | chunk 0~ 1:4 4~ (5:8 ahead)",
        "q 640:768 | past - (* old) | chunk 1~ 2:5 5~ (0 old, 6:8 ahead)",
        "q 768:896 | past - (* old) | chunk 2~ 3:6 6~ (0:2 old, 7 ahead)",
        "q 896:1024 | past - (* old) | chunk 3~ 4:7 7~ (0:3 old)",
    ]
    assert [str(cut) for cut in segments] == ["past 512 = 4*128", "chunk 1024 = 8*128"]
    assert str(Cut.of("k", 704, 128)) == "k 704 = 5*128 + 64"
    assert str(Cut.of("m", 1, 512, "moving")) == "m 1 = 1*1 moving"
    last = Visits("past", 4, (Run(0, 4, masked=True),))
    assert str(last) == "past *"
    assert str(replace(last, visited=(Run(0, 4),))) == "past 0:4"


# -- the reference, tile by tile -------------------------------------------------------------------------------------


def tiled(op: AttentionOp, kinds: tuple[str, ...], q_tile: int, kv_tile: int, width: int) -> TiledAttentionOp:
    """`op` in tiles; its q in d tiles of `width`."""
    q = SplitTilesOp(op.q, width, "").results
    cuts = [Cut.of(kind, k.shape[1], kv_tile) for kind, k in zip(kinds, op.keys, strict=True)]
    schedule = plan(Cut.of("q", op.q.shape[1], q_tile), cuts, op.window)
    texts = tuple(map(str, cuts)), tuple(map(str, schedule))
    made = TiledAttentionOp(q, op.keys, op.values, op.positions, op.key_positions, op.scale, op.window, *texts)
    made.verify()
    return made


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 12),
    st.integers(0, 25),
    st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 9)),
    st.sampled_from([DType.F32, DType.BF16]),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_reference_is_that_of_attention(
    rows: int, slots: int, window: int, start: int, tiles: tuple[int, int, int], dtype: DType, data: st.DataObject
) -> None:
    """A ring and a chunk, two sequences that start at different positions, padded by different lengths."""
    positions = np.stack([start + np.arange(rows), np.arange(rows)]).astype(np.int32)
    for sequence in positions:
        sequence[data.draw(st.integers(0, rows)) :] = -1
    p, name = v(f"2x{rows}xi32"), dtype.mlir
    before = HeldPositionsOp(p, slots, False)
    held = before.reference(positions)
    q, new, old = v(f"2x{rows}x4x16x{name}"), v(f"2x{rows}x2x16x{name}"), v(f"2x{slots}x2x16x{name}")
    op = AttentionOp(q, (old, new), (old, new), p, (before.result, p), 0.5, window)
    random = np.random.default_rng(rows)
    arrays = [random.standard_normal(value.shape).astype(dtype.numpy) for value in (q, old, new, old, new)]
    wanted = op.reference(*arrays, positions, held, positions).astype(np.float32)
    made = tiled(op, ("past", "chunk"), *tiles)
    parts = np.split(arrays[0], range(tiles[2], 16, tiles[2]), axis=3)
    found = made.reference(*parts, *arrays[1:], positions, held, positions).astype(np.float32)
    np.testing.assert_allclose(found, wanted, atol=4e-6 if dtype == DType.F32 else 4e-2, rtol=1e-5)
    assert (found[positions < 0] == 0).all()
    assert made.visited + made.skipped == len(made.schedule) * sum(cut.count for cut in made.cuts)


@pytest.mark.parametrize("rows", [1, 100, 129, 300])
@pytest.mark.parametrize("window", [0, 128, 200])
def test_lengths_that_are_no_multiples(rows: int, window: int) -> None:
    """Tiles of 128 of a whole head of 512 dims, a cache of 200 slots."""
    p = v(f"1x{rows}xi32")
    positions = (170 + np.arange(rows)).astype(np.int32)[None]
    before = HeldPositionsOp(p, 200, False)
    held = before.reference(positions)
    q, new, old = v(f"1x{rows}x2x512xf32"), v(f"1x{rows}x1x512xf32"), v("1x200x1x512xf32")
    op = AttentionOp(q, (old, new), (old, new), p, (before.result, p), 0.05, window)
    random = np.random.default_rng(1)
    arrays = [random.standard_normal(value.shape).astype(np.float32) for value in (q, old, new, old, new)]
    made = tiled(op, ("past", "chunk"), 128, 128, 128)
    assert [tile.shape[3] for tile in made.q] == [128] * 4
    found = made.reference(*np.split(arrays[0], 4, axis=3), *arrays[1:], positions, held, positions)
    np.testing.assert_allclose(found, op.reference(*arrays, positions, held, positions), atol=5e-6)
    assert made.cost().flops == 4 * 2 * 512 * sum(
        (tile.limit - tile.start) * sum(cut.bounds(t)[1] - cut.bounds(t)[0] for t, _ in visits.tiles())
        for tile in made.query_tiles
        for visits, cut in zip(tile.segments, made.cuts, strict=True)
    )


def test_flops_from_a_start() -> None:
    """Of a cache that is empty nothing is visited, of one that holds 130 positions two tiles of 128."""
    p = v("1x256xi32")
    before = HeldPositionsOp(p, 1024, False)
    q, new, old = v("1x256x2x16xf32"), v("1x256x1x16xf32"), v("1x1024x1x16xf32")
    op = AttentionOp(q, (old, new), (old, new), p, (before.result, p), 1.0, 0)
    made = tiled(op, ("past", "chunk"), 128, 128, 16)
    pair = 4 * 2 * 16 * 128 * 128
    assert (made.flops(0), made.flops(130), made.flops(5000)) == (3 * pair, (3 + 4) * pair, (3 + 16) * pair)
    assert made.flops(None) == made.flops(1024) == made.cost().flops
    assert (made.visited, made.skipped) == (19, 1)


def contradicted(kind: str, positions: list[int], held: list[int], schedule: tuple[str, ...], window: int) -> None:
    p, h = v("1x4xi32"), v("1x4xi32")
    key_positions = p if kind == "chunk" else h
    x = v("1x4x1x2xf32")
    op = TiledAttentionOp((x,), (x,), (x,), p, (key_positions,), 1.0, window, (f"{kind} 4 = 2*2",), schedule)
    op.verify()
    data = np.ones((1, 4, 1, 2), np.float32)
    op.reference(data, data, data, np.array([positions], np.int32), np.array([held], np.int32))


def test_data_that_contradicts_the_schedule_is_refused() -> None:
    chunk = ("q 0:2 | chunk 0~ (1 ahead)", "q 2:4 | chunk 0 1~")
    contradicted("chunk", [3, 4, 5, -1], [3, 4, 5, -1], chunk, 0)
    with pytest.raises(ValueError, match="a query sees a key that is skipped"):
        contradicted("chunk", [5, 6, 3, 4], [5, 6, 3, 4], chunk, 0)
    with pytest.raises(ValueError, match="not masked is a key that is not seen"):
        contradicted("chunk", [3, 9, 5, 6], [3, 9, 5, 6], ("q 0:2 | chunk *", *chunk[1:]), 0)
    past = ("q 0:2 | past *", "q 2:4 | past - (* old)")
    contradicted("past", [4, 5, 6, 7], [0, 1, 2, 3], past, 3)
    with pytest.raises(ValueError, match="a query sees a key that is skipped"):
        contradicted("past", [4, 5, 6, 7], [4, 5, 2, 3], past, 3)


@pytest.mark.parametrize("k", [1, 100, 128, 300])
def test_a_linear_adds_up_tile_by_tile(k: int) -> None:
    """Sums of 128 products, added in order, in f32: as a loop over columns does, and not as one long product."""
    random = np.random.default_rng(k)
    x, w = (random.standard_normal((n, k)).astype(np.float32) for n in (3, 5))
    tiles = (str(Cut.of("k", k, 128)), "n 5 = 1*5 stationary", "m 3 = 1*3 moving")
    found = TiledLinearOp(v(f"3x{k}xf32"), v(f"5x{k}xf32"), tiles, "").reference(x, w)
    expected = np.zeros((3, 5), np.float32)
    for start in range(0, k, 128):
        expected += x[:, start : start + 128] @ w[:, start : start + 128].T
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, LinearOp(v(f"3x{k}xf32"), v(f"5x{k}xf32")).reference(x, w), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("x", "y"), [([1.0, 1e8, -1e8], 0.0), ([1e8, -1e8, 1.0], 1.0)])
def test_k_tiles_are_added_in_order(x: list[float], y: float) -> None:
    tiles = ("k 3 = 3*1", "n 1 = 1*1 stationary", "m 1 = 1*1 moving")
    op = TiledLinearOp(v("1x3xf32"), v("1x3xf32"), tiles, "")
    assert op.reference(np.array([x], np.float32), np.ones((1, 3), np.float32)).item() == y


def test_probabilities_are_rounded_before_they_meet_the_values() -> None:
    """Values that cancel make the rounding of exp(-1) to bf16 show: 256 - 696 * 0.3672 and not 256 - 696 * 0.3679."""
    bf16 = DType.BF16.numpy
    q, k = np.ones((1, 1, 1, 1), bf16), np.array([1.0, 0.0], bf16).reshape(1, 2, 1, 1)
    values = np.array([256.0, -696.0], bf16).reshape(1, 2, 1, 1)
    x, m, at, held = v("1x1x1x1xbf16"), v("1x2x1x1xbf16"), v("1x1xi32"), v("1x2xi32")
    for cut, schedule in (("mixed 2 = 1*2", "q 0:1 | mixed *"), ("mixed 2 = 2*1", "q 0:1 | mixed *")):
        op = TiledAttentionOp((x,), (m,), (m,), at, (held,), 1.0, 0, (cut,), (schedule,))
        op.verify()
        found = op.reference(q, k, values, np.array([[2]], np.int32), np.array([[0, 1]], np.int32)).item()
        assert found == pytest.approx((256 - 696 * 0.3671875) / (1 + np.exp(-1)), rel=1e-2)
