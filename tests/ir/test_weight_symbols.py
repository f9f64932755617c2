"""Weights: types and data through every transform, their text, and chains that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from op_cases import tensor
from transformers.models.gemma4.configuration_gemma4 import Gemma4TextConfig
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextRotaryEmbedding

from g4c.ir.op import Dense, InvalidOpError
from g4c.ir.types import DType
from g4c.ir.weights import (
    TRANSFORMS,
    Cast,
    Concat,
    Reshape,
    RopeTable,
    Source,
    Transform,
    Transpose,
    Weight,
    parse_transform,
)

# transform, its text, the types of its inputs, what torch makes of them
CASES = [
    (Concat(0), "concat{axis=0}", ("2x3xf32", "4x3xf32"), lambda *xs: torch.cat(xs, 0)),
    (Concat(1), "concat{axis=1}", ("2x3xf32",), lambda x: x),
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
        ("turn", "unknown transform 'turn'; there are cast, concat, reshape, rope_table, transpose"),
        ("cast{dtype=f99}", "malformed value 'f99' in a transform"),
        ("concat{axis=one}", "malformed value 'one' in a transform"),
        ("transpose{permutation=1xx0}", "malformed value '1xx0' in a transform"),
        ("concat", "transform concat needs axis"),
        ("rope_table{length=4}", "transform rope_table needs function"),
        ("concat{axis=0,axis=1}", "field 'axis' is given twice"),
        ("concat{name=x}", "transform concat has no field 'name'"),
        ("concat{axis=0,axes=1}", "transform concat has no field 'axes'"),
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
            "weight w takes one tensor, got 2; concat comes first",
        ),
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
