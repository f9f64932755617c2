"""outline-kernels: from TILED to NKI, a function for every kernel."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from g4c.errors import G4cError
from g4c.ir.module import Function, Module, Result
from g4c.ir.op import Level, Loc, Op, SymbolRef, Value, defining
from g4c.ir.ops import CallOp, ConstantOp, TransposeOp
from g4c.passes.call_sites import CallSites
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.dce import remove_newly_dead_ops, used_values
from g4c.passes.kernel_patterns import PATTERNS, Group, Pattern
from g4c.passes.kernel_patterns.transposition import SWAP, connected, transpose_weights
from g4c.passes.layer_paths import layer_of, to_any_layer
from g4c.passes.specialize_layers import structural_key

ALL = "all"


@dataclass(frozen=True)
class OutlineKernels(Pass):
    """Cut the ops that one kernel computes out of programs and layers, into functions of role "kernel".

    The body of a kernel function says what the kernel computes, op by op; where there is no kernel for a target, it is
    what runs. Kernels that do the same, weights and module paths aside, are one function.

    Attention: a tiled attention whose q has been put together again. In decode, up to 8 query rows, the kernel also
    writes the new rows to the caches that it has read, and returns these.

    before:  %5:4 = "g4.split_tiles"(%4) {width = 128} ...
             %6 = "g4.rope"(%5#0, %cos, %sin) ...
             %16 = "g4.tiled_attention"(%6, %5#1, %5#2, %5#3, %k_cache, %14, %v_cache, %15, %positions, ...) ...
             %17 = "g4.kv_update"(%k_cache, %14, %positions) ...
             %18 = "g4.kv_update"(%v_cache, %15, %positions) ...
    after:   %16 = "g4.concat"(%6, %5#1, %5#2, %5#3) {axis = 3} ...
             %17:3 = "g4.call"(%16, %k_cache, %v_cache, %key_positions, %14, %15, %positions)
               {callee = @decode_attention_d512_update}
             func.func @decode_attention_d512_update(%q, %past_keys, %past_values, %past_held, %chunk_keys,
                 %chunk_values, %positions) -> (... "y"}, ... "k_cache"}, ... "v_cache"}) {
               %0:4 = "g4.split_tiles"(%q) {width = 128} ...
               %1 = "g4.tiled_attention"(%0#0, %0#1, %0#2, %0#3, %past_keys, %chunk_keys, ...) ...
               %2 = "g4.kv_update"(%past_keys, %chunk_keys, %positions) ...
               %3 = "g4.kv_update"(%past_values, %chunk_values, %positions) ...

    Weights that kernels want as [k, n] are transposed offline; what else reads them does so through a g4.transpose.
    `kernels`: all, or the name of one kind of kernels (G4C-P100). Stats: calls, kernels, transposed weights, and kept:
    groups that stay in place, because their ops cannot stand in one place or their weights are read otherwise, too.
    """

    name = "outline-kernels"
    runs_after = ("tile-contractions",)
    level_before: ClassVar[Level | None] = Level.TILED
    level_after: ClassVar[Level | None] = Level.NKI

    kernels: str = ALL

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        stats = {"calls": 0, "kernels": 0, "transposed": 0, "kept": 0}
        kernels: dict[Hashable, Function] = {}
        for pattern in self._patterns():
            _outline(module, pattern, kernels, stats)
        module.level = Level.NKI
        return PassResult(True, {**stats, "kernels": len(kernels)})

    def _patterns(self) -> list[Pattern]:
        if self.kernels != ALL and self.kernels not in PATTERNS:
            message = f"there are no kernels called {self.kernels!r}"
            raise G4cError("G4C-P100", message, help=f"there are {', '.join([ALL, *PATTERNS])}")
        return [pattern for name, pattern in PATTERNS.items() if self.kernels in (ALL, name)]


def _outline(module: Module, pattern: Pattern, kernels: dict[Hashable, Function], stats: dict[str, int]) -> None:
    """Make kernels of all groups of `pattern` that can be; `kernels` and `stats` are added to."""
    functions = [function for function in module.functions.values() if function.role != "kernel"]
    found = [(function, group) for function in functions for group in pattern.find(function)]
    groups = [(function, group) for function, group in found if _around(function, group) is not None]
    sites = CallSites(module)
    ops = {op for _, group in groups for op in group.ops}
    wanted = {group: [connected(sites, value, ops) for value in group.transposed] for _, group in groups}
    groups = [(function, group) for function, group in groups if None not in wanted[group]]
    swapped = [entry for _, group in groups for entry in wanted[group] if entry is not None]
    stats["transposed"] += transpose_weights(module, sites, swapped, {op for _, group in groups for op in group.ops})
    stats["kept"] += len(found) - len(groups)
    used = {function: used_values(function) for function, _ in groups}
    replaced: dict[Value, Value] = {}
    bodies = [_kernel(group, {value for entry in swapped for value in entry.values}) for _, group in groups]
    for (function, group), kernel in zip(groups, bodies, strict=True):
        key = structural_key(kernel)
        if key not in kernels:
            kernel.name = _free_name(module, group.name)
            kernels[key] = module.add_function(kernel)
        _call(function, group, kernels[key], replaced)
        stats["calls"] += 1
    for function, values in used.items():
        remove_newly_dead_ops(function, values)


def _kernel(group: Group, swapped: set[Value]) -> Function:
    """The function of `group`, without a name; `swapped` are weights that are [k, n] by now."""
    function = Function("", "kernel")
    mapping: dict[Value, Value] = {}
    for name, value in group.params:
        param = function.add_param(name, value.type)
        mapping[value] = param
        if value in swapped:
            mapping[value] = function.append(TransposeOp(param, SWAP, loc=_anywhere(group.ops[0].loc))).result
    for stand_in in group.stand_ins:
        new = function.append(stand_in.op.copy(mapping, _anywhere(stand_in.op.loc)))
        mapping.update(zip(stand_in.values, new.results, strict=True))
    for op in group.ops:
        for value in op.operands:
            constant = defining(value, ConstantOp)
            if constant is not None and value not in mapping:
                mapping[value] = function.append(constant.copy({}, _anywhere(constant.loc))).result
        new = function.append(op.copy(mapping, _anywhere(op.loc)))
        mapping.update(zip(op.results, new.results, strict=True))
    function.results = [Result(mapping[value], name) for name, value in group.results]
    return function


def _anywhere(loc: Loc) -> Loc:
    """`loc` in any layer: a kernel is of no layer."""
    layer = layer_of(loc.path)
    return to_any_layer(loc, layer) if layer else loc


def _around(function: Function, group: Group) -> tuple[list[Op], list[Op]] | None:
    """The ops of `function` that stand before a call of `group`, and those behind it.

    None where an op between those of the group needs some of them, and others need it.
    """
    own = set(group.ops)
    places = [function.ops.index(op) for op in group.ops]
    first, last = min(places), max(places)
    before, behind = function.ops[:first], []
    made = {value for op in group.ops for value in op.results}
    moved: set[Value] = set()
    for op in function.ops[first : last + 1]:
        if op in own:
            if any(value in moved for value in op.operands):
                return None
        elif any(value in made or value in moved for value in op.operands):
            behind.append(op)
            moved.update(op.results)
        else:
            before.append(op)
    return before, [*behind, *function.ops[last + 1 :]]


def _call(function: Function, group: Group, kernel: Function, replaced: dict[Value, Value]) -> None:
    """Put a call of `kernel` in the place of the ops of `group`. `replaced`: results of calls that stand for values."""
    placed = _around(function, group)
    assert placed is not None, group.name
    before, behind = placed
    for op in group.feeding:
        op.replace_operands(replaced)
    arguments = tuple(replaced.get(value, value) for _, value in group.params)
    types = tuple(result.value.type for result in kernel.results)
    call = CallOp(arguments, SymbolRef(kernel.name), types, loc=group.ops[0].loc)
    function.ops = [*before, *group.feeding, call, *behind]
    results = dict(zip((value for _, value in group.results), call.results, strict=True))
    replaced.update(results)
    function.replace_uses(results)


def _free_name(module: Module, name: str) -> str:
    number, free = 1, name
    while free in module.functions:
        number += 1
        free = f"{name}_{number}"
    return free
