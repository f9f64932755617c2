"""The functions of decode attention kernels, as text; their sizes are constants of the file that they are put into.

In: nothing. Out: one template per function ($dtype is the operands' type); `decode_source` says which a kernel needs.
Invariant: tiles that are used more than once are allocated once and passed on: what waits for what is as written.
"""

from __future__ import annotations

TRANSPOSE_QUERIES = '''

def transpose_queries(tiles):
    """q as [head dims, contraction, row, head]."""
    total = BATCH * ROWS * HEADS
    queries = nl.ndarray((WIDTH, D_TILES, BATCH * ROWS, HEADS), dtype=$dtype, buffer=nl.sbuf)
    for n in range(len(tiles)):
        count = min(128, total - n * 128)
        pitch = count + count % 2  # PSUM is written at multiples of 4 bytes
        bank = nl.ndarray((WIDTH, D_TILES, pitch), dtype=$dtype, buffer=nl.psum)
        for c in range(D_TILES):
            columns = slice(c * WIDTH, (c + 1) * WIDTH)
            nisa.nc_transpose(dst=bank[:, c, :count], data=tiles[n][:, columns], engine=nisa.engine.tensor)
        part = queries.ap([[D_TILES * total, WIDTH], [total, D_TILES], [1, count]], offset=n * 128)
        nisa.activation(dst=part, op=nl.copy, data=bank[:, :, :count])  # Vector has the first keys to copy
    return queries
'''

NEW_ROWS = '''
def load_rows(rows):
    """The chunk's keys or values, [row, KV heads and dims]."""
    tile = nl.ndarray((BATCH * ROWS, KEY_SIZE), dtype=$dtype, buffer=nl.sbuf)
    pattern = [[$slot, BATCH * ROWS], [1, KEY_SIZE]]
    nisa.dma_copy(dst=tile, src=rows.ap(pattern$at_rows))
    return tile


def load_rows_by_sequence(rows):
    """The same as [row, sequence, KV heads and dims]: rows of every sequence start at partition 0."""
    tile = nl.ndarray((ROWS, BATCH, KEY_SIZE), dtype=$dtype, buffer=nl.sbuf)
    pattern = [[$slot, ROWS], [ROWS * $slot, BATCH], [1, KEY_SIZE]]
    nisa.dma_copy(dst=tile, src=rows.ap(pattern$at_rows))
    return tile


def transpose_new_keys(rows):
    """The chunk's keys as [head dims, KV head and contraction, row]."""
    turned = nl.ndarray((WIDTH, KV_HEADS * D_TILES, BATCH * ROWS), dtype=$dtype, buffer=nl.sbuf)
    for first in range(0, KV_HEADS * D_TILES, NEW_KEYS):
        count = min(NEW_KEYS, KV_HEADS * D_TILES - first)
        bank = nl.ndarray((WIDTH, count, NEW_PITCH), dtype=$dtype, buffer=nl.psum)
        for n in range(count):
            columns = slice((first + n) * WIDTH, (first + n + 1) * WIDTH)
            nisa.nc_transpose(dst=bank[:, n, : BATCH * ROWS], data=rows[:, columns], engine=nisa.engine.tensor)
        nisa.tensor_copy(dst=turned[:, first : first + count], src=bank[:, :, : BATCH * ROWS])
    return turned


def score_new_keys(turned, queries, first, scores, column$visible):
    """Scores of the chunk's keys, on the first ROWS partitions of one column."""
    bank = nl.ndarray((ROWS, SEQUENCES, ROWS, HEADS), dtype=nl.float32, buffer=nl.psum)
    for sequence in range(SEQUENCES):
        rows = slice((first + sequence) * ROWS, (first + sequence + 1) * ROWS)
        for head in range(KV_HEADS):
            heads = slice(head * GROUP, (head + 1) * GROUP)
            for c in range(D_TILES):
                nisa.nc_matmul(
                    dst=bank[:, sequence, :, heads],
                    stationary=turned[:, head * D_TILES + c, rows],
                    moving=queries[:, c, rows, heads],
                    accumulate=(c > 0),
                )
    nisa.memset(dst=scores[:, :, column], value=MASKED, engine=nisa.engine.gpsimd)
'''

SCORE_ONE = """    nisa.tensor_copy(dst=scores[:ROWS, :, column], src=bank)
"""

SCORE_MANY = '''    nisa.select_reduce(
        dst=scores[:ROWS, :, column],
        predicate=visible.ap([[ROWS, ROWS], [0, SEQUENCES], [1, ROWS], [0, HEADS]]),
        on_true=bank,
        on_false=MASKED,
    )


def mask_new_keys():
    """visible [key row, query row]: 1 where a query sees a key of the chunk."""
    visible = nl.ndarray((ROWS, ROWS), dtype=nl.uint8, buffer=nl.sbuf)
    nisa.memset(dst=visible, value=1)
    nisa.affine_select(
        dst=visible,
        pattern=[[1, ROWS]],
        channel_multiplier=-1,
        on_true_tile=visible,
        on_false_value=0.0,
        cmp_op=nl.greater_equal,
    )
'''

SCORE_WINDOW = """    nisa.affine_select(
        dst=visible,
        pattern=[[-1, ROWS]],
        channel_multiplier=1,
        on_true_tile=visible,
        on_false_value=0.0,
        cmp_op=nl.greater_equal,
        offset=WINDOW - 1,
    )
"""

KEYS = '''
def transpose_step(steps, step, blocks, transfers, pool, banks, turned):
    """Transpose the keys of a step, if there is one; the next load into a tile that has been read is issued."""
    if step < len(steps):
        number, _, n, pair, count, last = steps[step]
        bank, ready = banks[step % KEY_TILES], turned[step % KEY_TILES]
        transpose_keys(pool[number % TILES], blocks[n][3], pair, count, bank, ready, step)
        if last:
            fetch(transfers, number + TILES, pool)


def transpose_keys(keys, partitions, pair, count, bank, turned, step):
    """Keys [key, dims] of `count` (column, KV head) pairs as [dims, pair, contraction, key], through PSUM."""
    for n in range(count):
        for c in range(D_TILES):
            start = (pair + n) * HEAD_DIM + c * WIDTH
            nisa.nc_transpose(
                dst=bank[:, n, c, :partitions],
                data=keys[:partitions, start : start + WIDTH],
                engine=nisa.engine.tensor,
            )
    filled = bank[:, :count, :, :partitions]
    if step % SCALAR_EVERY == SCALAR_EVERY - 1:
        nisa.activation(dst=turned[:, :count, :, :partitions], op=nl.copy, data=filled)
    else:
        nisa.tensor_copy(dst=turned[:, :count, :, :partitions], src=filled)


def multiply_keys(turned, partitions, pair, count, queries, sequence, product):
    """product [key, column, row, head] of these pairs."""
    rows = slice(sequence * ROWS, (sequence + 1) * ROWS)
    for n in range(count):
        column, head = (pair + n) // KV_HEADS, (pair + n) % KV_HEADS
        heads = slice(head * GROUP, (head + 1) * GROUP)
        for c in range(D_TILES):
            nisa.nc_matmul(
                dst=product[:partitions, column, :, heads],
                stationary=turned[:, n, c, :partitions],
                moving=queries[:, c, rows, heads],
                accumulate=(c > 0),
            )


def mask_scores(product, partitions, columns, seen, masks, scores):
    """scores = product where a key is seen, else far below all others. `masks`: first element of these in `seen`."""
    if partitions < 128:
        nisa.memset(dst=scores, value=MASKED, engine=nisa.engine.gpsimd)
    pattern = [[BATCH * MASK_COLUMNS * MASK_ROWS, partitions], [MASK_ROWS, columns], $mask]
    nisa.select_reduce(
        dst=scores[:partitions],
        predicate=seen.ap(pattern, offset=masks),
        on_true=product[:partitions, :columns],
        on_false=MASKED,
    )
'''

SOFTMAX = '''
def by_query(tile, used):
    """A tile [128, sequence, column, row, head] as [128, sequence, row and head, column]."""
    queries = ROWS * HEADS
    pitch = SCORE_COLUMNS * queries
    return tile.ap([[SEQUENCES * pitch, 128], [pitch, SEQUENCES], [1, queries], [queries, used]])


def find_peaks(scores, used, identity, ones):
    """The maximum of each query over all keys, in PSUM [128, query], the same on every partition.

    Over columns by a reduction; over partitions by a transpose and a second one; a product with ones spreads it.
    """
    highest = nl.ndarray((128, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_reduce(dst=highest, op=nl.maximum, data=by_query(scores, used), axis=3)
    peaks = nl.ndarray((128, QUERIES), dtype=nl.float32, buffer=nl.psum)
    for first in range(0, QUERIES, 128):
        count = min(128, QUERIES - first)
        flipped = nl.ndarray((count, 128), dtype=nl.float32, buffer=nl.psum)
        nisa.nc_transpose(dst=flipped, data=highest[:, first : first + count], engine=nisa.engine.tensor)
        top = nl.ndarray((count, 1), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_reduce(dst=top, op=nl.maximum, data=flipped, axis=1)$floor
        diagonal = nl.ndarray((count, count), dtype=nl.float32, buffer=nl.sbuf)
        nisa.tensor_scalar(dst=diagonal, data=identity[:count, :count], op0=nl.multiply, operand0=top)
        nisa.nc_matmul(dst=peaks[:, first : first + count], stationary=ones[:count], moving=diagonal, accumulate=False)
    return peaks


def exponentiate(scores, peaks, used, weights):
    """weights = exp(SCALE * (scores - peaks)), 512 elements per partition at a time."""
    together = max(1, 512 // QUERIES)
    for column in range(0, used, together):
        count = min(together, used - column)
        part = scores[:, :, column : column + count]
        spread = peaks.ap([[QUERIES, 128], [ROWS * HEADS, SEQUENCES], [0, count], [1, ROWS * HEADS]])
        nisa.tensor_tensor(dst=part, data1=part, data2=spread, op=nl.subtract)
        nisa.activation(dst=weights[:, :, column : column + count], op=nl.exp, data=part, scale=SCALE)


def add_up(weights, used, ones):
    """The sum of each query's weights over all keys, in PSUM [128, query], the same on every partition."""
    total = nl.ndarray((128, QUERIES), dtype=nl.float32, buffer=nl.psum)
    for column in range(used):
        nisa.nc_matmul(dst=total, stationary=ones, moving=weights[:, :, column], accumulate=(column > 0))
    return total
'''

VALUES = '''
def multiply_values(values, partitions, columns, weights, result, accumulate):
    """result [dims, contraction, row, head] += values^T weights; weights [key, column, row, head]."""
    for n in range(columns):
        for head in range(KV_HEADS):
            heads = slice(head * GROUP, (head + 1) * GROUP)
            for c in range(D_TILES):
                start = (n * KV_HEADS + head) * HEAD_DIM + c * WIDTH
                nisa.nc_matmul(
                    dst=result[:, c, :, heads],
                    stationary=values[:partitions, start : start + WIDTH],
                    moving=weights[:partitions, n, :, heads],
                    accumulate=(accumulate or n > 0),
                )


def invert(total, valid, first):
    """1 / total; 0 for rows that are padding."""
    inverse = nl.ndarray((128, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
    $invert
    rows = valid.ap([[BATCH * ROWS, 128], [1, SEQUENCES * ROWS], [0, HEADS]], offset=first * ROWS)
    nisa.tensor_tensor(dst=inverse, data1=inverse, data2=rows, op=nl.multiply)
    return inverse
'''

STORE = '''

def store(result, inverse, first, y):
    """y of the sequences from `first` on: result * inverse, transposed back."""
    scaled = nl.ndarray((WIDTH, D_TILES, QUERIES), dtype=$dtype, buffer=nl.sbuf)
    spread = inverse.ap([[QUERIES, WIDTH], [0, D_TILES], [1, QUERIES]])
    nisa.tensor_tensor(dst=scaled, data1=result, data2=spread, op=nl.multiply)
    for start in range(0, QUERIES, 128):
        count = min(128, QUERIES - start)
        bank = nl.ndarray((count, HEAD_DIM), dtype=$dtype, buffer=nl.psum)
        for c in range(D_TILES):
            nisa.nc_transpose(
                dst=bank[:, c * WIDTH : (c + 1) * WIDTH],
                data=scaled[:, c, start : start + count],
                engine=nisa.engine.tensor,
            )
        rows = nl.ndarray((count, HEAD_DIM), dtype=$dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=rows, src=bank)
'''

# Where a part of the keys, or all of them, may be hidden from a row: its weights are 0, and so is its result.
FLOOR = """
        nisa.tensor_scalar(dst=top, data=top, op0=nl.maximum, operand0=FLOOR)"""

INVERT = "nisa.reciprocal(dst=inverse, data=total)"

INVERT_FLOOR = """nisa.tensor_scalar(dst=inverse, data=total, op0=nl.maximum, operand0=1.0e-30)
    nisa.reciprocal(dst=inverse, data=inverse)"""

MERGE = '''
def raise_peaks(peaks, running_peak):
    """running_peak = the larger one; what exp(SCALE * scores) of former parts shrink by."""
    decay = nl.ndarray((128, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
    higher = nl.ndarray((128, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor(dst=higher, data1=peaks, data2=running_peak, op=nl.maximum)
    nisa.tensor_tensor(dst=decay, data1=running_peak, data2=higher, op=nl.subtract)
    nisa.activation(dst=decay, op=nl.exp, data=decay, scale=SCALE)
    nisa.tensor_copy(dst=running_peak, src=higher)
    return decay


def merge(running, decay, added):
    """running = running * decay + added."""
    nisa.tensor_tensor(dst=running, data1=running, data2=decay, op=nl.multiply)
    nisa.tensor_tensor(dst=running, data1=running, data2=added, op=nl.add)
'''

JOIN = '''
def join(running_peak, running_sum, running_result, other):
    """Exchange with the other core, and merge: both then have the whole."""
    peak = nl.ndarray((128, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
    total = nl.ndarray((128, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
    result = nl.ndarray((WIDTH, D_TILES, QUERIES), dtype=nl.float32, buffer=nl.sbuf)
    nisa.sendrecv(src=running_peak, dst=peak, send_to_rank=other, recv_from_rank=other, pipe_id=0)
    nisa.sendrecv(src=running_sum, dst=total, send_to_rank=other, recv_from_rank=other, pipe_id=0)
    nisa.sendrecv(src=running_result, dst=result, send_to_rank=other, recv_from_rank=other, pipe_id=0)
    decay = raise_peaks(peak, running_peak)
    nisa.tensor_tensor(dst=peak, data1=peak, data2=running_peak, op=nl.subtract)
    nisa.activation(dst=peak, op=nl.exp, data=peak, scale=SCALE)
    nisa.tensor_tensor(dst=total, data1=total, data2=peak, op=nl.multiply)
    merge(running_sum, decay, total)
    spread = [[QUERIES, WIDTH], [0, D_TILES], [1, QUERIES]]
    nisa.tensor_tensor(dst=result, data1=result, data2=peak.ap(spread), op=nl.multiply)
    merge(running_result, decay.ap(spread), result)
'''
