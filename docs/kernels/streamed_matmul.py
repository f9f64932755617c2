"""y [M, N] = x_t [K, M].T @ w [K, N]: x stays, w streams past it. The example of docs/nki.md.

Schedule: for every 128 rows of K, x_t comes in a load of its own and stays, w comes in one load of [128, N] into one of
`buffers` tiles in turn; matmuls of 512 columns add to N / 512 PSUM banks, which hold y until the end.
Budget for K 2048, M 128, N 2048, bf16, 4 buffers: SBUF 4096 (x_t) + 4 x 4096 (w) bytes per partition, in which y finds
room when w is no longer needed; 4 PSUM banks; 32 loads, 64 matmuls, 4 copies, 1 store: 101 instructions.
"""

import nki
import nki.isa as nisa
import nki.language as nl

P = 128  # partitions
BANK = 512  # fp32 per partition in a PSUM bank


@nki.jit
def streamed_matmul(x_t, w, buffers):
    """x_t [K, M] and w [K, N] of one type, K a multiple of 128, M up to 128, N a multiple of 512 up to 2048."""
    depth, rows = x_t.shape
    columns = w.shape[1]
    y = nl.ndarray((rows, columns), dtype=x_t.dtype, buffer=nl.shared_hbm)
    x = nl.ndarray((P, depth // P, rows), dtype=x_t.dtype, buffer=nl.sbuf)
    ring = nl.ndarray((P, buffers, columns), dtype=w.dtype, buffer=nl.sbuf)
    result = nl.ndarray((rows, columns), dtype=x_t.dtype, buffer=nl.sbuf)
    sums = nl.ndarray((rows, columns // BANK, BANK), dtype=nl.float32, buffer=nl.psum)

    for k in range(depth // P):
        w_slice = ring[:, k % buffers, :]
        nisa.dma_copy(dst=x[:, k, :], src=x_t[k * P : (k + 1) * P, :])
        nisa.dma_copy(dst=w_slice, src=w[k * P : (k + 1) * P, :])
        for bank in range(columns // BANK):
            nisa.nc_matmul(
                dst=sums[:, bank, :],
                stationary=x[:, k, :],
                moving=w_slice[:, bank * BANK : (bank + 1) * BANK],
                accumulate=(k > 0),
            )
    for bank in range(columns // BANK):
        nisa.tensor_copy(dst=result[:, bank * BANK : (bank + 1) * BANK], src=sums[:, bank, :])
    nisa.dma_copy(dst=y, src=result)
    return y
