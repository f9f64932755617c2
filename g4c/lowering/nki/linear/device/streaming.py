"""Weights [k, n] through a ring of SBUF tiles, each multiplied as it arrives."""

from g4c.lowering.nki.linear.device.tiles import tile_features
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl


def make_ring(slots, columns, dtype):
    """Tiles for 256 rows of a weight each: two rows per partition."""
    ring = []
    for _ in range(slots):
        ring.append(nl.ndarray((128, 2 * columns), dtype=dtype, buffer=nl.sbuf))
    return ring


def make_banks(count):
    """PSUM banks for sums."""
    banks = []
    for _ in range(count):
        banks.append(nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum))
    return banks


def load_weights(slot, weights, k, first, columns):
    """slot = rows k to k + 255 of weights, `columns` columns from first on: the rows of one tile of k, then the next's.

    Rows of 4 KiB or more are a transfer per tile; shorter ones come in twos, if they are whole, twice as long.
    """
    depth, width = weights.shape
    paired = k + 256 <= depth
    if paired and columns == width and columns < 2048:
        nisa.dma_copy(dst=slot[:, : 2 * columns], src=weights.ap([[2 * width, 128], [1, 2 * width]], offset=k * width))
        return
    for i in range(0, min(256, depth - k), 128):
        size = min(128, depth - k - i)
        at = i // 128 * columns
        row, pitch = (k + i // 128, 2 * width) if paired else (k + i, width)
        rows = weights.ap([[pitch, size], [1, columns]], offset=row * width + first)
        nisa.dma_copy(dst=slot[:size, at : at + columns], src=rows)


def multiply_to_features(sums, groups, weights, offset, width, x, rows, ring, loads):
    """sums[g] = the features of group g of weights[:, offset : offset + width]^T x; returns the loads made so far.

    x [128, k tiles, rows]. The weights are stationary, 128 columns at a time; x moves past them. Where the ring holds
    them twice, one half of the groups is finished before the other half is begun: while that goes on, it is read.
    """
    depth = weights.shape[0]
    first = 128 * groups[0][0]
    columns = min(128 * (groups[-1][0] + groups[-1][1]), width) - first
    slots = (depth + 255) // 256
    together = len(groups)
    if 2 * slots <= len(ring) and rows > 128:
        together = (len(groups) + 1) // 2
    for begin in range(0, len(groups), together):
        for k in range(0, depth, 256):
            slot = ring[(loads + k // 256) % len(ring)]
            if begin == 0:
                load_weights(slot, weights, k, offset + first, columns)
            for i in range(0, min(256, depth - k), 128):
                size = min(128, depth - k - i)
                start = i // 128 * columns - first
                for g in range(begin, min(begin + together, len(groups))):
                    tile, tiles, partitions = groups[g]
                    for t in range(tiles):
                        at, limit, step = tile_features(tile + t, width)
                        nisa.nc_matmul(
                            dst=sums[g][:partitions, t * rows : (t + 1) * rows],
                            stationary=slot[:size, start + at : start + limit : step],
                            moving=x[:size, (k + i) // 128, :rows],
                            accumulate=k + i > 0,
                        )
    return loads + slots


def multiply_to_rows(sums, weights, first, columns, x, rows, ring, loads):
    """sums[tile of rows][512 columns] = x^T weights[:, first : first + columns]; returns the loads made so far.

    x [128, k tiles, rows]. x is stationary, 128 rows at a time; the weights move past it. Where the ring holds them
    twice, a tile of rows is finished before the next one is begun: while that goes on, it is read.
    """
    depth = weights.shape[0]
    slots = (depth + 255) // 256
    together = len(sums)
    if 2 * slots <= len(ring):
        together = 1
    for begin in range(0, len(sums), together):
        for k in range(0, depth, 256):
            slot = ring[(loads + k // 256) % len(ring)]
            if begin == 0:
                load_weights(slot, weights, k, first, columns)
            for i in range(0, min(256, depth - k), 128):
                size = min(128, depth - k - i)
                start = i // 128 * columns
                for r in range(begin, min(begin + together, len(sums))):
                    count = min(128, rows - 128 * r)
                    for c in range(len(sums[r])):
                        width = min(512, columns - 512 * c)
                        nisa.nc_matmul(
                            dst=sums[r][c][:count, :width],
                            stationary=x[:size, (k + i) // 128, 128 * r : 128 * r + count],
                            moving=slot[:size, start + 512 * c : start + 512 * c + width],
                            accumulate=k + i > 0,
                        )
    return loads + slots
