"""Rules that recognize Gemma 4's formulas and name them.

The raised op computes in f32 and rounds once; torch rounds bf16 after every op. So in f32 a rule changes nothing but
the order of a few additions, and in bf16 the raised op is the more exact one.
"""

from __future__ import annotations

from g4c.frontend.raising.matching import before_widening, defined_by, expect_number, number, other_operand
from g4c.frontend.raising.rewriter import Graph, Rewrite, Rule, need
from g4c.ir.op import Op, Value
from g4c.ir.ops.elementwise import AddOp, ConvertOp, DivOp, GeluOp, MulOp, NegOp, PowOp, TanhOp
from g4c.ir.ops.fused import GatedGeluOp, PerLayerInputOp, RmsNormOp, RopeOp, SoftcapOp
from g4c.ir.ops.indexing import EmbeddingOp, GatherOp
from g4c.ir.ops.shape import ConcatOp, ReduceOp, ReshapeOp, SliceOp
from g4c.ir.types import DType


class RaiseRmsNorm(Rule):
    """The root mean square norm, with or without weight; in f32 the conversions are absent.

    before:  %1 = g4.convert(%x) to f32
             %2 = g4.reduce(g4.pow(%1, 2)) {kind = "mean", axes = [last], keep}
             %3 = g4.pow(g4.add(%2, epsilon), -0.5)
             %4 = g4.mul(%1, %3)
             %5 = g4.mul(%4, g4.convert(%w) to f32)          (absent without weight)
             %6 = g4.convert(%5)
    after:   %6 = g4.rms_norm(%x, %w) {epsilon}
    """

    name = "raise-rms-norm"
    roots = (PowOp,)

    def match(self, op: Op, graph: Graph) -> Rewrite:
        assert isinstance(op, PowOp)
        exponent = expect_number(op.y, "the exponent")
        need(exponent == -0.5, f"the exponent is {exponent}, not -0.5")
        add = defined_by(op.x, AddOp, "the base of the power")
        epsilon, mean = number(add.y), add.x
        if epsilon is None:
            epsilon, mean = expect_number(add.x, "epsilon"), add.y
        reduce = defined_by(mean, ReduceOp, "the mean square")
        wide = self._squared(reduce.x)
        last = (wide.type.rank - 1,)
        need(reduce.kind == "mean", f"the squares are reduced by {reduce.kind}, not mean")
        need(reduce.axes == last, f"the mean is over axes {list(reduce.axes)}, not the last")
        need(reduce.keep, "the mean drops its axis")
        need(wide.dtype == DType.F32, f"the norm is computed in {wide.dtype.mlir}, not f32")
        product = graph.only_user(op.result, "the reciprocal root")
        need(isinstance(product, MulOp), f"the reciprocal root is read by {product.mnemonic}, not g4.mul")
        need(other_operand(product, op.result, "the product") is wide, "what is scaled is not what was squared")
        x = before_widening(wide)
        weight, end = self._weight(product, x, graph)
        if x is not wide:
            rounding = graph.only_user(end.result, "the normalized value")
            need(
                isinstance(rounding, ConvertOp) and rounding.result.dtype == x.dtype,
                f"the normalized value goes to {rounding.mnemonic} in f32, it is not rounded to {x.dtype.mlir}",
            )
            end = rounding
        return Rewrite.by(RmsNormOp(x, weight, epsilon, loc=end.loc), end.result)

    def _squared(self, square: Value) -> Value:
        if isinstance(square.owner, MulOp) and square.owner.x is square.owner.y:
            return square.owner.x
        power = defined_by(square, PowOp, "what is averaged")
        exponent = expect_number(power.y, "the inner exponent")
        need(exponent == 2.0, f"the inner exponent is {exponent}, not 2")
        return power.x

    def _weight(self, product: Op, x: Value, graph: Graph) -> tuple[Value | None, Op]:
        """The weight that multiplies the product, if any, and the op that ends the norm."""
        users = graph.users(product.result)
        if len(users) != 1 or not isinstance(users[0], MulOp) or product.result in graph.returned:
            return None, product
        weight = before_widening(other_operand(users[0], product.result, "the weighting"))
        if weight.shape != x.shape[-1:] or weight.dtype != x.dtype:
            return None, product
        return weight, users[0]


class RaiseRope(Rule):
    """Rotary position embedding by rotate_half, half-split pairing, one table for all heads.

    before:  %1 = g4.concat(g4.neg(upper half of %x), lower half of %x)
             %2 = g4.mul(%x, g4.reshape(g4.concat(%cos, %cos)));  %3 = g4.mul(%1, g4.reshape(g4.concat(%sin, %sin)))
             %4 = g4.add(%2, %3)
    after:   %4 = g4.rope(%x, %cos, %sin)
    """

    name = "raise-rope"
    roots = (ConcatOp,)

    def match(self, op: Op, graph: Graph) -> Rewrite:
        assert isinstance(op, ConcatOp)
        need(len(op.xs) == 2 and op.axis == op.result.type.rank - 1, "it does not join two halves of the last axis")
        negated = defined_by(op.xs[0], NegOp, "the first half")
        upper = defined_by(negated.x, SliceOp, "the negated half")
        lower = defined_by(op.xs[1], SliceOp, "the second half")
        x = upper.x
        need(lower.x is x, "the halves are cut from different values")
        need(x.type.rank == 4, f"x is {x.type}, not [b, s, heads, d]")
        half = x.shape[3] // 2
        bounds = (lower.starts[3], lower.limits[3], upper.starts[3], upper.limits[3])
        need(bounds == (0, half, half, 2 * half), f"the halves are cut at {bounds}")
        need(op.result.type == x.type, "the halves are cut along other axes, too")
        turned = graph.only_user(op.result, "the turned value")
        need(isinstance(turned, MulOp), f"the turned value is read by {turned.mnemonic}, not g4.mul")
        total = graph.only_user(turned.result, "the sine part")
        need(isinstance(total, AddOp), f"the sine part is read by {total.mnemonic}, not g4.add")
        kept = defined_by(other_operand(total, turned.result, "the sum"), MulOp, "the cosine part")
        need(x in kept.operands, "the cosine part is not a multiple of x")
        sin = self._table(other_operand(turned, op.result, "the sine part"), "sin")
        cos = self._table(other_operand(kept, x, "the cosine part"), "cos")
        need(cos.dtype == x.dtype, f"the tables are {cos.dtype.mlir}, x is {x.dtype.mlir}")
        return Rewrite.by(RopeOp(x, cos, sin, loc=total.loc), total.result)

    def _table(self, value: Value, what: str) -> Value:
        spread = defined_by(value, ReshapeOp, f"the {what} table")
        batch, length, width = (*spread.x.shape, 0, 0, 0)[:3]
        need(spread.result.shape == (batch, length, 1, width), f"the {what} table is {spread.result.type}")
        joined = defined_by(spread.x, ConcatOp, f"the {what} table")
        need(joined.axis == 2 and len(joined.xs) == 2, f"the {what} table does not join two halves")
        need(joined.xs[0] is joined.xs[1], f"the halves of the {what} table differ")
        return joined.xs[0]


class RaiseEmbedding(Rule):
    """A table row times a scalar constant of the table's type: the scale is rounded as in the model.

    before:  %1 = g4.gather(%table, %ids);  %2 = g4.mul(%1, scale)
    after:   %2 = g4.embedding(%ids, %table) {scale}
    """

    name = "raise-embedding"
    roots = (GatherOp,)

    def match(self, op: Op, graph: Graph) -> Rewrite:
        assert isinstance(op, GatherOp)
        need(op.table.type.rank == 2, f"the table is {op.table.type}, not [rows, width]")
        product = graph.only_user(op.result, "the row")
        need(isinstance(product, MulOp), f"the row is read by {product.mnemonic}, not g4.mul")
        scale = expect_number(other_operand(product, op.result, "the product"), "the scale")
        return Rewrite.by(EmbeddingOp(op.indices, op.table, scale, loc=product.loc), product.result)


class RaiseGatedGelu(Rule):
    """The gate of the MLP and of the per-layer embeddings.

    before:  %1 = g4.gelu(%gate);  %2 = g4.mul(%1, %up)
    after:   %2 = g4.gated_gelu(%gate, %up)
    """

    name = "raise-gated-gelu"
    roots = (GeluOp,)

    def match(self, op: Op, graph: Graph) -> Rewrite:
        assert isinstance(op, GeluOp)
        product = graph.only_user(op.result, "the activation")
        need(isinstance(product, MulOp), f"the activation is read by {product.mnemonic}, not g4.mul")
        up = other_operand(product, op.result, "the product")
        need(up.type == op.x.type, f"the gate is {op.x.type}, the other factor {up.type}")
        return Rewrite.by(GatedGeluOp(op.x, up, loc=product.loc), product.result)


class RaiseSoftcap(Rule):
    """A soft bound on the logits.

    before:  %1 = g4.div(%x, cap);  %2 = g4.tanh(%1);  %3 = g4.mul(%2, cap)
    after:   %3 = g4.softcap(%x) {cap}
    """

    name = "raise-softcap"
    roots = (TanhOp,)

    def match(self, op: Op, graph: Graph) -> Rewrite:
        assert isinstance(op, TanhOp)
        quotient = defined_by(op.x, DivOp, "the argument")
        cap = expect_number(quotient.y, "the divisor")
        product = graph.only_user(op.result, "the tanh")
        need(isinstance(product, MulOp), f"the tanh is read by {product.mnemonic}, not g4.mul")
        factor = expect_number(other_operand(product, op.result, "the product"), "the factor")
        need(factor == cap, f"divided by {cap} but multiplied by {factor}")
        need(cap > 0, f"the cap is {cap}")
        return Rewrite.by(SoftcapOp(quotient.x, cap, loc=product.loc), product.result)


class RaisePerLayerInput(Rule):
    """The two halves of the per-layer embeddings, [b, s, layers, width]; in f32 the conversions are absent.

    before:  %1 = g4.add(%context, %token);  %2 = g4.convert(g4.mul(g4.convert(%1) to f32, scale))
    after:   %2 = g4.per_layer_input(%context, %token) {scale}
    """

    name = "raise-per-layer-input"
    roots = (AddOp,)

    def match(self, op: Op, graph: Graph) -> Rewrite:
        assert isinstance(op, AddOp)
        need(op.x.type == op.y.type, f"the summands are {op.x.type} and {op.y.type}")
        need(op.x.type.rank == 4, f"the summands are {op.x.type}, not [b, s, layers, width]")
        user = graph.only_user(op.result, "the sum")
        wide = op.result
        if isinstance(user, ConvertOp) and user.result.dtype == DType.F32:
            wide = user.result
            user = graph.only_user(wide, "the widened sum")
        need(isinstance(user, MulOp), f"the sum is read by {user.mnemonic}, not g4.mul")
        scale = expect_number(other_operand(user, wide, "the product"), "the scale")
        end = user
        if wide is not op.result:
            end = graph.only_user(user.result, "the scaled sum")
            need(end.result.type == op.result.type, f"the scaled sum becomes {end.result.type}")
            need(isinstance(end, ConvertOp), f"the scaled sum is read by {end.mnemonic}, not g4.convert")
        return Rewrite.by(PerLayerInputOp(op.x, op.y, scale, loc=end.loc), end.result)
