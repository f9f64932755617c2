"""Views against numpy: what a view of a tensor addresses is what the same operation gives on an array."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import jit, simulate
from g4c.lowering.nki.simulator import language as nl

X = np.arange(32 * 4 * 6, dtype=np.float32).reshape(32, 4, 6)
BITS = np.arange(32 * 8, dtype=np.int32).reshape(32, 8) * 65537

# (name, the view, numpy's); all of them exist for tiles on chip.
VIEWS: list[tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = [
    ("slices", lambda t: t[:, 1:3, 2:], lambda a: a[:, 1:3, 2:]),
    ("a step", lambda t: t[:, ::2, 1::3], lambda a: a[:, ::2, 1::3]),
    ("negative indices", lambda t: t[:, -1, :-2], lambda a: a[:, -1, :-2]),
    ("an ellipsis", lambda t: t[..., 2], lambda a: a[..., 2]),
    ("an index of a partition keeps it", lambda t: t[0], lambda a: a[0:1]),
    ("nl.ds", lambda t: t[nl.ds(0, 32), nl.ds(1, 2), nl.ds(3, 3)], lambda a: a[:, 1:3, 3:6]),
    ("slice(a, b)", lambda t: t[:, slice(1, 3)], lambda a: a[:, 1:3]),
    ("a slice of a slice", lambda t: t[:, 1:][:, 1:, ::2], lambda a: a[:, 2:, ::2]),
    ("slice", lambda t: t.slice(2, 1, 6, 2), lambda a: a[:, :, 1:6:2]),
    ("select", lambda t: t.select(1, 3), lambda a: a[:, 3]),
    ("permute", lambda t: t.permute((0, 2, 1)), lambda a: a.transpose(0, 2, 1)),
    (
        "broadcast",
        lambda t: t[:, 0:1, :].broadcast(1, 5),
        lambda a: np.broadcast_to(a[:, 0:1, :], (32, 5, 6)),
    ),
    ("expand_dim", lambda t: t.expand_dim(1), lambda a: a[:, None]),
    ("squeeze_dim", lambda t: t[:, :, 2:3].squeeze_dim(2), lambda a: a[:, :, 2]),
    ("reshape_dim", lambda t: t.reshape_dim(2, (2, -1)), lambda a: a.reshape(32, 4, 2, 3)),
    ("flatten_dims", lambda t: t.flatten_dims(1, 2), lambda a: a.reshape(32, 24)),
    ("reshape", lambda t: t.reshape((32, 3, 8)), lambda a: a.reshape(32, 3, 8)),
    (
        "reshape of a permuted view",
        lambda t: t.permute((0, 2, 1)).reshape_dim(1, (2, 3)),
        lambda a: a.transpose(0, 2, 1),
    ),
    (
        "rearrange",
        lambda t: t.rearrange(("p", "a", ("b", "c")), ("p", ("b", "a"), "c"), {"b": 1}),
        lambda a: a,
    ),
    ("rearrange that moves", lambda t: t.rearrange(("p", "a", "b"), ("p", "b", "a")), lambda a: a.transpose(0, 2, 1)),
    ("ap", lambda t: t.ap([[24, 32], [6, 4], [2, 3]], offset=1), lambda a: a[:, :, 1::2]),
    ("ap with a step of 0", lambda t: t.ap([[24, 32], [0, 3], [1, 24]], offset=0), lambda a: np.stack([a] * 3, 1)),
    ("ap backwards", lambda t: t.ap([[24, 32], [-1, 24]], offset=23), lambda a: a.reshape(32, 24)[:, ::-1]),
    (
        "ap of a view starts at the view",
        lambda t: t[:, 1:, :].ap([[24, 32], [1, 6]], offset=2),
        lambda a: a.reshape(32, 24)[:, 8:14],
    ),
]


def contents(view: Callable[[Any], Any], x: np.ndarray, dtype: Any = None, hbm: bool = False) -> np.ndarray:
    """What `view` of a tensor that holds `x` addresses."""

    @jit
    def kernel(x: Any) -> Any:
        source = x
        if not hbm:
            source = nl.ndarray(x.shape, x.dtype, buffer=nl.sbuf)
            nisa.dma_copy(dst=source, src=x)
        seen = view(source)
        out = nl.ndarray(seen.shape, seen.dtype, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out, src=seen)
        return out

    result: np.ndarray = simulate(kernel, target="trn2")(x)
    return result


@pytest.mark.parametrize("hbm", [False, True], ids=["SBUF", "HBM"])
@pytest.mark.parametrize(("name", "view", "expected"), VIEWS, ids=[name for name, *_ in VIEWS])
def test_views(name: str, view: Callable[[Any], Any], expected: Callable[[Any], Any], hbm: bool) -> None:
    found = contents(view, X, hbm=hbm)
    wanted = expected(X)
    assert found.size == wanted.size
    np.testing.assert_array_equal(found.reshape(-1), wanted.reshape(-1))


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (lambda t: t[0], (4, 6)),
        (lambda t: t[3, 1], (6,)),
        (lambda t: t[3, 1, 2], (1,)),
        (lambda t: t.permute((2, 0, 1)), (6, 32, 4)),
        (lambda t: t[0:1].broadcast(0, 128), (128, 4, 6)),
        (lambda t: t.reshape((128, 6)), (128, 6)),
        (lambda t: t.flatten_dims(0, 1), (128, 6)),
    ],
)
def test_shapes_in_hbm(view: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
    assert contents(view, X, hbm=True).shape == shape


@pytest.mark.parametrize(
    ("view", "shape"),
    [
        (lambda t: t[0], (1, 4, 6)),
        (lambda t: t[:, 1, 2], (32, 1)),
        (lambda t: t[3, 1, 2], (1, 1)),
    ],
)
def test_shapes_on_chip_have_two_dimensions(view: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
    assert contents(view, X).shape == shape


@pytest.mark.parametrize(("dtype", "numpy"), [("int16", np.int16), ("uint8", np.uint8), ("float32", np.float32)])
def test_view_as_another_type(dtype: str, numpy: Any) -> None:
    found = contents(lambda t: t.view(dtype), BITS)
    np.testing.assert_array_equal(found.view(np.uint8), BITS.view(numpy).view(np.uint8))


def test_ap_as_another_type_counts_in_its_elements() -> None:
    found = contents(lambda t: t.ap([[16, 32], [2, 8]], offset=1, dtype=nl.int16), BITS)
    np.testing.assert_array_equal(found, BITS.view(np.int16)[:, 1::2])


def test_ap_of_a_slice_with_the_partition_step_of_the_slice() -> None:
    """As AWS's kernels make them, from the shape of what they are given."""
    found = contents(lambda t: t[:, 2:3].ap([[1, 32], [0, 4]]), BITS)
    np.testing.assert_array_equal(found, np.broadcast_to(BITS[:, 2:3], (32, 4)))


def test_patterns_and_predicates() -> None:
    seen = {}

    @jit
    def kernel(x: Any) -> None:
        tile = nl.load(x)
        seen["pattern"] = tile[:, 1:3, ::2].get_pattern()
        seen["contiguous"] = (tile[:, 1:3].is_contiguous(), tile[:, :, ::2].is_contiguous())
        placed = nl.ndarray((32, 4), nl.float32, address=(64, 1024))
        seen["addresses"] = (placed.address, tile.address, x.address)
        seen["indirect"] = (tile.is_indirect(), tile[:, nisa.register_alloc(1)].is_indirect())
        seen["regions"] = (
            nl.is_sbuf(tile.buffer),
            nl.is_hbm(x.buffer),
            nl.is_psum(x.buffer),
            nl.is_on_chip(tile.buffer),
        )

    simulate(kernel, target="trn2")(X)
    assert seen == {
        "pattern": [[24, 32], [6, 2], [2, 3]],
        "contiguous": (True, False),
        "addresses": ((64, 1024), None, None),
        "indirect": (False, True),
        "regions": (True, True, False, True),
    }


def test_writing_through_a_view_writes_the_tensor() -> None:
    @jit
    def kernel(x: Any) -> Any:
        tile, out = nl.load(x), nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        nisa.memset(tile[:, 1:3, ::2], 0.0)
        nisa.dma_copy(dst=out, src=tile)
        return out

    expected = X.copy()
    expected[:, 1:3, ::2] = 0
    np.testing.assert_array_equal(simulate(kernel, target="trn2")(X), expected)
