"""Importing: each ATen op becomes IR ops that compute what torch computes, exactly where its bits are fixed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from aten_program import TORCH, as_array, imported, run, sample

from g4c.errors import G4cError
from g4c.frontend import custom_ops as _custom_ops  # noqa: F401  (registers torch.ops.g4c)
from g4c.frontend.aten_ops import HANDLERS
from g4c.ir.ops import ConstantOp, ConvertOp, LoadWeightOp, SliceOp
from g4c.ir.types import DType

Torch = Callable[..., torch.Tensor]

# Ops whose every bit is fixed: one rounding, or none.
EXACT: dict[str, tuple[Torch, tuple[tuple[int, ...], ...]]] = {
    "add": (lambda x, y: x + y, ((2, 3), (3,))),
    "sub": (lambda x, y: x - y, ((2, 3), (2, 1))),
    "mul": (lambda x, y: x * y, ((2, 3), (2, 3))),
    "mul-exact-number": (lambda x: x * 30.0, ((2, 3),)),
    "mul-inexact-number": (lambda x: x * 0.7071067811865476, ((64, 3),)),
    "minus-number": (lambda x: x - 1.0, ((2, 3),)),
    "div-number": (lambda x: x / 30.0, ((64, 3),)),
    "square": (lambda x: x.pow(2), ((2, 3),)),
    "neg": (lambda x: -x, ((2, 3),)),
    "view": (lambda x: x.view(3, -1), ((2, 3),)),
    "reshape": (lambda x: x.reshape(6), ((2, 3),)),
    "unsqueeze": (lambda x: x.unsqueeze(1), ((2, 3),)),
    "transpose": (lambda x: x.transpose(1, -1), ((2, 3, 4),)),
    "expand": (lambda x: x.expand(4, 2, 3), ((2, 3),)),
    "slice": (lambda x: x[..., 1:3], ((2, 4),)),
    "slice-from-the-end": (lambda x: x[..., -2:], ((2, 4),)),
    "whole-slice": (lambda x: x[:, 0:9] + 0, ((2, 4),)),
    "select": (lambda x: x[:, -1, :], ((2, 3, 4),)),
    "cat": (lambda x, y: torch.cat((x, y), dim=-1), ((2, 3), (2, 1))),
    "contiguous": (lambda x: x.transpose(0, 1).contiguous(), ((2, 3),)),
    "widen": (lambda x: x.float(), ((2, 3),)),
    "round": (lambda x: x.float().to(torch.bfloat16), ((2, 3),)),
    "type-as": (lambda x, y: (x.float() * 3).type_as(y), ((2, 3), (1,))),
    "mixed-dtypes": (lambda x, y: x.float() * y, ((2, 3), (2, 3))),
    "in-place": (lambda x, y: (x + 1).mul_(y), ((2, 3), (1,))),
    "div-in-place": (lambda x, y: (x + 1).div_(y), ((2, 3), (2, 1))),
    "top-k-values": (lambda x: x.topk(3)[0], ((4, 9),)),
    "top-k-indices": (lambda x, y: y[x.topk(3)[1]], ((2, 9), (9,))),
    "clamp-low": (lambda x: x.clamp(min=-0.5), ((2, 3),)),
    "clamp-high": (lambda x: x.clamp(max=0.25), ((2, 3),)),
    "clamp": (lambda x: x.clamp(-0.5, 0.25), ((2, 3),)),
    "dropout": (lambda x: F.dropout(x, 0.5, training=False), ((2, 3),)),
}
# Transcendental functions and sums: torch's last bit depends on its kernels.
ROUNDED: dict[str, tuple[Torch, tuple[tuple[int, ...], ...]]] = {
    "mean": (lambda x: x.mean(-1, keepdim=True), ((2, 64),)),
    "sum": (lambda x: x.sum(-1, keepdim=True), ((2, 64),)),
    "softmax": (lambda x: (8 * x).softmax(-1), ((2, 64),)),
    "softmax-f32": (lambda x: F.softmax(8 * x, dim=0, dtype=torch.float32), ((64, 2),)),
    "mean-two-axes": (lambda x: x.mean((0, 2)), ((2, 3, 4),)),
    "power": (lambda x: (x.pow(2) + 1e-6).pow(-0.5), ((2, 3),)),
    "rsqrt": (lambda x: torch.rsqrt(x * x), ((2, 3),)),
    "exp": (torch.exp, ((2, 3),)),
    "cos": (torch.cos, ((2, 3),)),
    "sin": (torch.sin, ((2, 3),)),
    "tanh": (torch.tanh, ((2, 3),)),
    "gelu": (lambda x: F.gelu(x, approximate="tanh"), ((2, 3),)),
    "linear": (F.linear, ((2, 3, 64), (5, 64))),
}


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
@pytest.mark.parametrize("case", [*EXACT, *ROUNDED])
def test_ops_compute_what_torch_computes(case: str, dtype: DType) -> None:
    function, shapes = (EXACT | ROUNDED)[case]
    inputs = [sample(*shape, dtype=TORCH[dtype], seed=i) for i, shape in enumerate(shapes)]
    found = run(imported(function, *inputs), *inputs)
    wanted = as_array(function(*inputs))
    assert found.dtype == wanted.dtype
    if case in EXACT:
        assert np.array_equal(found, wanted)
    else:
        tolerance = 2e-6 if wanted.dtype == np.float32 else 8e-3
        assert np.allclose(found.astype(np.float64), wanted.astype(np.float64), rtol=tolerance, atol=tolerance)


def test_every_handler_is_tested() -> None:
    functions = [(f, shapes) for f, shapes in (EXACT | ROUNDED).values()]
    seen = {"aten.embedding.default", "aten.squeeze.dim", "aten._to_copy.default"}
    for function, shapes in functions:
        inputs = [sample(*shape, dtype=torch.bfloat16) for shape in shapes]
        with torch.no_grad():
            exported = torch.export.export(_Wrapped(function), tuple(inputs), strict=False)
        seen |= {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    untested = {target for target in HANDLERS if not target.startswith("g4c.")} - seen
    assert untested <= {"aten.to.device", "aten.to.dtype_layout"}, untested


class _Wrapped(torch.nn.Module):
    def __init__(self, function: Torch) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)


def test_embedding_and_the_weight_table() -> None:
    table = sample(8, 4, dtype=torch.bfloat16)
    ids = torch.tensor([[1, 7, 1]], dtype=torch.int32)
    module = imported(lambda x, table: F.embedding(x, table), ids, table=table)
    assert np.array_equal(run(module, ids, table=table), as_array(F.embedding(ids, table)))
    assert [op.weight.name for op in module.functions["f"].ops_of(LoadWeightOp)] == ["table"]
    assert str(module.weights["table"].type) == "tensor<8x4xbf16>"


def test_a_weight_is_loaded_once() -> None:
    x, w = sample(2, 3), sample(3)
    module = imported(lambda x, w: (x * w) + w, x, w=w)
    assert len(list(module.functions["f"].ops_of(LoadWeightOp))) == 1


@pytest.mark.parametrize(("factor", "widened"), [(30.0, 0), (0.5, 0), (0.1, 1)])
def test_only_numbers_that_bf16_cannot_hold_are_met_in_f32(factor: float, widened: int) -> None:
    module = imported(lambda x: x * factor, sample(2, 3, dtype=torch.bfloat16))
    (constant,) = module.functions["f"].ops_of(ConstantOp)
    assert constant.result.dtype == (DType.F32 if widened else DType.BF16)
    assert len(list(module.functions["f"].ops_of(ConvertOp))) == 2 * widened


def test_a_slice_of_everything_is_nothing() -> None:
    module = imported(lambda x: x[:, slice(-0, None), :] * 2, sample(1, 2, 3))
    assert not list(module.functions["f"].ops_of(SliceOp))


@pytest.mark.parametrize("window", [0, 3])
def test_custom_ops_mean_the_same_in_torch_and_ir(window: int) -> None:
    ops = torch.ops.g4c
    q, k, v = sample(2, 4, 3, 8), sample(2, 9, 2, 8, seed=1), sample(2, 9, 2, 8, seed=2)
    x = sample(2, 3, 2, 8, seed=3)
    positions = torch.tensor([[10, 11, 12], [0, 1, -1]], dtype=torch.int32)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        keys, values = ops.kv_update(k, x, p), ops.kv_update(v, x, p)
        seen = ops.attention(q, keys, values, p, ops.held_positions(p, 9), 1.0, window)
        return seen[:, :2]  # the last query of the second sequence is padding

    def pick(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return ops.select_rows(x, rows)

    inputs = (q, k, v, x, positions)
    assert np.allclose(run(imported(attend, *meta(inputs)), *inputs), attend(*inputs).numpy(), rtol=1e-5, atol=1e-6)
    rows = torch.tensor([[2, 0], [1, 1]], dtype=torch.int32)
    hidden = sample(2, 3, 8)
    picked = run(imported(pick, *meta((hidden, rows))), hidden, rows)
    assert np.array_equal(picked, pick(hidden, rows).numpy())


@pytest.mark.parametrize("dtype", [DType.F32, DType.BF16])
def test_experts_mean_the_same_in_torch_and_ir(dtype: DType) -> None:
    x, gate_up, down = (
        sample(*shape, dtype=TORCH[dtype], seed=i) for i, shape in enumerate([(5, 16), (4, 24, 16), (4, 16, 12)])
    )
    indices = torch.tensor([[0, 3], [1, 0], [2, 3], [3, 1], [0, 1]], dtype=torch.int32)
    inputs = (x, indices, sample(5, 2), gate_up, down)
    experts = torch.ops.g4c.experts
    found = run(imported(lambda *xs: experts(*xs), *meta(inputs)), *inputs).astype(np.float32)
    tolerance = 1e-5 if dtype == DType.F32 else 2e-2  # gelu is rounded before the product in torch, after it in the IR
    wanted = experts(*inputs).float().numpy()
    assert np.abs(found - wanted).max() < tolerance * np.abs(wanted).max()


def meta(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.to("meta") for tensor in inputs)


# -- refusals -------------------------------------------------------------------------------------------------------
def _writes_into_a_view(x: torch.Tensor) -> torch.Tensor:
    whole = x + 1
    whole.view(-1).mul_(x.view(-1))
    return whole


REFUSED: dict[str, tuple[str, str, Torch]] = {
    "unknown": ("G4C-F053", "aten.erf.default", torch.erf),
    "erf-gelu": ("G4C-F054", "approximate='none'", F.gelu),
    "bias": ("G4C-F054", "linear with a bias", lambda x: F.linear(x, x, x[0])),
    "step": ("G4C-F054", "slice with step 2", lambda x: x[::2]),
    "alpha": ("G4C-F054", "AddOp with alpha", lambda x: torch.add(x, x, alpha=2)),
    "int64": ("G4C-F054", "torch.int64", lambda x: x * x.long()),
    "float64": ("G4C-F054", "torch.float64", lambda x: x.double()),
    "smallest": ("G4C-F054", "dim=-1, largest=False", lambda x: x.topk(2, largest=False)[0]),
    "top-k-axis": ("G4C-F054", "dim=0, largest=True", lambda x: x.topk(2, dim=0)[0]),
    "two-indices": ("G4C-F054", "other than one tensor", lambda x: x[x.topk(2)[1], x.topk(2)[1]]),
    "second-axis": ("G4C-F054", "other than one tensor", lambda x: x[:, x.topk(2)[1]]),
    "view": ("G4C-F054", "there is another view", _writes_into_a_view),
}


@pytest.mark.invalid_ir
@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_op_and_the_line(case: str) -> None:
    code, message, function = REFUSED[case]
    with pytest.raises(G4cError) as caught:
        imported(function, sample(3, 3))
    assert caught.value.code == code
    assert message in caught.value.message
    assert "f  function" in str(caught.value.where) or ".py:" in str(caught.value.where)


def test_what_is_written_in_place_is_read_anew() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x + 1
        y *= 3
        return y + x

    x = sample(2, 3)
    assert np.array_equal(run(imported(function, x), x), function(x).numpy())
