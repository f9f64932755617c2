"""Micro kernels with timelines that can be computed by hand.

Vector runs at 0.96 GHz and Scalar, GpSimd at 1.2 GHz on v3, so that 960 and 1200 cycles take a microsecond.
"""

from __future__ import annotations

from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import jit
from g4c.lowering.nki.simulator import language as nl

P = 128


@jit
def side_by_side():
    """Two engines, nothing in common."""
    a = nl.ndarray((P, 960), dtype=nl.float32, buffer=nl.sbuf)
    b = nl.ndarray((P, 1050), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=a, value=1.0, engine=nisa.engine.vector)
    nisa.memset(dst=b, value=1.0, engine=nisa.engine.gpsimd)


@jit
def read_after_write():
    """Scalar reads what Vector wrote."""
    a = nl.ndarray((P, 960), dtype=nl.float32, buffer=nl.sbuf)
    b = nl.ndarray((P, 960), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=a, value=1.0)
    nisa.activation(dst=b, op=nl.copy, data=a)


@jit
def write_after_read():
    """Vector writes again what Scalar still reads."""
    a = nl.ndarray((P, 960), dtype=nl.float32, buffer=nl.sbuf)
    b = nl.ndarray((P, 960), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=a, value=1.0)
    nisa.activation(dst=b, op=nl.copy, data=a)
    nisa.memset(dst=a, value=2.0)


@jit
def chain(dependent):
    """Two instructions of one engine, the second with the result of the first, or with another tile."""
    a = nl.ndarray((P, 960), dtype=nl.float32, buffer=nl.sbuf)
    b = nl.ndarray((P, 960), dtype=nl.float32, buffer=nl.sbuf)
    c = nl.ndarray((P, 960), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=a, value=1.0)
    nisa.memset(dst=b, value=1.0)
    nisa.tensor_scalar(dst=c, data=b if dependent else a, op0=nl.multiply, operand0=2.0)


@jit
def halves(second):
    """Vector writes the first half of a tile, Scalar reads the half that begins at `second`."""
    a = nl.ndarray((P, 2, 960), dtype=nl.float32, buffer=nl.sbuf)
    b = nl.ndarray((P, 960), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=a[:, 1, :], value=1.0, engine=nisa.engine.gpsimd)
    nisa.memset(dst=a[:, 0, :], value=1.0)
    nisa.activation(dst=b, op=nl.copy, data=a[:, second, :])


@jit
def accumulation(x, y):
    """Four matmuls into one bank, and its evacuation."""
    stationary = nl.ndarray((P, P), dtype=x.dtype, buffer=nl.sbuf)
    moving = nl.ndarray((P, 512), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=stationary, src=x)
    nisa.dma_copy(dst=moving, src=y)
    psum = nl.ndarray((P, 512), dtype=nl.float32, buffer=nl.psum)
    for k in range(4):
        nisa.nc_matmul(dst=psum, stationary=stationary, moving=moving, accumulate=(k > 0))
    out = nl.ndarray((P, 512), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=out, src=psum)


@jit
def banks(x, y, tiles):
    """`tiles` products of two banks' worth, each in a tile of its own, each evacuated right away."""
    stationary = nl.ndarray((P, P), dtype=x.dtype, buffer=nl.sbuf)
    moving = nl.ndarray((P, 512), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=stationary, src=x)
    nisa.dma_copy(dst=moving, src=y)
    for _ in range(tiles):
        psum = nl.ndarray((P, 2, 512), dtype=nl.float32, buffer=nl.psum)
        out = nl.ndarray((P, 2, 512), dtype=nl.float32, buffer=nl.sbuf)
        for part in range(2):
            nisa.nc_matmul(dst=psum[:, part, :], stationary=stationary, moving=moving, accumulate=False)
        nisa.tensor_copy(dst=out, src=psum, engine=nisa.engine.vector)


@jit
def buffered(x, buffers):
    """Loads into `buffers` tiles in turn, each read by Vector."""
    count, _, width = x.shape
    ring = nl.ndarray((P, buffers, width), dtype=x.dtype, buffer=nl.sbuf)
    result = nl.ndarray((P, count, 1), dtype=nl.float32, buffer=nl.sbuf)
    for n in range(count):
        nisa.dma_copy(dst=ring[:, n % buffers, :], src=x[n, :, :])
        nisa.tensor_reduce(dst=result[:, n, :], op=nl.maximum, data=ring[:, n % buffers, :], axis=1)


@jit
def one_load(x, rows):
    """One load with `rows` pieces per partition."""
    width = x.shape[1] // rows
    tile = nl.ndarray((P, rows, 2 * width), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile[:, :, :width], src=x.reshape((P, rows, width)))


@jit
def ports():
    """Vector and GpSimd on SBUF, side by side where the generation lets them."""
    a = nl.ndarray((P, 1120), dtype=nl.float32, buffer=nl.sbuf)
    b = nl.ndarray((P, 1250), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=a, value=1.0, engine=nisa.engine.vector)
    nisa.memset(dst=b, value=1.0, engine=nisa.engine.gpsimd)


@jit
def meeting(x):
    """Two cores: core 1 works longer, then both meet, then each reads."""
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    core = nl.program_id(0)
    half = x.shape[0] // 2
    tile = nl.ndarray((half, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x[core * half : core * half + half, :])
    for _ in range(1 + 9 * core):
        nisa.tensor_scalar(dst=tile, data=tile, op0=nl.multiply, operand0=2.0)
    nisa.dma_copy(dst=out[core * half : core * half + half, :], src=tile)
    nisa.core_barrier(data=out, cores=(0, 1))
    other = nl.ndarray((half, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=other, src=out[half - core * half : x.shape[0] - core * half, :])
    return out


@jit
def counted(x, n):
    """A loop that runs as often as `n` says, and a load from where a register points."""
    tile = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=n)
    register = nisa.register_alloc()
    nisa.register_load(dst=register, src=tile)
    rows = nl.ndarray((1, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=rows, src=x.ap([[x.shape[1], 1], [1, x.shape[1]]], scalar_offset=register))
    nl.fori_loop(0, register, lambda i: nisa.tensor_scalar(dst=rows, data=rows, op0=nl.multiply, operand0=2.0))


@jit
def pointed(x, n):
    """A load from where a register points."""
    tile = nl.ndarray((1, 1), dtype=nl.int32, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=n)
    register = nisa.register_alloc()
    nisa.register_load(dst=register, src=tile)
    rows = nl.ndarray((1, x.shape[1]), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=rows, src=x.ap([[x.shape[1], 1], [1, x.shape[1]]], scalar_offset=register))
