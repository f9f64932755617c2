"""prune-prefill: only the rows whose logits are asked for, from the last cache write on."""

from __future__ import annotations

from dataclasses import dataclass

from g4c.ir.module import Function, Module
from g4c.ir.op import Op
from g4c.ir.ops import SelectRowsOp
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.flat import require_flat
from g4c.passes.layer_paths import layer_of
from g4c.passes.row_demand import prune_rows


@dataclass(frozen=True)
class PrunePrefill(Pass):
    """Compute at the rows that select_rows chooses what is needed at no others.

    By dataflow: an op that works row by row (over axis 1 of [b, s, ...]) and whose every use asks for the same rows
    gives these rows alone, so that the selection moves from its result to its operands. It stops where a value is
    needed whole: by a cache write, by attention as keys and values, by a result. So what goes are all layers after the
    last one that writes a cache, and of that one q, attention, o_proj and MLP. Without layers that share K/V the latter
    is all, and a remark says so. The rows are run-time data, any number per sequence.

    before:  %3 = "g4.linear"(%2, %w) : (tensor<1x128x1536xbf16>, tensor<6144x1536xbf16>) -> tensor<1x128x6144xbf16>
             ...
             %9 = "g4.select_rows"(%8, %rows) : (tensor<1x128x1536xbf16>, tensor<1x1xi32>) -> tensor<1x1x1536xbf16>
    after:   %3 = "g4.select_rows"(%2, %rows) : (tensor<1x128x1536xbf16>, tensor<1x1xi32>) -> tensor<1x1x1536xbf16>
             %4 = "g4.linear"(%3, %w) : (tensor<1x1x1536xbf16>, tensor<6144x1536xbf16>) -> tensor<1x1x6144xbf16>

    Stats, per program: ops at chosen rows; layers with all of their ops pruned, with some, with none; matmul FLOP
    before and after.
    """

    name = "prune-prefill"
    runs_after = ("precompute-rope", "eliminate-shared-kv", "window-kv-cache")

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        require_flat(module, self.name)
        stats: dict[str, int] = {}
        for program in module.programs:
            whole, before = program.ops, module.cost(program).flops
            pruned = prune_rows(program)
            if not pruned:
                continue
            done = _Summary.of(program, whole, pruned)
            after = module.cost(program).flops
            stats |= {f"{program.name}.{key}": count for key, count in done.stats(before, after).items()}
            ctx.remark(f"{self.name}: {program.name}: {done.text(before, after)}")
        return PassResult(bool(stats), stats)


@dataclass(frozen=True)
class _Summary:
    """What became of the layers of a program; `left`: of those in part, the modules with matrices that see all rows."""

    ops: int
    rows: int
    of_rows: int
    pruned: tuple[str, ...]
    partly: tuple[str, ...]
    whole: tuple[str, ...]
    left: tuple[str, ...]

    @staticmethod
    def of(program: Function, before: list[Op], pruned: list[Op]) -> _Summary:
        layers = dict.fromkeys(layer for op in before if (layer := layer_of(op.loc.path)))
        touched = {layer_of(op.loc.path) for op in pruned}
        narrow = set(pruned)
        wide = [op for op in program.ops if op.operands and op not in narrow and not isinstance(op, SelectRowsOp)]
        kept = {layer_of(op.loc.path) for op in wide}
        partly = tuple(layer for layer in layers if layer in touched and layer in kept)
        left = dict.fromkeys(op.loc.path for op in wide if op.cost().flops and layer_of(op.loc.path) in partly)
        selections = (op for op in before if isinstance(op, SelectRowsOp))
        selection = next(op for op in selections if op.rows.shape[1] < op.x.shape[1])
        return _Summary(
            len(pruned),
            selection.rows.shape[1],
            selection.x.shape[1],
            tuple(layer for layer in layers if layer in touched and layer not in kept),
            partly,
            tuple(layer for layer in layers if layer not in touched),
            tuple(left),
        )

    def stats(self, before: int, after: int) -> dict[str, int]:
        layers = {"layers_pruned": self.pruned, "layers_partly": self.partly, "layers_whole": self.whole}
        counts = {name: len(found) for name, found in layers.items()}
        return {"ops": self.ops, **counts, "flops_before": before, "flops_after": after}

    def text(self, before: int, after: int) -> str:
        total = len(self.pruned) + len(self.partly) + len(self.whole)
        parts = [f"{self.rows} of {self.of_rows} rows from {len(self.pruned)} of {total} layers"]
        if self.partly:
            parts.append(f"{', '.join(self.partly)} in part (whole: {', '.join(self.left)})")
        parts.append(f"{len(self.whole)} layers stay whole")
        saved = 100 * (1 - after / before) if before else 0.0
        return f"{'; '.join(parts)}; {saved:.1f} % of the matmul FLOP saved"
