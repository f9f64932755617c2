"""RMS norms of tensors with their features on the partitions: a matmul with ones adds up what the partitions hold."""

from g4c.lowering.nki.linear.device.tiles import group_of, in_bank, per_feature, per_row, tile_groups
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl


def averager(width):
    """[128, 128] of 1 / width: what it multiplies, all partitions have the mean of."""
    tile = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=tile, value=1.0 / width)
    return tile


def add_squares(total, source, group, rows, fresh):
    """total[p, r] = (fresh) or += the squares of source [partitions, tiles, rows], added up over the tiles."""
    _, tiles, partitions = group
    squares = total
    if tiles > 1 or not fresh:
        squares = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(dst=in_bank(squares, group, rows), op=nl.square, data=source)
    if tiles > 1:
        along = squares.ap([[512, partitions], [1, rows], [rows, tiles]], offset=0)
        squares = total
        if not fresh:
            squares = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=squares[:partitions, :rows], op=nl.add, data=along, axis=2)
    if not fresh:
        sums = total[:partitions, :rows]
        nisa.tensor_tensor(
            dst=sums, data1=sums, data2=squares[:partitions, :rows], op=nl.add, engine=nisa.engine.gpsimd
        )


def inverse_rms(total, mean, width, rows, epsilon):
    """[128, 512]: of every row (the mean of its squares + epsilon)^-0.5, on all partitions."""
    partitions = min(128, width)
    bank = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
    nisa.nc_matmul(dst=bank[:, :rows], stationary=mean[:partitions, :], moving=total[:partitions, :rows])
    scale = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=scale[:, :rows], data=bank[:, :rows], op0=nl.add, operand0=epsilon, op1=nl.power, operand1=-0.5
    )
    return scale


def normalize(target, source, width, rows, gain, epsilon, mean):
    """target = source * (mean of squares + epsilon)^-0.5 * gain, in fp32, rounded once; all [128, tiles, rows]."""
    groups = tile_groups(0, width, 512 // rows)
    total = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
    product = nl.ndarray((128, (width + 127) // 128, rows), dtype=nl.float32, buffer=nl.sbuf)
    for n in range(len(groups)):
        values = group_of(source, groups[n], rows)
        add_squares(total, values, groups[n], rows, n == 0)
        nisa.tensor_tensor(
            dst=group_of(product, groups[n], rows),
            data1=values,
            data2=per_feature(gain, groups[n], rows),
            op=nl.multiply,
        )
    scale = inverse_rms(total, mean, width, rows, epsilon)
    for group in groups:
        nisa.tensor_tensor(
            dst=group_of(target, group, rows),
            data1=group_of(product, group, rows),
            data2=per_row(scale, group, rows),
            op=nl.multiply,
        )
