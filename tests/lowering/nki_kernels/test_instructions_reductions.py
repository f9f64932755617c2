"""Reductions, scans, selections and accumulator chains against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from instruction_case import BF16, FP32, INT32, Array, Example, cases, execute, integers, label, normal, single

from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import jit, simulate
from g4c.lowering.nki.simulator import language as nl

X, Y = normal(128, 40), normal(128, 40, seed=1)
H = normal(128, 40, dtype=BF16, seed=3)
S, T = normal(128, 1, seed=4), normal(128, 1, seed=5)
BITS = integers(0, 2**20, 64, 24)
FLAGS = integers(0, 2, 128, 40, dtype=np.uint8)
LEAST = np.float32(-3.4028235e38)
CMD = nisa.reduce_cmd


def wide(array: Array) -> Array:
    return array.astype(np.float64)


def scan(a: Array, b: Array, initial: Array) -> Array:
    """r[i] = a[i] * r[i - 1] + b[i] in fp32."""
    state, rows = initial[:, 0], []
    for n in range(a.shape[1]):
        state = a[:, n] * state + b[:, n]
        rows.append(state)
    return np.stack(rows, axis=1)


def statistics(a: Array) -> Array:
    columns = []
    for half in (wide(a)[:, 0::2], wide(a)[:, 1::2]):
        columns += [np.full(len(a), half.shape[1]), half.mean(1), half.var(1) * half.shape[1]]
    return np.stack(columns, axis=1)


EXAMPLES = [
    *(
        Example(
            f"tensor_reduce {name}",
            lambda d, a, name=name: nisa.tensor_reduce(d, getattr(nl, name), a, 1),
            (X,),
            lambda a, function=function: function(wide(a), axis=1),
            shape=(128, 1),
            tolerance=1e-5,
        )
        for name, function in (("add", np.sum), ("multiply", np.prod), ("maximum", np.max), ("minimum", np.min))
    ),
    *(
        Example(
            f"tensor_reduce of axes {axes}",
            lambda d, a, axes=axes, shape=shape: nisa.tensor_reduce(
                d.reshape(shape), nl.add, a.reshape((128, 2, 4, 5)), axes
            ),
            (X,),
            lambda a, axes=axes: wide(a).reshape(128, 2, 4, 5).sum(axis=axes),
            shape=(128, int(np.prod(shape[1:]))),
            tolerance=1e-5,
        )
        for axes, shape in ((3, (128, 2, 4)), ((2, 3), (128, 2)), ((1, 2, 3), (128, 1)), (-1, (128, 8)))
    ),
    Example(
        "tensor_reduce negated",
        lambda d, a: nisa.tensor_reduce(d, nl.maximum, a, [1], negate=True),
        (X,),
        lambda a: -a.max(axis=1),
        shape=(128, 1),
    ),
    Example(
        "tensor_reduce bitwise_or",
        lambda d, a: nisa.tensor_reduce(d, nl.bitwise_or, a, 1),
        (BITS,),
        lambda a: np.bitwise_or.reduce(a, axis=1),
        INT32,
        (64, 1),
    ),
    Example(
        "tensor_reduce into bf16 rounds once",
        lambda d, a: nisa.tensor_reduce(d, nl.maximum, a, 1),
        (X,),
        lambda a: a.max(axis=1).astype(BF16),
        BF16,
        (128, 1),
    ),
    *(
        Example(
            f"tensor_partition_reduce {name}",
            lambda d, a, name=name: nisa.tensor_partition_reduce(d, getattr(nl, name), a),
            (X,),
            lambda a, function=function: function(wide(a), axis=0),
            shape=(1, 40),
            tolerance=1e-5,
        )
        for name, function in (("add", np.sum), ("average", np.mean), ("maximum", np.max))
    ),
    Example(
        "bn_stats",
        lambda d, a: nisa.bn_stats(d, a[:, :39]),
        (X,),
        lambda a: statistics(a[:, :39]),
        shape=(128, 6),
        tolerance=1e-5,
    ),
    Example(
        "bn_aggr: mean and population variance",
        lambda d, a: (
            (nisa.bn_stats(d.reshape((128, 2, 6))[:, 0, :], a[:, :14]), nisa.bn_stats(d[:, 6:12], a[:, 14:]))
            and nisa.bn_aggr(d[:, 0:2], d[:, 0:12])
        ),
        (X,),
        lambda a: np.concatenate(
            [wide(a).mean(1)[:, None], wide(a).var(1)[:, None], statistics(a[:, :14])[:, 2:], statistics(a[:, 14:])], 1
        ),
        shape=(128, 12),
        tolerance=1e-5,
    ),
    Example(
        "tensor_tensor_scan: a recurrence",
        lambda d, a, b, s: nisa.tensor_tensor_scan(d, a, b, s, nl.multiply, nl.add),
        (X, Y, S),
        scan,
    ),
    Example(
        "tensor_tensor_scan: a running sum",
        lambda d, a, b: nisa.tensor_tensor_scan(d, a, b, 0.0, nl.multiply, nl.add),
        (np.ones_like(X), np.round(X)),
        lambda a, b: np.cumsum(b, axis=1),
    ),
    Example(
        "tensor_scalar_cumulative add",
        lambda d, a: nisa.tensor_scalar_cumulative(d, a, nl.multiply, nl.add, 2.0),
        (np.round(X),),
        lambda a: np.cumsum(a * 2, axis=1),
    ),
    Example(
        "tensor_scalar_cumulative maximum from a value",
        lambda d, a: nisa.tensor_scalar_cumulative(d, a, nl.add, nl.maximum, 1.0, 0.5, CMD.load_reduce),
        (X,),
        lambda a: np.maximum(np.maximum.accumulate(a + np.float32(1), axis=1), np.float32(0.5)),
    ),
    Example(
        "affine_select: a causal mask",
        lambda d, a: nisa.affine_select(d, [[-1, 40]], 1, a, -9984.0, nl.greater_equal, offset=16 - 3),
        (X,),
        lambda a: np.where(16 + np.arange(128)[:, None] >= 3 + np.arange(40), a, np.float32(-9984)),
    ),
    Example(
        "affine_select: a window",
        lambda d, a: nisa.affine_select(d, [[1, 40]], -1, a, -9984.0, nl.greater_equal, offset=3 - 16 + 20 - 1),
        (X,),
        lambda a: np.where(16 + np.arange(128)[:, None] - (3 + np.arange(40)) < 20, a, np.float32(-9984)),
    ),
    Example(
        "affine_select of two dimensions, cast",
        lambda d, a: nisa.affine_select(d, [[8, 5], [1, 8]], -3, a, 0.0, nl.less),
        (X,),
        lambda a: np.where(np.arange(40) - 3 * np.arange(128)[:, None] < 0, a, np.float32(0)).astype(BF16),
        BF16,
    ),
    Example(
        "range_select",
        lambda d, a, low, high: nisa.range_select(d, a, nl.greater_equal, nl.less, low, high, range_start=8),
        (X, np.round(S * 8) + 20, np.round(T * 8) + 30),
        lambda a, low, high: np.where((8 + np.arange(40) >= low) & (8 + np.arange(40) < high), a, LEAST),
        targets=("trn2", "trn3"),
    ),
    Example(
        "range_select into bf16 fills with -inf",
        lambda d, a, low: nisa.range_select(d, a, nl.greater, nl.greater, low, low),
        (H, np.full((128, 1), 9.0, np.float32)),
        lambda a, low: np.where(np.arange(40) > low, single(a), np.float32(-np.inf)).astype(BF16),
        BF16,
        targets=("trn2", "trn3"),
    ),
    Example(
        "select_reduce",
        lambda d, f, a, s: nisa.select_reduce(d, f, a, s),
        (FLAGS, X, S),
        lambda f, a, s: np.where(f != 0, a, s),
        shape=(128, 40),
    ),
    Example(
        "select_reduce reversed, of a number",
        lambda d, f, a: nisa.select_reduce(d, f, a, 1.5, reverse_pred=True),
        (FLAGS, X),
        lambda f, a: np.where(f == 0, a, np.float32(1.5)),
        shape=(128, 40),
    ),
]


@pytest.mark.parametrize(("example", "target"), cases(EXAMPLES), ids=label)
def test_against_numpy(example: Example, target: str) -> None:
    example.check(target)


def columns(instruction: Any, *arrays: Array, target: str = "trn2") -> Array:
    """What instruction(d, s, *tiles) leaves in the column `s` [128, 1]; `d` is scratch of the tiles' size."""

    def both(s: Any, *tiles: Any) -> None:
        instruction(nl.ndarray((128, 40), FP32, buffer=nl.sbuf), s, *tiles)

    return execute(both, *arrays, shape=(128, 1), target=target)


# Chains of an engine's accumulator registers.


def three_sums(d: Any, s: Any, a: Any) -> None:
    nisa.activation(d, nl.square, a, reduce_op=nl.add, reduce_cmd=CMD.reset_reduce)
    nisa.activation(d, nl.copy, a, reduce_op=nl.add, reduce_cmd=CMD.reduce)
    nisa.activation(d, nl.abs, a, reduce_op=nl.add, reduce_res=s, reduce_cmd=CMD.reduce)


def test_a_chain_of_activations_adds_up() -> None:
    expected = (np.square(wide(X)) + wide(X) + np.abs(wide(X))).sum(1, keepdims=True)
    np.testing.assert_allclose(columns(three_sums, X), expected, rtol=1e-5)


def test_activation_reduce_starts_anew() -> None:
    def twice(d: Any, s: Any, a: Any) -> None:
        nisa.activation_reduce(d, nl.copy, a, nl.add, s)
        nisa.activation_reduce(d, nl.copy, a, nl.add, s)

    np.testing.assert_allclose(columns(twice, X), wide(X).sum(1, keepdims=True), rtol=1e-4, atol=1e-5)


def test_a_reset_clears_without_adding() -> None:
    def cleared(d: Any, s: Any, a: Any) -> None:
        nisa.activation(d, nl.copy, a, reduce_op=nl.add, reduce_cmd=CMD.reset)
        nisa.activation(d, nl.copy, a, reduce_op=nl.add, reduce_res=s, reduce_cmd=CMD.reduce)

    np.testing.assert_allclose(columns(cleared, X), wide(X).sum(1, keepdims=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "function"), [("add", np.sum), ("multiply", np.prod), ("maximum", np.max), ("minimum", np.min)]
)
def test_tensor_scalar_reduce(name: str, function: Any) -> None:
    def reduced(d: Any, s: Any, a: Any) -> None:
        nisa.tensor_scalar_reduce(d, a, nl.add, 0.5, getattr(nl, name), s)

    expected = function(wide(X) + 0.5, axis=1, keepdims=True)
    np.testing.assert_allclose(columns(reduced, X), expected, rtol=1e-4, atol=1e-5)


def test_tensor_scalar_reduce_from_a_value_and_negated() -> None:
    def reduced(d: Any, s: Any, a: Any, init: Any) -> None:
        nisa.tensor_scalar_reduce(d, a, nl.add, 0.0, nl.add, reduce_cmd=CMD.load_reduce, reduce_init=init, reduce_res=s)
        nisa.tensor_scalar_reduce(d, a, nl.add, 0.0, nl.add, s, reduce_cmd=CMD.reduce, reduce_res_negate=True)

    expected = -(2 * wide(X).sum(1, keepdims=True) + T)
    np.testing.assert_allclose(columns(reduced, X, T), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["trn2", "trn3"])
def test_range_select_reduces_what_it_selects(target: str) -> None:
    def reduced(d: Any, s: Any, a: Any, high: Any) -> None:
        nisa.range_select(d, a, nl.less, nl.less, high, high, reduce_res=s)

    high = np.arange(128, dtype=np.float32)[:, None]
    expected = np.where(np.arange(40) < high, X, LEAST).max(1, keepdims=True)
    np.testing.assert_array_equal(columns(reduced, X, high, target=target), expected)


def test_select_reduce_reduces_what_it_selects() -> None:
    def reduced(d: Any, s: Any, f: Any, a: Any) -> None:
        nisa.select_reduce(d, f, a, -9.0, s, CMD.reset_reduce)

    expected = np.where(FLAGS != 0, X, np.float32(-9)).max(1, keepdims=True)
    np.testing.assert_array_equal(columns(reduced, FLAGS, X), expected)


def test_exponential_sums_up() -> None:
    def reduced(d: Any, s: Any, a: Any) -> None:
        nisa.exponential(d, a, reduce_cmd=CMD.load_reduce, reduce_init=1.0)
        nisa.exponential(d, a, max_value=1.0, reduce_res=s, reduce_cmd=CMD.reduce)

    expected = 1 + (np.exp(wide(X)) + np.exp(wide(X) - 1)).sum(1, keepdims=True)
    np.testing.assert_allclose(columns(reduced, X, target="trn3"), expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "expected"), [("maximum", X.max(1)), ("minimum", X.min(1))])
def test_activate2_reduces_with_more_operators(name: str, expected: Array) -> None:
    def reduced(d: Any, s: Any, a: Any) -> None:
        nisa.activate2(
            d,
            nl.copy,
            a,
            0.0,
            0.0,
            nl.bypass,
            nl.bypass,
            reduce_op=getattr(nl, name),
            reduce_res=s,
            reduce_cmd=CMD.reset_reduce,
        )

    np.testing.assert_array_equal(columns(reduced, X, target="trn3")[:, 0], expected)


def test_the_vector_engines_and_the_scalar_engines_registers_are_apart() -> None:
    @jit
    def kernel(x: Any) -> Any:
        a, d = nl.load(x), nl.ndarray(x.shape, FP32, buffer=nl.sbuf)
        s, t = nl.ndarray((128, 1), FP32, buffer=nl.sbuf), nl.ndarray((128, 1), FP32, buffer=nl.sbuf)
        nisa.activation(d, nl.copy, a, reduce_op=nl.add, reduce_cmd=CMD.reset_reduce)
        nisa.tensor_scalar_reduce(d, a, nl.add, 0.0, nl.maximum, t)
        nisa.activation(d, nl.copy, a, reduce_op=nl.add, reduce_res=s, reduce_cmd=CMD.reduce)
        out = nl.ndarray((128, 2), FP32, buffer=nl.shared_hbm)
        nisa.dma_copy(dst=out[:, 0:1], src=s)
        nisa.dma_copy(dst=out[:, 1:2], src=t)
        return out

    found = simulate(kernel, target="trn2")(X)
    np.testing.assert_allclose(found[:, 0], 2 * wide(X).sum(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[:, 1], X.max(1))
