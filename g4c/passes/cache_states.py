"""Proof that caches can be shared: what every reader of a cache sees is what the program leaves in it.

In: a program. Out: nothing, or G4C-P020/P021 at the op that breaks the rule. A cache goes through states: its
parameter, then the result of each update. The rule: updates form one chain, nobody reads a state that a later update
replaces, the last state is returned. Then it does not matter who reads: donor and consumers see the same, and updating
in place is safe. Calls are followed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from g4c.errors import G4cError
from g4c.ir.module import Function, Module
from g4c.ir.op import Op, Value
from g4c.ir.ops import CallOp, KvUpdateOp


@dataclass(frozen=True)
class State:
    """The state of `cache` after `updates` updates."""

    cache: str
    updates: int


@dataclass
class _Walk:
    program: str
    module: Module
    latest: dict[str, State] = field(default_factory=dict)
    read_at: dict[str, str] = field(default_factory=dict)  # cache -> where its latest state was read

    def fail(self, code: str, message: str, where: str) -> NoReturn:
        raise G4cError(code, message, where=where, help="write every cache once, before anything reads it")

    def ops(self, function: Function, states: dict[Value, State], call: str) -> None:
        for index, op in enumerate(function.ops):
            path = op.loc.path or call
            self.op(op, states, f"{function.name}:{index}  {path}".rstrip())

    def op(self, op: Op, states: dict[Value, State], where: str) -> None:
        if isinstance(op, CallOp):
            callee = self.module.functions[op.callee.name]
            inner: dict[Value, State] = {
                p: states[v] for p, v in zip(callee.params, op.args, strict=True) if v in states
            }
            self.ops(callee, inner, op.loc.path)
            for value, result in zip(op.results, callee.results, strict=True):
                if result.value in inner:
                    states[value] = inner[result.value]
            return
        update = op if isinstance(op, KvUpdateOp) else None
        for value in op.operands:
            state = states.get(value)
            if state is None or (update is not None and value is update.cache):
                continue
            if state != self.latest[state.cache]:
                self.fail("G4C-P021", f"{op.mnemonic} reads cache {state.cache} as it was before it was updated", where)
            self.read_at.setdefault(state.cache, where)
        if update is not None and update.cache in states:
            state = states[update.cache]
            if state != self.latest[state.cache]:
                self.fail("G4C-P020", f"cache {state.cache} is updated twice from the same state", where)
            if state.cache in self.read_at:
                reader = self.read_at[state.cache]
                self.fail("G4C-P020", f"cache {state.cache} is updated after it was read by {reader}", where)
            self.latest[state.cache] = states[update.result] = State(state.cache, state.updates + 1)


def check_cache_states(module: Module, program: Function) -> None:
    """G4C-P020 or P021 unless every cache of `program` follows the rule."""
    states: dict[Value, State] = {p: State(p.cache, 0) for p in program.params if p.cache is not None}
    walk = _Walk(program.name, module, {state.cache: state for state in states.values()})
    walk.ops(program, states, "")
    returned = {result.cache for result in program.results}
    for result in program.results:
        if result.cache is not None and states.get(result.value) != walk.latest.get(result.cache):
            found = states.get(result.value)
            what = f"cache {found.cache} after {found.updates} updates" if found else "no state of a cache"
            walk.fail("G4C-P021", f"result {result.name} is {what}, not the last state of {result.cache}", program.name)
    for cache, state in walk.latest.items():
        if state.updates and cache not in returned:
            walk.fail("G4C-P021", f"cache {cache} is updated, but its last state is not returned", program.name)
