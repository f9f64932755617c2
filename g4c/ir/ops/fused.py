"""Ops that name a piece of Gemma 4: norms, rotary embedding, gated activation, softcap, per-layer inputs.

All compute in f32 and round once to the result's type.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from g4c.ir.op import Op, Value, require
from g4c.ir.ops.elementwise import gelu_tanh
from g4c.ir.types import Array, TensorType


@dataclass(eq=False, repr=False)
class RmsNormOp(Op):
    """y = x * (mean(x^2) + epsilon)^-0.5 * w over the last axis; without w the factor is absent. No (1 + w)."""

    mnemonic = "g4.rms_norm"
    x: Value
    w: Value | None
    epsilon: float

    def infer(self) -> tuple[TensorType, ...]:
        require(self.x.type.rank >= 1, "x is a scalar")
        if self.w is not None:
            require(
                self.w.shape == self.x.shape[-1:],
                f"w must be [{self.x.shape[-1]}] for x {self.x.type}, got {self.w.type}",
            )
            require(self.w.dtype == self.x.dtype, f"operand dtypes differ: {self.x.type} and {self.w.type}")
        return (self.x.type,)

    def verify(self) -> None:
        require(self.epsilon > 0, f"epsilon must be positive, got {self.epsilon}")
        require(self.x.dtype.is_float, f"needs floats, got {self.x.type}")

    def reference(self, *operands: Array) -> Array:
        x = operands[0].astype(np.float32)
        y: Array = x * (np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.epsilon)) ** np.float32(-0.5)
        if len(operands) == 2:
            y = y * operands[1].astype(np.float32)
        return y.astype(self.result.dtype.numpy)


@dataclass(eq=False, repr=False)
class RopeOp(Op):
    """y[i] = x[i] cos[i] - x[i+d/2] sin[i],  y[i+d/2] = x[i+d/2] cos[i] + x[i] sin[i]  for i < d/2.

    x [b, s, heads, d]; cos, sin [b, s, d/2]. Half-split pairing over the whole head; dims that must not rotate have
    angle 0.
    """

    mnemonic = "g4.rope"
    x: Value
    cos: Value
    sin: Value

    def infer(self) -> tuple[TensorType, ...]:
        require(
            self.x.type.rank == 4 and self.x.shape[3] % 2 == 0, f"x must be [b, s, heads, even d], got {self.x.type}"
        )
        table = self.x.type.with_shape((*self.x.shape[:2], self.x.shape[3] // 2))
        for name, value in (("cos", self.cos), ("sin", self.sin)):
            require(value.type == table, f"{name} must be {table} for x {self.x.type}, got {value.type}")
        return (self.x.type,)

    def verify(self) -> None:
        require(self.x.dtype.is_float, f"needs floats, got {self.x.type}")

    def reference(self, *operands: Array) -> Array:
        x, cos, sin = (operand.astype(np.float32) for operand in operands)
        cos, sin = cos[:, :, None, :], sin[:, :, None, :]
        low, high = np.split(x, 2, axis=-1)
        y = np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
        return y.astype(self.result.dtype.numpy)


@dataclass(eq=False, repr=False)
class GatedGeluOp(Op):
    """y = gelu(gate) * up, tanh approximation. The heart of the MLP and of the per-layer-embedding gate."""

    mnemonic = "g4.gated_gelu"
    gate: Value
    up: Value

    def infer(self) -> tuple[TensorType, ...]:
        require(self.gate.type == self.up.type, f"gate is {self.gate.type}, up is {self.up.type}")
        return (self.gate.type,)

    def verify(self) -> None:
        require(self.gate.dtype.is_float, f"needs floats, got {self.gate.type}")

    def reference(self, *operands: Array) -> Array:
        gate, up = (operand.astype(np.float32) for operand in operands)
        return (gelu_tanh(gate) * up).astype(self.result.dtype.numpy)


@dataclass(eq=False, repr=False)
class SoftcapOp(Op):
    """y = cap * tanh(x / cap)."""

    mnemonic = "g4.softcap"
    x: Value
    cap: float

    def infer(self) -> tuple[TensorType, ...]:
        return (self.x.type,)

    def verify(self) -> None:
        require(self.cap > 0, f"cap must be positive, got {self.cap}")
        require(self.x.dtype.is_float, f"needs floats, got {self.x.type}")

    def reference(self, *operands: Array) -> Array:
        cap = np.float32(self.cap)
        y: Array = cap * np.tanh(operands[0].astype(np.float32) / cap)
        return y.astype(self.result.dtype.numpy)


@dataclass(eq=False, repr=False)
class PerLayerInputOp(Op):
    """y = (context + token) * scale: the two halves of the per-layer embeddings, [b, s, layers, width]."""

    mnemonic = "g4.per_layer_input"
    context: Value
    token: Value
    scale: float

    def infer(self) -> tuple[TensorType, ...]:
        require(self.context.type == self.token.type, f"context is {self.context.type}, token is {self.token.type}")
        return (self.context.type,)

    def verify(self) -> None:
        require(self.context.dtype.is_float, f"needs floats, got {self.context.type}")

    def reference(self, *operands: Array) -> Array:
        context, token = (operand.astype(np.float32) for operand in operands)
        return ((context + token) * np.float32(self.scale)).astype(self.result.dtype.numpy)
