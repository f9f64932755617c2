"""What becomes of products: gated, normalized and added, or stored as rows."""

from g4c.lowering.nki.linear.device.normalization import add_mean, squares_of, times_gain, to_inverse_rms
from g4c.lowering.nki.linear.device.streaming import multiply_to_features, multiply_to_rows
from g4c.lowering.nki.linear.device.tiles import equal_parts, group_of, in_bank, per_row, tile_groups
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl


def take_banks(banks, used, count):
    """`count` banks, the next ones in turn."""
    assert count <= len(banks)
    taken = []
    for n in range(count):
        taken.append(banks[(used + n) % len(banks)])
    return taken


def gated_gelu(target, weights, x, rows, ring, loads, banks, columns):
    """target [128, tiles, rows] = gelu(gate) * up; weights [k, 2 n]: the columns of gate, then those of up.

    gate and up are never in HBM: gelu takes gate from PSUM, the product takes up from there.
    """
    width = weights.shape[1] // 2
    columns = equal_parts(width, columns)
    used = 0
    for first in range(0, width, columns):
        groups = tile_groups(first, min(columns, width - first), 512 // rows)
        gate = take_banks(banks, used, len(groups))
        loads = multiply_to_features(gate, groups, weights, 0, width, x, rows, ring, loads)
        gelu = []
        for n in range(len(groups)):
            gelu.append(nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf))
            values = in_bank(gate[n], groups[n], rows)
            nisa.activation(dst=in_bank(gelu[n], groups[n], rows), op=nl.gelu_apprx_tanh, data=values)
        used += len(groups)
        up = take_banks(banks, used, len(groups))
        loads = multiply_to_features(up, groups, weights, width, width, x, rows, ring, loads)
        for n in range(len(groups)):
            nisa.tensor_tensor(
                dst=group_of(target, groups[n], rows),
                data1=in_bank(gelu[n], groups[n], rows),
                data2=in_bank(up[n], groups[n], rows),
                op=nl.multiply,
            )
        used += len(groups)
    return loads


def gate_per_layer(target, weights, factor, x, rows, ring, loads, banks, columns):
    """target [128, tiles, rows] = gelu(weights^T x) * factor."""
    width = weights.shape[1]
    columns = equal_parts(width, columns)
    used = 0
    for first in range(0, width, columns):
        groups = tile_groups(first, min(columns, width - first), 512 // rows)
        gate = take_banks(banks, used, len(groups))
        loads = multiply_to_features(gate, groups, weights, 0, width, x, rows, ring, loads)
        for n in range(len(groups)):
            gelu = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
            values = in_bank(gelu, groups[n], rows)
            nisa.activation(dst=values, op=nl.gelu_apprx_tanh, data=in_bank(gate[n], groups[n], rows))
            nisa.tensor_tensor(
                dst=group_of(target, groups[n], rows),
                data1=values,
                data2=group_of(factor, groups[n], rows),
                op=nl.multiply,
            )
        used += len(groups)
    return loads


def project_and_add(hidden, weights, x, rows, gain, epsilon, mean, ring, loads, banks, columns):
    """hidden += RMS norm of weights^T x, times gain; the sum is rounded. hidden [128, tiles, rows].

    The last columns' squares go to the mean at once; those before are added up by GpSimd, aside from the matmuls.
    """
    width = weights.shape[1]
    columns = equal_parts(width, columns)
    used = 0
    bank = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
    total = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
    product = nl.ndarray((128, (width + 127) // 128, rows), dtype=nl.float32, buffer=nl.sbuf)
    for first in range(0, width, columns):
        groups = tile_groups(first, min(columns, width - first), 512 // rows)
        sums = take_banks(banks, used, len(groups))
        used += len(groups)
        loads = multiply_to_features(sums, groups, weights, 0, width, x, rows, ring, loads)
        last = first + columns >= width
        if last and first > 0:
            add_mean(bank, total, 128, rows, mean, True)
        for n in range(len(groups)):
            values = in_bank(sums[n], groups[n], rows)
            squares = squares_of(values, groups[n], rows)
            partitions = groups[n][2]
            if last:
                add_mean(bank, squares, partitions, rows, mean, first + n == 0)
            elif first + n == 0:
                nisa.tensor_copy(dst=total[:, :rows], src=squares[:, :rows], engine=nisa.engine.gpsimd)
            else:
                sum_of = total[:, :rows]
                nisa.tensor_tensor(
                    dst=sum_of, data1=sum_of, data2=squares[:, :rows], op=nl.add, engine=nisa.engine.gpsimd
                )
            times_gain(group_of(product, groups[n], rows), values, gain, groups[n], rows)
    to_inverse_rms(bank, rows, epsilon)
    adding = nisa.engine.gpsimd if rows > 256 else nisa.engine.vector
    for group in tile_groups(0, width, 512 // rows):
        values = group_of(product, group, rows)
        nisa.tensor_tensor(dst=values, data1=values, data2=per_row(bank, group, rows), op=nl.multiply)
        sums = group_of(hidden, group, rows)
        nisa.tensor_tensor(dst=sums, data1=sums, data2=values, op=nl.add, engine=adding)
    return loads


def scale_features(hidden, width, rows, scale):
    """hidden [128, tiles, rows] *= scale, one value [128, 1]."""
    for group in tile_groups(0, width, 512 // rows):
        values = group_of(hidden, group, rows)
        nisa.tensor_scalar(dst=values, data=values, op0=nl.multiply, operand0=scale[: values.shape[0], :])


def project_to_features(target, weights, offset, width, x, rows, ring, loads, banks, columns):
    """target [128, tiles, rows] = weights[:, offset : offset + width]^T x."""
    used = 0
    for first in range(0, width, columns):
        groups = tile_groups(first, min(columns, width - first), 512 // rows)
        sums = take_banks(banks, used, len(groups))
        used += len(groups)
        loads = multiply_to_features(sums, groups, weights, offset, width, x, rows, ring, loads)
        for n in range(len(groups)):
            nisa.tensor_copy(dst=group_of(target, groups[n], rows), src=in_bank(sums[n], groups[n], rows))
    return loads


def project_to_rows(outputs, weights, offset, width, x, row, rows, ring, loads, banks, columns):
    """Rows from `row` on of outputs, (tensor, its first column) one by one, = x^T times columns from offset on."""
    used = 0
    for first in range(0, width, columns):
        size = min(columns, width - first)
        sums = []
        for _ in range(0, rows, 128):
            sums.append(take_banks(banks, used, (size + 511) // 512))
            used += (size + 511) // 512
        loads = multiply_to_rows(sums, weights, offset + first, size, x, rows, ring, loads)
        for r in range(len(sums)):
            store_sums(outputs, sums[r], first, size, row + 128 * r, min(128, rows - 128 * r))
    return loads


def store_sums(outputs, sums, first, columns, row, rows):
    """Columns from first on of outputs, (tensor, its first column) one by one, = sums, PSUM banks of 512 columns."""
    result = nl.ndarray((rows, columns), dtype=outputs[0][0].dtype, buffer=nl.sbuf)
    for c in range(len(sums)):
        low, high = 512 * c, min(512 * c + 512, columns)
        if c % 2 == 0:  # two engines take turns
            nisa.tensor_copy(dst=result[:, low:high], src=sums[c][:rows, : high - low])
        else:
            nisa.activation(dst=result[:, low:high], op=nl.copy, data=sums[c][:rows, : high - low])
    for output, start in outputs:
        low, high = max(start, first), min(start + output.shape[1], first + columns)
        if low < high:
            part = result[:, low - first : high - first]
            nisa.dma_copy(dst=output[row : row + rows, low - start : high - start], src=part)
