"""Weights: types and data through every transform, their text, and chains that do not fit."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from op_cases import tensor
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextRotaryEmbedding

from g4c.ir.op import Dense, InvalidOpError
from g4c.ir.types import Array, DType
from g4c.ir.weights import (
    TRANSFORMS,
    Cast,
    Concat,
    Pad,
    Reshape,
    RopeTable,
    Scale,
    Slice,
    Source,
    Take,
    Transform,
    Transpose,
    Weight,
    parse_transform,
)

# transform, its text, the types of its inputs, what torch makes of them
CASES = [
    (Concat(0), "concat{axis=0}", ("2x3xf32", "4x3xf32"), lambda *xs: torch.cat(xs, 0)),
    (Concat(1), "concat{axis=1}", ("2x3xf32",), lambda x: x),
    (Concat(0, 2), "concat{axis=0,count=2}", ("2x3xf32", "4x3xf32"), lambda *xs: torch.cat(xs, 0)),
    (Concat(0, 2, at=1), "concat{axis=0,count=2,at=1}", ("2x3xf32", "4x3xf32"), lambda *xs: torch.cat(xs, 0)),
    (Slice(1, 1, 3), "slice{axis=1,start=1,limit=3}", ("2x3xf32",), lambda x: x[:, 1:3]),
    (Slice(0, 0, 2, at=3), "slice{axis=0,start=0,limit=2,at=3}", ("2x3xf32",), lambda x: x),
    (
        Take(0, 4, ((0, 1), (2, 3), (1, 2), (3, 4))),
        "take{axis=0,block=4,ranges=0:1+2:3+1:2+3:4}",
        ("8x3xf32",),
        lambda x: x[[0, 2, 1, 3, 4, 6, 5, 7]],
    ),
    (
        Take(1, 4, ((3, 4), (0, 2)), at=1),
        "take{axis=1,block=4,ranges=3:4+0:2,at=1}",
        ("2x8x3xf32",),
        lambda x: x[:, [3, 0, 1, 7, 4, 5]],
    ),
    (Take(0, 3, ((1, 3),)), "take{axis=0,block=3,ranges=1:3}", ("3xf32",), lambda x: x[1:]),
    (Pad(0, 4), "pad{axis=0,to=4}", ("2x3xf32",), lambda x: F.pad(x, (0, 0, 0, 2))),
    (Pad(1, 3), "pad{axis=1,to=3}", ("2x3xf32",), lambda x: x),
    (Scale(1), "scale{axis=1}", ("2x3xf32", "3xf32"), lambda x, w: x * w),
    (Scale(0, at=2), "scale{axis=0,at=2}", ("2x3xf32", "2xf32"), lambda x, w: x * w[:, None]),
    (Scale(0), "scale{axis=0}", ("3xf32", "3xf32"), lambda x, w: x * w),
    (Transpose((2, 0, 1)), "transpose{permutation=2x0x1}", ("2x3x4xf32",), lambda x: x.permute(2, 0, 1)),
    (Transpose(()), "transpose{permutation=}", ("f32",), lambda x: x),
    (Reshape((6, 1)), "reshape{shape=6x1}", ("2x3xf32",), lambda x: x.reshape(6, 1)),
    (Reshape(()), "reshape{shape=}", ("1x1xf32",), lambda x: x.reshape(())),
    (Cast(DType.BF16), "cast{dtype=bf16}", ("2x3xf32",), lambda x: x.bfloat16().float()),
    (Cast(DType.F8E4M3FN), "cast{dtype=f8E4M3FN}", ("2x3xf32",), lambda x: x.to(torch.float8_e4m3fn).float()),
    (
        RopeTable("cos", 5),
        "rope_table{function=cos,length=5}",
        ("4xf32",),
        lambda x: torch.cos(torch.arange(5.0)[:, None] * x),
    ),
    (
        RopeTable("sin", 5),
        "rope_table{function=sin,length=5}",
        ("4xf32",),
        lambda x: torch.sin(torch.arange(5.0)[:, None] * x),
    ),
]


def test_no_transform_without_a_case() -> None:
    assert {transform.name for transform, *_ in CASES} == set(TRANSFORMS)
    assert all(cls.__doc__ for cls in TRANSFORMS.values())


@pytest.mark.parametrize(("transform", "text", "inputs", "oracle"), CASES)
def test_transforms(transform: Transform, text: str, inputs: tuple[str, ...], oracle: object) -> None:
    assert str(transform) == text
    assert parse_transform(text) == transform
    types = tuple(tensor(entry) for entry in inputs)
    arrays = [np.random.default_rng(i).standard_normal(type.shape).astype(np.float32) for i, type in enumerate(types)]
    found = transform.apply(arrays)
    type = transform.infer(types)
    assert (found.shape, found.dtype) == (type.shape, type.dtype.numpy)
    expected = oracle(*map(torch.from_numpy, map(np.asarray, arrays))).numpy()
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("transform", "inputs", "message"),
    [
        (Concat(2), ("2x3xf32",), "concat: axis 2 of a rank-2 tensor"),
        (Concat(-1), ("2x3xf32",), "concat: axis -1 of a rank-2 tensor"),
        (Concat(0), ("2x3xf32", "2x4xf32"), "tensor<2x3xf32> and tensor<2x4xf32> differ outside axis 0"),
        (Concat(0), ("2x3xf32", "2x3xbf16"), "tensor<2x3xf32> and tensor<2x3xbf16> differ outside axis 0"),
        (Concat(0), ("2x3xf32", "2xf32"), "tensor<2x3xf32> and tensor<2xf32> differ outside axis 0"),
        (Transpose((0, 0)), ("2x3xf32",), "transpose: (0, 0) does not permute the axes of tensor<2x3xf32>"),
        (Transpose((0, 1)), ("2x3xf32", "2x3xf32"), "transpose takes one tensor, got 2; concat comes first"),
        (Reshape((5,)), ("2x3xf32",), "reshape: tensor<2x3xf32> has 6 elements, tensor<5xf32> has 5"),
        (Reshape((-2, -3)), ("2x3xf32",), "reshape: negative extent in (-2, -3)"),
        (Cast(DType.BF16), ("2xf32", "2xf32"), "cast takes one tensor, got 2"),
        (Slice(2, 0, 1), ("2x3xf32",), "slice: axis 2 of a rank-2 tensor"),
        (Slice(1, 2, 4), ("2x3xf32",), "slice: 2 to 4 along axis 1 of tensor<2x3xf32>"),
        (Slice(1, 2, 2), ("2x3xf32",), "slice: 2 to 2 along axis 1"),
        (Slice(1, -1, 2), ("2x3xf32",), "slice: -1 to 2 along axis 1"),
        (Take(2, 1, ((0, 1),)), ("2x3xf32",), "take: axis 2 of a rank-2 tensor"),
        (Take(1, 2, ((0, 1),)), ("2x3xf32",), "take: axis 1 of tensor<2x3xf32> is not made of blocks of 2"),
        (Take(1, 0, ((0, 1),)), ("2x3xf32",), "not made of blocks of 0"),
        (Take(1, 3, ((2, 4),)), ("2x3xf32",), "take: 2:4 of a block of 3"),
        (Take(1, 3, ((2, 2),)), ("2x3xf32",), "take: 2:2 of a block of 3"),
        (Take(1, 3, ()), ("2x3xf32",), "take: no ranges"),
        (Pad(2, 4), ("2x3xf32",), "pad: axis 2 of a rank-2 tensor"),
        (Pad(1, 2), ("2x3xf32",), "pad: axis 1 of tensor<2x3xf32> is longer than 2"),
        (Scale(0), ("2x3xf32",), "scale takes a tensor and a vector, got 1 tensors"),
        (Scale(2), ("2x3xf32", "3xf32"), "scale: axis 2 of a rank-2 tensor"),
        (Scale(0), ("2x3xf32", "3xf32"), "scale: tensor<3xf32> does not fit axis 0 of tensor<2x3xf32>"),
        (Scale(1), ("2x3xf32", "3x1xf32"), "scale: tensor<3x1xf32> does not fit axis 1"),
        (Scale(1), ("2x3xi8", "3xf32"), "scale: tensor<2x3xi8> by tensor<3xf32>: both are floats"),
        (RopeTable("cos", 4), ("2x3xf32",), "inv_freq must be f32[n], got tensor<2x3xf32>"),
        (RopeTable("cos", 4), ("3xbf16",), "inv_freq must be f32[n], got tensor<3xbf16>"),
        (RopeTable("tan", 4), ("3xf32",), "function must be cos or sin, got tan"),
        (RopeTable("cos", -1), ("3xf32",), "length must be >= 0, got -1"),
    ],
)
def test_transforms_that_do_not_fit(transform: Transform, inputs: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidOpError) as caught:
        transform.infer(tuple(map(tensor, inputs)))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("turn", "unknown transform 'turn'; there are cast, concat, pad, reshape, rope_table, scale, slice, take,"),
        ("cast{dtype=f99}", "malformed value 'f99' in a transform"),
        ("concat{axis=one}", "malformed value 'one' in a transform"),
        ("transpose{permutation=1xx0}", "malformed value '1xx0' in a transform"),
        ("concat", "transform concat needs axis"),
        ("rope_table{length=4}", "transform rope_table needs function"),
        ("concat{axis=0,axis=1}", "field 'axis' is given twice"),
        ("concat{name=x}", "transform concat has no field 'name'"),
        ("concat{axis=0,axes=1}", "transform concat has no field 'axes'"),
        ("take{axis=0,block=4,ranges=0:1:2}", "malformed value '0:1:2' in a transform"),
        ("take{axis=0,block=4,ranges=}", "malformed value '' in a transform"),
        ("take{axis=0,ranges=0:1}", "transform take needs block"),
        ("scale{at=1}", "transform scale needs axis"),
        ("scale{axis=0,at=}", "malformed value '' in a transform"),
        ("concat{axis=0", "malformed transform 'concat{axis=0'"),
    ],
)
def test_malformed_transforms(text: str, message: str) -> None:
    with pytest.raises(InvalidOpError) as caught:
        parse_transform(text)
    assert message in str(caught.value)


def test_a_chain_is_replayed_in_order() -> None:
    sources = (Source("a", tensor("2x3xf32")), Source("b", tensor("1x3xf32")))
    weight = Weight("w", sources, transforms=(Concat(0), Transpose((1, 0)))).then(Reshape((9,)), Cast(DType.BF16))
    assert weight.type == tensor("9xbf16")
    data = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(6, 9, dtype=np.float32).reshape(1, 3)}
    found = weight.materialize(lambda source: data[source.key])
    np.testing.assert_array_equal(found.astype(np.float32), [0, 3, 6, 1, 4, 7, 2, 5, 8])
    assert found.dtype == DType.BF16.numpy


def test_then_leaves_the_original() -> None:
    weight = Weight.stored("w", tensor("2x3xf32"))
    twin = weight.then(Transpose((1, 0)), name="t")
    assert (weight.name, weight.type, twin.name, twin.type) == ("w", tensor("2x3xf32"), "t", tensor("3x2xf32"))
    assert twin.sources == weight.sources
    assert weight.then() == weight


def test_defaults_may_be_written() -> None:
    assert parse_transform("concat{axis=1,count=0,at=0}") == parse_transform("concat{at=0,axis=1}") == Concat(1)


def test_steps_work_on_the_entries_that_they_name() -> None:
    """Folded and fused projections as a chain: [q, w, k, w] -> [q * w, k, w] -> [q * w, k * w] -> one matrix."""
    random = np.random.default_rng(0)
    data = {"q": random.standard_normal((4, 3)), "k": random.standard_normal((2, 3)), "w": random.standard_normal(3)}
    arrays = {name: array.astype(DType.BF16.numpy) for name, array in data.items()}
    keys = ("q", "w", "k", "w")
    sources = tuple(Source(key, tensor("x".join(map(str, arrays[key].shape)) + "xbf16")) for key in keys)
    weight = Weight("qk", sources, transforms=(Scale(1), Scale(1, at=1), Concat(0)))
    assert weight.type == tensor("6x3xbf16")
    q, k, w = (torch.from_numpy(arrays[name].astype(np.float32)) for name in "qkw")
    found = weight.materialize(lambda source: arrays[source.key])
    expected = (torch.cat([q, k]) * w).bfloat16().float().numpy()
    np.testing.assert_array_equal(found.astype(np.float32), expected)


def test_a_source_is_read_when_it_is_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources that wait are not in memory, nor are those whose step is done."""
    log: list[str] = []

    def apply(self: Scale, arrays: Sequence[Array]) -> Array:
        log.append(f"scale {self.at}")
        return arrays[0]

    def read(source: Source) -> Array:
        log.append(source.key)
        return np.zeros(source.type.shape, np.float32)

    monkeypatch.setattr(Scale, "apply", apply)
    parts = [Weight(key, (Source(key, tensor("2x3xf32")), Source("w", tensor("3xf32")))) for key in "qk"]
    joined = Weight.joined("qk", [part.then(Scale(1)) for part in parts], Concat(0))
    assert joined.materialize(read).shape == (4, 3)
    assert log == ["q", "w", "scale 0", "k", "w", "scale 1"]


PARTS = (
    Weight.stored("a", tensor("2x4xf32")),
    Weight("b", (Source("b0", tensor("1x4xf32")), Source("b1", tensor("2x4xf32"))), transforms=(Concat(0),)),
    Weight("c", (Source("c0", tensor("3x4xf32")), Source("c1", tensor("4xf32"))), transforms=(Scale(1),)).then(
        Take(1, 4, ((2, 4), (0, 2))), Slice(0, 1, 3)
    ),
    Weight(
        "d",
        tuple(Source(f"d{i}", tensor("1x2xf32")) for i in range(3)),
        transforms=(Pad(1, 4, at=1), Pad(1, 4, at=2), Concat(0, at=1), Slice(0, 1, 2, at=1), Pad(1, 4), Concat(0)),
    ),
)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 2), (3, 1, 2), (0, 1, 2, 3), (3, 3, 0, 1, 1, 2), (1,)])
def test_joined_chains_give_what_the_parts_give(order: tuple[int, ...]) -> None:
    def data(source: Source) -> Array:
        size = source.type.size
        return np.arange(size, dtype=np.float32).reshape(source.type.shape) + 100 * sum(map(ord, source.key))

    parts = [PARTS[i] for i in order]
    joined = Weight.joined("w", parts, Concat(0))
    wanted = np.concatenate([part.materialize(data) for part in parts])
    assert (joined.name, joined.type.shape) == ("w", wanted.shape)
    np.testing.assert_array_equal(joined.materialize(data), wanted)
    again = Weight.joined("v", [joined, *parts], Concat(0, len(parts) + 1))
    np.testing.assert_array_equal(again.materialize(data), np.concatenate([wanted, wanted]))
    replayed = dataclasses.replace(again, transforms=tuple(parse_transform(str(item)) for item in again.transforms))
    assert replayed == again


@pytest.mark.parametrize(("transform", "text", "inputs", "oracle"), CASES)
def test_what_is_undone_gives_the_same_again(
    transform: Transform, text: str, inputs: tuple[str, ...], oracle: object
) -> None:
    types = tuple(tensor(entry) for entry in inputs)
    arrays = [np.random.default_rng(i).standard_normal(type.shape).astype(np.float32) for i, type in enumerate(types)]
    made = transform.apply(arrays)
    undone = transform.undo(made, types)
    assert len(undone) == len(types)
    known = [array for array in undone if array is not None]
    if isinstance(transform, (Slice, RopeTable)) or (isinstance(transform, Take) and len(transform.ranges) < 3):
        assert not known
    else:
        assert [(array.shape, array.dtype) for array in known] == [(type.shape, type.dtype.numpy) for type in types]
        np.testing.assert_array_equal(transform.apply(known), made)
        if not isinstance(transform, (Scale, Cast)):
            for array, wanted in zip(known, arrays, strict=True):
                np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("ranges", [((0, 2), (1, 4)), ((0, 2), (3, 4)), ((0, 3),), ((0, 4), (0, 4)), ((1, 4), (0, 2))])
def test_a_selection_is_not_undone(ranges: tuple[tuple[int, int], ...]) -> None:
    step = Take(0, 4, ranges)
    array = np.zeros(step.infer((tensor("8xf32"),)).shape, np.float32)
    assert step.undo(array, (tensor("8xf32"),)) == [None]


def test_sources_of_a_joined_weight() -> None:
    """What cannot be told of one source does not hide the others."""
    parts = [
        Weight("q", (Source("q", tensor("4x3xf32")), Source("n", tensor("3xf32")))).then(Scale(1)),
        Weight.stored("k", tensor("4x3xf32")).then(Take(0, 4, ((2, 4), (0, 2)))),
        Weight.stored("v", tensor("4x3xf32")).then(Slice(0, 1, 3)),
    ]
    weight = Weight.joined("qkv", parts, Concat(0))
    random = np.random.default_rng(0)
    data = {source.key: random.standard_normal(source.type.shape).astype(np.float32) for source in weight.sources}
    q, n, k, v = weight.sources_of(weight.materialize(lambda source: data[source.key]))
    assert v is None
    np.testing.assert_array_equal(q, data["q"] * data["n"])
    np.testing.assert_array_equal(n, np.ones(3, np.float32))
    np.testing.assert_array_equal(k, data["k"])


def test_constants_are_not_joined() -> None:
    constant = Weight("c", value=Dense.of(np.ones((2, 4), np.float32)))
    for parts in ([PARTS[0], constant], [constant, constant]):
        with pytest.raises(InvalidOpError) as caught:
            Weight.joined("w", parts, Concat(0))
        assert "weight w: c is a constant, which cannot be joined" in str(caught.value)


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize(("shape", "axis"), [((700, 3000), 1), ((700, 3000), 0), ((5, 300, 900), 2), ((0, 4), 1)])
def test_large_matrices_are_scaled_piece_by_piece(dtype: DType, shape: tuple[int, ...], axis: int) -> None:
    random = np.random.default_rng(0)
    matrix = random.standard_normal(shape, dtype=np.float32).astype(dtype.numpy)
    vector = random.uniform(0.5, 1.5, shape[axis]).astype(dtype.numpy)
    tracemalloc.start()
    found = Scale(axis).apply([matrix, vector])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= matrix.nbytes + 3 * (4 << 20) + (1 << 20)
    x, w = (torch.from_numpy(array.astype(np.float32)) for array in (matrix, vector))
    scaled = x * w.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    expected = (scaled.bfloat16().float() if dtype == DType.BF16 else scaled).numpy()
    np.testing.assert_array_equal(found.astype(np.float32), expected)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (Weight("w"), "weight w: needs either sources or a constant"),
        (
            Weight("w", (Source("w", tensor("2xf32")),), Dense.scalar(1.0, DType.F32)),
            "weight w: needs either sources or a constant",
        ),
        (
            Weight("w", (Source("a", tensor("2xf32")), Source("b", tensor("2xf32")))),
            "weight w: its transforms leave 2 tensors; concat joins them",
        ),
        (
            Weight.stored("w", tensor("2x3xf32")).then(Transpose((1, 0), at=1)),
            "transpose{permutation=1x0,at=1} takes entries that a list of 1 has not",
        ),
        (Weight.stored("w", tensor("2x3xf32")).then(Transpose((1, 0), at=-1)), "takes entries that a list of 1 has"),
        (Weight.stored("w", tensor("2x3xf32")).then(Concat(0, 2)), "takes entries that a list of 1 has not"),
        (Weight.stored("w", tensor("2x3xf32")).then(Concat(0, -1)), "takes entries that a list of 1 has not"),
        (Weight.stored("w", tensor("2x3xf32")).then(Concat(0, at=1)), "takes entries that a list of 1 has not"),
        (Weight.stored("w", tensor("2x3xf32")).then(Scale(1)), "scale{axis=1} takes entries that a list of 1 has not"),
        (
            Weight.stored("w", tensor("2x3xf32")).then(Transpose((1, 0)), Reshape((7,))),
            "tensor<3x2xf32> has 6 elements",
        ),
    ],
)
def test_weights_that_do_not_fit(weight: Weight, message: str) -> None:
    with pytest.raises(InvalidOpError) as caught:
        _ = weight.type
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
def test_the_rope_table_is_that_of_hugging_face(kind: str) -> None:
    """f32 tables at the positions where a wrong angle shows, for both kinds of layers and their head dims."""
    config = Gemma4TextConfig(head_dim=256, global_head_dim=512, num_hidden_layers=6)
    rotary = Gemma4TextRotaryEmbedding(config)
    inv_freq = getattr(rotary, f"{kind}_inv_freq")
    positions = torch.tensor([[0, 1, 511, 1000, 32000]])
    x = torch.zeros((1, 1), dtype=torch.float32)
    expected = dict(zip(("cos", "sin"), rotary(x, positions, kind), strict=True))
    weight = Weight("inv_freq", value=Dense.of(inv_freq.float().numpy()))
    for function, table in expected.items():
        found = weight.then(RopeTable(function, 32001)).materialize(lambda source: pytest.fail(f"{source} was read"))
        half = table.shape[-1] // 2
        assert half == {"sliding_attention": 128, "full_attention": 256}[kind]
        np.testing.assert_allclose(found[positions[0].numpy()], table[0, :, :half].numpy(), atol=1e-6)
