"""precompute-rope: rows of a table instead of cosines at run time."""

from __future__ import annotations

from dataclasses import dataclass

from g4c.errors import G4cError
from g4c.ir.module import Function, Module
from g4c.ir.op import Op, SymbolRef, Value
from g4c.ir.ops import ConcatOp, GatherOp, LoadWeightOp, ReshapeOp
from g4c.ir.types import DType
from g4c.ir.weights import Cast, RopeTable, Weight
from g4c.passes.angles import Angles, find_angles
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.dce import loaded_weights, remove_newly_dead_ops, used_values


@dataclass(frozen=True)
class PrecomputeRope(Pass):
    """Replace cos and sin of positions * inv_freq by rows of tables that are computed offline.

    The tables are weights: the constant inverse frequencies, the function over all positions below `context` (default:
    the module's max_context, or else the slots of the caches), the rounding that the program does. Same f32 operations
    in the same order, so the same bits. Tables hold one column per frequency, zero frequencies included (proportional
    RoPE: dims that do not rotate have cos 1, sin 0, and pairs stay (i, i + d/2)).

    before:  %0 = "g4.convert"(%positions) ...
             %1 = "g4.load_weight"() {weight = @rope.full_attention.inv_freq} ...
             %2 = "g4.mul"(%0', %1') : (tensor<1x128x1xf32>, tensor<1x1x256xf32>) -> tensor<1x128x256xf32>
             %3 = "g4.cos"(%2) ...
             %4 = "g4.convert"(%3) : (tensor<1x128x256xf32>) -> tensor<1x128x256xbf16>
    after:   %0 = "g4.load_weight"() {weight = @rope.full_attention.cos} ... : () -> tensor<2048x256xbf16>
             %1 = "g4.gather"(%0, %positions) ... -> tensor<1x128x256xbf16>
    """

    name = "precompute-rope"
    runs_after = ("canonicalize",)

    context: int = 0

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        loaded = loaded_weights(module)
        stats = {"gathers": 0, "tables": 0}
        tables: set[str] = set()
        for function in module.functions.values():
            stats["gathers"] += self._replace(module, function, tables)
        for name in loaded - loaded_weights(module):
            del module.weights[name]
        stats["tables"] = len(tables)
        return PassResult(stats["gathers"] > 0, stats)

    def _replace(self, module: Module, function: Function, tables: set[str]) -> int:
        found = {value: angles for value, angles in find_angles(module, function).items() if angles.function}
        wanted = _needed(function, found)
        used = used_values(function)
        gathers: dict[tuple[str, Value], Value] = {}
        mapping: dict[Value, Value] = {}
        ops: list[Op] = []
        for op in function.ops:
            op.replace_operands(mapping)
            ops.append(op)
            if len(op.results) == 1 and op.result in wanted:
                angles = found[op.result]
                table = module.add_weight(self._table(module, angles))
                tables.add(table.name)
                mapping[op.result] = _gathered(op.result, angles, table, gathers, ops)
        for result in function.results:
            result.value = mapping.get(result.value, result.value)
        function.ops = ops
        used |= used_values(function)
        remove_newly_dead_ops(function, used)
        return len(gathers)

    def _table(self, module: Module, angles: Angles) -> Weight:
        """The weight whose row p is what `angles` are at position p; the one that is there already if there is one."""
        source = module.weights[angles.frequencies]
        length = self.context or table_length(module)
        slots = max((cache.type.shape[1] for cache in module.caches.values()), default=0)
        if length < slots:
            message = f"tables of {length} positions for caches of {slots} slots"
            raise G4cError(
                "G4C-P041", message, where=f"weight {source.name}", help=f"precompute-rope{{context={slots}}}"
            )
        casts = [Cast(dtype) for dtype in angles.casts]
        base = source.name.removesuffix(".inv_freq")
        dtype = angles.casts[-1] if angles.casts else DType.F32
        for name in (f"{base}.{angles.function}", f"{base}.{angles.function}.{dtype.mlir}.{length}"):
            weight = source.then(RopeTable(angles.function, length), *casts, name=name)
            if module.weights.get(name, weight) == weight:
                break
        return weight


def table_length(module: Module) -> int:
    """How many positions the module's programs know; G4C-P040 where nothing says it."""
    declared = module.attributes.get("max_context")
    if isinstance(declared, int) and declared > 0:
        return declared
    slots = max((cache.type.shape[1] for cache in module.caches.values()), default=0)
    if slots == 0:
        raise G4cError(
            "G4C-P040",
            "how many positions the RoPE tables must have is not known",
            where=f"module {module.name}",
            help="precompute-rope{context=2048}",
        )
    return slots


def _needed(function: Function, found: dict[Value, Angles]) -> set[Value]:
    """The last values of `found` on each way to other ops that rows of a table give."""
    asked = {result.value for result in function.results}
    needed: set[Value] = set()
    for op in reversed(function.ops):
        angles = found.get(op.results[0]) if op.results else None
        if angles is None:
            asked.update(op.operands)
        elif op.results[0] in asked:
            if angles.fits(op.results[0].shape):
                needed.add(op.results[0])
            else:
                asked.update(op.operands)
    return needed


def _gathered(
    value: Value, angles: Angles, table: Weight, gathers: dict[tuple[str, Value], Value], ops: list[Op]
) -> Value:
    """Ops that make `value` from rows of `table`: load and gather once, repeat the columns, bring into shape."""
    key = (table.name, angles.positions)
    if key not in gathers:
        load = LoadWeightOp(SymbolRef(table.name), table.type, loc=angles.loc)
        gather = GatherOp(load.result, angles.positions, loc=angles.loc)
        ops += [load, gather]
        gathers[key] = gather.result
    rows = gathers[key]
    if angles.repeats > 1:
        concat = ConcatOp((rows,) * angles.repeats, rows.type.rank - 1, loc=angles.loc)
        ops.append(concat)
        rows = concat.result
    if rows.type != value.type:
        reshape = ReshapeOp(rows, value.type, loc=angles.loc)
        ops.append(reshape)
        rows = reshape.result
    return rows
