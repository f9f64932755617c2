"""Keep sequences apart: ops on rows that Hugging Face flattened for its experts work on [b, s, ...] instead.

In: a function in which [b, s, h] is reshaped to [b * s, h], worked on row by row, and reshaped back. Out: the same
function without the two reshapes. Invariants: every bit of every row stays; an op that is not row-wise reads the
flattened value as before. What passes ask of a program's rows, such as which of them are wanted, is then asked of one
form.

    before:  %1 = g4.reshape(%x) : tensor<2x3x8xf32> -> tensor<6x8xf32>
             %2 = g4.linear(%1, %w);  %3:2 = g4.top_k(%2) {k = 2}
             %4 = g4.experts(%1, %3#1, %3#0, ...)
             %5 = g4.reshape(%4) : tensor<6x8xf32> -> tensor<2x3x8xf32>
    after:   %2 = g4.linear(%x, %w);  %3:2 = g4.top_k(%2) {k = 2}
             %4 = g4.experts(%x, %3#1, %3#0, ...)
"""

from __future__ import annotations

from collections.abc import Mapping

from g4c.ir.module import Function
from g4c.ir.op import Op, Value
from g4c.ir.ops.contraction import LinearOp
from g4c.ir.ops.elementwise import ConvertOp, ElementwiseOp
from g4c.ir.ops.experts import ExpertsOp
from g4c.ir.ops.fused import GatedGeluOp, RmsNormOp, SoftcapOp
from g4c.ir.ops.indexing import GatherOp
from g4c.ir.ops.ordering import TopKOp
from g4c.ir.ops.shape import ReduceOp, ReshapeOp

NAME = "keep-sequences-apart"


def keep_sequences_apart(function: Function) -> int:
    """Rewrite `function` in place; says how many ops work on [b, s, ...] that did not. Leaves dead reshapes behind."""
    apart: dict[Value, Value] = {}  # [b * s, n] -> the same as [b, s, n]
    renamed: dict[Value, Value] = {}
    ops: list[Op] = []
    count = 0
    for op in function.ops:
        op.replace_operands(renamed)
        if isinstance(op, ReshapeOp) and apart.get(op.x) is not None and apart[op.x].type == op.type:
            renamed[op.result] = apart[op.x]
            continue
        changed = _on_sequences(op, apart)
        if changed is None:
            ops.append(op)
            if isinstance(op, ReshapeOp) and _flattens(op):
                apart[op.result] = op.x
            continue
        count += 1
        ops.append(changed)
        for old, new in zip(op.results, changed.results, strict=True):
            flat = ReshapeOp(new, old.type, loc=op.loc)
            ops.append(flat)
            renamed[old] = flat.result
            apart[flat.result] = new
    if renamed:
        function.ops = ops
        for result in function.results:
            result.value = renamed.get(result.value, result.value)
    return count


def _flattens(op: ReshapeOp) -> bool:
    """Whether `op` is [b, s, n] -> [b * s, n]."""
    shape = op.x.shape
    return len(shape) == 3 and op.type.shape == (shape[0] * shape[1], shape[2])


def _on_sequences(op: Op, apart: Mapping[Value, Value]) -> Op | None:
    """`op` on [b, s, ...]; None where it is not row-wise in what was flattened."""
    rows = {apart[value].shape[:2] for value in op.operands if value in apart}
    if len(rows) != 1:
        return None
    if isinstance(op, ConvertOp):
        return ConvertOp(apart[op.x], apart[op.x].type.with_dtype(op.type.dtype), loc=op.loc)
    if isinstance(op, ReduceOp):
        return ReduceOp(apart[op.x], op.kind, (2,), True, loc=op.loc) if op.axes == (1,) and op.keep else None
    if isinstance(op, ElementwiseOp | GatedGeluOp | SoftcapOp):
        fits = all(value in apart or value.type.rank < 2 or value.shape[0] == 1 for value in op.operands)
        return op.copy(apart) if fits and op.results[0].type.rank == 2 else None
    row_operands = {
        LinearOp: ("x",),
        RmsNormOp: ("x",),
        TopKOp: ("x",),
        GatherOp: ("indices",),
        ExpertsOp: ("x", "indices", "weights"),
    }.get(type(op))
    if row_operands is None or any((value in apart) != (name in row_operands) for name, value in op.named_operands()):
        return None
    return op.copy(apart)
