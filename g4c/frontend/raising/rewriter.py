"""A small pattern rewriter: rules look at one op and what surrounds it, and replace one value.

In: a function of IR ops and a list of rules. Out: the function, rewritten until no rule matches; or, when asked, for
each op that a rule could have started from, why it did not match. Invariant: a rewrite replaces a value by one of the
same type; ops that nothing reads any more are removed with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from g4c.ir.module import Function
from g4c.ir.op import Loc, Op, Value


class NoMatchError(Exception):
    """Why a rule does not apply to an op; the message is one clause, for people."""


def no_match(reason: str) -> NoReturn:
    raise NoMatchError(reason)


def need(condition: bool, reason: str) -> None:
    """Go on only if `condition`; otherwise the rule does not match, because of `reason`."""
    if not condition:
        raise NoMatchError(reason)


@dataclass(frozen=True)
class Rewrite:
    """`old` is to be read as `new` from now on; `ops` compute it, in order, from what `old` was computed from."""

    old: Value
    new: Value
    ops: tuple[Op, ...] = ()

    @staticmethod
    def by(op: Op, old: Value) -> Rewrite:
        """The common case: one op computes what `old` was."""
        return Rewrite(old, op.result, (op,))


class Rule(ABC):
    """One pattern. Its docstring shows the ops before and after."""

    name: ClassVar[str]
    roots: ClassVar[tuple[type[Op], ...]]

    @abstractmethod
    def match(self, op: Op, graph: Graph) -> Rewrite:
        """The rewrite that starts from `op` (one of `roots`); NoMatchError says why there is none."""


@dataclass(frozen=True)
class Explanation:
    """Rule `rule` could have started from `op` and did not match."""

    function: str
    rule: str
    op: Op
    reason: str

    def __str__(self) -> str:
        return f"{self.function}: {self.rule} does not match {self.op.mnemonic} at {self.op.loc}: {self.reason}"


class Graph:
    """A function under rewriting, with the uses of every value kept up to date."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.uses = function.users()
        self.erased: set[Op] = set()
        self.inserted: dict[Op, list[Op]] = {}
        self.returned = {result.value for result in function.results}

    def users(self, value: Value) -> list[Op]:
        """The ops that read `value`, once each, in order of definition."""
        return self.uses.get(value, [])

    def only_user(self, value: Value, what: str) -> Op:
        """The one op that reads `value`; no match where there are several, or where the function returns it."""
        users = self.users(value)
        need(value not in self.returned, f"{what} is a result of the function")
        need(len(users) == 1, f"{what} is read by {len(users)} ops: {', '.join(op.mnemonic for op in users)}")
        return users[0]

    def apply(self, rewrite: Rewrite) -> None:
        """Insert the new ops before the op that defines the old value, redirect its readers, drop what is dead."""
        owner = rewrite.old.owner
        assert owner is not None
        assert rewrite.old.type == rewrite.new.type, (rewrite.old, rewrite.new)
        self.inserted.setdefault(owner, []).extend(rewrite.ops)
        for op in rewrite.ops:
            for operand in dict.fromkeys(op.operands):
                self.uses.setdefault(operand, []).append(op)
        for user in self.uses.pop(rewrite.old, []):
            user.replace_operands({rewrite.old: rewrite.new})
            known = self.uses.setdefault(rewrite.new, [])
            if user not in known:
                known.append(user)
        if rewrite.old in self.returned:
            self.returned.remove(rewrite.old)
            self.returned.add(rewrite.new)
            for result in self.function.results:
                result.value = rewrite.new if result.value is rewrite.old else result.value
        self.erase_if_dead(owner)

    def erase_if_dead(self, op: Op) -> None:
        """Erase `op` if nothing reads its results, then what only it has read."""
        stack = [op]
        while stack:
            op = stack.pop()
            if op in self.erased or any(self.uses.get(v) or v in self.returned for v in op.results):
                continue
            self.erased.add(op)
            for operand in dict.fromkeys(op.operands):
                self.uses[operand].remove(op)
                if operand.owner is not None:
                    stack.append(operand.owner)

    def commit(self) -> None:
        """Write the insertions and erasures of this sweep into the function."""
        ops = []
        for op in self.function.ops:
            ops += [new for new in self.inserted.get(op, []) if new not in self.erased]
            if op not in self.erased:
                ops.append(op)
        self.function.ops = ops
        self.inserted.clear()
        self.erased.clear()


def rewrite(function: Function, rules: Sequence[Rule]) -> dict[str, int]:
    """Apply `rules` until none matches, earlier rules first; says how often each did. Dead ops are removed as well."""
    counts = dict.fromkeys((rule.name for rule in rules), 0)
    graph = Graph(function)
    for op in reversed(function.ops):
        graph.erase_if_dead(op)
    graph.commit()
    changed = True
    while changed:
        changed = False
        for op in function.ops:
            for rule in rules:
                if op in graph.erased or not isinstance(op, rule.roots):
                    continue
                try:
                    found = rule.match(op, graph)
                except NoMatchError:
                    continue
                graph.apply(found)
                counts[rule.name] += 1
                changed = True
        graph.commit()
    return counts


def explain(
    function: Function, rules: Sequence[Rule], rule_name: str | None = None, path: str | None = None
) -> Iterator[Explanation]:
    """Why no rule (or not the rule called `rule_name`) starts from the ops of `function` (or of the module `path` in
    it).
    """
    graph = Graph(function)
    for op in function.ops:
        if path is not None and not _is_within(op.loc, path):
            continue
        for rule in rules:
            if rule_name in (None, rule.name) and isinstance(op, rule.roots):
                try:
                    rule.match(op, graph)
                except NoMatchError as mismatch:
                    yield Explanation(function.name, rule.name, op, str(mismatch))


def _is_within(loc: Loc, path: str) -> bool:
    return f"{loc.path}.".startswith(f"{path}.")
