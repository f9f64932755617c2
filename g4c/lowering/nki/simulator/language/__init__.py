"""`nki.language`: types, memories, tensors, loops, and the functions that double as operator tokens.

What `import nki.language as nl` gives a kernel. Everything here is a name; the meaning is in the modules it comes from.
"""

from __future__ import annotations

from g4c.lowering.nki.simulator.language.convenience import (
    all,
    broadcast_to,
    expand_dims,
    gather_flattened,
    load,
    load_transpose2d,
    matmul,
    max,
    mean,
    min,
    prod,
    rms_norm,
    softmax,
    store,
    sum,
    transpose,
    var,
    where,
)
from g4c.lowering.nki.simulator.language.creation import (
    device_print,
    empty_like,
    full,
    ndarray,
    ones,
    shared_constant,
    shared_identity_matrix,
    zeros,
    zeros_like,
)
from g4c.lowering.nki.simulator.language.loops import (
    affine_range,
    dynamic_range,
    fori_loop,
    no_reorder,
    num_programs,
    program_id,
    program_ndim,
    sequential_range,
    static_range,
    while_loop,
)
from g4c.lowering.nki.simulator.language.math import (
    ceil,
    cos,
    divide,
    floor,
    fmod,
    logical_not,
    mod,
    negative,
    tan,
    trunc,
)
from g4c.lowering.nki.simulator.language.tile_size import tile_size
from g4c.lowering.nki.simulator.language.unsupported import absent, dropout, rand, random_seed
from g4c.lowering.nki.simulator.memory import MemoryRegion
from g4c.lowering.nki.simulator.objects import NKIObject
from g4c.lowering.nki.simulator.tensor import DynamicSlice, NkiTensor
from g4c.lowering.nki.simulator.tokens import TOKENS

DType = str
bool_ = "bool"
int8, int16, int32 = "int8", "int16", "int32"
uint8, uint16, uint32 = "uint8", "uint16", "uint32"
float16, bfloat16, tfloat32, float32 = "float16", "bfloat16", "tfloat32", "float32"
float8_e4m3, float8_e4m3fn, float8_e5m2, float8_e8m0fnu = (
    "float8_e4m3",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e8m0fnu",
)
float8_e5m2_x4, float8_e4m3fn_x4, float4_e2m1fn_x4 = "float8_e5m2_x4", "float8_e4m3fn_x4", "float4_e2m1fn_x4"

sbuf, psum = MemoryRegion.sbuf, MemoryRegion.psum
hbm = private_hbm = MemoryRegion.private_hbm
shared_hbm = MemoryRegion.shared_hbm

tensor = NkiTensor
globals().update(TOKENS)


def ds(start, size):
    """A slice of `size` elements from `start`, which may be a register."""
    return DynamicSlice(start, size)


def is_hbm(buffer):
    """Whether the buffer is any kind of HBM."""
    return buffer in (private_hbm, shared_hbm)


def is_on_chip(buffer):
    """Whether the buffer is SBUF or PSUM."""
    return buffer in (sbuf, psum)


def is_psum(buffer):
    """Whether the buffer is PSUM."""
    return buffer is psum


def is_sbuf(buffer):
    """Whether the buffer is SBUF."""
    return buffer is sbuf


def __getattr__(name):
    raise absent(name, [*__all__, *TOKENS])


__all__ = [
    "DType",
    "DynamicSlice",
    "MemoryRegion",
    "NKIObject",
    "NkiTensor",
    "affine_range",
    "all",
    "bfloat16",
    "bool_",
    "broadcast_to",
    "device_print",
    "dropout",
    "ds",
    "dynamic_range",
    "empty_like",
    "expand_dims",
    "float4_e2m1fn_x4",
    "float8_e4m3",
    "float8_e4m3fn",
    "float8_e4m3fn_x4",
    "float8_e5m2",
    "float8_e5m2_x4",
    "float8_e8m0fnu",
    "float16",
    "float32",
    "fori_loop",
    "full",
    "gather_flattened",
    "hbm",
    "int8",
    "int16",
    "int32",
    "is_hbm",
    "is_on_chip",
    "is_psum",
    "is_sbuf",
    "load",
    "load_transpose2d",
    "matmul",
    "max",
    "mean",
    "min",
    "ndarray",
    "no_reorder",
    "num_programs",
    "ones",
    "private_hbm",
    "prod",
    "program_id",
    "program_ndim",
    "psum",
    "rand",
    "random_seed",
    "rms_norm",
    "sbuf",
    "sequential_range",
    "shared_constant",
    "shared_hbm",
    "shared_identity_matrix",
    "softmax",
    "static_range",
    "store",
    "sum",
    "tensor",
    "tfloat32",
    "tile_size",
    "transpose",
    "uint8",
    "uint16",
    "uint32",
    "var",
    "where",
    "while_loop",
    "zeros",
    "ceil",
    "cos",
    "divide",
    "floor",
    "fmod",
    "logical_not",
    "mod",
    "negative",
    "tan",
    "trunc",
    "zeros_like",
    *TOKENS,
]
