"""The type of a lowering rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from g4c.lowering.neuron.stablehlo_builder import StablehloBuilder, Tensor

# (builder, op, operands in field order) -> its result, or results. The op's class is the key to the rule.
Rule: TypeAlias = Callable[[StablehloBuilder, Any, Sequence[Tensor]], Tensor | tuple[Tensor, ...]]
