"""What becomes of products: gated, normalized and added, stored as rows, or searched for the largest."""

from g4c.lowering.nki.linear.device.normalization import add_mean, squares_of, times_gain, to_inverse_rms
from g4c.lowering.nki.linear.device.streaming import load_weights, multiply_to_features, multiply_to_rows
from g4c.lowering.nki.linear.device.tiles import (
    equal_parts,
    group_of,
    in_bank,
    per_row,
    tile_features,
    tile_groups,
)
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl


def take_banks(banks, used, count):
    """`count` banks, the next ones in turn."""
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


def project_to_features(target, weights, x, rows, ring, loads, banks, columns):
    """target [128, tiles, rows] = weights^T x."""
    width = weights.shape[1]
    used = 0
    for first in range(0, width, columns):
        groups = tile_groups(first, min(columns, width - first), 512 // rows)
        sums = take_banks(banks, used, len(groups))
        used += len(groups)
        loads = multiply_to_features(sums, groups, weights, 0, width, x, rows, ring, loads)
        for n in range(len(groups)):
            nisa.tensor_copy(dst=group_of(target, groups[n], rows), src=in_bank(sums[n], groups[n], rows))
    return loads


def project_to_rows(outputs, weights, x, row, rows, ring, loads, banks, columns):
    """Rows from `row` on of outputs, (tensor, its first column) one by one, = x^T weights."""
    width = weights.shape[1]
    used = 0
    for first in range(0, width, columns):
        size = min(columns, width - first)
        sums = []
        for _ in range(0, rows, 128):
            sums.append(take_banks(banks, used, (size + 511) // 512))
            used += (size + 511) // 512
        loads = multiply_to_rows(sums, weights, first, size, x, rows, ring, loads)
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


def best_of_tiles(values, indices, weights, x, rows, cap, ring, loads, banks, columns):
    """values, indices [rows, tiles, 8] in SBUF = the 8 largest of every `columns` of x^T weights, and where they are.

    cap * tanh(value / cap) where cap is not 0: it keeps the order, so it need not be taken of the others.
    """
    width = weights.shape[1]
    for first in range(0, width, columns):
        size = min(columns, width - first)
        tile = first // columns
        sums = banks[tile % len(banks)]  # of several banks, one after the other
        parts = []
        for at in range(0, size, 512):
            parts.append(sums[:, at : min(at + 512, size)])
        loads = multiply_to_rows([parts], weights, first, size, x, rows, ring, loads)
        largest = nl.ndarray((rows, 8), dtype=nl.float32, buffer=nl.sbuf)
        where = nl.ndarray((rows, 8), dtype=nl.uint32, buffer=nl.sbuf)
        nisa.max8(dst=largest, src=sums[:rows, :size])
        nisa.nc_find_index8(dst=where, data=sums[:rows, :size], vals=largest)
        nisa.tensor_scalar(dst=indices[:rows, tile, :], data=where, op0=nl.add, operand0=float(first))
        if cap == 0.0:
            nisa.tensor_copy(dst=values[:rows, tile, :], src=largest)
        else:
            capped = nl.ndarray((rows, 8), dtype=nl.float32, buffer=nl.sbuf)
            nisa.activation(dst=capped, op=nl.tanh, data=largest, scale=1.0 / cap)
            nisa.tensor_scalar(dst=values[:rows, tile, :], data=capped, op0=nl.multiply, operand0=cap)
    return loads


def capped_to_rows(output, weights, x, row, rows, cap, ring, loads, banks, columns):
    """Rows from `row` on of output = cap * tanh(x^T weights / cap), or x^T weights where cap is 0."""
    width = weights.shape[1]
    used = 0
    for first in range(0, width, columns):
        size = min(columns, width - first)
        sums = take_banks(banks, used, (size + 511) // 512)
        used += len(sums)
        loads = multiply_to_rows([sums], weights, first, size, x, rows, ring, loads)
        result = nl.ndarray((rows, size), dtype=output.dtype, buffer=nl.sbuf)
        for c in range(len(sums)):
            low, high = 512 * c, min(512 * c + 512, size)
            if cap == 0.0:
                nisa.tensor_copy(dst=result[:, low:high], src=sums[c][:rows, : high - low])
            else:
                capped = nl.ndarray((rows, 512), dtype=nl.float32, buffer=nl.sbuf)
                part = capped[:, : high - low]
                nisa.activation(dst=part, op=nl.tanh, data=sums[c][:rows, : high - low], scale=1.0 / cap)
                nisa.tensor_scalar(dst=result[:, low:high], data=part, op0=nl.multiply, operand0=cap)
        nisa.dma_copy(dst=output[row : row + rows, first : first + size], src=result)
    return loads


def transpose_tile(lines, depth):
    """[128, k tiles, n] in SBUF = lines [n, k] transposed, n up to 128; two engines take turns to empty the banks."""
    rows = lines.shape[0]
    elements = 1024 if lines.dtype == nl.bfloat16 else 512  # a PSUM bank
    target = nl.ndarray((128, (depth + 127) // 128, rows), dtype=lines.dtype, buffer=nl.sbuf)
    groups = tile_groups(0, depth, elements // 128)
    for n in range(len(groups)):
        tile, together, partitions = groups[n]
        bank = nl.ndarray((128, elements), dtype=lines.dtype, buffer=nl.psum)
        for t in range(together):
            at, limit, step = tile_features(tile + t, depth)
            nisa.nc_transpose(dst=bank[:partitions, t * rows : (t + 1) * rows], data=lines[:, at:limit:step])
        flat = target.ap([[target.shape[1] * rows, partitions], [1, together * rows]], offset=tile * rows)
        if n % 2 == 0:
            nisa.tensor_copy(dst=flat, src=bank[:partitions, : together * rows])
        else:
            nisa.activation(dst=flat, op=nl.copy, data=bank[:partitions, : together * rows])
    return target


def store_logits(output, sums, first, size, row, rows, cap):
    """output[row : row + rows, first : first + size] = sums [128, tiles * rows], capped."""
    result = nl.ndarray((rows, size), dtype=output.dtype, buffer=nl.sbuf)
    for at in range(0, size, 512):
        columns = min(512, size - at)
        bank = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
        for tile in range(at // 128, (at + columns + 127) // 128):
            low, limit, step = tile_features(tile, size)
            partitions = (limit - low + step - 1) // step
            nisa.nc_transpose(
                dst=bank[:rows, low - at : limit - at : step], data=sums[:partitions, tile * rows : (tile + 1) * rows]
            )
        part = result[:, at : at + columns]
        if cap == 0.0:
            nisa.tensor_copy(dst=part, src=bank[:rows, :columns])
        else:
            capped = nl.ndarray((rows, 512), dtype=nl.float32, buffer=nl.sbuf)
            nisa.activation(dst=capped[:, :columns], op=nl.tanh, data=bank[:rows, :columns], scale=1.0 / cap)
            nisa.tensor_scalar(dst=part, data=capped[:, :columns], op0=nl.multiply, operand0=cap)
    nisa.dma_copy(dst=output[row : row + rows, first : first + size], src=result)


def stored_to_rows(output, weights, x, row, rows, cap, ring, loads, columns):
    """Rows from `row` on of output = (weights x)^T, capped; weights [n, k] as a checkpoint has them.

    Tiles of the weights are transposed on the way. A tile is multiplied while the next one is transposed.
    """
    width, depth = weights.shape
    tiles = (width + 127) // 128
    flipped, next_flipped = [], []
    for n in range(tiles + 1):
        if n < tiles:
            if n % 2 == 0:
                slot = ring[loads % len(ring)]
                loads += 1
                load_weights(slot, weights, 128 * n, 0, depth)
            at, limit, step = tile_features(n, width)
            partitions = (limit - at + step - 1) // step
            start = n % 2 * depth
            next_flipped = transpose_tile(slot[:partitions, start : start + depth], depth)
        if n > 0:
            first = (n - 1) * 128 // columns * columns
            place = (n - 1) - first // 128
            if place == 0:
                sums = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.psum)
            partitions = flipped.shape[2]
            for k in range(0, depth, 128):
                size = min(128, depth - k)
                nisa.nc_matmul(
                    dst=sums[:partitions, place * rows : (place + 1) * rows],
                    stationary=flipped[:size, k // 128, :],
                    moving=x[:size, k // 128, :rows],
                    accumulate=k > 0,
                )
            size = min(columns, width - first)
            if (place + 1) * 128 >= size:
                products = nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)
                whole = size // 128
                if whole > 0:
                    nisa.tensor_copy(dst=products[:, : whole * rows], src=sums[:, : whole * rows])
                if size % 128 > 0:
                    rest = slice(whole * rows, (whole + 1) * rows)
                    nisa.tensor_copy(dst=products[:partitions, rest], src=sums[:partitions, rest])
                store_logits(output, products, first, size, row, rows, cap)
        flipped = next_flipped
    return loads
