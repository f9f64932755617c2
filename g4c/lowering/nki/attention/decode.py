"""Decode attention: few query rows per sequence against a long cache, with the cache update in the same kernel.

In: a `DecodeProblem`: shapes, segments of keys, window, whether the cache is updated.
Out: `schedules`, the choices that fit a generation, and `emit`, the kernel of one of them.
Invariant: what the kernel computes depends on the problem alone, the order of its sums on the schedule, too.

Keys lie on the partitions, queries on the free axis. Scores are then [128 keys, queries] per column of keys: those of
8 queries and 8192 keys are 512 columns, one instruction's worth. Values are stationary as they come, and give the
result as [head dims, queries]. What it takes are transposed keys, 128 x 128 at a time on the tensor engine.
"""

from __future__ import annotations

from g4c.ir.ops import TiledAttentionOp
from g4c.lowering.nki.artifact import KernelArtifact
from g4c.lowering.nki.attention.decode_problem import DecodeProblem, Segment
from g4c.lowering.nki.attention.decode_schedule import DecodeSchedule, schedules
from g4c.lowering.nki.attention.decode_source import write


def emit(problem: DecodeProblem, schedule: DecodeSchedule, generation: int) -> KernelArtifact:
    """The kernel. It follows the rules of all generations; `generation` is the one that its budget is measured on."""
    return write(problem, schedule, generation)


def from_tiled_attention(op: TiledAttentionOp, update: bool = False) -> DecodeProblem:
    """The problem of an op; `update`: the kernel also writes the chunk's rows into the past (two g4.kv_update)."""
    batch, rows, heads, head_dim = op.result.shape
    segments = tuple(Segment(cut.name, cut.extent) for cut in op.cuts)
    kv_heads = op.keys[0].shape[2]
    return DecodeProblem(batch, rows, heads, kv_heads, head_dim, segments, op.window, op.scale, op.result.dtype, update)


__all__ = ["DecodeProblem", "DecodeSchedule", "Segment", "emit", "from_tiled_attention", "schedules"]
