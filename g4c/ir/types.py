"""Types of the IR: element types and static tensor types.

In: nothing. Out: `DType`, `TensorType`, `Array`. Invariant: a type is immutable, hashable, and prints as the MLIR type
that it means.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# The element type of an array is carried by its TensorType; statically every array is treated as one of floats.
Array: TypeAlias = "npt.NDArray[np.float32]"


class DType(enum.Enum):
    """Element types. The value is the MLIR spelling."""

    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"
    S32 = "i32"
    S8 = "i8"
    S4 = "i4"
    PRED = "i1"
    F8E4M3 = "f8E4M3"
    F8E4M3FN = "f8E4M3FN"
    F8E5M2 = "f8E5M2"

    @property
    def mlir(self) -> str:
        return self.value

    @property
    def bits(self) -> int:
        """Bits of one element in memory (a predicate takes a byte)."""
        return _BITS[self]

    @property
    def is_float(self) -> bool:
        return self not in (DType.S32, DType.S8, DType.S4, DType.PRED)

    @property
    def numpy(self) -> np.dtype[np.float32]:
        """The numpy (or ml_dtypes) dtype that holds this element type."""
        import ml_dtypes  # noqa: F401  (teaches numpy the names of the extended types)
        import numpy as np

        dtype: np.dtype[np.float32] = np.dtype(_NUMPY_NAMES[self])
        return dtype

    @staticmethod
    def of(dtype: np.dtype[np.float32]) -> DType:
        """The element type that `dtype` (numpy or ml_dtypes) holds. KeyError where the IR has none."""
        return _BY_NUMPY_NAME[dtype.name]


_BITS = {
    DType.F32: 32,
    DType.BF16: 16,
    DType.F16: 16,
    DType.S32: 32,
    DType.S8: 8,
    DType.S4: 4,
    DType.PRED: 8,
    DType.F8E4M3: 8,
    DType.F8E4M3FN: 8,
    DType.F8E5M2: 8,
}
_NUMPY_NAMES = {
    DType.F32: "float32",
    DType.BF16: "bfloat16",
    DType.F16: "float16",
    DType.S32: "int32",
    DType.S8: "int8",
    DType.S4: "int4",
    DType.PRED: "bool",
    DType.F8E4M3: "float8_e4m3",
    DType.F8E4M3FN: "float8_e4m3fn",
    DType.F8E5M2: "float8_e5m2",
}
_BY_NUMPY_NAME = {name: dtype for dtype, name in _NUMPY_NAMES.items()}


@dataclass(frozen=True)
class TensorType:
    """A dense tensor of static shape; `TensorType((1, 2), DType.BF16)` prints as `tensor<1x2xbf16>`."""

    shape: tuple[int, ...]
    dtype: DType

    def __post_init__(self) -> None:
        assert all(isinstance(n, int) and n >= 0 for n in self.shape), self.shape

    def __str__(self) -> str:
        return f"tensor<{''.join(f'{n}x' for n in self.shape)}{self.dtype.mlir}>"

    @property
    def rank(self) -> int:
        return len(self.shape)

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return (self.size * self.dtype.bits + 7) // 8

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(self.shape, dtype)

    def with_shape(self, shape: tuple[int, ...]) -> TensorType:
        return TensorType(shape, self.dtype)


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that numpy broadcasting gives `shapes`. ValueError names both shapes where they do not fit."""
    rank = max(map(len, shapes))
    result = []
    for axis in range(-rank, 0):
        extents = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
        if len(extents) > 1:
            raise ValueError("shapes do not broadcast: " + " and ".join(str(list(shape)) for shape in shapes))
        result.append(extents.pop() if extents else 1)
    return tuple(result)
