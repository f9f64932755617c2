"""The mixture of experts, kept whole: which rows meet which expert's weights is data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from g4c.ir.op import Cost, Op, Value, require
from g4c.ir.ops.elementwise import gelu_tanh
from g4c.ir.ops.indexing import checked_indices
from g4c.ir.types import Array, DType, TensorType


@dataclass(eq=False, repr=False)
class ExpertsOp(Op):
    """y = sum_j weights[j] * down[e] (gelu(gate) * up), (gate, up) = halves of gate_up[e] x, e = indices[j].

    x [..., h]; indices [..., k] i32 and weights [..., k] (f32, or of x's type) choose and weigh k experts per row;
    gate_up [E, 2 I, h], rows 0..I-1 gate; down [E, h, I]. Rounded to x's type are gate and up, their gated product and
    each expert's output, as in Hugging Face's module; the sum over the choices is in f32 and rounded once.
    """

    mnemonic = "g4.experts"
    x: Value
    indices: Value
    weights: Value
    gate_up: Value
    down: Value

    def infer(self) -> tuple[TensorType, ...]:
        x, gate_up, down = self.x.type, self.gate_up.type, self.down.type
        require(gate_up.rank == 3 and down.rank == 3, f"expert weights must be rank 3, got {gate_up} and {down}")
        experts, hidden, width = down.shape
        fits = gate_up.shape == (experts, 2 * width, hidden)
        require(fits, f"gate_up must be [{experts}, {2 * width}, {hidden}] for down {down}, got {gate_up}")
        require(x.rank >= 2 and x.shape[-1] == hidden, f"x must be [..., {hidden}] for down {down}, got {x}")
        require(x.dtype == gate_up.dtype == down.dtype, f"operand dtypes differ: {x}, {gate_up} and {down}")
        indices = self.indices.type
        fits = indices.rank == x.rank and indices.shape[:-1] == x.shape[:-1] and indices.shape[-1] > 0
        require(fits, f"indices must be [..., k] for x {x}, got {indices}")
        require(indices.dtype == DType.S32, f"indices must be i32, got {indices}")
        fits = self.weights.shape == indices.shape and self.weights.dtype in (DType.F32, x.dtype)
        require(fits, f"weights must be {indices.with_dtype(DType.F32)} or of x's type, got {self.weights.type}")
        return (x,)

    def verify(self) -> None:
        require(self.x.dtype.is_float, f"needs floats, got {self.x.type}")

    def reference(self, *operands: Array) -> Array:
        x, indices, weights, gate_up, down = operands
        rows = x.reshape(-1, x.shape[-1]).astype(np.float32)
        chosen = checked_indices(indices, down.shape[0]).reshape(rows.shape[0], -1)
        gates = weights.reshape(chosen.shape).astype(np.float32)
        y = np.zeros_like(rows)

        def rounded(value: Array) -> Array:
            return value.astype(x.dtype).astype(np.float32)

        for expert in np.unique(chosen):
            row, choice = np.nonzero(chosen == expert)
            gate, up = np.split(rounded(rows[row] @ gate_up[expert].astype(np.float32).T), 2, axis=-1)
            out = rounded(rounded(gelu_tanh(gate) * up) @ down[expert].astype(np.float32).T)
            np.add.at(y, row, gates[row, choice, None] * out)
        return y.reshape(x.shape).astype(x.dtype)

    def cost(self) -> Cost:
        """6 h I FLOP per row and choice; read are the weights of min(E, rows k) experts, the most that are chosen."""
        experts, hidden, width = self.down.shape
        choices = self.indices.type.size
        matrices = (self.gate_up.type.nbytes + self.down.type.nbytes) * min(experts, choices) // max(1, experts)
        read = matrices + sum(value.type.nbytes for value in (self.x, self.indices, self.weights))
        return Cost(6 * choices * hidden * width, read, self.result.type.nbytes)
