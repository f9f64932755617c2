"""RMS norms of tensors with their features on the partitions: a matmul with ones adds up what the partitions hold."""

from g4c.lowering.nki.linear.device.tiles import group_of, in_bank, per_feature, per_row, tile_groups
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl


def averager(width):
    """[128, 128] of 1 / width: what it multiplies, all partitions have the mean of."""
    tile = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=tile, value=1.0 / width)
    return tile


def squares_of(source, group, rows):
    """[128, 512]: the squares of source [partitions, tiles, rows], added up over the tiles, per partition and row."""
    _, tiles, partitions = group
    squares = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=in_bank(squares, group, rows), op=nl.square, data=source)
    if tiles == 1:
        return squares
    along = squares.ap([[512, partitions], [1, rows], [rows, tiles]], offset=0)
    sums = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=sums[:partitions, :rows], op=nl.add, data=along, axis=2)
    return sums


def add_mean(bank, squares, partitions, rows, mean, fresh):
    """bank[:, r], in PSUM, = (fresh) or += what squares [128, 512] add to the mean of a row, on all partitions."""
    nisa.nc_matmul(
        dst=bank[:, :rows], stationary=mean[:partitions, :], moving=squares[:partitions, :rows], accumulate=not fresh
    )


def to_inverse_rms(bank, rows, epsilon):
    """bank [128, 512] in PSUM: means of squares become (mean + epsilon)^-0.5, and stay there: they are read faster."""
    values = bank[:, :rows]
    nisa.tensor_scalar(dst=values, data=values, op0=nl.add, operand0=epsilon, op1=nl.power, operand1=-0.5)


def times_gain(target, source, gain, group, rows):
    """target = source * gain, one value per feature; a tile alone takes the Scalar Engine, which has less to do."""
    tile, tiles, partitions = group
    if tiles == 1:
        nisa.activation(dst=target, op=nl.copy, data=source, scale=gain[:partitions, tile : tile + 1])
    else:
        nisa.tensor_tensor(dst=target, data1=source, data2=per_feature(gain, group, rows), op=nl.multiply)


def inverse_rms_of(source, width, rows, epsilon, mean):
    """[128, 512] in PSUM: (mean of squares of source [128, tiles, rows] + epsilon)^-0.5 per row, on all partitions."""
    groups = tile_groups(0, width, 512 // rows)
    bank = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
    for n in range(len(groups)):
        squares = squares_of(group_of(source, groups[n], rows), groups[n], rows)
        add_mean(bank, squares, groups[n][2], rows, mean, n == 0)
    to_inverse_rms(bank, rows, epsilon)
    return bank


def times_rows(target, source, factors, width, rows):
    """target = source * factors [128, 512], one per row; target and source [128, tiles, rows]."""
    for group in tile_groups(0, width, 512 // rows):
        nisa.tensor_tensor(
            dst=group_of(target, group, rows),
            data1=group_of(source, group, rows),
            data2=per_row(factors, group, rows),
            op=nl.multiply,
        )


def normalize_plainly(target, source, width, rows, epsilon, mean):
    """target = source * (mean of squares + epsilon)^-0.5, in fp32, rounded once; both [128, tiles, rows]."""
    times_rows(target, source, inverse_rms_of(source, width, rows, epsilon, mean), width, rows)


def normalize(target, source, width, rows, gain, epsilon, mean):
    """target = source * (mean of squares + epsilon)^-0.5 * gain, in fp32, rounded once; both [128, tiles, rows]."""
    factors = inverse_rms_of(source, width, rows, epsilon, mean)
    product = nl.ndarray((128, (width + 127) // 128, rows), dtype=nl.float32, buffer=nl.sbuf)
    for group in tile_groups(0, width, 512 // rows):
        times_gain(group_of(product, group, rows), group_of(source, group, rows), gain, group, rows)
    times_rows(target, product, factors, width, rows)
