"""window-kv-cache: caches of sliding layers become rings as long as the window."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NoReturn

from g4c.errors import G4cError
from g4c.ir.module import Function, Module
from g4c.ir.op import Op, Value, defining
from g4c.ir.ops import AttentionOp, HeldPositionsOp, KvUpdateOp, SelectRowsOp, SliceOp
from g4c.ir.types import TensorType
from g4c.passes.cache_uses import CacheUses, cache_uses
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.dce import remove_newly_dead_ops, used_values
from g4c.passes.flat import require_flat


@dataclass(frozen=True)
class WindowKvCache(Pass):
    """Give caches that only windowed attentions read `window` slots, rounded up to a multiple of `pad`: rings.

    Position p lives in slot p mod slots, and masks go by position, so an attention may read a ring wherever it has come
    around to. What it must not do is read keys that its own chunk overwrote: the first of s new rows sees window - 1
    positions before it, the last one evicts what lies `slots` before it. Where slots >= window + s - 1 (in decode
    always) a program still writes, then reads. Otherwise it reads, then writes: the attention takes what the cache held
    before, and the new rows as a second segment. Layers that read a donor's cache read its old state and its new rows.
    A cache that a full attention reads, too, stays as it is, with a remark. Windows that differ: the largest counts.

    A `pad` that does not divide the window leaves slack for speculative decoding: as many positions as the ring has
    slots beyond the window can be written ahead and taken back, and nothing that the window still sees was overwritten.

    before:  %1 = "g4.held_positions"(%positions) {slots = 2048 : i64, updated = true} ... -> tensor<1x2048xi32>
             %3 = "g4.kv_update"(%layers.0.k, %k, %positions) ... -> tensor<1x2048x1x256xbf16>
             %4 = "g4.kv_update"(%layers.0.v, %v, %positions) ... -> tensor<1x2048x1x256xbf16>
             %5 = "g4.attention"(%q, %3, %4, %positions, %1) {window = 512 : i64} ...
    after:   %1 = "g4.held_positions"(%positions) {slots = 512 : i64, updated = false} ... -> tensor<1x512xi32>
             %3 = "g4.kv_update"(%layers.0.k, %k, %positions) ... -> tensor<1x512x1x256xbf16>
             %4 = "g4.kv_update"(%layers.0.v, %v, %positions) ... -> tensor<1x512x1x256xbf16>
             %5 = "g4.attention"(%q, %layers.0.k, %k, %layers.0.v, %v, %positions, %1, %positions) {window = 512} ...
    decode:  %5 = "g4.attention"(%q, %3, %4, %positions, %1) {window = 512 : i64} ...

    Works over all programs together, as a cache is one for all of them. Refuses what it cannot prove (G4C-P061 to
    P064). Stats: caches, slots_before and slots_after (sums over these caches), cache_bytes saved, attentions that now
    read before the write, mixed (caches left alone because a full attention reads them, too).
    """

    name = "window-kv-cache"
    pad: int = 128

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        require_flat(module, self.name)
        if self.pad < 1:
            raise G4cError("G4C-P060", f"pad must be at least 1, got {self.pad}", help="window-kv-cache{pad=128}")
        programs = {program: cache_uses(program) for program in module.programs}
        rings, mixed = self._rings(module, programs.values())
        for cache in mixed:
            ctx.remark(f"{self.name}: {cache} keeps every position, because a full attention reads it, too")
        reads = {program: list(_reads(program, uses, rings)) for program, uses in programs.items()}
        stats = {"caches": len(rings), "slots_before": 0, "slots_after": 0, "cache_bytes": 0}
        for name, slots in rings.items():
            before = module.caches[name].type
            after = _shorten(module, name, slots, [uses[name] for uses in programs.values() if name in uses])
            stats["slots_before"] += before.shape[1]
            stats["slots_after"] += slots
            stats["cache_bytes"] += before.nbytes - after.nbytes
        stats["attentions"] = sum(_rewrite(program, found) for program, found in reads.items())
        return PassResult(bool(rings), {**stats, "mixed": len(mixed)})

    def _rings(self, module: Module, programs: Collection[dict[str, CacheUses]]) -> tuple[dict[str, int], list[str]]:
        """Slots of each cache that will have fewer of them, by name; caches that are read with and without a window."""
        windows: dict[str, set[int]] = {name: set() for name in module.caches}
        partners: dict[str, set[str]] = {name: {name} for name in module.caches}  # caches that must be of one length
        for uses in programs:
            holders = _holders(uses)
            for attention in {op for found in uses.values() for op in found.attentions}:
                read = {holders[v].cache for v in (*attention.keys, *attention.values) if v in holders}
                together = set().union(*(partners[name] for name in read))
                for name in together:
                    windows[name].add(attention.window)
                    partners[name] = together
        rings: dict[str, int] = {}
        mixed: list[str] = []
        for name, cache in module.caches.items():
            found = set().union(*(windows[partner] for partner in partners[name]))
            if 0 in found and len(found) > 1:
                mixed.append(name)
            elif found and 0 not in found:
                slots = -(-max(found) // self.pad) * self.pad
                if slots < cache.type.shape[1]:
                    rings[name] = slots
        return rings, mixed


@dataclass(frozen=True)
class _Read:
    """An attention over one ring each for K and V. `chunked`: it must read the old states and the new rows."""

    attention: AttentionOp
    keys: KvUpdateOp
    values: KvUpdateOp
    held: HeldPositionsOp
    slots: int
    chunked: bool

    def matches(self) -> bool:
        """Whether the attention reads these updates as `chunked` says."""
        return all(
            segments == ((update.cache, update.x) if self.chunked else (update.result,))
            for segments, update in ((self.attention.keys, self.keys), (self.attention.values, self.values))
        )


def _shorten(module: Module, name: str, slots: int, programs: list[CacheUses]) -> TensorType:
    """Give the cache `name`, and its states in all programs, `slots` slots; returns its new type."""
    cache = module.caches[name]
    type = cache.type.with_shape((cache.type.shape[0], slots, *cache.type.shape[2:]))
    module.caches[name] = dataclasses.replace(cache, type=type)
    module.attributes.setdefault("max_context", cache.type.shape[1])  # which this cache no longer tells
    for uses in programs:
        for state in uses.states:
            state.type = type
    return type


def _holders(uses: dict[str, CacheUses]) -> dict[Value, CacheUses]:
    """Of which cache a value is a state."""
    return {state: found for found in uses.values() for state in found.states}


def _reads(program: Function, uses: dict[str, CacheUses], rings: dict[str, int]) -> Iterator[_Read]:
    """The proof for one program: every attention that reads a ring, each once. G4C-P061 to P064."""
    attentions: dict[AttentionOp, int] = {}
    for name in [name for name in uses if name in rings]:
        found = uses[name]
        _check_updates(program, found)
        for op in found.others:
            _fail("G4C-P063", f"reads cache {name} slot by slot, and slots will be others", program, op)
        attentions.update(dict.fromkeys(found.attentions, rings[name]))
    holders = _holders(uses)
    for attention, slots in attentions.items():
        yield _read(program, attention, slots, holders)


def _check_updates(program: Function, uses: CacheUses) -> None:
    """One update at most, of the state that the program is given, and what it leaves is what the program returns."""
    if len(uses.updates) > 1:
        _fail("G4C-P061", f"updates cache {uses.cache} for the second time", program, uses.updates[1])
    if uses.leaks or (uses.updates and uses.returned is not uses.states[-1]):
        names = ", ".join(uses.leaks) or uses.cache
        message = f"result {names} is not what cache {uses.cache} holds in the end"
        raise G4cError("G4C-P061", message, where=program.name)


def _read(program: Function, attention: AttentionOp, slots: int, holders: dict[Value, CacheUses]) -> _Read:
    """How `attention` reads its ring: written then read, or the old state beside the new rows. G4C-P062, P064."""
    k, v, held = attention.keys[0], attention.values[0], defining(attention.key_positions[0], HeldPositionsOp)
    keys, values = (holders[state].updates[:1] if state in holders else [] for state in (k, v))
    if not keys or not values or held is None:
        _fail("G4C-P062", "its first segment is not a cache that this program updates", program, attention)
    read = _Read(attention, keys[0], values[0], held, slots, len(attention.keys) == 2)
    if not read.matches():
        _fail("G4C-P062", "reads neither updated caches nor old ones beside the new rows", program, attention)
    positions = read.keys.positions
    agree = read.values.positions is positions is held.positions and _among(attention.positions, positions)
    agree = agree and held.updated != read.chunked and held.slots == k.shape[1]
    if not agree or (read.chunked and attention.key_positions[1] is not positions):
        _fail("G4C-P064", "queries, new rows and what the cache holds go by different positions", program, attention)
    if slots < attention.window + positions.shape[1] - 1:
        return dataclasses.replace(read, chunked=True)
    return read


def _among(queries: Value, positions: Value) -> bool:
    """Whether `queries` are some of `positions`."""
    while isinstance(queries.owner, SelectRowsOp | SliceOp):
        queries = queries.owner.x
    return queries is positions


def _fail(code: str, message: str, program: Function, op: Op) -> NoReturn:
    where = f"{program.name}:{program.ops.index(op)}  {op.loc.path}".rstrip()
    raise G4cError(code, f"{op.mnemonic} {message}", where=where, help="leave window-kv-cache out of the pipeline")


def _rewrite(program: Function, reads: list[_Read]) -> int:
    """Let the attentions read their rings; the caches have their new types. Returns how many got a second segment."""
    used = used_values(program)
    rewritten = 0
    held: dict[tuple[Value, int, bool], Value] = {}
    ops: dict[Op, list[Op]] = {}  # new ops by the op that they come after
    for read in reads:
        key = (read.held.result, read.slots, not read.chunked)
        if key not in held:
            new = HeldPositionsOp(read.held.positions, read.slots, not read.chunked, loc=read.held.loc)
            ops.setdefault(read.held, []).append(new)
            held[key] = new.result
        attention = read.attention
        attention.key_positions = (held[key],)
        if read.chunked:
            rewritten += len(attention.keys) == 1
            attention.keys = (read.keys.cache, read.keys.x)
            attention.values = (read.values.cache, read.values.x)
            attention.key_positions = (held[key], read.keys.positions)
    program.ops = [new for op in program.ops for new in (op, *ops.get(op, ()))]
    remove_newly_dead_ops(program, used)
    return rewritten
