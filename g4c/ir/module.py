"""Modules and functions: programs over one table of weights and one table of caches.

In: ops. Out: `Module`, `Function`, `Parameter`, `Result`. Invariant (checked by the verifier): ops are in definition
order; a cache parameter has at most one matching cache result, which is its new state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from g4c.ir.op import Attribute, Cost, Level, Op, OpT, SymbolRef, Value
from g4c.ir.types import TensorType
from g4c.ir.weights import Cache, Weight


class Parameter(Value):
    """A function parameter. `cache` names the module's cache whose state it holds, if any."""

    __slots__ = ("cache", "name")

    def __init__(self, name: str, type: TensorType, cache: str | None = None) -> None:
        super().__init__(type)
        self.name = name
        self.cache = cache


@dataclass(eq=False)
class Result:
    """A function result. `cache` names the module's cache whose new state it is, if any."""

    value: Value
    name: str
    cache: str | None = None


Role = Literal["program", "layer", "kernel"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(eq=False)
class Function:
    """A straight-line function. Role "program": an entry point; "layer": called, once per layer, by programs; "kernel":
    one kernel computes it where there is one, its ops say what that is. It calls nothing and loads no weights."""

    name: str
    role: Role
    params: list[Parameter] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    def param(self, name: str) -> Parameter:
        """The parameter called `name`; KeyError where there is none."""
        for param in self.params:
            if param.name == name:
                return param
        raise KeyError(name)

    def add_param(self, name: str, type: TensorType, cache: str | None = None) -> Parameter:
        self.params.append(Parameter(name, type, cache))
        return self.params[-1]

    def append(self, op: OpT) -> OpT:
        self.ops.append(op)
        return op

    def users(self) -> dict[Value, list[Op]]:
        """For every used value the ops that use it, once each, in order. Results of the function are not users."""
        users: dict[Value, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.operands):
                users.setdefault(value, []).append(op)
        return users

    def replace_uses(self, mapping: Mapping[Value, Value]) -> None:
        """Replace values everywhere they are used, results included. Chains (a -> b, b -> c) are followed."""

        def final(value: Value) -> Value:
            for _ in mapping:
                if value not in mapping:
                    return value
                value = mapping[value]
            assert value not in mapping, "values replace each other in a circle"
            return value

        resolved = {old: final(new) for old, new in mapping.items()}
        for op in self.ops:
            op.replace_operands(resolved)
        for result in self.results:
            result.value = resolved.get(result.value, result.value)

    def ops_of(self, kind: type[OpT]) -> Iterator[OpT]:
        return (op for op in self.ops if isinstance(op, kind))


@dataclass(eq=False)
class Module:
    """Functions over one table of weights and one table of caches."""

    name: str
    level: Level = Level.GRAPH
    attributes: dict[str, Attribute] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    caches: dict[str, Cache] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)

    def add_function(self, function: Function) -> Function:
        assert function.name not in self.functions, function.name
        self.functions[function.name] = function
        return function

    def add_weight(self, weight: Weight) -> Weight:
        """Enter `weight`, or return the equal one that is there already."""
        present = self.weights.setdefault(weight.name, weight)
        assert present == weight, f"two different weights are called {weight.name}"
        return present

    def add_cache(self, cache: Cache) -> Cache:
        present = self.caches.setdefault(cache.name, cache)
        assert present == cache, f"two different caches are called {cache.name}"
        return present

    @property
    def programs(self) -> list[Function]:
        return [function for function in self.functions.values() if function.role == "program"]

    def callees(self, function: Function) -> list[str]:
        """Names of the functions that `function` calls, one per call, in order."""
        callees = (getattr(op, "callee", None) for op in function.ops)
        return [callee.name for callee in callees if isinstance(callee, SymbolRef)]

    def cost(self, function: Function) -> Cost:
        """Sum over the ops of `function` and, per call, of what it calls."""
        total = Cost(0, 0, 0)
        for op in function.ops:
            callee = getattr(op, "callee", None)
            total += self.cost(self.functions[callee.name]) if isinstance(callee, SymbolRef) else op.cost()
        return total

    def copy(self) -> Module:
        """A deep copy: fresh functions, ops and values; weights and caches are immutable and shared."""
        clone = Module(self.name, self.level, dict(self.attributes), dict(self.weights), dict(self.caches))
        for function in self.functions.values():
            clone.add_function(copy_function(function))
        return clone


def copy_function(function: Function, name: str | None = None) -> Function:
    """A deep copy of `function`, optionally under another name."""
    clone = Function(name or function.name, function.role)
    mapping: dict[Value, Value] = {}
    for param in function.params:
        mapping[param] = clone.add_param(param.name, param.type, param.cache)
    for op in function.ops:
        new = clone.append(op.copy(mapping))
        mapping.update(zip(op.results, new.results, strict=True))
    clone.results = [Result(mapping[r.value], r.name, r.cache) for r in function.results]
    return clone
