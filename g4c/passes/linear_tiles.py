"""How a product with a weight is cut for the tensor engine, and which of its two factors stays in the array.

In: a linear op and what becomes of its result. Out: the cuts of k, n and m, and why. The cost is that of the engine:
a stationary tile of M columns and N moving ones take max(min(64, M), N) cycles, for every tile of k.
"""

from __future__ import annotations

from g4c.ir.op import Op, Value
from g4c.ir.ops import (
    AddOp,
    ConcatOp,
    ConvertOp,
    GatedGeluOp,
    LinearOp,
    MulOp,
    ReshapeOp,
    RmsNormOp,
    SelectRowsOp,
    SliceOp,
    SoftcapOp,
)
from g4c.ir.tiles import Cut

_LEAST = 64  # cycles that a stationary tile of as many columns takes at least
_PASSING = (AddOp, ConcatOp, ConvertOp, GatedGeluOp, MulOp, ReshapeOp, SelectRowsOp, SliceOp, SoftcapOp)


def cycles(k: Cut, stationary: Cut, moving: Cut) -> int:
    """Modelled cycles of the tensor engine for all tiles."""
    per_k = sum(max(min(_LEAST, b - a), d - c) for a, b in stationary for c, d in moving)
    return k.count * per_k


def linear_tiles(
    op: LinearOp, partition: int, moving: int, users: dict[Value, list[Op]]
) -> tuple[tuple[str, ...], str]:
    """The `tiles` and the `why` of a tiled linear op. Of equal costs, what reads the result decides."""
    extent = op.x.type.size // max(1, op.x.shape[-1])
    k = Cut.of("k", op.w.shape[1], partition)
    held = Cut.of("n", op.w.shape[0], partition, "stationary"), Cut.of("m", extent, moving, "moving")
    passed = Cut.of("n", op.w.shape[0], moving, "moving"), Cut.of("m", extent, partition, "stationary")
    with_w, with_x = cycles(k, *held), cycles(k, passed[1], passed[0])
    next_op = _reader(op.result, users)
    if with_w != with_x:
        cuts = held if with_w < with_x else passed
        why = f"{min(with_w, with_x)} cycles, {max(with_w, with_x)} the other way"
    elif isinstance(next_op, RmsNormOp):
        cuts, why = passed, "a norm is next: rows on the partitions"
    elif next_op is not None:
        cuts, why = held, "a product is next: its k on the partitions"
    else:
        cuts, why = held, f"{with_w} cycles either way"
    tail = f"; the last k tile fills {k.tail} partitions, no padding" if k.tail and k.count > 1 else ""
    return (str(k), str(cuts[0]), str(cuts[1])), why + tail


def _reader(value: Value, users: dict[Value, list[Op]]) -> RmsNormOp | LinearOp | None:
    """The first norm or product that reads `value`, through ops that keep rows and features where they are."""
    for op in users.get(value, ()):
        if isinstance(op, RmsNormOp) or (isinstance(op, LinearOp) and op.x is value):
            return op
        if isinstance(op, _PASSING):
            found = _reader(op.result, users)
            if found is not None:
                return found
    return None
