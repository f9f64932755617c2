"""specialize-layers: one function per kind of layer, one call per layer."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

from g4c.errors import G4cError
from g4c.ir.module import Function, Module
from g4c.ir.op import Loc, Op, SymbolRef, Value
from g4c.ir.ops import AttentionOp, CallOp, KvUpdateOp, SelectRowsOp, SliceOp
from g4c.ir.printer import format_attribute
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.layer_functions import outline
from g4c.passes.layer_paths import layer_of


@dataclass(frozen=True)
class SpecializeLayers(Pass):
    """Group a program's layers into kinds, give each kind its own function, and call it once per layer.

    Which op belongs to which layer is read from the module paths ("model.layers.3.mlp"). Two layers are of one kind if
    their ops are the same up to locations and weights; the weights become parameters. What a kind is called is read
    from what it does: sliding or full by its attention's window, own or shared by whether it writes the cache that it
    reads, donor where it also hands out its new rows, which others read beside its old cache, or keys that it rebuilt;
    pruned where such a layer goes on with chosen rows only. Slices of what comes from outside (a layer's part of the
    per-layer inputs) stay outside, because they differ from layer to layer.

    before:  func.func @decode(...) {
               %w = "g4.load_weight"() {weight = @layers.0.mlp.down_proj.weight} ... loc("model.layers.0.mlp.down_proj")
               %1 = "g4.linear"(%0, %w) ... loc("model.layers.0.mlp.down_proj")
               ...
    after:   func.func @decode(...) {
               %w = "g4.load_weight"() {weight = @layers.0.mlp.down_proj.weight} ...
               %1:3 = "g4.call"(%0, %positions, %layers.0.k, %layers.0.v, %w, ...) {callee = @decode.sliding_own}
               ...
             func.func @decode.sliding_own(%hidden, %positions, %k_cache, %v_cache, %mlp.down_proj.weight, ...) {
               %1 = "g4.linear"(%0, %mlp.down_proj.weight) ... loc("model.layers.*.mlp.down_proj")
    """

    name = "specialize-layers"

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        stats = {"layers": 0, "kinds": 0}
        for program in module.programs:
            regions = find_regions(program)
            if regions:
                stats["layers"] += len(regions)
                stats["kinds"] += _replace_by_calls(module, program, regions)
        return PassResult(stats["layers"] > 0, stats)


@dataclass(eq=False)
class Region:
    """The ops of one layer of a program, in order."""

    layer: str
    ops: list[Op] = field(default_factory=list)


def find_regions(function: Function) -> list[Region]:
    """The layers of `function` by first appearance. Ops without operands (weights, constants) and calls are in none."""
    layers = _assign_layers(function)
    regions: dict[str, Region] = {}
    for op in function.ops:
        layer = layers.get(op)
        if layer is not None:
            regions.setdefault(layer, Region(layer)).ops.append(op)
    used_outside = _used_outside(function, layers)
    return [region for region in regions.values() if any(v in used_outside for op in region.ops for v in op.results)]


def _assign_layers(function: Function) -> dict[Op, str]:
    layers: dict[Op, str] = {}
    for op in function.ops:
        layer = layer_of(op.loc.path)
        if layer is None or not op.operands or isinstance(op, CallOp):
            continue
        if isinstance(op, SliceOp) and (op.x.owner is None or layers.get(op.x.owner) != layer):
            continue
        layers[op] = layer
    return layers | _enclosed(function, layers)


def _enclosed(function: Function, layers: dict[Op, str]) -> dict[Op, str]:
    """Ops of no layer that lie on a path out of a layer and back into it: they join it, or it could not be one call."""
    bits = {layer: 1 << i for i, layer in enumerate(dict.fromkeys(layers.values()))}
    names = {bit: layer for layer, bit in bits.items()}
    own = {op: bits[layers[op]] if op in layers else 0 for op in function.ops}
    above: dict[Op, int] = {}
    for op in function.ops:
        owners = [value.owner for value in op.operands if value.owner is not None]
        above[op] = _union(above[owner] | own[owner] for owner in owners)
    below: dict[Op, int] = dict.fromkeys(function.ops, 0)
    for op in reversed(function.ops):
        for value in op.operands:
            if value.owner is not None:
                below[value.owner] |= below[op] | own[op]
    both = {op: above[op] & below[op] for op in function.ops if op not in layers}
    return {op: names[mask & -mask] for op, mask in both.items() if mask}


def _union(masks: Iterable[int]) -> int:
    return reduce(or_, masks, 0)


def _used_outside(function: Function, layers: dict[Op, str]) -> set[Value]:
    used = {result.value for result in function.results}
    for op in function.ops:
        for value in op.operands:
            if value.owner is not None and layers.get(value.owner) != layers.get(op):
                used.add(value)
    return used


def structural_key(function: Function) -> Hashable:
    """Equal for functions that do the same: ops, attributes and types, without names and locations."""
    numbers: dict[Value, int] = {}
    for param in function.params:
        numbers[param] = len(numbers)
    lines = [str(param.type) for param in function.params]
    for op in function.ops:
        operands = [f"{name}={numbers[value]}" for name, value in op.named_operands()]
        attributes = [f"{name}={format_attribute(value)}" for name, value in op.attributes().items()]
        lines.append(f"{op.mnemonic} {operands} {attributes} {[str(value.type) for value in op.results]}")
        for value in op.results:
            numbers[value] = len(numbers)
    lines.append(str([numbers[result.value] for result in function.results]))
    return "\n".join(lines)


def kind_name(function: Function) -> str:
    """sliding_own, full_shared, ... from what the function does; "layer" where it has no attention.

    A donor is an owner that hands out more than its cache: the new rows, for others to read beside its old state, or
    keys that it rebuilt. Pruned is an owner that goes on with chosen rows only.
    """
    attentions = list(function.ops_of(AttentionOp))
    if not attentions:
        return "layer"
    window = "sliding" if any(op.window for op in attentions) else "full"
    states = {value for op in function.ops_of(KvUpdateOp) for value in (op.cache, op.result)}
    if not all(op.values[0] in states for op in attentions):
        return f"{window}_shared"
    more = {result.value for result in function.results} - states
    donates = any(value in more for op in attentions for value in (*op.keys, *op.values))
    pruned = any(True for _ in function.ops_of(SelectRowsOp))
    return f"{window}_{'donor' if donates else 'own'}{'_pruned' if pruned else ''}"


def _replace_by_calls(module: Module, program: Function, regions: list[Region]) -> int:
    """Outline `regions`, enter one function per kind into `module`; returns the number of kinds."""
    by_op = {op: region for region in regions for op in region.ops}
    used_outside = _used_outside(program, {op: region.layer for op, region in by_op.items()})
    kinds: dict[Hashable, Function] = {}
    calls: dict[Region, tuple[Function, tuple[Value, ...], tuple[Value, ...]]] = {}
    for region in regions:
        function, arguments, outputs = outline(region.layer, region.ops, used_outside)
        key = structural_key(function)
        if key not in kinds:
            kinds[key] = function
            function.name = _free_name(module, f"{program.name}.{kind_name(function)}")
            module.add_function(function)
        calls[region] = (kinds[key], arguments, outputs)
    _Scheduler(program, by_op, calls).run()
    return len(kinds)


def _free_name(module: Module, name: str) -> str:
    number, free = 1, name
    while free in module.functions:
        number += 1
        free = f"{name}_{number}"
    return free


class _Scheduler:
    """Rebuilds a program with calls for regions: in the old order where dependences allow, weights before their use."""

    def __init__(
        self,
        program: Function,
        by_op: dict[Op, Region],
        calls: dict[Region, tuple[Function, tuple[Value, ...], tuple[Value, ...]]],
    ) -> None:
        self.program = program
        self.by_op = by_op
        self.calls = calls
        self.ops: list[Op] = []
        self.mapping: dict[Value, Value] = {}
        self.done: set[Op | Region] = set()
        self.active: list[Op | Region] = []

    def run(self) -> None:
        used = {value for op in self.program.ops for value in op.operands}
        for op in self.program.ops:
            if op.operands or not any(value in used for value in op.results):
                self.place(self.by_op.get(op, op))
        for result in self.program.results:
            if result.value.owner is not None:
                self.place(self.by_op.get(result.value.owner, result.value.owner))
            result.value = self.mapping.get(result.value, result.value)
        self.program.ops = self.ops

    def place(self, node: Op | Region) -> None:
        """Append `node` after everything that it needs."""
        if node in self.done:
            return
        if node in self.active:
            cycle = [_describe(other) for other in [*self.active[self.active.index(node) :], node]]
            raise G4cError("G4C-P030", f"layers feed each other: {' -> '.join(cycle)}", where=self.program.name)
        self.active.append(node)
        needed = self.calls[node][1] if isinstance(node, Region) else node.operands
        for value in needed:
            if value.owner is not None:
                self.place(self.by_op.get(value.owner, value.owner))
        self.active.pop()
        self.done.add(node)
        if isinstance(node, Region):
            function, arguments, outputs = self.calls[node]
            args = tuple(self.mapping.get(value, value) for value in arguments)
            types = tuple(result.value.type for result in function.results)
            call = CallOp(args, SymbolRef(function.name), types, loc=Loc(node.layer))
            self.mapping.update(zip(outputs, call.results, strict=True))
            self.ops.append(call)
        else:
            node.replace_operands(self.mapping)
            self.ops.append(node)


def _describe(node: Op | Region) -> str:
    return node.layer if isinstance(node, Region) else f"{node.mnemonic} {node.loc.path}".strip()
