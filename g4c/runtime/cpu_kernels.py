"""Kernels inside of programs on the CPU backend: XLA calls Python where a program calls a kernel.

In: kernels as Python callables on arrays, entered by `register_kernel`, which numbers them; programs with custom calls
of XLA's typed FFI that name a kernel by its number, `{kernel_id = 3 : i64}`. Out: the calls' results, written where XLA
wants them. An operand that a result is aliased to may be written; all others are read-only.
Invariants: one kernel runs at a time; what a kernel raises does not pass through XLA: it is kept, the kernels after it
do nothing, and `raise_failure` raises it after the execution. The structures are those of XLA's C interface (typed FFI,
version 0.3); XLA says with every call how long its structures are, and another layout is refused.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from g4c.errors import G4cError
from g4c.ir.types import DType
from g4c.runtime.cpu import register_custom_call

if TYPE_CHECKING:
    from g4c.ir.types import Array

TARGET = "AwsNeuronCustomNativeKernel"
KERNEL_ID = "kernel_id"

_METADATA, _EXECUTE = 1, 3  # extension type, stage
# XLA's element types (xla_data.proto) that programs hold.
_DTYPES = {1: DType.PRED, 2: DType.S8, 4: DType.S32, 10: DType.F16, 11: DType.F32, 16: DType.BF16}


@dataclass(frozen=True)
class CpuKernel:
    """`run` takes the operands as arrays and returns the results, in order. Pairs of `aliases` are (operand, result):
    `run` updates the operand in place, and what it returns for it is that."""

    name: str
    run: Callable[..., Sequence[Array]]
    aliases: tuple[tuple[int, int], ...] = ()


_kernels: list[CpuKernel] = []
_lock = threading.Lock()
_failure: list[BaseException] = []


def register_kernel(kernel: CpuKernel) -> int:
    """Enter `kernel` for the rest of the process; returns its number. G4C-R050 where jaxlib takes no custom calls."""
    _register_handler()
    with _lock:
        _kernels.append(kernel)
        return len(_kernels) - 1


def raise_failure() -> None:
    """Raise what a kernel has raised since the last call, if one has: coded errors as they are, others as G4C-R072."""
    if not _failure:
        return
    with _lock:
        error = _failure.pop()
    if isinstance(error, G4cError) or not isinstance(error, Exception):
        raise error
    raise G4cError("G4C-R072", f"a kernel failed: {type(error).__name__}: {error}") from error


# -- XLA's structures --------------------------------------------------------------------------------------------------

_POINTER = ctypes.c_void_p


class _Extension(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("type", ctypes.c_int), ("next", _POINTER))


class _Version(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension", _POINTER),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    )


class _Metadata(ctypes.Structure):
    _fields_ = (("struct_size", ctypes.c_size_t), ("version", _Version), ("traits", ctypes.c_uint32))


class _MetadataExtension(ctypes.Structure):
    _fields_ = (("base", _Extension), ("metadata", ctypes.POINTER(_Metadata)))


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension", _POINTER),
        ("dtype", ctypes.c_int),
        ("data", _POINTER),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    )


class _Buffers(ctypes.Structure):
    """Operands or results."""

    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension", _POINTER),
        ("size", ctypes.c_int64),
        ("types", ctypes.POINTER(ctypes.c_int)),
        ("pointers", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    )


class _Bytes(ctypes.Structure):
    _fields_ = (("data", _POINTER), ("length", ctypes.c_size_t))


class _Scalar(ctypes.Structure):
    _fields_ = (("dtype", ctypes.c_int), ("value", ctypes.POINTER(ctypes.c_int64)))


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension", _POINTER),
        ("size", ctypes.c_int64),
        ("types", ctypes.POINTER(ctypes.c_int)),
        ("names", ctypes.POINTER(ctypes.POINTER(_Bytes))),
        ("values", ctypes.POINTER(ctypes.POINTER(_Scalar))),
    )


class _CallFrame(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.POINTER(_Extension)),
        ("api", _POINTER),
        ("context", _POINTER),
        ("stage", ctypes.c_int),
        ("operands", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    )


_Handler = ctypes.CFUNCTYPE(_POINTER, ctypes.POINTER(_CallFrame))


# -- calls -------------------------------------------------------------------------------------------------------------


@_Handler
def _handle(frame_pointer: Any) -> None:
    """What XLA calls: for what it must know of the handler, or to execute one call. Null: all is well."""
    frame = frame_pointer.contents
    if frame.extension and frame.extension.contents.type == _METADATA:
        described = ctypes.cast(frame.extension, ctypes.POINTER(_MetadataExtension)).contents.metadata.contents
        described.version.major, described.version.minor, described.traits = 0, 1, 0
        return
    if frame.stage != _EXECUTE:
        return
    with _lock:
        if _failure:
            return
        try:
            _execute(frame)
        except BaseException as error:  # an exception must not reach XLA; raise_failure raises it
            _failure.append(error)


def _execute(frame: Any) -> None:
    if frame.struct_size != ctypes.sizeof(_CallFrame):
        message = f"a call frame has {frame.struct_size} bytes, g4c knows {ctypes.sizeof(_CallFrame)}"
        raise G4cError("G4C-R050", f"this jaxlib calls kernels in another way: {message}")
    kernel = _kernels[_number(frame.attributes)]
    written = {operand for operand, _ in kernel.aliases}
    operands = [_array(frame.operands.pointers[k].contents, writable=k in written) for k in range(frame.operands.size)]
    results = [_array(frame.results.pointers[k].contents, writable=True) for k in range(frame.results.size)]
    found = map(np.asarray, kernel.run(*operands))
    for place, (result, array) in enumerate(zip(results, found, strict=True)):
        if (array.shape, array.dtype) != (result.shape, result.dtype):
            made, wanted = f"{array.dtype}{list(array.shape)}", f"{result.dtype}{list(result.shape)}"
            raise G4cError("G4C-R072", f"result {place} of {kernel.name} is {made}, the program wants {wanted}")
        np.copyto(result, array)


def _number(attributes: Any) -> int:
    for k in range(attributes.size):
        name = attributes.names[k].contents
        if ctypes.string_at(name.data, name.length) == KERNEL_ID.encode():
            return int(attributes.values[k].contents.value.contents.value)
    raise G4cError("G4C-R072", f"a custom call has no attribute {KERNEL_ID}")


def _array(buffer: Any, *, writable: bool) -> Array:
    """A buffer of XLA's as an array on the same memory, valid during the call."""
    dtype = _DTYPES[buffer.dtype].numpy
    shape = tuple(buffer.dims[k] for k in range(buffer.rank))
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    memory = (ctypes.c_char * size).from_address(buffer.data)
    array: Array = np.frombuffer(memory, dtype=dtype).reshape(shape)
    array.flags.writeable = writable
    return array


@cache
def _register_handler() -> None:
    """Tell XLA, once."""
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object
    new_capsule.argtypes = (_POINTER, ctypes.c_char_p, _POINTER)
    capsule = new_capsule(ctypes.cast(_handle, _POINTER), b"xla._CUSTOM_CALL_TARGET", None)
    register_custom_call(TARGET, capsule)
