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


def normalize(target, source, width, rows, gains, epsilon, mean):
    """target = source * (mean of squares + epsilon)^-0.5 * gain, in fp32, rounded once; all [128, tiles, rows].

    gains: [what load_vector has loaded], or [] where the norm has no weight.
    """
    groups = tile_groups(0, width, 512 // rows)
    bank = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
    product = source
    if len(gains) > 0:
        product = nl.ndarray((128, (width + 127) // 128, rows), dtype=nl.float32, buffer=nl.sbuf)
    for n in range(len(groups)):
        values = group_of(source, groups[n], rows)
        add_mean(bank, squares_of(values, groups[n], rows), groups[n][2], rows, mean, n == 0)
        if len(gains) > 0:
            times_gain(group_of(product, groups[n], rows), values, gains[0], groups[n], rows)
    to_inverse_rms(bank, rows, epsilon)
    for group in groups:
        nisa.tensor_tensor(
            dst=group_of(target, group, rows),
            data1=group_of(product, group, rows),
            data2=per_row(bank, group, rows),
            op=nl.multiply,
        )
