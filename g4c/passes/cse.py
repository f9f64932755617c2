"""cse: equal ops on equal operands become one."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from dataclasses import dataclass

from g4c.ir.module import Function, Module
from g4c.ir.op import Attribute, Loc, Op, Value
from g4c.passes.contract import Pass, PassContext, PassResult


@dataclass(frozen=True)
class Cse(Pass):
    """Replace an op by an earlier one of the same function with the same kind, operands, attributes and types.

    The op that stays belongs to both places, so it keeps only the part of the module path that both share: what layers
    0 and 3 have in common is no longer taken for a part of layer 0.

    before:  %0 = "g4.load_weight"() {weight = @norm.weight} ... loc("model.layers.0.norm")
             %1 = "g4.load_weight"() {weight = @norm.weight} ... loc("model.layers.3.norm")
             %2 = "g4.rms_norm"(%x, %0) ...
             %3 = "g4.rms_norm"(%2, %1) ...
    after:   %0 = "g4.load_weight"() {weight = @norm.weight} ... loc("model.layers")
             %1 = "g4.rms_norm"(%x, %0) ...
             %2 = "g4.rms_norm"(%1, %0) ...
    """

    name = "cse"
    level_before = None

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        removed = sum(merge_equal_ops(function) for function in module.functions.values())
        return PassResult(removed > 0, {"ops": removed})


def merge_equal_ops(function: Function) -> int:
    """Merge equal ops of `function`; returns how many went."""
    seen: dict[Hashable, Op] = {}
    mapping: dict[Value, Value] = {}
    kept = []
    for op in function.ops:
        op.replace_operands(mapping)
        first = seen.setdefault(_key(op), op)
        if first is op:
            kept.append(op)
            continue
        mapping.update(zip(op.results, first.results, strict=True))
        if first.loc.path != op.loc.path:
            first.loc = Loc(common_path(first.loc.path, op.loc.path), first.loc.file, first.loc.line)
    removed = len(function.ops) - len(kept)
    function.ops = kept
    for result in function.results:
        result.value = mapping.get(result.value, result.value)
    return removed


def _key(op: Op) -> Hashable:
    attributes = tuple(_attribute(value) for value in op.attributes().values())
    counts = tuple(name for name, _ in op.named_operands())
    return op.mnemonic, op.operands, counts, attributes, tuple(value.type for value in op.results)


def _attribute(value: Attribute) -> Hashable:
    return repr(value) if isinstance(value, float) else value  # 0.0 and -0.0 are equal and not the same


def common_path(a: str, b: str) -> str:
    """The module path that contains both: "model.layers.0.mlp", "model.layers.3" -> "model.layers"."""
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a.split("."), b.split("."), strict=False))
    return ".".join(part for part, _ in shared)
