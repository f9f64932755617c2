"""precompute-ple: per-layer inputs once per program and choice of rows."""

from __future__ import annotations

from dataclasses import dataclass

from g4c.ir.module import Module
from g4c.passes.column_split import split_columns
from g4c.passes.contract import Pass, PassContext, PassResult
from g4c.passes.flat import require_flat
from g4c.passes.row_demand import prune_rows
from g4c.passes.weight_parts import place_parts


@dataclass(frozen=True)
class PrecomputePle(Pass):
    """Compute the per-layer inputs of all layers that need them at the same rows at once, and at no other rows.

    The embeddings of all layers come from one gather, the projection from one matmul per choice of rows: after
    prune-prefill the layers that need all rows get their columns from a product of all rows, the others theirs from one
    of the rows asked for. By dataflow: a value that is only ever cut into columns, some of them after select_rows, is
    computed in parts back to the weight behind it, of which every part is a slice. All programs use the same parts, so
    nothing is stored twice; one that needs both joins them. The table stays whole, and what is looked up is cut.
    Products and lookups that a graph does layer by layer, with slices of a weight, become one.

    before:  %1 = "g4.linear"(%x, %w) : (tensor<1x128x1536xbf16>, tensor<8960x1536xbf16>) -> tensor<1x128x8960xbf16>
             ...
             %7 = "g4.select_rows"(%6, %rows) : (tensor<1x128x35x256xbf16>, ...) -> tensor<1x1x35x256xbf16>
    after:   %1 = "g4.linear"(%x, %w0) : (tensor<1x128x1536xbf16>, tensor<3584x1536xbf16>) -> tensor<1x128x3584xbf16>
             ...
             %7 = "g4.select_rows"(%x, %rows) : (tensor<1x128x1536xbf16>, ...) -> tensor<1x1x1536xbf16>
             %8 = "g4.linear"(%7, %w1) : (tensor<1x1x1536xbf16>, tensor<5376x1536xbf16>) -> tensor<1x1x5376xbf16>

    Stats: values computed in parts; weights replaced by parts; per program, where it changes, matmul FLOP before and
    after.
    """

    name = "precompute-ple"
    runs_after = ("prune-prefill",)

    def run(self, module: Module, ctx: PassContext) -> PassResult:
        require_flat(module, self.name)
        before = {program.name: module.cost(program).flops for program in module.programs}
        stats = {"values": 0, "weights": 0}
        for program in module.programs:
            split = split_columns(program)
            if split:
                prune_rows(program)
            stats["values"] += split
        stats["weights"] = place_parts(module)
        for program in module.programs:
            flops = module.cost(program).flops
            if flops != before[program.name]:
                stats |= {f"{program.name}.flops_before": before[program.name], f"{program.name}.flops_after": flops}
        return PassResult(stats["values"] + stats["weights"] > 0, stats)
