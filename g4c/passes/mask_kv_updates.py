"""mask-kv-updates: the form of a cache update that XLA's CPU backend runs in place. For the cpu target."""

from __future__ import annotations

from dataclasses import dataclass

from g4c.ir.builder import Builder
from g4c.ir.module import Function, Module
from g4c.ir.op import Value
from g4c.ir.ops import (
    BroadcastOp,
    CompareOp,
    HeldPositionsOp,
    KvUpdateOp,
    MaxOp,
    ReshapeOp,
    SelectOp,
    SelectRowsOp,
    SliceOp,
    SubOp,
)
from g4c.ir.types import DType, TensorType
from g4c.passes.contract import Pass, PassContext, PassResult


@dataclass(frozen=True)
class MaskKvUpdates(Pass):
    """Rewrite a kv_update as a select between the new rows and the cache.

    XLA's CPU backend copies the whole cache for a scatter and widens a bf16 one to f32 on the way; a select over a
    cache that is updated in place does neither. A slot is written if the position that it holds afterwards is one of
    the new ones. The mask has the cache's full shape, which XLA likes best. Of several new rows each slot reads its
    own.

    before:  %1 = "g4.kv_update"(%cache, %x, %positions) : (tensor<1x8x1x4xbf16>, ...) -> tensor<1x8x1x4xbf16>
    after:   %2 = "g4.held_positions"(%positions) {slots = 8 : i64, updated = true} : (...) -> tensor<1x8xi32>
             %3 = "g4.max"(%positions, %zero) : (tensor<1x1xi32>, tensor<i32>) -> tensor<1x1xi32>
             %4 = "g4.compare"(%2, %3) {direction = "ge"} : (...) -> tensor<1x8x1x4xi1>
             %5 = "g4.select"(%4, %x, %cache) : (...) -> tensor<1x8x1x4xbf16>
    """

    name = "mask-kv-updates"
    runs_after = ("specialize-layers", "eliminate-shared-kv", "window-kv-cache", "rebuild-keys")

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        rewritten = sum(_rewrite(function) for function in module.functions.values())
        return PassResult(rewritten > 0, {"updates": rewritten})


def _rewrite(function: Function) -> int:
    """Rewrite every update; returns how many there were."""
    ops, function.ops = function.ops, []
    mapping: dict[Value, Value] = {}
    for op in ops:
        op.replace_operands(mapping)
        if isinstance(op, KvUpdateOp):
            mapping[op.result] = _masked(Builder(function, op.loc), op)
        else:
            function.append(op)
    for result in function.results:
        result.value = mapping.get(result.value, result.value)
    return len(mapping)


def _masked(build: Builder, op: KvUpdateOp) -> Value:
    """select(held[b, slot] >= first[b], x[b, held - first], cache[b, slot]); padding has no place in what is held."""
    batch, slots = op.cache.shape[:2]
    count = TensorType((batch, slots), DType.S32)
    first = build.emit(SliceOp(op.positions, (0, 0), (batch, 1)))
    first = build.emit(MaxOp(first, build.scalar(0, DType.S32)))
    held = build.emit(HeldPositionsOp(op.positions, slots, True))
    x = op.x
    if x.shape[1] > 1:
        row = build.emit(MaxOp(build.emit(SubOp(held, first)), build.scalar(0, DType.S32)))
        x = build.emit(SelectRowsOp(x, row))
    held = build.emit(ReshapeOp(held, count.with_shape((batch, slots, 1, 1))))
    held = build.emit(BroadcastOp(held, count.with_shape(op.cache.shape)))
    first = build.emit(ReshapeOp(first, count.with_shape((batch, 1, 1, 1))))
    return build.emit(SelectOp(build.emit(CompareOp(held, first, "ge")), x, op.cache))
