"""Kernels that the tests of the simulator run: tiled matmul, softmax, RMSNorm, flash attention."""

from __future__ import annotations

from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import jit
from g4c.lowering.nki.simulator import language as nl

P = 128


@jit
def matmul(lhs_t, rhs):
    """lhs_t[K, M].T @ rhs[K, N]: 128 x 512 tiles, accumulated over K in PSUM."""
    depth, rows = lhs_t.shape
    columns = rhs.shape[1]
    out = nl.ndarray((rows, columns), dtype=lhs_t.dtype, buffer=nl.shared_hbm)
    for m in range(0, rows, P):
        m_size = min(P, rows - m)
        for n in range(0, columns, 512):
            n_size = min(512, columns - n)
            psum = nl.ndarray((m_size, n_size), dtype=nl.float32, buffer=nl.psum)
            for k in range(0, depth, P):
                k_size = min(P, depth - k)
                left = nl.ndarray((k_size, m_size), dtype=lhs_t.dtype, buffer=nl.sbuf)
                right = nl.ndarray((k_size, n_size), dtype=rhs.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=left, src=lhs_t[k : k + k_size, m : m + m_size])
                nisa.dma_copy(dst=right, src=rhs[k : k + k_size, n : n + n_size])
                nisa.nc_matmul(dst=psum, stationary=left, moving=right, accumulate=(k > 0))
            tile = nl.ndarray((m_size, n_size), dtype=lhs_t.dtype, buffer=nl.sbuf)
            nisa.tensor_copy(dst=tile, src=psum)
            nisa.dma_copy(dst=out[m : m + m_size, n : n + n_size], src=tile)
    return out


@jit
def softmax(x):
    """Softmax over the last axis: maximum, exponential with its sum, scale."""
    rows, columns = x.shape
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    for start in range(0, rows, P):
        size = min(P, rows - start)
        tile = nl.ndarray((size, columns), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[start : start + size, :])
        low = nl.ndarray((size, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=low, op=nl.maximum, data=tile, axis=1, negate=True)
        powers = nl.ndarray((size, columns), dtype=nl.float32, buffer=nl.sbuf)
        total = nl.ndarray((size, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(
            dst=powers,
            op=nl.exp,
            data=tile,
            bias=low,
            reduce_op=nl.add,
            reduce_res=total,
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )
        nisa.reciprocal(dst=total, data=total)
        nisa.tensor_scalar(dst=tile, data=powers, op0=nl.multiply, operand0=total)
        nisa.dma_copy(dst=out[start : start + size, :], src=tile)
    return out


@jit
def rms_norm(x, weight, epsilon):
    """x / sqrt(mean(x^2) + epsilon) * weight."""
    rows, columns = x.shape
    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
    gain = nl.ndarray((P, columns), dtype=weight.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=gain, src=weight.ap([[0, P], [1, columns]]))
    for start in range(0, rows, P):
        size = min(P, rows - start)
        tile = nl.ndarray((size, columns), dtype=x.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=x[start : start + size, :])
        squares = nl.ndarray((size, columns), dtype=nl.float32, buffer=nl.sbuf)
        scale = nl.ndarray((size, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(
            dst=squares,
            op=nl.square,
            data=tile,
            reduce_op=nl.add,
            reduce_res=scale,
            reduce_cmd=nisa.reduce_cmd.reset_reduce,
        )
        nisa.tensor_scalar(dst=scale, data=scale, op0=nl.multiply, operand0=1.0 / columns, op1=nl.add, operand1=epsilon)
        nisa.activation(dst=scale, op=nl.rsqrt, data=scale)
        nisa.scalar_tensor_tensor(
            dst=tile, data=tile, op0=nl.multiply, operand0=scale, op1=nl.multiply, operand1=gain[:size, :]
        )
        nisa.dma_copy(dst=out[start : start + size, :], src=tile)
    return out


@jit
def flash_attention(q, k, v, scale):
    """Causal attention of one head, q, k, v [s, d], d a multiple of 128: online softmax over tiles of 512 keys."""
    length, width = q.shape
    chunks = width // P
    out = nl.ndarray(q.shape, dtype=q.dtype, buffer=nl.shared_hbm)
    identity = nl.shared_identity_matrix(P, dtype=q.dtype)
    for q0 in range(0, length, P):
        rows = min(P, length - q0)
        queries = _load_transposed(q, q0, rows, identity)
        peak = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
        total = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
        result = nl.ndarray((rows, width), dtype=nl.float32, buffer=nl.sbuf)
        nisa.memset(dst=peak, value=-3.0e38)
        nisa.memset(dst=total, value=0.0)
        nisa.memset(dst=result, value=0.0)
        for k0 in range(0, q0 + rows, 512):
            keys = min(512, q0 + rows - k0)
            scores = nl.ndarray((rows, keys), dtype=nl.float32, buffer=nl.psum)
            for part in range(0, keys, P):
                size = min(P, keys - part)
                transposed = _load_transposed(k, k0 + part, size, identity)
                for c in range(chunks):
                    nisa.nc_matmul(
                        dst=scores[:, part : part + size],
                        stationary=queries[:, c, :],
                        moving=transposed[:, c, :],
                        accumulate=(c > 0),
                    )
            masked = nl.ndarray((rows, keys), dtype=nl.float32, buffer=nl.sbuf)
            nisa.activation(dst=masked, op=nl.copy, data=scores, scale=scale)
            nisa.affine_select(
                dst=masked,
                pattern=[[-1, keys]],
                channel_multiplier=1,
                on_true_tile=masked,
                on_false_value=-3.0e38,
                cmp_op=nl.greater_equal,
                offset=q0 - k0,
            )
            new_peak = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_reduce(dst=new_peak, op=nl.maximum, data=masked, axis=1)
            nisa.tensor_tensor(dst=new_peak, data1=new_peak, data2=peak, op=nl.maximum)
            decay = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.tensor_tensor(dst=decay, data1=peak, data2=new_peak, op=nl.subtract)
            nisa.activation(dst=decay, op=nl.exp, data=decay)
            nisa.tensor_copy(dst=peak, src=new_peak)
            nisa.tensor_scalar(dst=new_peak, data=new_peak, op0=nl.multiply, operand0=-1.0)
            weights = nl.ndarray((rows, keys), dtype=q.dtype, buffer=nl.sbuf)
            part_sum = nl.ndarray((rows, 1), dtype=nl.float32, buffer=nl.sbuf)
            nisa.activation(
                dst=weights,
                op=nl.exp,
                data=masked,
                bias=new_peak,
                reduce_op=nl.add,
                reduce_res=part_sum,
                reduce_cmd=nisa.reduce_cmd.reset_reduce,
            )
            nisa.scalar_tensor_tensor(
                dst=total, data=total, op0=nl.multiply, operand0=decay, op1=nl.add, operand1=part_sum
            )
            product = nl.ndarray((rows, width), dtype=nl.float32, buffer=nl.psum)
            for part in range(0, keys, P):
                size = min(P, keys - part)
                flipped = nl.ndarray((size, rows), dtype=q.dtype, buffer=nl.psum)
                nisa.nc_transpose(dst=flipped, data=weights[:, part : part + size])
                flipped_sb = nl.ndarray((size, rows), dtype=q.dtype, buffer=nl.sbuf)
                nisa.tensor_copy(dst=flipped_sb, src=flipped)
                values = nl.ndarray((size, width), dtype=v.dtype, buffer=nl.sbuf)
                nisa.dma_copy(dst=values, src=v[k0 + part : k0 + part + size, :])
                nisa.nc_matmul(dst=product, stationary=flipped_sb, moving=values, accumulate=(part > 0))
            nisa.scalar_tensor_tensor(
                dst=result, data=result, op0=nl.multiply, operand0=decay, op1=nl.add, operand1=product
            )
        nisa.reciprocal(dst=total, data=total)
        final = nl.ndarray((rows, width), dtype=q.dtype, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=final, data=result, op0=nl.multiply, operand0=total)
        nisa.dma_copy(dst=out[q0 : q0 + rows, :], src=final)
    return out


def _load_transposed(x, start, rows, identity):
    """Rows of x [s, d] as [128, d / 128, rows]: the d axis on the partitions, in chunks."""
    width = x.shape[1]
    tile = nl.ndarray((rows, width), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=tile, src=x[start : start + rows, :])
    result = nl.ndarray((P, width // P, rows), dtype=x.dtype, buffer=nl.sbuf)
    for c in range(width // P):
        psum = nl.ndarray((P, rows), dtype=x.dtype, buffer=nl.psum)
        nisa.nc_matmul(
            dst=psum,
            stationary=tile[:, c * P : (c + 1) * P],
            moving=identity[:rows, :rows],
            is_transpose=True,
        )
        nisa.tensor_copy(dst=result[:, c, :], src=psum)
    return result
