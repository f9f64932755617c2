"""In which order the dims of a head may lie in memory, so that the dims that RoPE rotates are one tile.

In: a module with RoPE tables. Out: one `HeadLayout` for every set of values that must agree on the order of their head
dims: q and all keys that they meet, caches included, and what the same weights make elsewhere. Where V is K's own
projection, it is in the set, too, up to the columns of the projection after attention. Invariant: a layout without a
`reason` may be applied: then nothing but the order inside heads changes, and no program gives another result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from g4c.ir.module import Module, Parameter
from g4c.ir.op import Op, Value
from g4c.ir.ops import (
    AddOp,
    AttentionOp,
    BroadcastOp,
    CallOp,
    ConcatOp,
    ConvertOp,
    GatherOp,
    KvUpdateOp,
    LinearOp,
    LoadWeightOp,
    MulOp,
    ReshapeOp,
    RmsNormOp,
    RopeOp,
    SelectRowsOp,
    SliceOp,
)
from g4c.ir.weights import Cast, RopeTable
from g4c.passes.call_sites import CallSites

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Place:
    """The elements start <= i < limit along `axis` of a weight: whole heads."""

    weight: str
    axis: int
    start: int
    limit: int


@dataclass(eq=False)
class HeadLayout:
    """Heads of `width` dims that share an order. `ropes` rotate them; `places` are where weights know the order.

    `order`: ranges of a head, the rotated ones first, as one tile. `reason`: why the order must stay; "": it need not.
    """

    width: int
    order: Ranges
    ropes: list[RopeOp] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    reason: str = ""


def rotated_first(width: int, tile: int) -> Ranges:
    """The order of `width` dims in which pairs (i, i + width / 2) with i < tile / 2 are the first tile's two halves."""
    half, pairs = width // 2, tile // 2
    return ((0, pairs), (half, half + pairs), (pairs, half), (half + pairs, width))


def find_layouts(module: Module, sites: CallSites, tile: int) -> list[HeadLayout]:
    """A layout per set of heads wider than `tile` that is rotated, each rope in one of them."""
    layouts: list[HeadLayout] = []
    known: set[RopeOp] = set()
    for function in module.functions.values():
        for rope in function.ops_of(RopeOp):
            if rope not in known and rope.x.shape[3] > tile:
                layouts.append(_Walk(sites, rope, tile).run())
                known.update(layouts[-1].ropes)
    return layouts


def rotated_pairs(sites: CallSites, rope: RopeOp) -> int | str:
    """How many pairs may have an angle other than zero, by the frequencies of the tables; or why that is not known."""
    pairs = 0
    for rows in (rope.cos, rope.sin):
        for table in tables_of(sites, rows):
            weight = sites.module.weights[table] if table is not None else None
            if weight is None or weight.value is None or not _is_table(weight.transforms):
                return "its angles are not rows of a table"
            (nonzero,) = weight.value.array().nonzero()
            pairs = max(pairs, int(nonzero[-1]) + 1 if nonzero.size else 0)
    return pairs


def tables_of(sites: CallSites, rows: Value) -> Iterator[str | None]:
    """The weights that `rows` are rows of, whichever and in whatever shape; None for anything else."""
    for (source,) in sites.sources(rows):
        whole = taken_rows(source.owner) if source.owner is not None else None
        if whole is not None:
            yield from tables_of(sites, whole)
        else:
            yield source.owner.weight.name if isinstance(source.owner, LoadWeightOp) else None


def taken_rows(op: Op) -> Value | None:
    """What `op` takes rows of, which it leaves as they are; None where it does anything else."""
    match op:
        case GatherOp():
            return op.table
        case SelectRowsOp() | ReshapeOp() | BroadcastOp() if op.x.shape[-1:] == op.result.shape[-1:]:
            return op.x
    return None


def _is_table(transforms: Sequence[object]) -> bool:
    first, *rest = transforms or (None,)
    return isinstance(first, RopeTable) and all(isinstance(step, Cast) for step in rest)


class _Walk:
    """Follows the order of head dims from one rope to everything that it reaches.

    A node is a value with a range of its last axis that is made of whole heads.
    """

    def __init__(self, sites: CallSites, rope: RopeOp, tile: int) -> None:
        self.sites = sites
        self.tile = tile
        self.width = rope.x.shape[3]
        self.layout = HeadLayout(self.width, rotated_first(self.width, tile))
        self.todo: list[tuple[Value, int, int]] = [(rope.x, 0, self.width)]

    def run(self) -> HeadLayout:
        done: set[tuple[Value, int, int]] = set()
        while self.todo:
            node = self.todo.pop()
            if node not in done:
                done.add(node)
                self.visit(*node)
        for rope in self.layout.ropes:
            pairs = rotated_pairs(self.sites, rope)
            if isinstance(pairs, str):
                self.fail(pairs)
            elif pairs > self.tile // 2:
                self.fail(f"{pairs} pairs rotate, a tile has {self.tile // 2}")
        return self.layout

    def fail(self, reason: str) -> None:
        self.layout.reason = self.layout.reason or reason

    def visit(self, value: Value, start: int, limit: int) -> None:
        if start % self.width or limit % self.width:
            self.fail("a part of a head is cut out")
            return
        if isinstance(value, Parameter):
            self.parameter(value, start, limit)
        if value.owner is not None:
            self.op(value.owner, "", value, start, limit)
        for use in self.sites.users(value):
            assert use.op is not None
            self.op(use.op, use.name, value, start, limit)
        if self.sites.home[value].role == "program":
            for result in self.sites.results(value):
                self.cache(result.cache, start, limit)
        others = [*self.sites.aliases(value), *self.sites.returned(value)]
        self.todo += [(other, start, limit) for other in others]

    def parameter(self, param: Parameter, start: int, limit: int) -> None:
        function = self.sites.home[param]
        if function.role == "program":
            self.cache(param.cache, start, limit)
            return
        index = function.params.index(param)
        self.todo += [(call.args[index], start, limit) for call in self.sites.calls[function.name]]

    def cache(self, cache: str | None, start: int, limit: int) -> None:
        """All programs must agree on what a cache holds; what else goes in and out of programs is the user's."""
        if cache is None:
            self.fail("it is an input or a result of a program")
            return
        for program in self.sites.module.programs:
            states: list[Value] = [param for param in program.params if param.cache == cache]
            states += [result.value for result in program.results if result.cache == cache]
            self.todo += [(state, start, limit) for state in states]

    def op(self, op: Op, operand: str, value: Value, start: int, limit: int) -> None:
        """Follow `op`, of which `value` is that operand, or the result where `operand` is ""."""
        whole = (start, limit) == (0, value.shape[-1])
        match op:
            case LinearOp() if operand == "":
                self.weight(op.w, 0, start, limit)
            case LinearOp() if operand == "x" and whole:
                self.weight(op.w, 1, start, limit)
            case CallOp():
                callee = self.sites.callee(op)
                self.todo.append((callee.results[op.results.index(value)].value, start, limit))
            case ReshapeOp() if whole and all(other.shape[-1] % self.width == 0 for other in (op.x, op.result)):
                self.todo += [(other, 0, other.shape[-1]) for other in (op.x, op.result)]
            case SliceOp():
                self.cut(op, operand, start, limit)
            case RopeOp() if operand in ("", "x") and whole:
                if op not in self.layout.ropes:
                    self.layout.ropes.append(op)
                self.todo += [(other, start, limit) for other in (op.x, op.result)]
            case _:
                self.alike(op, value, start, limit)

    def cut(self, op: SliceOp, operand: str, start: int, limit: int) -> None:
        low, high = op.starts[-1], op.limits[-1]
        if operand == "":
            self.todo.append((op.x, low + start, low + limit))
        elif low <= start and limit <= high:
            self.todo.append((op.result, start - low, limit - low))
        elif start <= low < high <= limit:
            self.todo.append((op.result, 0, high - low))
        elif low < limit and start < high:
            self.fail("a slice takes a part of it")

    def alike(self, op: Op, value: Value, start: int, limit: int) -> None:
        """Ops that leave the last axis as it is: their operands and result have one order."""
        group = next((group for group in _groups(op) if value in group), None)
        if group is None:
            self.fail(f"{op.mnemonic} uses it")
            return
        for other in group:
            if other.type.rank == 1:
                self.weight(other, 0, start, limit)
            else:
                self.todo.append((other, start, limit))

    def weight(self, value: Value, axis: int, start: int, limit: int) -> None:
        names = self.sites.weights(value)
        if names is None:
            self.fail("it meets a factor that is no weight")
        for name in names or ():
            place = Place(name, axis, start, limit)
            if place in self.layout.places:
                continue
            self.layout.places.append(place)
            for use in self.sites.uses(*self.sites.loads(name)):
                self.reader(use.op, use.name, place)

    def reader(self, op: Op | None, operand: str, place: Place) -> None:
        """What else reads a weight has its output, or its input, in the same order."""
        vector = self.sites.module.weights[place.weight].type.rank == 1
        match op:
            case LinearOp() if operand == "w":
                self.todo.append((op.result if place.axis == 0 else op.x, place.start, place.limit))
            case RmsNormOp() | MulOp() | AddOp() if vector:
                self.todo.append((op.results[0], place.start, place.limit))
            case _:
                self.fail(f"{op.mnemonic if op else 'a result'} reads weight {place.weight}, too")


def _groups(op: Op) -> Iterator[list[Value]]:
    """Values of `op` whose last axes have one meaning."""
    match op:
        case RmsNormOp():
            yield [op.x, op.result, *([op.w] if op.w is not None else [])]
        case AttentionOp():
            yield [op.q, *op.keys]
            yield [*op.values, op.result]
        case KvUpdateOp():
            yield [op.cache, op.x, op.result]
        case SelectRowsOp() | ConvertOp():
            yield [op.operands[0], op.result]
        case ConcatOp() if op.axis != op.result.type.rank - 1:
            yield [*op.xs, op.result]
        case AddOp() | MulOp():
            width = op.result.shape[-1:]
            yield [*(value for value in op.operands if value.shape[-1:] == width), op.result]
