"""The one place that touches jaxlib's internals: StableHLO text <-> HLO protos.

In: StableHLO text, or a serialized HLO module. Out: the other one. Invariant: nothing else in this package imports
jaxlib, and a jaxlib that lacks one of the entry points is refused with one coded error that names it. The entry
points are not public API, so the version is pinned.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from g4c.errors import G4cError


@cache
def _entry_points() -> tuple[Any, Any, Any]:
    try:
        from jaxlib import _jax, xla_client

        return (
            _jax.mlir.mlir_module_to_xla_computation,
            _jax.mlir.xla_computation_to_mlir_module,
            xla_client.XlaComputation,
        )
    except (ImportError, AttributeError) as error:
        raise G4cError(
            "G4C-L001",
            f"this jaxlib cannot convert StableHLO to HLO: {error}",
            help="install the jaxlib version that constraints.txt pins",
        ) from error


def available() -> bool:
    """Whether the installed jaxlib has every entry point that g4c needs."""
    try:
        _entry_points()
    except G4cError:
        return False
    return True


def stablehlo_to_hlo(text: str) -> bytes:
    """The serialized HLO module of a StableHLO module with a public `main`; its root is a tuple of the results.

    G4C-L002 where XLA rejects the module.
    """
    to_computation = _entry_points()[0]
    try:
        computation = to_computation(text, use_tuple_args=False, return_tuple=True)
    except (RuntimeError, ValueError) as error:  # XlaRuntimeError is a RuntimeError
        raise G4cError("G4C-L002", f"XLA rejects the StableHLO module: {first_line(error)}") from error
    serialized: bytes = computation.as_serialized_hlo_module_proto()
    return serialized


def hlo_to_stablehlo(proto: bytes) -> str:
    """The StableHLO text of a serialized HLO module; shapes are not checked. G4C-L003 where the proto is malformed."""
    _, to_module, computation = _entry_points()
    try:
        text: str = to_module(computation(proto))
    except (RuntimeError, ValueError) as error:
        raise G4cError("G4C-L003", f"XLA cannot read the HLO module: {first_line(error)}") from error
    return text


def hlo_text(proto: bytes) -> str:
    """A serialized HLO module in XLA's text form. G4C-L003 where the proto is malformed."""
    try:
        text: str = _entry_points()[2](proto).as_hlo_text()
    except (RuntimeError, ValueError) as error:
        raise G4cError("G4C-L003", f"XLA cannot read the HLO module: {first_line(error)}") from error
    return text


def first_line(error: Exception) -> str:
    """The line of a multi-line error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line]
    return (telling or lines or [type(error).__name__])[0]
