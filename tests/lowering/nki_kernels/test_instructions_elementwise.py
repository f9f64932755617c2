"""Elementwise instructions against numpy: operators, rounding, integers, operands, activation functions."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from instruction_case import BF16, FP32, INT32, UINT32, Array, Example, cases, execute, integers, label, normal, single

from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl

X, Y, Z = normal(128, 40), normal(128, 40, seed=1), normal(128, 40, seed=2)
H = normal(128, 40, dtype=BF16, seed=3)
S = normal(128, 1, seed=4)
I32, J = integers(-50, 50, 64, 24), integers(-50, 50, 64, 24, seed=1)
BIG = integers(-(2**30), 2**30, 64, 24, seed=2)
POSITIVE = np.abs(X) + np.float32(0.1)

ARITHMETIC = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater_equal": np.greater_equal,
    "greater": np.greater,
    "less_equal": np.less_equal,
    "less": np.less,
}
BITWISE = {"bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor}

EXAMPLES = [
    *(
        Example(
            f"tensor_tensor {name}",
            lambda d, a, b, name=name: nisa.tensor_tensor(d, a, b, getattr(nl, name)),
            (np.round(X), np.round(Y)),
            lambda a, b, function=function: single(function(a, b)),
        )
        for name, function in ARITHMETIC.items()
    ),
    *(
        Example(
            f"tensor_scalar {name} reverse={reverse}",
            lambda d, a, s, name=name, reverse=reverse: nisa.tensor_scalar(d, a, getattr(nl, name), s, reverse),
            (np.round(X), np.round(S)),
            lambda a, s, function=function, reverse=reverse: single(function(s, a) if reverse else function(a, s)),
        )
        for name, function in ARITHMETIC.items()
        for reverse in (False, True)
    ),
    *(
        Example(
            f"tensor_tensor {name}",
            lambda d, a, b, name=name: nisa.tensor_tensor(d, a, b, getattr(nl, name)),
            (BIG, J),
            lambda a, b, function=function: function(a, b),
            INT32,
            options={},
        )
        for name, function in BITWISE.items()
    ),
    Example(
        "right_shift is logical",
        lambda d, a: nisa.tensor_scalar(d, a, nl.right_shift, 3),
        (BIG,),
        lambda a: (a.view(np.uint32) >> np.uint32(3)).view(np.int32),
        INT32,
    ),
    Example(
        "left_shift, then invert",
        lambda d, a: nisa.tensor_scalar(d, a, nl.left_shift, 2, False, nl.invert, None),
        (J,),
        lambda a: ~(a << 2),
        INT32,
    ),
    Example(
        "two operators of tensor_scalar: rounded once",
        lambda d, a: nisa.tensor_scalar(d, a, nl.multiply, 1.01, op1=nl.add, operand1=0.3),
        (H,),
        lambda a: (single(a) * np.float32(1.01) + np.float32(0.3)).astype(BF16),
        BF16,
    ),
    Example(
        "tensor_scalar with reversed sides",
        lambda d, a, s: nisa.tensor_scalar(d, a, nl.subtract, 1.0, True, nl.subtract, s, True),
        (X, S),
        lambda a, s: s - (np.float32(1) - a),
    ),
    Example(
        "tensor_scalar by the Scalar Engine",
        lambda d, a, s: nisa.tensor_scalar(d, a, nl.multiply, s, op1=nl.add, operand1=2.0, engine=nisa.engine.scalar),
        (X, S),
        lambda a, s: a * s + np.float32(2),
        targets=("trn2", "trn3"),
    ),
    Example(
        "power",
        lambda d, a: nisa.tensor_scalar(d, a, nl.power, 3.0),
        (POSITIVE,),
        lambda a: a.astype(np.float64) ** 3,
        tolerance=4e-7,
    ),
    Example(
        "a power of tiles",
        lambda d, a, b: nisa.tensor_tensor(d, a, b, nl.power),
        (POSITIVE, Y),
        lambda a, b: a.astype(np.float64) ** b.astype(np.float64),
        tolerance=1e-6,
    ),
    Example(
        "rsqrt by GpSimd",
        lambda d, a: nisa.tensor_scalar(d, a, nl.rsqrt, None),
        (POSITIVE,),
        lambda a: a.astype(np.float64) ** -0.5,
        tolerance=4e-7,
    ),
    Example(
        "reciprocal",
        lambda d, a: nisa.reciprocal(d, a),
        (POSITIVE,),
        lambda a: np.float32(1) / a,
    ),
    Example("abs", lambda d, a: nisa.tensor_scalar(d, a, nl.abs, 0), (X,), np.abs),
    Example("square", lambda d, a: nisa.tensor_scalar(d, a, nl.square, None), (X,), np.square, targets=("trn3",)),
    Example(
        "abs_max keeps the sign",
        lambda d, a, b: nisa.tensor_tensor(d, a, b, nl.abs_max),
        (X, Y),
        lambda a, b: np.where(np.abs(a) > np.abs(b), a, b),
        targets=("trn3",),
    ),
    Example(
        "scalar_tensor_tensor",
        lambda d, a, b, s: nisa.scalar_tensor_tensor(d, a, nl.multiply, s, nl.add, b),
        (X, Y, S),
        lambda a, b, s: a * s + b,
    ),
    Example(
        "scalar_tensor_tensor with a bf16 column",
        lambda d, a, b, h: nisa.scalar_tensor_tensor(d, a, nl.multiply, h[:, 0:1], nl.add, b),
        (X, Y, H),
        lambda a, b, h: a * single(h[:, :1]) + b,
    ),
    Example(
        "scalar_tensor_tensor with reversed sides",
        lambda d, a, b: nisa.scalar_tensor_tensor(d, a, nl.subtract, 1.0, nl.subtract, b, True, True),
        (X, Y),
        lambda a, b: b - (np.float32(1) - a),
    ),
    Example(
        "int32 on GpSimd beyond 2^24",
        lambda d, a, b: nisa.tensor_tensor(d, a, b, nl.add),
        (BIG, BIG),
        lambda a, b: a + b,
        INT32,
    ),
    Example(
        "int32 on GpSimd wraps around",
        lambda d, a, b: nisa.tensor_tensor(d, a, b, nl.multiply),
        (BIG, J),
        lambda a, b: a * b,
        INT32,
    ),
    Example(
        "small int32 on the Vector Engine",
        lambda d, a, b: nisa.tensor_tensor(d, a, b, nl.multiply, engine=nisa.engine.vector),
        (I32, J),
        lambda a, b: a * b,
        INT32,
    ),
    Example(
        "mixed types",
        lambda d, a, b: nisa.tensor_tensor(d, a, b, nl.add),
        (X, H),
        lambda a, b: (a + single(b)).astype(BF16),
        BF16,
    ),
    Example(
        "ranks may differ",
        lambda d, a, b: nisa.tensor_tensor(d.reshape((128, 8, 5)), a, b.reshape((128, 5, 8)), nl.add),
        (X, Y),
        np.add,
    ),
    Example(
        "in place",
        lambda d, a: (nisa.tensor_copy(d, a), nisa.tensor_tensor(d, d, d, nl.add)),
        (X,),
        lambda a: a + a,
    ),
]


@pytest.mark.parametrize(("example", "target"), cases(EXAMPLES), ids=label)
def test_against_numpy(example: Example, target: str) -> None:
    example.check(target)


@pytest.mark.parametrize(
    ("dtype", "numbers", "stored"),
    [
        (INT32, [0.5, 1.5, 2.5, -0.5, -1.5, 3e9, -3e9, 2.4999], [0, 2, 2, 0, -2, 2**31 - 1, -(2**31), 2]),
        (UINT32, [0.5, 1.5, -1.0, 5e9], [0, 2, 0, 2**32 - 1]),
        (np.dtype(np.int8), [127.5, -128.5, -0.5, 1e6], [127, -128, 0, 127]),
        (np.dtype(np.uint8), [254.5, 255.5, -3.0, 0.5], [254, 255, 0, 0]),
        (np.dtype(np.uint16), [65534.5, 7e4], [65534, 65535]),
        (BF16, [1.00390625, 1.01171875], [1.0, 1.015625]),  # halfway: to even
        (np.dtype(np.float16), [65520.0, 1.00048828125], [np.inf, 1.0]),
        (np.dtype(ml_dtypes.float8_e5m2), [1.125, 1.375], [1.0, 1.5]),
    ],
    ids=str,
)
def test_rounding(dtype: np.dtype, numbers: list[float], stored: list[float]) -> None:
    """Nearest even, once; integers saturate."""
    found = execute(lambda d, a: nisa.tensor_copy(d, a), np.array([numbers], np.float32), dtype=dtype)
    np.testing.assert_array_equal(found[0], np.array(stored).astype(dtype))


TORCH = {
    "square": torch.square,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_apprx_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_apprx_sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
    "mish": torch.nn.functional.mish,
    "erf": torch.erf,
    "exp": torch.exp,
    "sign": torch.sign,
    "abs": torch.abs,
    "log": lambda x: torch.log(x.abs() + 1),
    "sin": torch.sin,
    "arctan": torch.atan,
    "sqrt": lambda x: torch.sqrt(x.abs() + 1),
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 1),
    "reciprocal": lambda x: torch.reciprocal(x.abs() + 1),
}
DERIVATIVES = {"gelu_dx": "gelu", "gelu_apprx_sigmoid_dx": "gelu_apprx_sigmoid", "silu_dx": "silu", "erf_dx": "erf"}
SHIFTED = frozenset({"log", "sqrt", "rsqrt", "reciprocal"})


@pytest.mark.parametrize("name", [*TORCH, *DERIVATIVES])
def test_activation_functions(name: str) -> None:
    x = np.linspace(-1.5, 1.5, 128 * 40, dtype=np.float32).reshape(128, 40)
    wide = torch.from_numpy(x).double().requires_grad_()
    if name in DERIVATIVES:
        expected = torch.autograd.grad(TORCH[DERIVATIVES[name]](wide).sum(), wide)[0]
    else:
        expected = TORCH[name](wide)
    argument = np.abs(x) + np.float32(1) if name in SHIFTED else x
    found = execute(lambda d, a: nisa.activation(d, getattr(nl, name), a), argument)
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=2e-6, atol=1e-6)


def test_sin_outside_of_its_range_is_the_documented_cubic() -> None:
    from g4c.lowering.nki.simulator import activations

    found = activations.evaluate(activations.ACTIVATIONS["sin"], np.array([9.0], np.float32))
    assert found[0] == pytest.approx(27.65, abs=0.01)


def activate(d: nl.NkiTensor, a: nl.NkiTensor, scale: object, bias: object) -> None:
    nisa.activation(d, nl.tanh, a, bias=bias, scale=scale)


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_activation_scales_then_adds_the_bias(dtype: np.dtype) -> None:
    found = execute(activate, X, S, H[:, :1], dtype=dtype)
    wide: Array = np.tanh(X.astype(np.float64) * S + H[:, :1].astype(np.float64))
    np.testing.assert_allclose(found.astype(np.float64), wide, rtol=2e-6 if dtype == FP32 else 2**-8, atol=1e-6)


@pytest.mark.parametrize(
    ("ops", "function"),
    [
        (("multiply", "add"), lambda a: a * 2 + 3),
        (("multiply", "subtract"), lambda a: a * 2 - 3),
        (("multiply", "bypass"), lambda a: a * 2),
        (("add", "bypass"), lambda a: a + 2),
        (("subtract", "bypass"), lambda a: a - 2),
        (("bypass", "bypass"), lambda a: a),
    ],
    ids=["multiply-add", "multiply-subtract", "multiply", "add", "subtract", "bypass"],
)
def test_activate2(ops: tuple[str, str], function: object) -> None:
    first, second = (getattr(nl, name) for name in ops)
    found = execute(lambda d, a: nisa.activate2(d, nl.tanh, a, 2.0, 3.0, first, second), X, target="trn3")
    np.testing.assert_allclose(found, np.tanh(function(X.astype(np.float64))), rtol=1e-6, atol=1e-6)  # type: ignore[operator]


def test_activate2_with_prelu_and_reversed_sides() -> None:
    found = execute(
        lambda d, a: nisa.activate2(d, nl.prelu, a, 1.0, 0.0, nl.subtract, nl.bypass, relu_param=0.25, reverse0=True),
        X,
        target="trn3",
    )
    expected = np.float32(1) - X
    np.testing.assert_array_equal(found, np.where(expected >= 0, expected, expected * np.float32(0.25)))


def test_exponential() -> None:
    found = execute(lambda d, a, s: nisa.exponential(d, a, max_value=s), X, S, target="trn3")
    np.testing.assert_allclose(found, np.exp(X.astype(np.float64) - S), rtol=1e-6)
