"""One row times a weight: slabs of 256 rows of the weight [k, n], stationary as they arrive, the row moves past them.

A slab has the rows 256 g + 2 p and 256 g + 2 p + 1 on partition p, next to each other as in HBM; x has its features at
the same places: [128, tiles], feature 256 g + 2 p + i at partition p of tile 2 g + i.
"""

from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl


def load_in_halves(vector, place):
    """vector [depth] in HBM as two lines in SBUF, at partitions `place` and `place` + 32: by two DMA engines."""
    depth = vector.shape[0]
    half = 256 * ((depth // 256 + 1) // 2)
    lines = []
    for first in range(0, depth, half):
        size = min(half, depth - first)
        at = place + 32 * len(lines)
        tile = nl.ndarray((at + 1, size), dtype=vector.dtype, buffer=nl.sbuf)
        line = tile[at : at + 1, :]
        nisa.dma_copy(dst=line, src=vector.ap([[size, 1], [1, size]], offset=first))
        lines.append(line)
    return lines


def lines_to_features(lines, tiles):
    """[128, tiles] in PSUM = the lines, one after the other: feature 256 g + 2 p + i at partition p of tile 2 g + i.

    There are two places for every feature, of which one is used: the Tensor Engine writes to multiples of four bytes.
    """
    bank = nl.ndarray((128, tiles, 2), dtype=lines[0].dtype, buffer=nl.psum)
    tile = 0
    for line in lines:
        for first in range(0, line.shape[1], 256):
            for i in range(2):
                data = line[:, first + i : first + 256 : 2]
                nisa.nc_transpose(dst=bank[:, tile, 0:1], data=data)
                tile += 1
    return bank[:, :, 0]


def inverse_rms(x, depth, epsilon):
    """[128, 1] in PSUM = (mean of squares of x [128, tiles] + epsilon)^-0.5, the same on all partitions."""
    mean = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=mean, value=1.0 / depth)
    squares = nl.ndarray((128, x.shape[1]), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=squares, op=nl.square, data=x)
    sums = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=sums, op=nl.add, data=squares, axis=1)
    result = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=result, stationary=mean, moving=sums, accumulate=False)  # adds up what the partitions hold
    nisa.tensor_scalar(dst=result, data=result, op0=nl.add, operand0=epsilon, op1=nl.power, operand1=-0.5)
    return result


def neighbors(start, count):
    """`count` columns for `multiply_columns`: a partition gets count / 128 neighbors, to be stored as they lie."""
    step = count // 128
    columns = []
    for n in range(step):
        columns.append((start // 128 + n, start + n, start + count, step))
    return columns


def in_order(first, limit):
    """Columns for `multiply_columns`: 128 neighbors go to 128 partitions."""
    columns = []
    for start in range(first, limit, 128):
        columns.append((start // 128, start, start + 128, 1))
    return columns


def multiply_columns(sums, slab, columns, x, k):
    """sums[:, t] += what tile k of x [128, tiles] and its rows in a slab give for columns t.

    columns: (t, first, limit, step) one by one: 128 columns of the weight, those `step` apart, give a column of sums.
    slab [128, 2 width]: the rows 2 p, which are those of even tiles, then the rows 2 p + 1.
    """
    row = k % 2 * (slab.shape[1] // 2)
    for t, first, limit, step in columns:
        nisa.nc_matmul(
            dst=sums[:, t : t + 1],
            stationary=slab[:, row + first : row + limit : step],
            moving=x[:, k : k + 1],
            accumulate=k > 0,
        )


def rounded(sums, dtype):
    """`sums` in SBUF, as `dtype`."""
    result = nl.ndarray(sums.shape, dtype=dtype, buffer=nl.sbuf)
    nisa.tensor_copy(dst=result, src=sums)
    return result


def store_lines(targets, columns):
    """targets, one after the other, = columns [128, tiles] in order: each becomes a line of 128."""
    lines = nl.ndarray((columns.shape[1], 128), dtype=columns.dtype, buffer=nl.psum)
    nisa.nc_transpose(dst=lines, data=columns)
    lines = rounded(lines, columns.dtype)
    start = 0
    for target in targets:
        count = target.shape[-1] // 128
        nisa.dma_copy(dst=target.reshape((count, 128)), src=lines[start : start + count, :])
        start += count


def store_neighbors(target, sums):
    """target [n] in HBM = sums [128, n / 128] of neighbors."""
    nisa.dma_copy(dst=target.reshape(sums.shape), src=rounded(sums, target.dtype))
