"""Attention kernels: a tiled attention, with the cache updates of decode steps in the same kernel.

In: a function. Out: one `Group` per tiled attention. Invariant: operands are q [b, s, H, d], its tiles joined; per
segment keys, values and, unless they are the chunk's own rows, the positions held; last the positions of the queries.
Results are y and, where the kernel updates them, the caches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from g4c.ir.module import Function
from g4c.ir.op import Op, Value, defining
from g4c.ir.ops import ConcatOp, KvUpdateOp, SplitTilesOp, TiledAttentionOp
from g4c.passes.kernel_patterns.group import Group, StandIn

DECODE_ROWS = 8  # how many query tokens per sequence a decode kernel takes at most


@dataclass(frozen=True)
class AttentionPattern:
    """Kernels prefill_attention_d... and decode_attention_d...: the latter up to `DECODE_ROWS` query rows.

    A decode kernel that reads a cache and the rows of this step also writes these rows to it. A prefill kernel does
    not: its rows are many, and the update is an op of its own that moves nothing else.
    """

    def find(self, function: Function) -> list[Group]:
        users = function.users()
        return [_group(op, users) for op in function.ops_of(TiledAttentionOp)]


def _group(op: TiledAttentionOp, users: Mapping[Value, Sequence[Op]]) -> Group:
    decode = op.positions.shape[1] <= DECODE_ROWS
    updates = _updates(op, users) if decode else ()
    q, feeding, stand_ins = _joined(op)
    params = [("q", q)]
    kinds = [cut.name for cut in op.cuts]
    for n, (kind, keys, values, held) in enumerate(zip(kinds, op.keys, op.values, op.key_positions, strict=True)):
        segment = f"{kind}{n}" if kinds.count(kind) > 1 else kind
        params += [(f"{segment}_keys", keys), (f"{segment}_values", values)]
        if kind != "chunk":
            params.append((f"{segment}_held", held))
    params.append(("positions", op.positions))
    results = [("y", op.result)]
    results += [(name, update.result) for name, update in zip(("k_cache", "v_cache"), updates, strict=False)]
    name = f"{'decode' if decode else 'prefill'}_attention_d{q.shape[3]}"
    name += (f"_w{op.window}" if op.window else "") + ("_update" if updates else "")
    return Group(name, (op, *updates), tuple(params), tuple(results), feeding, stand_ins)


def _joined(op: TiledAttentionOp) -> tuple[Value, tuple[Op, ...], tuple[StandIn, ...]]:
    """q with its tiles joined, what must be done for that, and what takes it apart in the kernel's body."""
    if len(op.q) == 1:
        return op.q[0], (), ()
    split = defining(op.q[0], SplitTilesOp)
    feeding: tuple[Op, ...] = ()
    if split is not None and split.results == op.q:
        q = split.x
    else:
        join = ConcatOp(op.q, 3, loc=op.loc)
        feeding, q = (join,), join.result
    again = SplitTilesOp(q, op.q[0].shape[3], "as the array takes it", loc=op.loc)
    return q, feeding, (StandIn(again, op.q),)


def _updates(op: TiledAttentionOp, users: Mapping[Value, Sequence[Op]]) -> tuple[KvUpdateOp, ...]:
    """The updates that write the chunk's rows to the caches that are its past: of K, then of V; both or none.

    None, too, where something else reads what a cache held before: it would have to be copied first.
    """
    if [cut.name for cut in op.cuts] != ["past", "chunk"]:
        return ()
    found = []
    for cache, rows in (op.keys, op.values):
        others = [user for user in users[cache] if user is not op]
        update = others[0] if len(others) == 1 else None
        if not isinstance(update, KvUpdateOp) or update.x is not rows or update.positions is not op.positions:
            return ()
        found.append(update)
    return tuple(found)
