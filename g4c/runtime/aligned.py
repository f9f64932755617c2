"""Arrays whose data starts on a 64-byte boundary, which XLA's CPU client takes without copying."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from g4c.ir.types import Array, TensorType

ALIGNMENT = 64


def aligned_empty(type: TensorType) -> Array:
    """An uninitialized, writable array of `type`, 64-byte aligned."""
    raw = np.empty(type.nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + type.nbytes].view(type.dtype.numpy).reshape(type.shape)


def is_aligned(array: Array) -> bool:
    """Whether `array` is contiguous and starts 64-byte aligned."""
    return bool(array.flags.c_contiguous) and array.ctypes.data % ALIGNMENT == 0
