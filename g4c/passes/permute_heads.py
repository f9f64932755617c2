"""Put heads into another order, offline: in weights, and in the RoPE tables, of which only rotated columns stay.

In: layouts of `head_layout`. Out: the module's weights with the steps that bring them into the order; ops stay as they
are, but for the types of rows of tables. Invariant: a layout is applied to everything that it names, or to nothing, and
then has a reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from g4c.ir.module import Module
from g4c.ir.op import Value
from g4c.ir.ops import BroadcastOp, LoadWeightOp, ReshapeOp, RopeOp
from g4c.ir.types import TensorType
from g4c.ir.weights import Concat, Slice, Take, Weight
from g4c.passes.call_sites import CallSites
from g4c.passes.head_layout import HeadLayout, Place, tables_of, taken_rows


def permute_heads(module: Module, layouts: Sequence[HeadLayout]) -> int:
    """Apply the layouts that have no reason against it; returns the number of weights that changed."""
    changed = 0
    for layout in layouts:
        places: dict[tuple[str, int], list[Place]] = {}
        for place in () if layout.reason else layout.places:
            places.setdefault((place.weight, place.axis), []).append(place)
        permuted: dict[str, Weight] = {}
        for (name, axis), parts in places.items():
            weight = _permuted(permuted.get(name, module.weights[name]), axis, parts, layout)
            if weight is None:
                layout.reason = f"the rows of {name} are not joined from whole projections"
                break
            permuted[name] = weight
        if not layout.reason:
            module.weights.update(permuted)
            changed += len(permuted)
    return changed


def _permuted(weight: Weight, axis: int, places: Sequence[Place], layout: HeadLayout) -> Weight | None:
    """`weight` with the heads at `places` in order: at the end of its chain, or in the parts that the chain joins.

    None where a part has other rows, too.
    """
    width = layout.width
    heads = {head for place in places for head in range(place.start // width, place.limit // width)}
    parts = _parts(weight, axis)
    inside = [sum(start <= head * width and (head + 1) * width <= limit for head in heads) for start, limit in parts]
    chosen = [count > 0 for count in inside]
    whole = all(count * width == b - a for count, (a, b) in zip(inside, parts, strict=True) if count)
    if not whole or sum(inside) < len(heads):
        return None
    take = Take(axis, width, layout.order)
    if all(chosen):
        return weight.then(take)
    takes = tuple(replace(take, at=at) for at, wanted in enumerate(chosen) if wanted)
    return replace(weight, transforms=(*weight.transforms[:-1], *takes, weight.transforms[-1]))


def _parts(weight: Weight, axis: int) -> list[tuple[int, int]]:
    """Where along `axis` the entries lie that the last step of the chain joins; without such a step, one part."""
    last = weight.transforms[-1] if weight.transforms else None
    if weight.value is not None or not isinstance(last, Concat) or last.axis != axis:
        return [(0, weight.type.shape[axis])]
    types: tuple[TensorType, ...] = tuple(source.type for source in weight.sources)
    for step in weight.transforms[:-1]:
        window = step.window(len(types))
        types = (*types[: window.start], step.infer(types[window]), *types[window.stop :])
    limits = list(itertools.accumulate(type.shape[axis] for type in types))
    return list(itertools.pairwise([0, *limits]))


def narrow_tables(module: Module, sites: CallSites, ropes: Sequence[RopeOp], columns: int) -> bool:
    """Keep the first `columns` of the tables that `ropes`, and nothing else, take their angles from.

    Types of the rows change everywhere. False, and nothing has changed, where something else reads the tables.
    """
    angles = dict.fromkeys(value for rope in ropes for value in (rope.cos, rope.sin))
    tables = dict.fromkeys(name for value in angles for name in tables_of(sites, value) if name is not None)
    todo = [value for name in tables for value in sites.loads(name)]
    rows: list[Value] = []
    while todo:
        value = todo.pop()
        rows += sites.aliases(value)
        for use in sites.uses(value):
            if isinstance(use.op, RopeOp) and use.op in ropes:
                continue
            if use.op is None or taken_rows(use.op) not in sites.aliases(value):
                return False
            todo.append(use.op.results[0])
    for name in tables:
        module.weights[name] = module.weights[name].then(Slice(1, 0, columns))
    for value in rows:
        value.type = value.type.with_shape((*value.shape[:-1], columns))
        if isinstance(value.owner, LoadWeightOp | ReshapeOp | BroadcastOp):
            value.owner.type = value.type
    return True
