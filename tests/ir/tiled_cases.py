"""Right and refused constructions of the TILED ops, added to those of all other ops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import op_cases
import op_refusals
import torch
import torch.nn.functional as F
from op_cases import Case, Tensor, v

from g4c.ir.op import Op, Value
from g4c.ir.ops import SplitTilesOp, TiledAttentionOp, TiledLinearOp


def linear(x: str, w: str, tiles: tuple[str, ...], cost: tuple[int, int, int]) -> Case:
    make = lambda x, w: TiledLinearOp(x, w, tiles, "")  # noqa: E731
    # A sum of k products in another order: more than one rounding of f32, where the terms cancel.
    return Case((x, w), make, F.linear, lambda e: (cost[0], cost[1] * e, cost[2] * e))


def tiled(
    case: Case, widths: tuple[int, ...], segments: tuple[str, ...], schedule: tuple[str, ...], read: int, wrote: int
) -> Case:
    """A case of g4.attention with q in tiles of `widths`; `read`, `wrote`: floats."""
    q, *rest = case.operands
    shape = q.removesuffix("F").split("x")[:3]
    parts = tuple("x".join([*shape, f"{width}xF"]) for width in widths)
    n, d = (len(rest) - 1) // 3, len(widths)

    def make(*values: Value) -> Op:
        attention = case.make(v("x".join([*shape, f"{sum(widths)}x{values[0].dtype.mlir}"])), *values[d:])
        rest = values[d:]
        return TiledAttentionOp(
            values[:d],
            rest[:n],
            rest[n : 2 * n],
            rest[2 * n],
            rest[2 * n + 1 :],
            attention.scale,
            attention.window,
            segments,
            schedule,
        )

    def oracle(*tensors: Tensor) -> Tensor:
        assert case.oracle is not None
        return case.oracle(torch.cat(tensors[:d], 3), *tensors[d:])

    flops, ints = case.cost(0)[:2]
    return dataclasses.replace(
        case,
        operands=(*parts, *rest),
        make=make,
        oracle=oracle,
        cost=lambda e: (flops, read * e + ints, wrote * e),
    )


ATTENTION = op_cases.CASES["g4.attention"]
CASES: dict[str, list[Case]] = {
    **op_cases.CASES,
    "g4.split_tiles": [
        Case(("2x3x300xF",), lambda x: SplitTilesOp(x, 128, ""), lambda x: x.split(128, -1), lambda e: (0, 0, 0)),
        Case(("5xF",), lambda x: SplitTilesOp(x, 128, "one"), lambda x: (x,), lambda e: (0, 0, 0)),
    ],
    "g4.tiled_linear": [
        linear("2x3x4xF", "5x4xF", ("k 4 = 1*4", "n 5 = 1*5 stationary", "m 6 = 1*6 moving"), (240, 44, 30)),
        linear(
            "7x300xF",
            "3x300xF",
            ("k 300 = 2*128 + 44", "n 3 = 1*2 + 1 moving", "m 7 = 2*3 + 1 stationary"),
            (12600, 3000, 21),
        ),
    ],
    "g4.tiled_attention": [
        tiled(ATTENTION[0], (16,), ("mixed 9 = 1*9",), ("q 0:3 | mixed *",), 384 + 2 * 576, 384),
        tiled(
            ATTENTION[2],
            (128, 128),
            ("mixed 9 = 2*4 + 1",),
            ("q 0:2 | mixed *", "q 2:5 | mixed 2~ 0:2~"),
            10240 + 4608,
            10240,
        ),
        tiled(ATTENTION[3], (128, 128, 128, 128), ("mixed 9 = 9*1",), ("q 0:1 | mixed *",), 1024 + 9216, 1024),
        tiled(
            ATTENTION[4],
            (10, 6),
            ("mixed 9 = 2*4 + 1", "mixed 3 = 1*2 + 1"),
            ("q 0:2 | mixed * | mixed *", "q 2:3 | mixed * | mixed *"),
            384 + 2 * (576 + 192),
            384,
        ),
        *(tiled(case, (16,), ("mixed 9 = 2*4 + 1",), ("q 0:4 | mixed *",), 128 + 288, 128) for case in ATTENTION[5:8]),
    ],
}


def refused_linear(*tiles: str) -> Callable[[], Op]:
    return lambda: TiledLinearOp(v("2x300xf32"), v("4x300xf32"), tiles, "")


def attention(
    q: tuple[str, ...] = ("1x4x2x8xf32",),
    keys: tuple[str, ...] = ("1x8x1x8xf32", "1x4x1x8xf32"),
    values: tuple[str, ...] = (),
    held: tuple[str, ...] = ("1x8xi32",),
    own: bool = True,
    window: int = 0,
    segments: tuple[str, ...] = ("past 8 = 2*4", "chunk 4 = 2*2"),
    schedule: tuple[str, ...] = ("q 0:2 | past * | chunk 0~ (1 ahead)", "q 2:4 | past * | chunk 0 1~"),
    positions: str = "1x4xi32",
) -> Callable[[], Op]:
    """One that is right but for what is given; `own`: the last key positions are those of the queries."""

    def make() -> Op:
        at = v(positions)
        others = (*map(v, held), *((at,) if own else ()))
        return TiledAttentionOp(
            tuple(map(v, q)),
            tuple(map(v, keys)),
            tuple(map(v, values or keys)),
            at,
            others,
            1.0,
            window,
            segments,
            schedule,
        )

    return make


BOTH = ("past 8 = 2*4", "chunk 4 = 2*2")
REFUSED: dict[str, list[tuple[Callable[[], Op], str]]] = {
    **op_refusals.REFUSED,
    "g4.split_tiles": [
        (lambda: SplitTilesOp(v("f32"), 128, ""), "x is a scalar"),
        (lambda: SplitTilesOp(v("2x300xf32"), 129, ""), "width must be within 1..128, got 129"),
        (lambda: SplitTilesOp(v("2x300xf32"), 0, ""), "width must be within 1..128, got 0"),
    ],
    "g4.tiled_linear": [
        (refused_linear(), "tiles must cut k, n and m, got []"),
        (refused_linear("k", "n", "m"), "malformed cut 'k'; one is written like 'k 704 = 5*128 + 64'"),
        (
            refused_linear("k 300 = 2*128", "n 4 = 1*4 stationary", "m 2 = 1*2 moving"),
            "'k 300 = 2*128' does not add up: 256 of 300",
        ),
        (
            refused_linear("k 256 = 2*128", "n 4 = 1*4 stationary", "m 2 = 1*2 moving"),
            "tiles must cut k = 300, got k 256 = 2*128",
        ),
        (
            refused_linear("k 300 = 2*128 + 44", "n 4 = 1*4 stationary", "m 2 = 1*2 stationary"),
            "of n and m one is stationary, one moving, k is neither",
        ),
        (
            refused_linear("k 300 = 2*150", "n 4 = 1*4 stationary", "m 2 = 1*2 moving"),
            "k 300 = 2*150: tiles are at most 128 wide",
        ),
        (
            lambda: TiledLinearOp(v("2x3xi32"), v("4x3xi32"), ("k 3 = 1*3", "n 4 = 1*4", "m 2 = 1*2"), ""),
            "needs floats, got tensor<2x3xi32>",
        ),
    ],
    "g4.tiled_attention": [
        (attention(q=()), "q has no tiles"),
        (attention(q=("1x4x8xf32",)), "tiles of q must be [b, s, H, d], got tensor<1x4x8xf32>"),
        (
            attention(q=("1x4x2x4xf32", "1x4x1x4xf32")),
            "tiles of q differ in more than their width: tensor<1x4x2x4xf32> and tensor<1x4x1x4xf32>",
        ),
        (attention(own=False), "segments differ: (2, 2, 1) keys, values and key_positions"),
        (attention(q=("1x4x2x4xf32",)), "keys must be f32 [1, m, K, 4], got tensor<1x8x1x8xf32>"),
        (
            attention(values=("1x8x1x8xf32", "1x5x1x8xf32")),
            "a segment's keys are tensor<1x4x1x8xf32>, its values tensor<1x5x1x8xf32>",
        ),
        (attention(keys=("1x8x3x8xf32", "1x4x3x8xf32")), "2 query heads do not divide over 3 KV heads"),
        (attention(held=("1x9xi32",)), "key_positions must be tensor<1x8xi32>, got tensor<1x9xi32>"),
        (attention(positions="1x5xi32"), "positions must be tensor<1x4xi32>, got tensor<1x5xi32>"),
        (attention(window=-1), "window must be >= 0 (0 = none), got -1"),
        (
            attention(q=("1x4x2x200xf32",), keys=("1x8x1x200xf32", "1x4x1x200xf32")),
            "d tiles are at most 128 wide, got [200]",
        ),
        (attention(segments=("past 8 = 2*4",)), "2 segments, cut are ['past 8 = 2*4']"),
        (
            attention(segments=("before 8 = 2*4", "chunk 4 = 2*2")),
            "segments are past, chunk, mixed of 8 keys, got before 8 = 2*4",
        ),
        (
            attention(segments=("past 9 = 2*4 + 1", "chunk 4 = 2*2")),
            "segments are past, chunk, mixed of 8 keys, got past 9 = 2*4 + 1",
        ),
        (
            attention(own=False, held=("1x8xi32", "1x4xi32")),
            "a chunk's key positions are the positions of the queries",
        ),
        (
            attention(segments=BOTH, schedule=("q 0:4 | past *",)),
            "malformed query tile 'q 0:4 | past *' over 2 segments",
        ),
        (attention(schedule=("q 0:2 | past * | chunk 0~ (1 ahead)",)), "query tiles do not cover rows 0:4 in order"),
        (
            attention(schedule=("q 0:4 | past 0~ | chunk *",)),
            "of 2 tiles of past, each must be visited or skipped once",
        ),
        (
            attention(schedule=("q 0:4 | past 0:2~ 1~ | chunk *",)),
            "is written 'q 0:4 | past * 1~ | chunk *'",
        ),
        (
            attention(schedule=("q 0:2 | past - (* old) | chunk *", "q 2:4 | past * | chunk *")),
            "past tile 0 is skipped as old, some query may see some key of it",
        ),
        (
            attention(schedule=("q 0:2 | past * | chunk 0~ (1 ahead)", "q 2:4 | past * | chunk 1~ (0 ahead)")),
            "chunk tile 0 is skipped as ahead, every query sees every key of it",
        ),
        (
            attention(schedule=("q 0:2 | past * | chunk 0~ (1 old)", "q 2:4 | past * | chunk *")),
            "chunk tile 1 is skipped as old, all of it is ahead of the queries",
        ),
        (
            attention(schedule=("q 0:2 | past * | chunk 0 (1 ahead)", "q 2:4 | past * | chunk *")),
            "chunk tile 0 is visited without a mask, some query may see some key of it",
        ),
        (
            attention(schedule=("q 0:2 | past * | chunk 0~ (1 dull)", "q 2:4 | past * | chunk *")),
            "tiles are skipped as ahead or old, not 'dull'",
        ),
        (
            attention(
                q=("1x300x2x8xf32",),
                keys=("1x300x1x8xf32",),
                held=(),
                positions="1x300xi32",
                segments=("chunk 300 = 1*300",),
                schedule=("q 0:300 | chunk *",),
            ),
            "query tiles are at most 128 rows, got 300",
        ),
    ],
}
