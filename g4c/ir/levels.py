"""Which ops are legal at which level: the contract of a lowering pass is "level before, level after"."""

from __future__ import annotations

from g4c.ir import ops as _ops  # noqa: F401  (fills the registry)
from g4c.ir.op import REGISTRY, Level, Op

_ORDER = [Level.GRAPH, Level.TILED, Level.NKI]

# An op stays legal above the level that introduces it: what a pass has not lowered is still there, and still runs.
LEGAL_OPS: dict[Level, frozenset[type[Op]]] = {
    level: frozenset(op for op in REGISTRY.values() if _ORDER.index(op.level) <= _ORDER.index(level))
    for level in _ORDER
}
