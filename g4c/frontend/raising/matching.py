"""What rules ask about values: by what is this computed, which number is it, what was it before it was widened.

In: values. Out: ops and numbers, or `NoMatchError` with a reason that names what was expected and what is there.
"""

from __future__ import annotations

from g4c.frontend.raising.rewriter import no_match
from g4c.ir.op import Op, OpT, Value
from g4c.ir.ops.elementwise import ConvertOp
from g4c.ir.ops.structure import ConstantOp
from g4c.ir.types import DType


def defined_by(value: Value, kind: type[OpT], what: str) -> OpT:
    """The op that computes `value`, which must be a `kind`."""
    if not isinstance(value.owner, kind):
        no_match(f"{what} is computed by {origin(value)}, not {kind.mnemonic}")
    return value.owner


def origin(value: Value) -> str:
    """What computes `value`, as a word for a reason."""
    return value.owner.mnemonic if value.owner is not None else "nothing (it is a parameter)"


def number(value: Value) -> float | None:
    """The number that a scalar constant holds, None where `value` is anything else.

    An f32 constant gives the shortest decimal that rounds to it, so that an epsilon of 1e-6 reads as that.
    """
    op = value.owner
    if not isinstance(op, ConstantOp) or op.value.type.rank != 0:
        return None
    scalar = op.value.array()[()]
    return float(str(scalar)) if value.dtype == DType.F32 else float(scalar)


def expect_number(value: Value, what: str) -> float:
    """The number that `value` is; no match where it is not a scalar constant."""
    found = number(value)
    if found is None:
        no_match(f"{what} is computed by {origin(value)}, not a scalar constant")
    return found


def before_widening(value: Value) -> Value:
    """`x` where `value` is `x` converted to a wider float, which loses nothing; otherwise `value` itself."""
    op = value.owner
    if isinstance(op, ConvertOp) and op.x.dtype.is_float and op.x.dtype.bits < value.dtype.bits:
        return op.x
    return value


def other_operand(op: Op, value: Value, what: str) -> Value:
    """The operand of a two-operand op that is not `value`."""
    operands = op.operands
    if len(operands) != 2:
        no_match(f"{what} is {op.mnemonic}, which has {len(operands)} operands")
    if operands[0] is value:
        return operands[1]
    assert operands[1] is value, (op, value)
    return operands[0]
