"""rebuild-keys: where K can be computed from V, the cache holds V alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from g4c.ir.module import Function, Module
from g4c.ir.op import Op, Value, defining
from g4c.ir.ops import (
    AttentionOp,
    BroadcastOp,
    ConstantOp,
    GatherOp,
    HeldPositionsOp,
    KvUpdateOp,
    LoadWeightOp,
    MaxOp,
    MulOp,
    ReshapeOp,
    RmsNormOp,
    RopeOp,
)
from g4c.passes.cache_uses import CacheUses, cache_uses
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.dce import remove_newly_dead_ops, used_values
from g4c.passes.flat import require_flat


@dataclass(frozen=True)
class RebuildKeys(Pass):
    """Cache V only where K = RoPE(V * k_norm weight), and rebuild K whenever attention reads it.

    On k_eq_v layers V = rms(Wk x) and K = RoPE(rms(Wk x) * w): the same projection, the same norm. So a cache of K
    holds nothing that the cache of V and the positions of its slots do not tell. The K cache goes; an attention that
    read it reads V times w, rotated by the rows of the RoPE tables at the positions that the slots hold. Where a cache
    has a slot for every row of the tables, slot p can hold nothing but position p, and the tables are taken whole. New
    rows that stand beside an old state are there already and stay. In f32 the same bits; in narrower types V is
    rounded before it meets w, which costs as much as any other rounding.

    Halves what grows with the context on such layers, and pays with arithmetic at every execution, so it is for the
    case that memory decides (--kv v-only, or --kv auto).

    before:  %5 = "g4.kv_update"(%layers.5.k, %k, %positions) ...
             %6 = "g4.kv_update"(%layers.5.v, %v, %positions) ...
             %7 = "g4.attention"(%q, %5, %6, %positions, %held) ...
    after:   %6 = "g4.kv_update"(%layers.5.v, %v, %positions) ...
             %8 = "g4.mul"(%6, %k_norm.weight) : (tensor<1x2048x4x512xbf16>, tensor<512xbf16>) -> ...
             %9 = "g4.rope"(%8, %cos, %sin) : (tensor<1x2048x4x512xbf16>, tensor<1x2048x256xbf16>, ...) -> ...
             %7 = "g4.attention"(%q, %9, %6, %positions, %held) ...

    By dataflow, in all programs or not at all; a cache whose K has other readers or other positions than V stays.
    Stats: caches, cache_bytes saved; of the program where it is most, rebuilds, and what they cost per execution:
    elementwise operations (4 per element of K) and bytes that the new ops read and write, one by one.
    """

    name = "rebuild-keys"
    runs_after = ("precompute-rope", "eliminate-shared-kv", "window-kv-cache")

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        require_flat(module, self.name)
        programs = {program: cache_uses(program) for program in module.programs}
        stats = {"caches": 0, "cache_bytes": 0}
        costs = {program: _Cost() for program in programs}
        for name in list(module.caches):
            pairs = _pairs(name, programs)
            if pairs is not None:
                stats["caches"] += 1
                stats["cache_bytes"] += module.caches.pop(name).type.nbytes
                for program, pair in pairs.items():
                    _rebuild(program, pair, costs[program])
        largest = max(costs.values(), key=lambda cost: cost.operations, default=_Cost())
        stats |= {"rebuilds": largest.rebuilds, "operations": largest.operations, "bytes": largest.bytes}
        return PassResult(stats["caches"] > 0, stats)


@dataclass
class _Cost:
    """What rebuilding costs one execution of a program."""

    rebuilds: int = 0
    operations: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class _Recipe:
    """How new rows of K come from new rows of V: the norm's weight and the tables, as loaded in the program."""

    weight: LoadWeightOp
    cos: GatherOp
    sin: GatherOp

    @property
    def tables(self) -> tuple[Value, Value]:
        return self.cos.table, self.sin.table

    @property
    def symbols(self) -> tuple[str, ...]:
        """The weights that it names: in every program the same, or one would rebuild another's keys wrongly."""
        loads = (self.weight, *(defining(table, LoadWeightOp) for table in self.tables))
        return tuple(load.weight.name for load in loads if load is not None)


@dataclass(frozen=True)
class _Pair:
    """A cache of K, and the cache of V that its rows can be rebuilt from, in one program."""

    keys: CacheUses
    values: CacheUses
    recipe: _Recipe
    reads: list[AttentionOp] = field(default_factory=list)


def _pairs(name: str, programs: dict[Function, dict[str, CacheUses]]) -> dict[Function, _Pair] | None:
    """Per program that takes the cache `name` how its rows come from those of another; None where that is unproven."""
    found: dict[Function, _Pair] = {}
    for program, uses in programs.items():
        if name in uses:
            pair = _pair(uses[name], uses)
            if pair is None:
                return None
            found[program] = pair
    recipes = {(pair.values.cache, pair.recipe.symbols) for pair in found.values()}
    return found if len(recipes) == 1 else None


def _pair(keys: CacheUses, uses: dict[str, CacheUses]) -> _Pair | None:
    if not _simple(keys) or keys.others:
        return None
    (k,) = keys.updates
    for values in uses.values():
        recipe = _recipe(k, values.updates[0]) if values is not keys and _simple(values) else None
        if recipe is not None and all(_reads_both(op, keys, values) for op in keys.attentions):
            return _Pair(keys, values, recipe, keys.attentions)
    return None


def _simple(uses: CacheUses) -> bool:
    """Updated once, and the result returned as the cache's new state and as nothing else."""
    return len(uses.updates) == 1 and not uses.leaks and uses.returned is uses.states[-1]


def _recipe(k: KvUpdateOp, v: KvUpdateOp) -> _Recipe | None:
    """The recipe if the rows of `k` are RoPE(rows of `v` times a weight), at the same positions."""
    rope, plain = defining(k.x, RopeOp), defining(v.x, RmsNormOp)
    norm = defining(rope.x, RmsNormOp) if rope is not None else None
    if rope is None or norm is None or plain is None or norm.w is None or plain.w is not None:
        return None
    weight = defining(norm.w, LoadWeightOp)
    cos, sin = (_rows_of_table(value, k.positions) for value in (rope.cos, rope.sin))
    if weight is None or cos is None or sin is None:
        return None
    same = norm.x is plain.x and norm.epsilon == plain.epsilon and k.positions is v.positions
    return _Recipe(weight, cos, sin) if same and cos.table.shape == sin.table.shape else None


def _rows_of_table(value: Value, positions: Value) -> GatherOp | None:
    """The gather if `value` is gather(table, max(positions, 0)), as precompute-rope makes it."""
    gather = defining(value, GatherOp)
    valid = defining(gather.indices, MaxOp) if gather is not None else None
    if gather is None or valid is None or defining(gather.table, LoadWeightOp) is None:
        return None
    zero = defining(valid.y, ConstantOp)
    at_positions = valid.x is positions and zero is not None and not zero.value.array().any()
    return gather if at_positions else None


def _reads_both(op: AttentionOp, keys: CacheUses, values: CacheUses) -> bool:
    """Whether `op` takes states of `keys` as keys only, each beside the same state of `values` and its positions."""
    if any(value in keys.states for value in op.values):
        return False
    positions = keys.updates[0].positions
    for key, value, held_at in zip(op.keys, op.values, op.key_positions, strict=True):
        if key not in keys.states:
            continue
        updates = keys.states.index(key)
        held = defining(held_at, HeldPositionsOp)
        if held is None or held.positions is not positions or held.slots != key.shape[1]:
            return False
        if value is not values.states[updates] or held.updated != bool(updates):
            return False
    return True


def _rebuild(program: Function, pair: _Pair, cost: _Cost) -> None:
    """Remove the cache of K from `program`; what reads it reads rebuilt keys."""
    used = used_values(program)
    cache, states = pair.keys.cache, pair.keys.states
    rebuilt: dict[tuple[Value, Value], Value] = {}
    ops: list[Op] = []
    for op in program.ops:
        if isinstance(op, AttentionOp) and op in pair.reads:
            for key, value, held in zip(op.keys, op.values, op.key_positions, strict=True):
                if key in states and (value, held) not in rebuilt:
                    new = list(_keys(pair.recipe, value, held, op))
                    rebuilt[value, held] = new[-1].result
                    ops += new
                    cost.rebuilds += 1
                    cost.operations += 4 * value.type.size
                    cost.bytes += sum(made.cost().bytes_read + made.cost().bytes_written for made in new)
            op.keys = tuple(
                rebuilt[value, held] if key in states else key
                for key, value, held in zip(op.keys, op.values, op.key_positions, strict=True)
            )
        if op is not pair.keys.updates[0]:
            ops.append(op)
    program.ops = ops
    program.params = [param for param in program.params if param.cache != cache]
    program.results = [result for result in program.results if result.cache != cache]
    remove_newly_dead_ops(program, used)


def _keys(recipe: _Recipe, values: Value, held: Value, attention: AttentionOp) -> Iterator[Op]:
    """The ops that make the keys of the state `values`, whose slots hold the positions `held`; the last gives them."""
    tables: list[Value] = []
    for gather in (recipe.cos, recipe.sin):
        *made, last = _table(gather, held)
        yield from (*made, last)
        tables.append(last.result)
    scaled = MulOp(values, recipe.weight.result, loc=attention.loc)
    yield scaled
    yield RopeOp(scaled.result, tables[0], tables[1], loc=attention.loc)


def _table(gather: GatherOp, held: Value) -> list[Op]:
    """Ops whose last gives the rows of the table of `gather` at the positions `held` [b, slots]: [b, slots, width].

    Where nothing is held any row will do, as nobody sees it.
    """
    table, loc = gather.table, gather.loc
    type = table.type.with_shape((*held.shape, table.shape[1]))
    if held.shape[1] == table.shape[0]:
        whole = ReshapeOp(table, table.type.with_shape((1, *table.shape)), loc=loc)
        return [whole] if whole.type == type else [whole, BroadcastOp(whole.result, type, loc=loc)]
    valid = defining(gather.indices, MaxOp)
    assert valid is not None
    indices = MaxOp(held, valid.y, loc=loc)
    return [indices, GatherOp(table, indices.result, loc=loc)]
