"""What each ATen and g4c op means in elementary IR ops: one function per op.

In: the importer, the type torch gave the result, the op's arguments with tensors already imported. Out: the result,
or a list of the results. Invariant: the IR ops compute what torch computes on the CPU, rounding included. Torch
computes an elementwise op on bf16 tensors in f32 and rounds once, and takes a Python number as f32 there; so does the
IR, where a number that bf16 cannot hold exactly is met in f32 and the result rounded by a conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from g4c.ir.op import Op, Value
from g4c.ir.ops.attention import AttentionOp, HeldPositionsOp, KvUpdateOp
from g4c.ir.ops.contraction import LinearOp
from g4c.ir.ops.elementwise import (
    AddOp,
    CosOp,
    DivOp,
    ExpOp,
    GeluOp,
    MaxOp,
    MinOp,
    MulOp,
    NegOp,
    PowOp,
    RsqrtOp,
    SinOp,
    SubOp,
    TanhOp,
)
from g4c.ir.ops.experts import ExpertsOp
from g4c.ir.ops.indexing import GatherOp, SelectRowsOp
from g4c.ir.ops.ordering import TopKOp
from g4c.ir.ops.shape import BroadcastOp, ConcatOp, ReduceOp, SliceOp, TransposeOp
from g4c.ir.types import DType, TensorType

if TYPE_CHECKING:
    from g4c.frontend.import_aten import _Importer

Handler = Callable[..., "Value | list[Value]"]

# Ops without a result that matters, and ops whose result is their first argument.
IGNORED = frozenset(("aten._assert_tensor_metadata.default",))
IDENTITIES = frozenset(
    (
        "aten.alias.default",
        "aten.detach.default",
        "aten.contiguous.default",
        "aten.clone.default",
        "aten.dropout.default",
    )
)
HANDLERS: dict[str, Handler] = {}


def _handles(*targets: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(targets, handler))
        return handler

    return register


# -- elementwise ----------------------------------------------------------------------------------------------------
def _binary(build: Callable[..., Op]) -> Handler:
    def handle(im: _Importer, type: TensorType, x: Value | float, y: Value | float, **kwargs: Any) -> Value:
        if kwargs:
            raise im.unsupported(f"{build.__name__} with {', '.join(kwargs)}")
        dtype = type.dtype
        numbers = [entry for entry in (x, y) if not isinstance(entry, Value)]
        if dtype.is_float and not all(_is_exact(number, dtype) for number in numbers):
            dtype = DType.F32
        operands = [im.convert(e, dtype) if isinstance(e, Value) else im.scalar(e, dtype) for e in (x, y)]
        return im.convert(im.emit(build(*operands, loc=im.loc)), type.dtype)

    return handle


def _is_exact(number: float, dtype: DType) -> bool:
    return dtype == DType.F32 or float(np.asarray(number).astype(dtype.numpy)) == number


def _unary(build: Callable[..., Op]) -> Handler:
    return lambda im, type, x: im.emit(build(im.convert(x, type.dtype), loc=im.loc))


HANDLERS["aten.add.Tensor"] = _binary(AddOp)
HANDLERS["aten.sub.Tensor"] = _binary(SubOp)
HANDLERS["aten.mul.Tensor"] = HANDLERS["aten.mul_.Tensor"] = _binary(MulOp)
HANDLERS["aten.div.Tensor"] = HANDLERS["aten.div_.Tensor"] = _binary(DivOp)
HANDLERS["aten.pow.Tensor_Scalar"] = _binary(PowOp)
HANDLERS["aten.neg.default"] = _unary(NegOp)
HANDLERS["aten.cos.default"] = _unary(CosOp)
HANDLERS["aten.sin.default"] = _unary(SinOp)
HANDLERS["aten.exp.default"] = _unary(ExpOp)
HANDLERS["aten.tanh.default"] = _unary(TanhOp)
HANDLERS["aten.rsqrt.default"] = _unary(RsqrtOp)


@_handles("aten.gelu.default")
def _gelu(im: _Importer, type: TensorType, x: Value, approximate: str = "none") -> Value:
    if approximate != "tanh":
        raise im.unsupported(f"gelu with approximate={approximate!r}; Gemma 4 uses the tanh approximation")
    return im.emit(GeluOp(x, loc=im.loc))


@_handles("aten.to.dtype", "aten.to.device", "aten.type_as.default", "aten.to.dtype_layout", "aten._to_copy.default")
def _convert(im: _Importer, type: TensorType, x: Value, *args: object, **kwargs: object) -> Value:
    return im.convert(x, type.dtype)


def _reduction(kind: str) -> Handler:
    def handle(
        im: _Importer, type: TensorType, x: Value, dims: list[int], keepdim: bool = False, **kwargs: object
    ) -> Value:
        axes = tuple(sorted(dim % x.type.rank for dim in dims))
        return im.emit(ReduceOp(im.convert(x, type.dtype), kind, axes, keepdim, loc=im.loc))

    return handle


HANDLERS["aten.mean.dim"] = _reduction("mean")
HANDLERS["aten.sum.dim_IntList"] = _reduction("sum")


@_handles("aten.softmax.int")
def _softmax(im: _Importer, type: TensorType, x: Value, dim: int, *args: object) -> Value:
    """In f32, whatever the type: the largest entry is subtracted first, as torch does."""
    axes = (dim % x.type.rank,)
    x = im.convert(im.convert(x, type.dtype), DType.F32)
    top = im.emit(ReduceOp(x, "max", axes, True, loc=im.loc))
    powers = im.emit(ExpOp(im.emit(SubOp(x, top, loc=im.loc)), loc=im.loc))
    total = im.emit(ReduceOp(powers, "sum", axes, True, loc=im.loc))
    return im.convert(im.emit(DivOp(powers, total, loc=im.loc)), type.dtype)


@_handles("aten.topk.default")
def _top_k(
    im: _Importer,
    type: TensorType,
    x: Value,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,  # either way the result may be sorted
) -> list[Value]:
    """Indices are s32 in the IR; whatever reads them takes them as such."""
    if not largest or dim % x.type.rank != x.type.rank - 1:
        raise im.unsupported(f"topk of {x.type} with dim={dim}, largest={largest}")
    return list(im.function.append(TopKOp(x, k, loc=im.loc)).results)


@_handles("aten.clamp.default")
def _clamp(im: _Importer, type: TensorType, x: Value, low: float | None = None, high: float | None = None) -> Value:
    if low is not None:
        x = im.emit(MaxOp(x, im.scalar(low, type.dtype), loc=im.loc))
    return x if high is None else im.emit(MinOp(x, im.scalar(high, type.dtype), loc=im.loc))


# -- shape ----------------------------------------------------------------------------------------------------------
@_handles("aten.view.default", "aten.reshape.default", "aten.unsqueeze.default", "aten.squeeze.dim")
def _reshape(im: _Importer, type: TensorType, x: Value, *args: object) -> Value:
    return im.reshape(x, type.shape)


@_handles("aten.expand.default")
def _expand(im: _Importer, type: TensorType, x: Value, *args: object) -> Value:
    return im.emit(BroadcastOp(x, type, loc=im.loc))


@_handles("aten.transpose.int")
def _transpose(im: _Importer, type: TensorType, x: Value, first: int, second: int) -> Value:
    axes = list(range(x.type.rank))
    axes[first], axes[second] = axes[second], axes[first]
    return im.emit(TransposeOp(x, tuple(axes), loc=im.loc))


@_handles("aten.slice.Tensor")
def _slice(
    im: _Importer,
    type: TensorType,
    x: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    if step != 1:
        raise im.unsupported(f"slice with step {step}")
    if x.type == type:
        return x
    axis = dim % x.type.rank
    begin, limit, _ = slice(start, end).indices(x.shape[axis])
    return im.emit(_slice_axis(x, axis, begin, limit, im))


@_handles("aten.select.int")
def _select(im: _Importer, type: TensorType, x: Value, dim: int, index: int) -> Value:
    axis = dim % x.type.rank
    index %= x.shape[axis]
    return im.reshape(im.emit(_slice_axis(x, axis, index, index + 1, im)), type.shape)


def _slice_axis(x: Value, axis: int, begin: int, limit: int, im: _Importer) -> SliceOp:
    starts, limits = [0] * x.type.rank, list(x.shape)
    starts[axis], limits[axis] = begin, limit
    return SliceOp(x, tuple(starts), tuple(limits), loc=im.loc)


@_handles("aten.cat.default")
def _concat(im: _Importer, type: TensorType, xs: list[Value], dim: int = 0) -> Value:
    return im.emit(ConcatOp(tuple(im.convert(x, type.dtype) for x in xs), dim % type.rank, loc=im.loc))


# -- contractions, look-ups -----------------------------------------------------------------------------------------
@_handles("aten.linear.default")
def _linear(im: _Importer, type: TensorType, x: Value, w: Value, bias: Value | None = None) -> Value:
    if bias is not None:
        raise im.unsupported("linear with a bias")
    return im.emit(LinearOp(x, w, loc=im.loc))


@_handles("aten.embedding.default")
def _embedding(im: _Importer, type: TensorType, table: Value, ids: Value, *args: object) -> Value:
    return im.emit(GatherOp(table, ids, loc=im.loc))


@_handles("aten.index.Tensor")
def _index(im: _Importer, type: TensorType, table: Value, indices: list[Value | None]) -> Value:
    (rows, *others) = indices
    if others or rows is None or rows.dtype != DType.S32:
        raise im.unsupported(f"an index into {table.type} other than one tensor of integers on the first axis")
    return im.emit(GatherOp(table, rows, loc=im.loc))


@_handles("g4c.experts.default")
def _experts(
    im: _Importer, type: TensorType, x: Value, indices: Value, weights: Value, gate_up: Value, down: Value
) -> Value:
    return im.emit(ExpertsOp(x, indices, weights, gate_up, down, loc=im.loc))


@_handles("g4c.select_rows.default")
def _select_rows(im: _Importer, type: TensorType, x: Value, rows: Value) -> Value:
    return im.emit(SelectRowsOp(x, rows, loc=im.loc))


@_handles("g4c.kv_update.default")
def _kv_update(im: _Importer, type: TensorType, cache: Value, x: Value, positions: Value) -> Value:
    return im.emit(KvUpdateOp(cache, x, positions, loc=im.loc))


@_handles("g4c.held_positions.default")
def _held_positions(im: _Importer, type: TensorType, positions: Value, slots: int) -> Value:
    return im.emit(HeldPositionsOp(positions, slots, True, loc=im.loc))


@_handles("g4c.attention.default")
def _attention(
    im: _Importer,
    type: TensorType,
    q: Value,
    k: Value,
    v: Value,
    positions: Value,
    key_positions: Value,
    scale: float,
    window: int,
) -> Value:
    """Torch has q as [b, H, s, d], the IR as [b, s, H, d]."""
    heads_last = im.emit(TransposeOp(q, (0, 2, 1, 3), loc=im.loc))
    return im.emit(AttentionOp(heads_last, (k,), (v,), positions, (key_positions,), float(scale), window, loc=im.loc))
