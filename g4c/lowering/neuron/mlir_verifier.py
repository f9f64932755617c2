"""Verify StableHLO text, and HLO protos through it, with the MLIR bindings of torch-mlir.

In: text or a serialized HLO module. Out: nothing, or one coded error that quotes the verifier. Invariant: a module
that passes has consistent types on every op; XLA's converter alone does not check that.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from google.protobuf.message import DecodeError

from g4c.errors import G4cError
from g4c.lowering.neuron import xla
from g4c.lowering.neuron.hlo_proto import HloModule


@cache
def _bindings() -> tuple[Any, Any]:
    try:
        from torch_mlir import ir
        from torch_mlir._mlir_libs import _stablehlo
    except ImportError as error:
        raise G4cError(
            "G4C-L008", f"cannot import torch-mlir: {error}", help="install the version that constraints.txt pins"
        ) from error
    return ir, _stablehlo


def verify_stablehlo(text: str, *, foreign_attributes: bool = False) -> None:
    """Parse and verify a StableHLO module. `foreign_attributes` lets attributes of unknown dialects pass. G4C-L004."""
    ir, stablehlo = _bindings()
    context = ir.Context()
    stablehlo.register_dialect(context)
    context.allow_unregistered_dialects = foreign_attributes
    try:
        ir.Module.parse(text, context)  # verifies, too
    except ir.MLIRError as error:
        message = xla.first_line(error)
        raise G4cError("G4C-L004", f"invalid StableHLO: {message}", excerpt=_excerpt(text, message)) from error


def verify_hlo(proto: bytes) -> None:
    """Check every op's types in a serialized HLO module.

    G4C-L003 where the bytes are no HLO module or XLA cannot read it, G4C-L004 where types do not fit.
    """
    try:
        module = HloModule.FromString(proto)
    except DecodeError as error:
        raise G4cError("G4C-L003", f"not an HLO module: {error}") from error
    for computation in module.computations:
        for instruction in computation.instructions:
            if instruction.opcode == "copy":
                instruction.opcode = "reshape"  # StableHLO has no copy
    verify_stablehlo(xla.hlo_to_stablehlo(module.SerializeToString()), foreign_attributes=True)


def _excerpt(text: str, message: str) -> str | None:
    """The line of `text` that a message with a position (`"-":12:7`) speaks of."""
    position = re.search(r'"-":(\d+):\d+', message)
    lines = text.splitlines()
    if position is None or not 0 < int(position[1]) <= len(lines):
        return None
    return f"> {lines[int(position[1]) - 1].strip()}"
