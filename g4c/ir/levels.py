"""Which ops are legal at which level: the contract of a lowering pass is "level before, level after"."""

from __future__ import annotations

from g4c.ir import ops as _ops  # noqa: F401  (fills the registry)
from g4c.ir.module import Module
from g4c.ir.op import REGISTRY, Level, Op
from g4c.ir.ops import AttentionOp, ExpertsOp, LinearOp, MatmulOp

_ORDER = [Level.GRAPH, Level.TILED, Level.NKI]

# An op stays legal above the level that introduces it: what a pass has not lowered is still there, and still runs.
LEGAL_OPS: dict[Level, frozenset[type[Op]]] = {
    level: frozenset(op for op in REGISTRY.values() if _ORDER.index(op.level) <= _ORDER.index(level))
    for level in _ORDER
}

# Contractions that have not been cut into tiles. Above GRAPH each kind that is left is named in the module's attribute
# UNTILED, with the reason: "g4.matmul: ...".
CONTRACTIONS: tuple[type[Op], ...] = (LinearOp, MatmulOp, AttentionOp, ExpertsOp)
UNTILED = "untiled"


def untiled(module: Module) -> list[type[Op]]:
    """The kinds of contractions in `module` that are not in tiles, in the order of CONTRACTIONS."""
    found = {type(op) for function in module.functions.values() for op in function.ops}
    return [kind for kind in CONTRACTIONS if kind in found]


def unrecorded(module: Module) -> list[type[Op]]:
    """Those of a module above GRAPH for which its attribute UNTILED gives no reason."""
    reasons = module.attributes.get(UNTILED, ())
    given = reasons if isinstance(reasons, tuple) else ()
    named = {str(reason).partition(": ")[0] for reason in given}
    return [] if module.level is Level.GRAPH else [kind for kind in untiled(module) if kind.mnemonic not in named]
