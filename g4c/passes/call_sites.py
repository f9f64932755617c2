"""Values followed through calls: what a parameter is where its function is called, and who reads a value in the end.

In: a module, flat or with layer functions. Out: `CallSites`. Invariant: it describes the module as it was when it was
made; a pass that edits makes another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Op, Value
from g4c.ir.ops import CallOp, LoadWeightOp


@dataclass(frozen=True)
class Use:
    """One reader of a value: operand `name` of `op`; op None: the result `name` of a function."""

    op: Op | None
    name: str


class CallSites:
    """The calls of a module and, per value, its function and its readers."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.home: dict[Value, Function] = {}
        self.calls: dict[str, list[CallOp]] = {name: [] for name in module.functions}
        self._users: dict[Value, list[tuple[Op, str]]] = {}
        self._results: dict[Value, list[int]] = {}
        self._loads: dict[str, list[Value]] = {}
        for function in module.functions.values():
            self.home.update(dict.fromkeys(function.params, function))
            for op in function.ops:
                self.home.update(dict.fromkeys(op.results, function))
                for name, value in op.named_operands():
                    self._users.setdefault(value, []).append((op, name))
                if isinstance(op, CallOp):
                    self.calls[op.callee.name].append(op)
                if isinstance(op, LoadWeightOp):
                    self._loads.setdefault(op.weight.name, []).append(op.result)
            for index, result in enumerate(function.results):
                self._results.setdefault(result.value, []).append(index)

    def callee(self, call: CallOp) -> Function:
        return self.module.functions[call.callee.name]

    def sources(self, *values: Value) -> Iterator[tuple[Value, ...]]:
        """What `values` of one function are, together, where they come from: arguments stand for parameters.

        One tuple per call of a layer function; nothing where nobody calls it.
        """
        for value in values:
            function = self.home[value]
            if function.role != "program" and value.owner is None:
                for call in self.calls[function.name]:
                    given: dict[Value, Value] = dict(zip(function.params, call.args, strict=True))
                    yield from self.sources(*(given.get(other, other) for other in values))
                return
        yield values

    def weights(self, value: Value) -> list[str] | None:
        """Symbols of all weights that `value` is at some call; None where it is something else, too."""
        owners = [source.owner for (source,) in self.sources(value)]
        names = [owner.weight.name for owner in owners if isinstance(owner, LoadWeightOp)]
        return list(dict.fromkeys(names)) if owners and len(names) == len(owners) else None

    def loads(self, weight: str) -> list[Value]:
        """The values that `weight` is loaded as."""
        return self._loads.get(weight, [])

    def aliases(self, *values: Value) -> list[Value]:
        """`values`, and the parameters that they are in what they are passed to."""
        found: list[Value] = []
        todo = list(values)
        while todo:
            value = todo.pop()
            if value in found:
                continue
            found.append(value)
            for op, _ in self._users.get(value, ()):
                if isinstance(op, CallOp):
                    pairs = zip(op.args, self.callee(op).params, strict=True)
                    todo += [param for argument, param in pairs if argument is value]
        return found

    def users(self, value: Value) -> list[Use]:
        """Every op that reads `value` itself, but calls that pass it on."""
        return [Use(op, name) for op, name in self._users.get(value, ()) if not isinstance(op, CallOp)]

    def uses(self, *values: Value) -> list[Use]:
        """Every op but calls that reads one of `values`, here or in what they are passed to; op None: a result."""
        found: list[Use] = []
        for value in self.aliases(*values):
            found += self.users(value)
            found += [Use(None, result.name) for result in self.results(value)]
        return found

    def results(self, value: Value) -> list[Result]:
        """The results of its function that `value` is."""
        return [self.home[value].results[index] for index in self._results.get(value, ())]

    def returned(self, value: Value) -> list[Value]:
        """The results of calls that `value` is, for a value that a layer function returns."""
        calls = self.calls[self.home[value].name]
        return [call.results[index] for index in self._results.get(value, ()) for call in calls]
