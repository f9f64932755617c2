"""Lookups by run-time index: gathers of whole rows with s32 indices."""

from __future__ import annotations

from collections.abc import Sequence

from g4c.ir import ops
from g4c.lowering.neuron.rules.rule import Rule
from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor


def lower_gather(b: StablehloBuilder, op: ops.GatherOp, operands: Sequence[Tensor]) -> Tensor:
    return b.gather_rows(*operands)


def lower_embedding(b: StablehloBuilder, op: ops.EmbeddingOp, operands: Sequence[Tensor]) -> Tensor:
    """The scale is exact in the table's dtype, so one product in that dtype rounds once."""
    ids, table = operands
    rows = b.gather_rows(table, ids)
    return rows if op.scale == 1.0 else b.multiply(rows, b.splat(op.scale, rows.type))


def lower_select_rows(b: StablehloBuilder, op: ops.SelectRowsOp, operands: Sequence[Tensor]) -> Tensor:
    """The sequences' rows lie one after another: row b * s + rows[b, r] of x [b * s, ...]."""
    x, rows = operands
    batch, length = x.shape[:2]
    flat = b.reshape(x, (batch * length, x.type.size // (batch * length)))
    return b.reshape(b.gather_rows(flat, flat_rows(b, rows, length)), op.result.shape)


def flat_rows(b: StablehloBuilder, rows: Tensor, length: int) -> Tensor:
    """[batch * n] s32: sequence * length + rows[sequence, i], for rows [batch, n]."""
    batch, count = rows.shape
    if batch > 1:
        offset = b.multiply(b.iota(rows.type, 0), b.splat(length, rows.type))
        rows = b.add(rows, offset)
    return b.reshape(rows, (batch * count,))


RULES: dict[type, Rule] = {
    ops.GatherOp: lower_gather,
    ops.EmbeddingOp: lower_embedding,
    ops.SelectRowsOp: lower_select_rows,
}
