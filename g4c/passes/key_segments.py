"""What is known of the keys that an attention reads, and the form in which most is known.

In: attentions of a module, flat or with layer functions. Out: the kind of every segment (`g4c.ir.tiles`), read from the
ops that say which positions it holds, at every call. `part_updates` gives an attention that reads a cache just after
its own rows were written to it two segments instead: what the cache held before, and the rows. Invariant: an attention
sees the same keys in both forms.
"""

from __future__ import annotations

from collections.abc import Iterable

from g4c.ir.module import Function, Module, Parameter
from g4c.ir.op import Value, defining
from g4c.ir.ops import AttentionOp, CallOp, HeldPositionsOp, KvUpdateOp
from g4c.passes.call_sites import CallSites
from g4c.passes.dce import remove_newly_dead_ops, used_values


def segment_kinds(sites: CallSites, op: AttentionOp) -> tuple[str, ...]:
    """past, chunk or mixed, per segment of `op`."""
    return tuple(_kind(sites, op.positions, held) for held in op.key_positions)


def _kind(sites: CallSites, positions: Value, held: Value) -> str:
    found = list(sites.sources(positions, held))
    if not found or not all(_consecutive(sites, source) for source, _ in found):
        return "mixed"
    if held is positions:
        return "chunk"
    before = (_holds(keys, source, updated=False) for source, keys in found)
    return "past" if all(before) else "mixed"


def _consecutive(sites: CallSites, positions: Value) -> bool:
    """Whether these are the positions that a program is given; rows that it selects from them may have any order."""
    return isinstance(positions, Parameter) and sites.home[positions].role == "program"


def _holds(keys: Value, positions: Value, *, updated: bool) -> bool:
    held = defining(keys, HeldPositionsOp)
    return held is not None and held.positions is positions and held.updated == updated


def part_updates(module: Module) -> int:
    """Let attentions read what their caches held before, beside the new rows, where they now read both in one.

    The updates move behind the attentions. Returns how many attentions changed.
    """
    sites = CallSites(module)
    parted: list[AttentionOp] = []
    for function in module.functions.values():
        for op in function.ops_of(AttentionOp):
            updates = _own_updates(op)
            if updates is None or not _same_keys(sites, op):
                continue
            keys, values = updates
            op.keys, op.values = (keys.cache, keys.x), (values.cache, values.x)
            op.key_positions = (op.key_positions[0], op.positions)
            parted.append(op)
            _move_behind(function, op, [values, keys])
    _hold_before(module, CallSites(module), parted)
    return len(parted)


def _own_updates(op: AttentionOp) -> tuple[KvUpdateOp, KvUpdateOp] | None:
    """The updates with the rows of the queries that `op` reads the results of."""
    keys, values = (defining(segments[0], KvUpdateOp) for segments in (op.keys, op.values))
    if len(op.keys) > 1 or keys is None or values is None:
        return None
    return (keys, values) if keys.positions is values.positions is op.positions else None


def _same_keys(sites: CallSites, op: AttentionOp) -> bool:
    """Whether no update takes away a key that a query still sees: no position meets an older one in its slot, or the
    older one is out of every window by then."""
    (held,), slots = op.key_positions, op.keys[0].shape[1]
    found = list(sites.sources(op.positions, held))
    known = all(_consecutive(sites, p) and _holds(keys, p, updated=True) for p, keys in found)
    context = sites.module.attributes.get("max_context")
    straight = isinstance(context, int) and context <= slots
    return bool(found) and known and (straight or 0 < op.window <= slots - op.positions.shape[1] + 1)


def _move_behind(function: Function, op: AttentionOp, updates: Iterable[KvUpdateOp]) -> None:
    """Let `updates` stand behind `op`, where nothing between them needs their results."""
    for update in dict.fromkeys(updates):
        start, stop = function.ops.index(update), function.ops.index(op)
        between = function.ops[start + 1 : stop + 1]
        if stop > start and not any(update.result in other.operands for other in between):
            function.ops[start : stop + 1] = [*between, update]


def _hold_before(module: Module, sites: CallSites, parted: list[AttentionOp]) -> None:
    """Let the first key positions of `parted` say what caches held before; callers compute that, as they did."""
    used = {function: used_values(function) for function in module.functions.values()}
    made: dict[Value, Value] = {}
    for op in parted:
        held = op.key_positions[0]
        if held not in made:
            made[held] = _passed(sites, held, parted, made) or _computed(sites, held, op)
        op.key_positions = (made[held], *op.key_positions[1:])
    for function, values in used.items():
        remove_newly_dead_ops(function, values)


def _passed(sites: CallSites, held: Value, parted: list[AttentionOp], made: dict[Value, Value]) -> Value | None:
    """`held`, a parameter, once every call passes what was held before; None where that cannot be."""
    function = sites.home[held]
    if not isinstance(held, Parameter) or sites.results(held) or len(sites.aliases(held)) > 1:
        return None
    if any(use.op not in parted or use.name != "key_positions" for use in sites.users(held)):
        return None
    index = function.params.index(held)
    given = [call.args[index] for call in sites.calls[function.name]]
    if not all(isinstance(value.owner, HeldPositionsOp) for value in given):
        return None
    for call, value in zip(sites.calls[function.name], given, strict=True):
        if value not in made:
            made[value] = _computed(sites, value, call)
        call.args = (*call.args[:index], made[value], *call.args[index + 1 :])
    return held


def _computed(sites: CallSites, held: Value, op: AttentionOp | CallOp) -> Value:
    """A new op in front of `op` that says what was held before; where it can, behind the one that says what is held."""
    ops = sites.home[op.results[0]].ops
    old = defining(held, HeldPositionsOp)
    if old is None:
        assert isinstance(op, AttentionOp)
        new = HeldPositionsOp(op.positions, held.shape[1], False, loc=op.loc)
        ops.insert(ops.index(op), new)
    else:
        new = HeldPositionsOp(old.positions, old.slots, False, loc=old.loc)
        ops.insert(ops.index(old) + 1, new)
    return new.result
