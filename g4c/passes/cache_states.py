"""Proof that caches can be shared: what every reader of a cache sees is what the program leaves in it.

In: a program. Out: nothing, or G4C-P020/P021 at the op that breaks the rule. A cache goes through states: its
parameter, then the result of each update. The rule: updates form one chain, the last state is returned, and nobody
reads a state that an update replaces, except an attention that takes the rows of that update beside it: old state and
new rows are what the update leaves, and what it overwrote. Then it does not matter who reads: donor and consumers see
the same, and updating in place is safe where such an attention comes before the update. Calls are followed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

from g4c.errors import G4cError
from g4c.ir.module import Function, Module
from g4c.ir.op import Op, Value
from g4c.ir.ops import AttentionOp, CallOp, KvUpdateOp

# A value of one call of a function: the number of the call, and the value. A layer function is called many times.
_Instance: TypeAlias = tuple[int, Value]


@dataclass(frozen=True)
class State:
    """The state of `cache` after `updates` updates."""

    cache: str
    updates: int


@dataclass(frozen=True)
class _Read:
    """Who read a state, and what it took as further segments of the same keys or values."""

    where: str
    beside: frozenset[_Instance]


@dataclass
class _Scope:
    """One call of a function: its number, which of its values are states, and what its parameters are outside."""

    number: int
    states: dict[Value, State]
    outside: dict[Value, _Instance] = field(default_factory=dict)

    def instance(self, value: Value) -> _Instance:
        return self.outside.get(value, (self.number, value))


@dataclass
class _Walk:
    module: Module
    latest: dict[str, State]
    reads: dict[State, list[_Read]] = field(default_factory=dict)
    rows: dict[State, _Instance] = field(default_factory=dict)  # with which rows a state was replaced
    calls: int = 0

    def fail(self, code: str, message: str, where: str) -> NoReturn:
        raise G4cError(code, message, where=where, help="write every cache once, before anything reads it")

    def ops(self, function: Function, scope: _Scope, call: str) -> None:
        for index, op in enumerate(function.ops):
            where = f"{function.name}:{index}  {op.loc.path or call}".rstrip()
            if isinstance(op, CallOp):
                self.call(op, scope)
                continue
            for name, value in op.named_operands():
                if value in scope.states and not (isinstance(op, KvUpdateOp) and name == "cache"):
                    self.read(op, name, value, scope, where)
            if isinstance(op, KvUpdateOp) and op.cache in scope.states:
                self.update(op, scope, where)

    def call(self, op: CallOp, scope: _Scope) -> None:
        callee = self.module.functions[op.callee.name]
        passed = list(zip(callee.params, op.args, strict=True))
        self.calls += 1
        inner = _Scope(self.calls, {p: scope.states[v] for p, v in passed if v in scope.states})
        inner.outside = {p: scope.instance(v) for p, v in passed}
        self.ops(callee, inner, op.loc.path)
        for value, result in zip(op.results, callee.results, strict=True):
            scope.outside[value] = inner.instance(result.value)
            if result.value in inner.states:
                scope.states[value] = inner.states[result.value]

    def read(self, op: Op, name: str, value: Value, scope: _Scope, where: str) -> None:
        state = scope.states[value]
        segments = {"keys": op.keys, "values": op.values}.get(name, ()) if isinstance(op, AttentionOp) else ()
        beside = frozenset(scope.instance(other) for other in segments if other is not value)
        if state != self.latest[state.cache] and self.rows[state] not in beside:
            self.fail("G4C-P021", f"{op.mnemonic} reads cache {state.cache} as it was before it was updated", where)
        self.reads.setdefault(state, []).append(_Read(where, beside))

    def update(self, op: KvUpdateOp, scope: _Scope, where: str) -> None:
        state, rows = scope.states[op.cache], scope.instance(op.x)
        if state != self.latest[state.cache]:
            self.fail("G4C-P020", f"cache {state.cache} is updated twice from the same state", where)
        for read in self.reads.get(state, ()):
            if rows not in read.beside:
                self.fail("G4C-P020", f"cache {state.cache} is updated after it was read by {read.where}", where)
        self.rows[state] = rows
        self.latest[state.cache] = scope.states[op.result] = State(state.cache, state.updates + 1)


def check_cache_states(module: Module, program: Function) -> None:
    """G4C-P020 or P021 unless every cache of `program` follows the rule."""
    states: dict[Value, State] = {p: State(p.cache, 0) for p in program.params if p.cache is not None}
    walk = _Walk(module, {state.cache: state for state in states.values()})
    walk.ops(program, _Scope(0, states), "")
    returned = {result.cache for result in program.results}
    for result in program.results:
        if result.cache is not None and states.get(result.value) != walk.latest.get(result.cache):
            found = states.get(result.value)
            what = f"cache {found.cache} after {found.updates} updates" if found else "no state of a cache"
            walk.fail("G4C-P021", f"result {result.name} is {what}, not the last state of {result.cache}", program.name)
    for cache, state in walk.latest.items():
        if state.updates and cache not in returned:
            walk.fail("G4C-P021", f"cache {cache} is updated, but its last state is not returned", program.name)
