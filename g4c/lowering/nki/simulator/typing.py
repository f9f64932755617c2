"""`nki.typing`: names for annotations."""

from __future__ import annotations

from g4c.lowering.nki.simulator.registers import VirtualRegister
from g4c.lowering.nki.simulator.tensor import NkiTensor

tensor = mutable_tensor = NkiTensor
register = VirtualRegister

__all__ = ["mutable_tensor", "register", "tensor"]
