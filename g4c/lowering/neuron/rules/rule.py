"""The type of a lowering rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor

# (builder, op, operands in field order) -> the result. The op's class is the key under which the rule is found.
Rule: TypeAlias = Callable[[StablehloBuilder, Any, Sequence[Tensor]], Tensor]
