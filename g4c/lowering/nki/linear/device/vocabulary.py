"""Products with the vocabulary: logits, soft-capped, or the best of every tile; of a packed weight or one as stored."""

from g4c.lowering.nki.linear.device.epilogues import take_banks
from g4c.lowering.nki.linear.device.streaming import load_weights, multiply_to_rows
from g4c.lowering.nki.linear.device.tiles import tile_features, tile_groups
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl


def capped_to_rows(output, weights, offset, width, x, row, rows, cap, ring, loads, banks, columns):
    """Rows from `row` on of output = cap * tanh(p / cap), or p where cap is 0.

    p = x^T weights[:, offset : offset + width].
    """
    used = 0
    for first in range(0, width, columns):
        size = min(columns, width - first)
        sums = take_banks(banks, used, (size + 511) // 512)
        used += len(sums)
        loads = multiply_to_rows([sums], weights, offset + first, size, x, rows, ring, loads)
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


def cap_logits(result, sums, rows, cap):
    """result [rows, n] in SBUF = sums [128, tiles * rows], transposed and capped."""
    size = result.shape[1]
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


def store_best(results, logits, first):
    """Of each of logits [n, columns] the 8 largest, where they are, and sum(exp(logit - largest)).

    results: values, indices [rows, 8] and sums [rows, 1] in HBM, of which they are rows from `first` on. Equal logits
    come in the order of their columns.
    """
    values, indices, sums = results
    count = logits.shape[0]
    largest = nl.ndarray((count, 8), dtype=nl.float32, buffer=nl.sbuf)
    where = nl.ndarray((count, 8), dtype=nl.uint32, buffer=nl.sbuf)
    columns = nl.ndarray((count, 8), dtype=nl.int32, buffer=nl.sbuf)
    nisa.max8(dst=largest, src=logits)
    nisa.nc_find_index8(dst=where, data=logits, vals=largest)
    nisa.tensor_copy(dst=columns, src=where)
    shift = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=shift, data=largest[:, 0:1], op0=nl.multiply, operand0=-1.0)
    powers = nl.ndarray(logits.shape, dtype=nl.float32, buffer=nl.sbuf)
    total = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.activation(
        dst=powers,
        op=nl.exp,
        data=logits,
        bias=shift,
        reduce_op=nl.add,
        reduce_res=total,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    for target, source in ((values, largest), (indices, columns), (sums, total)):
        nisa.dma_copy(dst=target[first : first + count], src=source)


def stored_to_rows(results, weights, offset, width, x, row, rows, cap, ring, loads, columns, tile, dtype):
    """Rows from `row` on of (w x)^T, capped; w: `width` rows from `offset` on of weights [n, k], as in a checkpoint.

    results: one tensor [rows, n], where they go as `dtype`; or three, as store_best takes them, with the best of every
    `tile` of the n, found for as many tiles at once as the partitions have room for.
    Tiles of the weights are transposed on the way. A tile is multiplied while the next one is transposed.
    """
    depth = weights.shape[1]
    tiles = (width + 127) // 128
    flipped, next_flipped = [], []
    for n in range(tiles + 1):
        if n < tiles:
            if n % 2 == 0:
                slot = ring[loads % len(ring)]
                loads += 1
                load_weights(slot, weights, offset + 128 * n, 0, depth)
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
                at = first % tile
                if at == 0:
                    logits = nl.ndarray((rows, min(tile, width - first)), dtype=dtype, buffer=nl.sbuf)
                cap_logits(logits[:, at : at + size], products, rows, cap)
                if len(results) == 1:
                    nisa.dma_copy(dst=results[0][row : row + rows, first : first + size], src=logits)
                elif at + size == tile:
                    number, together = first // tile, min(width // tile, 128 // rows)
                    place = number % together
                    if place == 0:
                        gathered = nl.ndarray((together * rows, tile), dtype=dtype, buffer=nl.sbuf)
                    nisa.dma_copy(dst=gathered[place * rows : (place + 1) * rows], src=logits)
                    if place == together - 1 or first + size == width:
                        store_best(results, gathered[: (place + 1) * rows], (number - place) * rows)
        flipped = next_flipped
    return loads
