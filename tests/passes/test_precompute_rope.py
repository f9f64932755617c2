"""precompute-rope: tables instead of cosines, bit for bit, also for proportional RoPE far out (pitfalls A1 to A3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from gemma_like import NAMES, GemmaLike, inverse_frequencies, module_of, set_results
from pass_testing import run_checked, run_once

from g4c.errors import G4cError
from g4c.ir import ops
from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module
from g4c.ir.op import Dense, SymbolRef, Value
from g4c.ir.types import DType, TensorType
from g4c.ir.weights import Weight
from g4c.passes.numerics import sample_weights

F32 = DType.F32
FREQUENCIES = Weight("f.inv_freq", value=Dense.of(np.array([1.0, 0.1, 0.0], np.float32)))


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_gemma_like_model(dtype: DType, batch: int) -> None:
    module = GemmaLike(dtype=dtype, batch=batch).module()
    run_once(module, "canonicalize")
    assert run_checked(module, "precompute-rope") == {"gathers": 8, "tables": 4}
    assert not [op for function in module.functions.values() for op in function.ops_of(ops.CosOp)]
    assert not [name for name in module.weights if name.endswith("inv_freq")]
    for kind, width in (("sliding", 128), ("full", 256)):
        for function in ("cos", "sin"):
            assert module.weights[f"rope.{kind}_attention.{function}"].type == TensorType((24, width), dtype)


def test_without_canonicalize_a_factor_of_one_is_in_the_way() -> None:
    module = GemmaLike().module()
    run_checked(module, "precompute-rope")
    assert [op for op in module.functions["decode"].ops_of(ops.MulOp) if op.loc.path == "model.rotary_emb"]


@pytest.mark.parametrize("kind", ["S", "F"])
def test_rotation_far_out_against_f64(kind: str) -> None:
    """q after RoPE at far positions, against complex rotation in f64 by the formula of the paper."""
    dim, theta, real = (256, 1e4, 128) if kind == "S" else (512, 1e6, 64)
    positions = np.array([[0, 1, 511, 1000, 32000]], np.int32)
    function = Function("main", "program")
    x = function.add_param("x", TensorType((1, 5, 2, dim), F32))
    where = function.add_param("positions", TensorType((1, 5), DType.S32))
    weight = Weight(f"rope.{NAMES[kind]}.inv_freq", value=Dense.of(inverse_frequencies(kind)))
    module = module_of(function, [], [weight])
    product = _product(function, where, weight)
    cos, sin = (function.append(op(product)).result for op in (ops.CosOp, ops.SinOp))
    y = function.append(ops.RopeOp(x, cos, sin)).result
    set_results(function, y)
    run_checked(module, "precompute-rope{context=32768}")

    data = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    found = interpret(module, "main", {"x": data, "positions": positions}, {})["y0"]
    angles = np.zeros((5, dim // 2))
    angles[:, :real] = positions[0][:, None] * theta ** (-2.0 * np.arange(real) / dim)
    pairs = (data[0, :, :, : dim // 2] + 1j * data[0, :, :, dim // 2 :]) * np.exp(1j * angles)[:, None, :]
    wanted = np.concatenate([pairs.real, pairs.imag], axis=-1)
    # f32 angles, as Hugging Face has them: the product of position and frequency is off by at most two roundings
    slack = 2.0**-23 * angles.max(axis=1) * np.abs(data).max() * 2
    assert (np.abs(found[0] - wanted).max(axis=(1, 2)) <= 1e-5 + slack).all()
    if kind == "F":
        untouched = [*range(64, 256), *range(320, 512)]
        np.testing.assert_array_equal(found[..., untouched], data[..., untouched])


def test_tables_are_exact_where_the_angles_are() -> None:
    """Against f64 cosines of the f32 angles, at 1e-6: the table adds no error of its own."""
    module = GemmaLike(context=32768, buckets=()).module()
    run_once(module, "canonicalize,precompute-rope")
    tables = sample_weights(module)
    positions = [0, 1, 511, 1000, 32000]
    for kind, name in NAMES.items():
        angles = (np.float32(positions)[:, None] * inverse_frequencies(kind)[None]).astype(np.float64)
        for function in ("cos", "sin"):
            found = tables[f"rope.{name}.{function}"][positions]
            np.testing.assert_allclose(found, getattr(np, function)(angles), rtol=0, atol=1e-6)
    full = tables["rope.full_attention.sin"]
    assert full.shape == (32768, 256)
    assert not full[:, 64:].any()
    assert full[1, :64].all()


# -- other ways to write the same, and almost the same -----------------------------------------------------------------


def _product(function: Function, positions: Value, weight: Weight) -> Value:
    frequencies = function.append(ops.LoadWeightOp(SymbolRef(weight.name), weight.type)).result
    counted = function.append(ops.ConvertOp(positions, positions.type.with_dtype(F32))).result
    counted = function.append(ops.ReshapeOp(counted, counted.type.with_shape((*counted.shape, 1)))).result
    return function.append(ops.MulOp(counted, frequencies)).result


def build(body: Callable[[Function, Value], Value], shape: tuple[int, int] = (2, 5)) -> Module:
    """A module that returns what `body` makes of positions * frequencies [2, 5, 3]."""
    function = Function("main", "program")
    positions = function.add_param("positions", TensorType(shape, DType.S32))
    module = module_of(function, [], [FREQUENCIES])
    module.attributes["max_context"] = 16
    value = body(function, _product(function, positions, FREQUENCIES))
    set_results(function, value)
    return module


def cosine(f: Function, x: Value) -> Value:
    return f.append(ops.CosOp(x)).result


def joined(f: Function, *xs: Value, axis: int = 2) -> Value:
    return f.append(ops.ConcatOp(xs, axis)).result


def shaped(f: Function, x: Value, *shape: int) -> Value:
    return f.append(ops.ReshapeOp(x, x.type.with_shape(shape))).result


def converted(f: Function, x: Value, dtype: DType) -> Value:
    return f.append(ops.ConvertOp(x, x.type.with_dtype(dtype))).result


SAME: dict[str, Callable[[Function, Value], Value]] = {
    "plain": cosine,
    "doubled before": lambda f, x: cosine(f, joined(f, x, x)),
    "doubled after": lambda f, x: (lambda c: joined(f, c, c))(cosine(f, x)),
    "with a head axis": lambda f, x: shaped(f, cosine(f, x), 2, 5, 1, 3),
    "transposed and back": lambda f, x: (
        f.append(ops.TransposeOp(cosine(f, f.append(ops.TransposeOp(x, (2, 0, 1))).result), (1, 2, 0))).result
    ),
    "rounded twice": lambda f, x: converted(f, converted(f, cosine(f, x), DType.BF16), F32),
    "repeated, then cut": lambda f, x: (
        f.append(ops.SliceOp(cosine(f, joined(f, x, x, x)), (0, 0, 3), (2, 5, 9))).result
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_in_other_words(name: str) -> None:
    module = build(SAME[name])
    assert run_checked(module, "precompute-rope") == {"gathers": 1, "tables": 1}
    assert not list(module.functions["main"].ops_of(ops.CosOp))


@pytest.mark.parametrize("shape", [(1, 5), (2, 1), (1, 1)])
def test_axes_of_extent_one(shape: tuple[int, int]) -> None:
    assert run_checked(build(cosine, shape), "precompute-rope") == {"gathers": 1, "tables": 1}


OTHER: dict[str, tuple[int, Callable[[Function, Value], Value]]] = {
    "no cosine": (0, lambda f, x: f.append(ops.ExpOp(x)).result),
    "angle rounded first": (0, lambda f, x: cosine(f, converted(f, converted(f, x, DType.BF16), F32))),
    "angle times two": (0, lambda f, x: cosine(f, f.append(ops.AddOp(x, x)).result)),
    "transposed": (0, lambda f, x: cosine(f, f.append(ops.TransposeOp(x, (2, 0, 1))).result)),
    "cosine of a cosine": (1, lambda f, x: cosine(f, cosine(f, x))),
    "axes merged": (1, lambda f, x: shaped(f, cosine(f, x), 10, 3)),
    "one position": (1, lambda f, x: f.append(ops.SliceOp(cosine(f, x), (0, 1, 0), (2, 2, 3))).result),
    "some frequencies": (1, lambda f, x: f.append(ops.SliceOp(cosine(f, x), (0, 0, 0), (2, 5, 2))).result),
    "positions joined": (1, lambda f, x: joined(f, cosine(f, x), cosine(f, x), axis=1)),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_is_not_a_table_is_left_or_made_from_one(name: str) -> None:
    gathers, body = OTHER[name]
    module = build(body)
    if gathers:
        assert run_checked(module, "precompute-rope")["gathers"] == gathers
    else:
        assert run_once(module, "precompute-rope") == {"gathers": 0, "tables": 0}


def test_stored_frequencies_are_left_alone() -> None:
    """Only constants: what comes from a checkpoint may be anything."""
    module = build(cosine)
    module.weights["f.inv_freq"] = Weight.stored("f.inv_freq", FREQUENCIES.type)
    assert run_once(module, "precompute-rope") == {"gathers": 0, "tables": 0}


def test_tables_of_two_types_have_two_names() -> None:
    def both(f: Function, x: Value) -> Value:
        low = f.append(ops.NegOp(converted(f, cosine(f, x), DType.BF16))).result
        return f.append(ops.AddOp(converted(f, low, F32), cosine(f, x))).result

    module = build(both)
    assert run_checked(module, "precompute-rope") == {"gathers": 2, "tables": 2}
    assert set(module.weights) == {"f.cos", "f.cos.f32.16"}


def test_the_length_must_be_known() -> None:
    module = build(cosine)
    del module.attributes["max_context"]
    with pytest.raises(G4cError) as caught:
        run_once(module, "precompute-rope")
    assert caught.value.code == "G4C-P040"


def test_the_length_is_that_of_the_caches_where_nothing_else_says_it() -> None:
    module = GemmaLike().module()
    del module.attributes["max_context"]
    run_once(module, "canonicalize,precompute-rope")
    assert module.weights["rope.full_attention.cos"].type.shape == (24, 256)


def test_tables_shorter_than_the_caches_are_refused() -> None:
    with pytest.raises(G4cError) as caught:
        run_once(GemmaLike().module(), "canonicalize,precompute-rope{context=23}")
    assert caught.value.code == "G4C-P041"
    assert caught.value.help == "precompute-rope{context=24}"
