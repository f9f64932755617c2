"""What a flat program does with its caches: the states that each one goes through, and who reads them.

In: a program without calls. Out: `CacheUses` per cache. Invariant: every use of a state is in exactly one of the lists.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from g4c.ir.module import Function, Parameter
from g4c.ir.op import Op, Value
from g4c.ir.ops import AttentionOp, KvUpdateOp


@dataclass
class CacheUses:
    """One cache in one program.

    `states`: the parameter, then the result of each update, in order. `attentions`: those that take a state as the keys
    or values of a segment. `others`: ops that read a state in any other way. `returned`: the cache's own result.
    `leaks`: results of the program that are states of this cache under another name, or its own result where that is
    none.
    """

    cache: str
    param: Parameter
    updates: list[KvUpdateOp] = field(default_factory=list)
    states: list[Value] = field(default_factory=list)
    attentions: list[AttentionOp] = field(default_factory=list)
    others: list[Op] = field(default_factory=list)
    returned: Value | None = None
    leaks: list[str] = field(default_factory=list)


def cache_uses(program: Function) -> dict[str, CacheUses]:
    """The uses of every cache that `program` takes, by the cache's name."""
    uses = {p.cache: CacheUses(p.cache, p, states=[p]) for p in program.params if p.cache is not None}
    of: dict[Value, CacheUses] = {found.param: found for found in uses.values()}
    for op in program.ops:
        for name, value in op.named_operands():
            if value in of:
                _enter(of[value], op, name)
        if isinstance(op, KvUpdateOp) and op.cache in of:
            of[op.result] = of[op.cache]
            of[op.result].states.append(op.result)
    for result in program.results:
        holder = of.get(result.value)
        if result.cache in uses:
            uses[result.cache].returned = result.value
            if holder is not uses[result.cache]:
                uses[result.cache].leaks.append(result.name)
        if holder is not None and holder.cache != result.cache:
            holder.leaks.append(result.name)
    return uses


def _enter(uses: CacheUses, op: Op, operand: str) -> None:
    if isinstance(op, KvUpdateOp) and operand == "cache":
        uses.updates.append(op)
    elif not isinstance(op, AttentionOp) or operand not in ("keys", "values"):
        uses.others.append(op)
    elif op not in uses.attentions:
        uses.attentions.append(op)
