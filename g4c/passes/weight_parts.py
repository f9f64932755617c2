"""Which part of a weight goes where: one product, or one lookup, for all columns that are made of the same input.

In: a module in which slices of a weight are used, be they taken in a program (`g4.slice` of what is loaded) or by the
weight itself (its last transform is `slice`): rows of a matrix by linear ops, columns of a table by lookups. Out: the
same module with every element in one weight, in as few parts as the programs allow, and no slices of loaded weights.
Invariant: neighboring rows of a matrix are in one part if and only if every program applies both to the same values; a
table stays whole, and what is looked up is cut.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cache

from g4c.ir.module import Function, Module
from g4c.ir.op import Loc, Op, SymbolRef, Value
from g4c.ir.ops import ConcatOp, EmbeddingOp, GatherOp, LinearOp, LoadWeightOp, SliceOp
from g4c.ir.weights import Slice, Weight
from g4c.passes.cse import common_path
from g4c.passes.dce import remove_newly_dead_ops, used_values
from g4c.passes.weight_uses import Use, weight_uses

# By operand that may be part of a weight: along which of its axes, which is the last one of the result.
_AXES: dict[tuple[type[Op], str], int] = {(LinearOp, "w"): 0, (EmbeddingOp, "table"): 1, (GatherOp, "table"): 1}
_Range = tuple[int, int]


@dataclass(frozen=True)
class _Reader:
    """An op that reads `range` of a whole weight; `sliced`: in the program. `operand`: what it reads, as a value."""

    function: Function
    op: Op
    operand: Value
    range: _Range
    sliced: bool

    @property
    def input(self) -> Hashable:
        """Equal for two readers of one part that do the same."""
        return _input(self.op, self.operand)


def _input(op: Op, operand: Value) -> Hashable:
    others = tuple(value for value in op.operands if value is not operand)
    return op.mnemonic, others, tuple(map(repr, op.attributes().values()))


@dataclass(frozen=True)
class _Family:
    """The weights that are parts, along `axis`, of `whole`, and all that read them."""

    whole: Weight
    axis: int
    members: list[Weight]
    readers: list[_Reader]

    def parts(self) -> list[_Range]:
        places = sorted({place for reader in self.readers for place in reader.range})
        if self.axis == 1:
            is_there = any(member.type == self.whole.type for member in self.members)
            return [(0, self.whole.type.shape[1])] if is_there else [(places[0], places[-1])]
        runs: list[tuple[_Range, frozenset[Hashable]]] = []
        for start, limit in itertools.pairwise(places):
            within = (r for r in self.readers if r.range[0] <= start and limit <= r.range[1])
            inputs = frozenset((reader.function.name, reader.input) for reader in within)
            if runs and runs[-1][0][1] == start and runs[-1][1] == inputs:
                runs[-1] = ((runs[-1][0][0], limit), inputs)
            elif inputs:
                runs.append(((start, limit), inputs))
        return [run for run, _ in runs]

    def weight(self, part: _Range) -> Weight:
        """The weight that is `part`: the member that is, or a new one."""
        if part == (0, self.whole.type.shape[self.axis]):
            return self.whole
        new = self.whole.then(Slice(self.axis, *part))
        for member in self.members:
            if dataclasses.replace(new, name=member.name) == member:
                return member
        stem, dot, last = self.whole.name.rpartition(".")
        name = f"{'rows' if self.axis == 0 else 'columns'}_{part[0]}_{part[1]}"
        return dataclasses.replace(new, name=f"{stem}.{name}.{last}" if dot else f"{last}.{name}")


def place_parts(module: Module) -> int:
    """Bring all weights of which slices are used into parts; returns how many weights were replaced."""
    replaced = 0
    for family in _families(module):
        parts = family.parts()
        if any(reader.sliced or reader.range not in parts for reader in family.readers):
            taken = set(module.weights) - {member.name for member in family.members}
            weights = {part: _renamed(family.weight(part), taken) for part in parts}
            _enter(module, family, list(weights.values()))
            for function in {reader.function.name: reader.function for reader in family.readers}.values():
                _Rewriter(function, family, weights).run()
            replaced += len(family.members)
    return replaced


def _families(module: Module) -> Iterator[_Family]:
    """Weights of which slices are used, by rows or columns and by nothing else."""
    users = cache(Function.users)
    families: dict[Hashable, _Family] = {}
    for name, uses in weight_uses(module).items():
        weight = module.weights[name]
        found = [_readers(weight, use, users) for use in uses]
        axes = {axis for use in found for axis, _ in use}
        if len(axes) != 1 or not all(found):
            continue
        axis = axes.pop()
        whole, offset = _whole(weight, axis)
        key = (axis, whole.sources, whole.value, whole.transforms)
        family = families.setdefault(key, _Family(whole, axis, [], []))
        family.members.append(weight)
        for _, reader in itertools.chain.from_iterable(found):
            start, limit = reader.range
            family.readers.append(dataclasses.replace(reader, range=(start + offset, limit + offset)))
    for family in families.values():
        if len(family.members) > 1 or any(reader.sliced for reader in family.readers):
            yield family


def _readers(weight: Weight, use: Use, users: Callable[[Function], dict[Value, list[Op]]]) -> list[tuple[int, _Reader]]:
    """What reads the weight at `use`, each with the axis of which it reads a range; empty where that is not so."""
    op = use.op
    if op is None or weight.type.rank != 2:
        return []
    if not isinstance(op, SliceOp):
        axis = _AXES.get((type(op), use.operand))
        value = next(value for name, value in op.named_operands() if name == use.operand)
        return [] if axis is None else [(axis, _Reader(use.function, op, value, (0, weight.type.shape[axis]), False))]
    found = []
    for user in users(use.function).get(op.result, ()):
        for name in (name for name, value in user.named_operands() if value is op.result):
            axis = _AXES.get((type(user), name))
            if axis is None or op.result.shape[1 - axis] != weight.type.shape[1 - axis]:
                return []
            found.append((axis, _Reader(use.function, user, op.result, (op.starts[axis], op.limits[axis]), True)))
    returned = any(result.value is op.result for result in use.function.results)
    return [] if returned else found


def _whole(weight: Weight, axis: int) -> tuple[Weight, int]:
    """What `weight` is a slice of along `axis`, and where it begins there."""
    last = weight.transforms[-1] if weight.transforms else None
    if not isinstance(last, Slice) or last.axis != axis:
        return weight, 0
    name = weight.sources[0].key if len(weight.sources) == len(weight.transforms) == 1 else f"{weight.name}.whole"
    return dataclasses.replace(weight, name=name, transforms=weight.transforms[:-1]), last.start


def _renamed(weight: Weight, taken: set[str]) -> Weight:
    """`weight` under a name that is not taken."""
    number, name = 1, weight.name
    while name in taken:
        number += 1
        name = f"{weight.name}_{number}"
    return dataclasses.replace(weight, name=name)


def _enter(module: Module, family: _Family, weights: list[Weight]) -> None:
    """Put `weights` where the first member of `family` was; the members go."""
    members = {member.name for member in family.members}
    table: dict[str, Weight] = {}
    for name, weight in module.weights.items():
        if name == family.members[0].name:
            table |= {new.name: new for new in weights}
        if name not in members:
            table[name] = weight
    module.weights = table


class _Rewriter:
    """Lets the readers of one function read the parts: each part is applied once to each input."""

    def __init__(self, function: Function, family: _Family, weights: dict[_Range, Weight]) -> None:
        self.function = function
        self.readers = {reader.op: reader for reader in family.readers if reader.function is function}
        self.weights = weights
        self.loads: dict[_Range, LoadWeightOp] = {}
        self.products: dict[tuple[_Range, Hashable], Op] = {}

    def run(self) -> None:
        function, used = self.function, used_values(self.function)
        ops, function.ops = function.ops, []
        mapping: dict[Value, Value] = {}
        for op in ops:
            op.replace_operands(mapping)
            if op in self.readers:
                mapping[op.result] = self.read(op, self.readers[op])
            else:
                function.append(op)
        for result in function.results:
            result.value = mapping.get(result.value, result.value)
        remove_newly_dead_ops(function, used)

    def read(self, op: Op, reader: _Reader) -> Value:
        """The result of `op` from those of its parts."""
        pieces = []
        axis = op.result.type.rank - 1
        for part in self.weights:
            start, limit = max(part[0], reader.range[0]), min(part[1], reader.range[1])
            if start < limit:
                value = self.product(part, op, reader.operand).result
                if (start, limit) != part:
                    starts = (*(0,) * axis, start - part[0])
                    limits = (*value.shape[:-1], limit - part[0])
                    value = self.function.append(SliceOp(value, starts, limits, loc=op.loc)).result
                pieces.append(value)
        return pieces[0] if len(pieces) == 1 else self.function.append(ConcatOp(tuple(pieces), axis, loc=op.loc)).result

    def product(self, part: _Range, op: Op, operand: Value) -> Op:
        key = (part, _input(op, operand))
        if part not in self.loads:
            weight = self.weights[part]
            self.loads[part] = self.function.append(LoadWeightOp(SymbolRef(weight.name), weight.type, loc=op.loc))
        if key not in self.products:
            self.products[key] = self.function.append(op.copy({operand: self.loads[part].result}))
        for made in (self.loads[part], self.products[key]):
            made.loc = Loc(common_path(made.loc.path, op.loc.path), made.loc.file, made.loc.line)
        return self.products[key]
