"""Rules that bring the graph into the form that the semantic rules look for. Each keeps every bit of every value."""

from __future__ import annotations

from g4c.frontend.raising.matching import defined_by, number
from g4c.frontend.raising.rewriter import Graph, Rewrite, Rule, need
from g4c.ir.op import Op
from g4c.ir.ops.elementwise import ConvertOp, CosOp, MulOp, SinOp
from g4c.ir.ops.shape import ConcatOp, TransposeOp


class DropUnitScale(Rule):
    """x * 1 is x. (RoPE's attention scaling is 1 for the rope types of Gemma 4.)

    before:  %1 = g4.constant 1.0;  %2 = g4.mul(%x, %1)
    after:   %x
    """

    name = "drop-unit-scale"
    roots = (MulOp,)

    def match(self, op: Op, graph: Graph) -> Rewrite:
        assert isinstance(op, MulOp)
        for factor, kept in ((op.x, op.y), (op.y, op.x)):
            if number(factor) == 1.0 and kept.type == op.result.type:
                return Rewrite(op.result, kept)
        need(False, "no factor is the constant 1")
        raise AssertionError


class FoldTransposes(Rule):
    """Two transposes are one, or none.

    before:  %1 = g4.transpose(%x) {permutation = [0, 2, 1, 3]};  %2 = g4.transpose(%1) {permutation = [0, 2, 1, 3]}
    after:   %x
    """

    name = "fold-transposes"
    roots = (TransposeOp,)

    def match(self, op: Op, graph: Graph) -> Rewrite:
        assert isinstance(op, TransposeOp)
        inner = defined_by(op.x, TransposeOp, "the operand")
        permutation = tuple(inner.permutation[axis] for axis in op.permutation)
        if permutation == tuple(range(len(permutation))):
            return Rewrite(op.result, inner.x)
        return Rewrite.by(TransposeOp(inner.x, permutation, loc=op.loc), op.result)


class HalveTables(Rule):
    """A function of two equal halves is two equal halves: the RoPE tables are computed once, half as wide.

    before:  %1 = g4.concat(%a, %a);  %2 = g4.cos(%1)
    after:   %1 = g4.cos(%a);         %2 = g4.concat(%1, %1)
    """

    name = "halve-tables"
    roots = (CosOp, SinOp, ConvertOp)

    def match(self, op: Op, graph: Graph) -> Rewrite:
        assert isinstance(op, CosOp | SinOp | ConvertOp)
        joined = defined_by(op.x, ConcatOp, "the operand")
        need(len(joined.xs) == 2, f"{len(joined.xs)} parts are joined, not 2")
        half, second = joined.xs
        need(half is second, "the joined halves are two different values")
        narrow: Op
        if isinstance(op, ConvertOp):
            narrow = ConvertOp(half, half.type.with_dtype(op.type.dtype), loc=op.loc)
        else:
            narrow = type(op)(half, loc=op.loc)
        wide = ConcatOp((narrow.result, narrow.result), joined.axis, loc=op.loc)
        return Rewrite(op.result, wide.result, (narrow, wide))
