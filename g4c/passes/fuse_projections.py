"""fuse-projections: projections of one input become one matrix product."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from g4c.ir.module import Function, Module
from g4c.ir.op import Loc, SymbolRef, Value
from g4c.ir.ops import LinearOp, LoadWeightOp, SliceOp
from g4c.ir.weights import Concat, Weight
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.cse import common_path
from g4c.passes.flat import require_flat
from g4c.passes.weight_uses import loaded_weight, replace_weights, weight_uses


@dataclass(frozen=True)
class FuseProjections(Pass):
    """Compute linear ops of one input as one linear op on their joined weights, and slice its result.

    Fewer and larger products: q, k and v (q and k where V is K's projection), gate and up. Found by dataflow, not by
    name: weights are joined where every program that uses one of them applies all of them to the same values. Where a
    program computes q on fewer rows than k and v, k and v are joined and q stays alone, in all programs: no weight is
    stored twice. A weight that anything but linear ops uses (the tied embedding) and a constant stay as they are.
    Every element of the result is the same sum of the same products.

    before:  %0 = "g4.load_weight"() {weight = @layers.0.mlp.gate_proj.weight} : () -> tensor<6144x1536xbf16>
             %1 = "g4.linear"(%x, %0) : (...) -> tensor<1x128x6144xbf16>
             %2 = "g4.load_weight"() {weight = @layers.0.mlp.up_proj.weight} : () -> tensor<6144x1536xbf16>
             %3 = "g4.linear"(%x, %2) : (...) -> tensor<1x128x6144xbf16>
    after:   %0 = "g4.load_weight"() {weight = @layers.0.mlp.gate_up_proj.weight} : () -> tensor<12288x1536xbf16>
             %1 = "g4.linear"(%x, %0) : (...) -> tensor<1x128x12288xbf16>
             %2 = "g4.slice"(%1) {starts = array<i64: 0, 0, 0>, limits = array<i64: 1, 128, 6144>} ...
             %3 = "g4.slice"(%1) {starts = array<i64: 0, 0, 6144>, limits = array<i64: 1, 128, 12288>} ...

    Stats: groups, and how many weights the module has before and after.
    """

    name = "fuse-projections"
    runs_after = ("eliminate-shared-kv", "prune-prefill", "fold-norms")

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        require_flat(module, self.name)
        before = len(module.weights)
        places: dict[str, _Place] = {}
        groups = _groups(module)
        for parts in groups:
            weight = Weight.joined(_free_name(module, fused_name([part.name for part in parts])), parts, Concat(0))
            replace_weights(module, dict.fromkeys((part.name for part in parts), weight))
            places |= _places(weight, parts)
        for function in module.functions.values():
            _fuse(function, places)
        stats = {"groups": len(groups), "weights_before": before, "weights_after": len(module.weights)}
        return PassResult(bool(groups), stats)


def fused_name(parts: Sequence[str]) -> str:
    """Where the names differ, all of them, in their common surroundings: a.q_proj.weight, a.k_proj.weight ->
    a.qk_proj.weight; gate_proj, up_proj -> gate_up_proj."""
    prefix, names = _split_common([part.split(".") for part in parts])
    suffix, names = _split_common([name[::-1] for name in names])
    ending, words = _split_common([".".join(name[::-1]).replace(".", "_").split("_")[::-1] for name in names])
    stems = ["_".join(word[::-1]) for word in words]
    stem = ("" if all(len(item) == 1 for item in stems) else "_").join(filter(None, stems))
    return ".".join([*prefix, "_".join([stem, *ending[::-1]]), *suffix[::-1]])


def _split_common(lists: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """What all lists begin with, and what is left of each; nothing is taken that would leave one empty."""
    count = 0
    shortest = min(map(len, lists))
    while count < shortest - 1 and len({items[count] for items in lists}) == 1:
        count += 1
    return list(lists[0][:count]), [list(items[count:]) for items in lists]


def _free_name(module: Module, name: str) -> str:
    number, free = 1, name
    while free in module.weights or free in module.caches or free in module.functions:
        number += 1
        free = f"{name}_{number}"
    return free


def _groups(module: Module) -> list[list[Weight]]:
    """Weights that are applied to the same values in all programs, two or more, in the order of their first use."""
    groups: dict[frozenset[Value], list[Weight]] = {}
    for name, uses in weight_uses(module).items():
        inputs = [use.op.x for use in uses if isinstance(use.op, LinearOp) and use.operand == "w"]
        if len(inputs) == len(uses) and module.weights[name].value is None:
            groups.setdefault(frozenset(inputs), []).append(module.weights[name])
    return [parts for parts in groups.values() if len(parts) > 1]


@dataclass(frozen=True)
class _Place:
    """Where the rows of a part are in the joined weight."""

    weight: Weight
    start: int
    limit: int


def _places(weight: Weight, parts: Sequence[Weight]) -> dict[str, _Place]:
    limits = list(itertools.accumulate(part.type.shape[0] for part in parts))
    starts = [0, *limits[:-1]]
    return {part.name: _Place(weight, *rows) for part, *rows in zip(parts, starts, limits, strict=True)}


def _fuse(function: Function, places: Mapping[str, _Place]) -> None:
    """Linear ops on parts become slices of one linear op, which stands where the first of them stood."""
    ops, function.ops = function.ops, []
    products: dict[tuple[Value, str], tuple[LoadWeightOp, LinearOp]] = {}
    mapping: dict[Value, Value] = {}
    for op in ops:
        op.replace_operands(mapping)
        if isinstance(op, LoadWeightOp) and op.weight.name in places:
            continue
        place = places.get(loaded_weight(op.w) or "") if isinstance(op, LinearOp) else None
        if place is None or not isinstance(op, LinearOp):
            function.append(op)
            continue
        key = (op.x, place.weight.name)
        if key not in products:
            load = function.append(LoadWeightOp(SymbolRef(place.weight.name), place.weight.type, loc=op.loc))
            products[key] = (load, function.append(LinearOp(op.x, load.result, loc=op.loc)))
        for made in products[key]:
            made.loc = Loc(common_path(made.loc.path, op.loc.path), made.loc.file, made.loc.line)
        product = products[key][1].result
        starts, limits = (*(0,) * (product.type.rank - 1), place.start), (*product.shape[:-1], place.limit)
        mapping[op.result] = function.append(SliceOp(product, starts, limits, loc=op.loc)).result
    for result in function.results:
        result.value = mapping.get(result.value, result.value)
