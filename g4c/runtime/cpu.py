"""The CPU backend: programs compiled and run by XLA's CPU client. The one runtime module that touches jaxlib.

In: serialized HLO modules, arrays. Out: executables, buffers, arrays.
Invariants: an aligned array is bound without a copy and kept alive by its buffer; a buffer that a program aliases to a
result is updated in place and handed over, so only the returned buffer may be used afterwards; a jaxlib without the
entry points that are used here is refused with one coded error. The entry points are not public API, so the version is
pinned.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from g4c.errors import G4cError

if TYPE_CHECKING:
    from g4c.ir.types import Array, TensorType

# A device buffer: opaque outside of this module.
Buffer = Any

# By default XLA hands sums of products to a library, which is slow where one row meets a bf16 weight. The loops that
# LLVM makes of them instead read the weight once, at memory speed. The library keeps the dots, which it is good at.
# By default XLA also starts all pieces of a split product before it finishes one, so that their temporaries add up.
_COMPILE_FLAGS = (
    ("xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"),
    ("xla_cpu_prefer_vector_width", 512),
    ("xla_cpu_scheduler_type", "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"),
)


@dataclass(frozen=True)
class _Jaxlib:
    """The entry points of jaxlib that are used."""

    make_cpu_client: Any
    device_list: Any
    compile_options: Any
    computation: Any
    to_module: Any
    device_put: Any
    host_buffer: Any
    sharding: Any
    to_array: Any
    register_custom_call: Any


@cache
def _jaxlib() -> _Jaxlib:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # else XLA greets on stderr
    try:
        from jaxlib import _jax, xla_client

        class Replicated(_jax.SingleDeviceSharding):  # type: ignore[misc]
            memory_kind = None

            def _to_xla_hlo_sharding(self, rank: int) -> Any:
                return xla_client.HloSharding.replicate()

        return _Jaxlib(
            make_cpu_client=xla_client.make_cpu_client,
            device_list=xla_client.DeviceList,
            compile_options=xla_client.CompileOptions,
            computation=xla_client.XlaComputation,
            to_module=_jax.mlir.xla_computation_to_mlir_module,
            device_put=_jax.batched_device_put,
            host_buffer=_jax.HostBufferSemantics,
            sharding=Replicated,
            to_array=_jax.ArrayImpl._single_device_array_to_np_array_did_copy,
            register_custom_call=xla_client.register_custom_call_target,
        )
    except (ImportError, AttributeError) as error:
        raise G4cError(
            "G4C-R050",
            f"this jaxlib cannot run programs on the CPU: {error}",
            help="install the jaxlib version that constraints.txt pins",
        ) from error


def available() -> bool:
    """Whether the installed jaxlib has every entry point that the CPU backend needs."""
    try:
        _jaxlib()
    except G4cError:
        return False
    return True


@dataclass(frozen=True)
class _Aval:
    """What jaxlib wants to know of an array beside its data."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    weak_type: bool = False


class CpuClient:
    """XLA's CPU client with `threads` worker threads (None: one per core)."""

    def __init__(self, threads: int | None = None) -> None:
        self._jaxlib = _jaxlib()
        with _worker_threads(threads):
            self._client = self._jaxlib.make_cpu_client(asynchronous=False)
        self._device = self._client.devices()[0]
        self._sharding = self._jaxlib.sharding(self._device)

    def compile(self, proto: bytes, name: str) -> CpuExecutable:
        """Compile a serialized HLO module, XLA's verifier included. G4C-R051 where XLA refuses it."""
        options = self._jaxlib.compile_options()
        options.env_option_overrides = list(_COMPILE_FLAGS)
        try:
            module = self._jaxlib.to_module(self._jaxlib.computation(proto))
            loaded = self._client.compile_and_load(module, self._jaxlib.device_list((self._device,)), options)
        except (RuntimeError, ValueError) as error:  # XLA's own error is a RuntimeError
            raise G4cError("G4C-R051", f"XLA cannot compile the program: {_first_line(error)}", where=name) from error
        return CpuExecutable(name, loaded)

    def bind(self, array: Array) -> Buffer:
        """A buffer on the memory of `array`, which must not change; without a copy where it is contiguous and 64-byte
        aligned. It is kept alive by the buffer, may be a read-only mapping, and is never written, not even through a
        program that aliases it."""
        return self._put(array, copy=False)

    def copy(self, array: Array) -> Buffer:
        """A buffer with a copy of `array`, which a program may update in place."""
        return self._put(array, copy=True)

    def zeros(self, type: TensorType) -> Buffer:
        """A buffer of zeros of `type`, which a program may update in place."""
        return self.copy(np.zeros(type.shape, type.dtype.numpy))

    def _put(self, array: Array, *, copy: bool) -> Buffer:
        array = np.ascontiguousarray(array)
        kinds = self._jaxlib.host_buffer
        semantics = kinds.IMMUTABLE_ONLY_DURING_CALL if copy else kinds.ZERO_COPY
        aval = _Aval(array.shape, array.dtype)
        try:
            return self._jaxlib.device_put(aval, self._sharding, [array], [self._device], True, copy, semantics, False)
        except RuntimeError as error:
            raise G4cError(
                "G4C-R052", f"cannot place {array.dtype.name}{list(array.shape)}: {_first_line(error)}"
            ) from error


@cache
def cpu_client(threads: int | None = None) -> CpuClient:
    """The process's client with `threads` worker threads; made once, because every client starts its own threads."""
    return CpuClient(threads)


class CpuExecutable:
    """A compiled program."""

    def __init__(self, name: str, loaded: Any) -> None:
        self.name = name
        self._loaded = loaded

    def execute(self, buffers: Sequence[Buffer]) -> list[Buffer]:
        """Run on `buffers`, in parameter order; one buffer per result. Buffers whose parameter is aliased are consumed.

        G4C-R052 where an argument does not fit or memory runs out; aliased buffers may be gone then.
        """
        try:
            results = self._loaded.execute_sharded(buffers)
            return [shards[0] for shards in results.disassemble_into_single_device_arrays()]
        except (RuntimeError, ValueError) as error:
            raise G4cError("G4C-R052", f"the execution failed: {_first_line(error)}", where=self.name) from error

    @property
    def temporary_bytes(self) -> int:
        """Memory that an execution takes beside parameters and results."""
        return int(self._loaded.get_compiled_memory_stats().temp_size_in_bytes)


def register_custom_call(target: str, handler: object) -> None:
    """Let custom calls of the typed FFI to `target` call `handler`, a capsule with a function pointer."""
    _jaxlib().register_custom_call(target, handler, "cpu", 1)


def array_of(buffer: Buffer) -> Array:
    """The contents of a buffer: a read-only array on its memory, which the array keeps alive."""
    array: Array
    array, _ = _jaxlib().to_array(buffer)  # not numpy's buffer protocol, which knows no bf16
    return array


def address_of(buffer: Buffer) -> int:
    """Where the contents of a buffer lie in memory."""
    return int(buffer.unsafe_buffer_pointer())


@contextmanager
def _worker_threads(threads: int | None) -> Iterator[None]:
    """Set how many threads a client made in this block starts; XLA reads that from the environment only."""
    before = os.environ.get("NPROC")
    if threads is not None:
        os.environ["NPROC"] = str(threads)
    try:
        yield
    finally:
        if before is not None:
            os.environ["NPROC"] = before
        else:
            os.environ.pop("NPROC", None)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "error:" in line]
    return (telling or lines or [type(error).__name__])[0]
