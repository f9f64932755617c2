"""Run a finished HLO proto on the CPU backend that `g4c run` uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from g4c.runtime.cpu import array_of, cpu_client


def run(proto: bytes, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Compile `proto` (XLA's HLO verifier included) and run it once on copies of `arrays`, in parameter order."""
    client = cpu_client()
    results = client.compile(proto, "test").execute([client.copy(array) for array in arrays])
    return [array_of(result).copy() for result in results]
