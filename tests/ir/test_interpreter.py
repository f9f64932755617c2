"""The interpreter: calls, caches, constant weights, wrong arrays, and that it lets go of what is used up."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from op_cases import tensor

from g4c.errors import G4cError
from g4c.ir.builder import Builder
from g4c.ir.interpreter import interpret
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Dense, Op, SymbolRef
from g4c.ir.ops import (
    AddOp,
    AttentionOp,
    CallOp,
    HeldPositionsOp,
    KvUpdateOp,
    LinearOp,
    MulOp,
    NegOp,
    SliceOp,
    SoftcapOp,
)
from g4c.ir.weights import Cache, RopeTable, Weight


def decoder() -> Module:
    """Two calls of one layer, each with its own cache: y = x + attention over all x so far."""
    module = Module("m")
    caches = [module.add_cache(Cache(f"layers.{i}.kv", tensor("1x4x1x2xf32"))) for i in range(2)]
    weight = module.add_weight(Weight.stored("w", tensor("2x2xf32")))
    layer = module.add_function(Function("layer", "layer"))
    x = layer.add_param("x", tensor("1x1x1x2xf32"))
    w = layer.add_param("w", weight.type)
    kv = layer.add_param("kv", caches[0].type)
    positions = layer.add_param("positions", tensor("1x1xi32"))
    b = Builder(layer)
    updated = b.emit(KvUpdateOp(kv, x, positions))
    held = b.emit(HeldPositionsOp(positions, 4, True))
    seen = b.emit(AttentionOp(x, (updated,), (updated,), positions, (held,), 0.0, 0))
    layer.results = [Result(b.emit(LinearOp(b.emit(AddOp(x, seen)), w)), "y"), Result(updated, "kv")]
    program = module.add_function(Function("decode", "program"))
    b = Builder(program)
    x = program.add_param("x", x.type)
    positions = program.add_param("positions", positions.type)
    states = [program.add_param(cache.name, cache.type, cache.name) for cache in caches]
    w = b.load(weight)
    for state in states:
        call = program.append(CallOp((x, w, state, positions), SymbolRef("layer"), (x.type, state.type)))
        x = call.results[0]
        program.results.append(Result(call.results[1], state.name, state.cache))
    program.results.insert(0, Result(x, "y"))
    return module


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_calls_and_caches() -> None:
    """With scale 0 attention is the mean of the positions so far; the weight doubles."""
    module = decoder()
    states = {name: np.zeros((1, 4, 1, 2), np.float32) for name in module.caches}
    kept = {name: state.copy() for name, state in states.items()}
    weights = {"w": 2 * np.eye(2, dtype=np.float32)}
    xs = [f32(1, 2), f32(3, 4), f32(5, 6)]
    inner: list[np.ndarray] = []
    for step, x in enumerate(xs):
        inputs = {"x": x.reshape(1, 1, 1, 2), "positions": np.array([[step]], np.int32)}
        outputs = interpret(module, "decode", {**inputs, **states}, weights)
        assert list(outputs) == ["y", "layers.0.kv", "layers.1.kv"]
        inner.append(2 * (x + np.mean(xs[: step + 1], axis=0)))
        expected = 2 * (inner[-1] + np.mean(inner, axis=0))
        np.testing.assert_allclose(outputs["y"].reshape(2), expected, rtol=1e-6)
        for name in states:
            np.testing.assert_array_equal(states[name], kept[name], "what was given must not change")
        states = {name: outputs[name] for name in states}
        kept = {name: state.copy() for name, state in states.items()}
    np.testing.assert_array_equal(states["layers.0.kv"][0, :3, 0], xs)
    np.testing.assert_allclose(states["layers.1.kv"][0, :3, 0], inner, rtol=1e-6)
    assert not states["layers.0.kv"][0, 3].any()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("x", np.zeros((1, 1, 1, 3), np.float32), "x must be tensor<1x1x1x2xf32>, got [1, 1, 1, 3] float32"),
        ("x", np.zeros((1, 1, 1, 2), np.float64), "x must be tensor<1x1x1x2xf32>, got [1, 1, 1, 2] float64"),
        ("positions", None, "no input for parameter positions (tensor<1x1xi32>)"),
        ("layers.1.kv", None, "no input for parameter layers.1.kv (tensor<1x4x1x2xf32>)"),
        ("w", np.zeros((2, 3), np.float32), "w must be tensor<2x2xf32>, got [2, 3] float32"),
        ("w", None, "no data for weight w (tensor<2x2xf32>)"),
    ],
)
def test_wrong_arrays(name: str, array: np.ndarray | None, message: str) -> None:
    module = decoder()
    inputs: dict[str, np.ndarray | None] = {
        "x": np.zeros((1, 1, 1, 2), np.float32),
        "positions": np.zeros((1, 1), np.int32),
        "w": np.zeros((2, 2), np.float32),
        **{cache: np.zeros((1, 4, 1, 2), np.float32) for cache in module.caches},
        name: array,
    }
    given = {key: value for key, value in inputs.items() if value is not None}
    weights = {"w": given.pop("w")} if "w" in given else {}
    with pytest.raises(G4cError) as caught:
        interpret(module, "decode", given, weights)
    assert caught.value.code == "G4C-V020"
    assert message in caught.value.message


def test_constant_weights_need_no_data() -> None:
    module = Module("m")
    frequencies = Weight("inv_freq", value=Dense.of(f32(1.0, 0.5)))
    table = module.add_weight(frequencies.then(RopeTable("cos", 3), name="table"))
    function = module.add_function(Function("f", "program"))
    function.results = [Result(Builder(function).load(table), "y")]
    expected = np.cos(np.outer(np.arange(3), [1.0, 0.5]))
    np.testing.assert_allclose(interpret(module, "f", {}, {})["y"], expected, rtol=1e-6)
    given = np.ones((3, 2), np.float32)
    np.testing.assert_array_equal(interpret(module, "f", {}, {"table": given})["y"], given)


def test_scalars_stay_arrays() -> None:
    """numpy turns results of rank 0 into its scalars; the next op must see an array."""
    module = Module("m")
    function = module.add_function(Function("f", "program"))
    b = Builder(function)
    x = function.add_param("x", tensor("f32"))
    y = b.emit(SoftcapOp(b.emit(MulOp(x, x)), 2.0))
    function.results = [Result(y, "y")]
    found = interpret(module, "f", {"x": np.array(3.0, np.float32)}, {})["y"]
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, 2 * np.tanh(4.5), rtol=1e-6)


def test_a_parameter_may_be_a_result() -> None:
    module = Module("m")
    function = module.add_function(Function("f", "program"))
    x = function.add_param("x", tensor("2xf32"))
    y = Builder(function).emit(NegOp(x))
    function.results = [Result(x, "x"), Result(y, "y"), Result(y, "again")]
    found = interpret(module, "f", {"x": f32(1, 2)}, {})
    np.testing.assert_array_equal(found["x"], f32(1, 2))
    np.testing.assert_array_equal(found["y"], found["again"])


def test_the_observer_sees_every_op_in_order() -> None:
    seen: list[tuple[str, str, list[tuple[int, ...]]]] = []

    def observe(function: str, op: Op, results: tuple[np.ndarray, ...]) -> None:
        seen.append((function, op.mnemonic, [result.shape for result in results]))

    module = decoder()
    inputs = {param.name: np.zeros(param.shape, param.dtype.numpy) for param in module.functions["decode"].params}
    interpret(module, "decode", inputs, {"w": np.zeros((2, 2), np.float32)}, observe=observe)
    x, cache = (1, 1, 1, 2), (1, 4, 1, 2)
    layer = [("layer", "g4.kv_update", [cache]), ("layer", "g4.held_positions", [(1, 4)])]
    layer += [("layer", f"g4.{name}", [x]) for name in ("attention", "add", "linear")]
    call = ("decode", "g4.call", [x, cache])
    assert seen == [("decode", "g4.load_weight", [(2, 2)]), *layer, call, *layer, call]


def test_values_are_dropped_after_their_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long chain keeps two arrays alive, not all of them."""
    made: list[weakref.ref[np.ndarray]] = []
    most = 0

    def reference(self: NegOp, *operands: np.ndarray) -> np.ndarray:
        nonlocal most
        result = -operands[0]
        made.append(weakref.ref(result))
        most = max(most, sum(entry() is not None for entry in made))
        return result

    monkeypatch.setattr(NegOp, "reference", reference)
    module = Module("m")
    function = module.add_function(Function("f", "program"))
    b = Builder(function)
    value = function.add_param("x", tensor("2xf32"))
    for _ in range(20):
        value = b.emit(NegOp(value))
        b.emit(SliceOp(value, (0,), (1,)))  # nobody reads it
    function.results = [Result(value, "y")]
    interpret(module, "f", {"x": f32(1, 2)}, {})
    assert most <= 3


def test_an_unknown_function() -> None:
    with pytest.raises(KeyError):
        interpret(Module("m"), "f", {}, {})
