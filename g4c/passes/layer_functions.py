"""Cutting one layer out of a program: its ops become a layer function with named parameters.

In: the ops of a layer, in order, and which values the rest of the program uses. Out: the function, the arguments for
its parameters and the values that its results stand for. Invariant: order and names of parameters and results follow
from what the ops do with them, so that equal layers give equal functions: (hidden, ..., positions, cos, sin, k_cache,
v_cache, weights...) -> (hidden, k_cache, v_cache).
"""

from __future__ import annotations

import re

from g4c.ir.module import Function, Result
from g4c.ir.op import Op, Value
from g4c.ir.ops import AttentionOp, CallOp, GatedGeluOp, KvUpdateOp, LoadWeightOp, ReshapeOp, RopeOp
from g4c.passes.layer_paths import relative_name, to_any_layer

_ORDER = (
    "hidden",
    "per_layer_input",
    "rows",
    "positions",
    "key_positions",
    "cos",
    "sin",
    "key_cos",
    "key_sin",
    "k_cache",
    "v_cache",
    "keys",
    "k_chunk",
    "v_chunk",
    "cache",
)


def outline(
    layer: str, ops: list[Op], used_outside: set[Value]
) -> tuple[Function, tuple[Value, ...], tuple[Value, ...]]:
    """The layer function of `ops`, one argument per parameter, and per result the value that it replaces."""
    inner = {value for op in ops for value in op.results}
    constants, weights, inputs = _entering(ops, inner)
    roles = _cache_roles(ops)
    ranked = sorted(inputs, key=lambda value: _rank(_role(value, inputs[value], roles)))
    function = Function("", "layer")
    taken: set[str] = set()
    mapping: dict[Value, Value] = {}
    arguments: list[Value] = []
    for value in ranked:
        mapping[value] = function.add_param(_unique(_role(value, inputs[value], roles), taken), value.type)
        arguments.append(value)
    for symbol, loads in weights.items():
        param = function.add_param(_unique(_valid(relative_name(symbol)), taken), loads[0].type)
        mapping.update(dict.fromkeys(loads, param))
        arguments.append(loads[0])
    for op in ops:
        for value in op.operands:
            owner = value.owner
            if owner is not None and owner in constants and value not in mapping:
                mapping[value] = function.append(owner.copy({}, to_any_layer(op.loc, layer))).result
        new = function.append(op.copy(mapping, to_any_layer(op.loc, layer)))
        mapping.update(zip(op.results, new.results, strict=True))
    leaving = [value for op in ops for value in op.results if value in used_outside]
    leaving.sort(key=lambda value: _rank(roles.get(value, "hidden")))
    names: set[str] = set()
    function.results = [Result(mapping[value], _unique(roles.get(value, "hidden"), names)) for value in leaving]
    return function, tuple(arguments), tuple(leaving)


def _entering(
    ops: list[Op], inner: set[Value]
) -> tuple[set[Op], dict[str, list[Value]], dict[Value, list[tuple[str, Op]]]]:
    """What `ops` use from outside, in order of first use: constants, weights by symbol, other values and their uses."""
    constants: set[Op] = set()
    weights: dict[str, list[Value]] = {}
    inputs: dict[Value, list[tuple[str, Op]]] = {}
    for op in ops:
        for field, value in op.named_operands():
            owner = value.owner
            if value in inner:
                continue
            if isinstance(owner, LoadWeightOp):
                weights.setdefault(owner.weight.name, []).append(value)
            elif owner is not None and not owner.operands and not isinstance(owner, CallOp):
                constants.add(owner)
            else:
                inputs.setdefault(value, []).append((field, op))
    for op in ops:
        for field, value in op.named_operands():
            if isinstance(value.owner, ReshapeOp) and value.owner.x in inputs:
                inputs[value.owner.x].append((field, op))
    return constants, weights, inputs


def _cache_roles(ops: list[Op]) -> dict[Value, str]:
    """k_cache and v_cache: states of caches, by how attention reads them; cache where it reads neither state.

    k_chunk and v_chunk: the new rows that attention reads beside an old state. keys: what was rebuilt from a state.
    """
    roles: dict[Value, str] = {}
    for op in reversed(ops):
        if isinstance(op, AttentionOp):
            for part, values in (("k", op.keys), ("v", op.values)):
                for value, what in zip(values, ("cache", "chunk"), strict=False):
                    rebuilt = what == "cache" and isinstance(value.owner, RopeOp)
                    roles.setdefault(value, "keys" if rebuilt else f"{part}_{what}")
        elif isinstance(op, KvUpdateOp):
            role = roles.get(op.result) or roles.get(op.cache) or "cache"
            roles[op.cache] = roles[op.result] = role
    return roles


def _role(value: Value, uses: list[tuple[str, Op]], roles: dict[Value, str]) -> str:
    """What a value from outside is to the layer, by its uses alone; its own name would set layers apart."""
    if value in roles:
        return roles[value]
    for field, op in uses:
        if field in ("rows", "positions", "key_positions"):
            return field
        if isinstance(op, RopeOp) and field in ("cos", "sin"):
            return f"key_{field}" if roles.get(op.result) == "keys" else field
        if isinstance(op, GatedGeluOp) and field == "up":
            return "per_layer_input"
    return "hidden"


def _rank(role: str) -> int:
    return _ORDER.index(role)


def _unique(name: str, taken: set[str]) -> str:
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    taken.add(unique)
    return unique


def _valid(name: str) -> str:
    """`name` as the text can spell a parameter."""
    return re.sub(r"[^\w$.-]", "_", name if re.match(r"[A-Za-z_]", name) else f"w_{name}")
