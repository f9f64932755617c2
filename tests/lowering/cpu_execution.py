"""Run a finished HLO proto on XLA's CPU backend: the smallest way, for tests of the lowering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxlib import _jax, xla_client


class _Sharding(_jax.SingleDeviceSharding):
    memory_kind = None

    def _to_xla_hlo_sharding(self, rank: int) -> Any:
        return xla_client.HloSharding.replicate()


@dataclass(frozen=True)
class _Aval:
    shape: tuple[int, ...]
    dtype: np.dtype
    weak_type: bool = False


@cache
def _client() -> Any:
    return xla_client.make_cpu_client(asynchronous=False)


def run(proto: bytes, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Compile `proto` (XLA's HLO verifier included) and run it once on copies of `arrays`, in parameter order."""
    device = _client().devices()[0]
    module = _jax.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(proto))
    executable = _client().compile_and_load(module, xla_client.DeviceList((device,)), xla_client.CompileOptions())
    copied = _jax.HostBufferSemantics.IMMUTABLE_ONLY_DURING_CALL
    buffers = [
        _jax.batched_device_put(
            _Aval(array.shape, array.dtype), _Sharding(device), [array.copy()], [device], True, True, copied, False
        )
        for array in arrays
    ]
    results = executable.execute_sharded(buffers).disassemble_into_single_device_arrays()
    return [np.asarray(shards[0]) for shards in results]
