"""The functions of decode attention kernels that know where in HBM something is, as text.

In: nothing. Out: one template per function, as in `decode_text`; words such as $rows_at say where a core has its own.
Invariant: where two cores share the heads, what a core reads and writes of a key or a row is its half of them.
"""

from __future__ import annotations

FETCH = '''
def fetch(transfers, n, pool):
    """Issue load n, if there is one, into its tile."""
    if n < len(transfers):
        tensor, start, pitch, partitions, elements = transfers[n]
        nisa.dma_copy(
            dst=pool[n % TILES][:partitions, :elements],
            src=tensor.ap([[pitch, partitions], [1, elements]], offset=start),
        )
'''

FETCH_HEADS = '''
def fetch(transfers, n, pool):
    """Issue load n, if there is one, into its tile: of every key what belongs to the core's heads."""
    if n < len(transfers):
        tensor, start, pitch, partitions, elements = transfers[n]
        columns = elements // KEY_SIZE
        nisa.dma_copy(
            dst=pool[n % TILES].ap([[COLUMNS * KEY_SIZE, partitions], [KEY_SIZE, columns], [1, KEY_SIZE]]),
            src=tensor.ap([[pitch, partitions], [2 * KEY_SIZE, columns], [1, KEY_SIZE]], offset=start),
        )
'''

QUERIES = '''
def load_queries(q):
    """Rows and heads of q on the partitions, up to 128 per tile."""
    tiles = []
    for first in range(0, BATCH * ROWS * HEADS, 128):
        count = min(128, BATCH * ROWS * HEADS - first)
        rows = nl.ndarray((count, HEAD_DIM), dtype=$dtype, buffer=nl.sbuf)
        place = ${rows_at}first * HEAD_DIM
        nisa.dma_copy(dst=rows, src=q.ap([[HEAD_DIM, count], [1, HEAD_DIM]], offset=place))
        tiles.append(rows)
    return tiles
'''

ROWS_OF_HEADS = '''
def rows_of_heads(first, count):
    """Where `count` of the core's (row, head) pairs are among all: (pair, pairs, place) per row, pairs from 0 on."""
    found = []
    for row in range(first // HEADS, (first + count - 1) // HEADS + 1):
        low, limit = max(first, row * HEADS), min(first + count, (row + 1) * HEADS)
        found.append((low - first, limit - low, (row + nl.program_id(0)) * HEADS + low))
    return found

'''

QUERIES_OF_HEADS = '''
def load_queries(q):
    """Rows and heads of q on the partitions, up to 128 per tile."""
    tiles = []
    for first in range(0, BATCH * ROWS * HEADS, 128):
        count = min(128, BATCH * ROWS * HEADS - first)
        rows = nl.ndarray((count, HEAD_DIM), dtype=$dtype, buffer=nl.sbuf)
        for pair, pairs, place in rows_of_heads(first, count):
            own = q.ap([[HEAD_DIM, pairs], [1, HEAD_DIM]], offset=place * HEAD_DIM)
            nisa.dma_copy(dst=rows[pair : pair + pairs], src=own)
        tiles.append(rows)
    return tiles
'''

STORE_ROWS = """        place = ${rows_at}(first * ROWS * HEADS + start) * HEAD_DIM
        nisa.dma_copy(dst=y.ap([[HEAD_DIM, count], [1, HEAD_DIM]], offset=place), src=rows)
"""

STORE_HEADS = """        for pair, pairs, place in rows_of_heads(first * ROWS * HEADS + start, count):
            own = y.ap([[HEAD_DIM, pairs], [1, HEAD_DIM]], offset=place * HEAD_DIM)
            nisa.dma_copy(dst=own, src=rows[pair : pair + pairs])
"""

UPDATE = '''
def load_column(positions):
    """positions [row, 1]."""
    position = nl.ndarray((BATCH * ROWS, 1), dtype=nl.int32, buffer=nl.sbuf)
    nisa.dma_copy(dst=position, src=positions.ap([[1, BATCH * ROWS], [1, 1]]$positions_at))
    return position


def locate_rows(position):
    """Where the chunk's rows go, [row, 1]: SLOTS * sequence + position mod SLOTS; out of bounds for padding."""
    rows = BATCH * ROWS
    index = nl.ndarray((rows, 1), dtype=nl.int32, buffer=nl.sbuf)
$locate
    return index


def write_rows(cache, index, rows):
    """Rows of the chunk into their slots; those out of bounds are skipped."""
    whole = cache.reshape(($batch * SLOTS, $slot))
    pattern = [[$slot, BATCH * ROWS], [1, KEY_SIZE]]
    slots = whole.ap(pattern$at_slot, vector_offset=index)
    nisa.dma_copy(dst=slots, src=rows, oob_mode=nisa.oob_mode.skip)
'''

# Where SLOTS is a power of two. The sign stays: an index with it is out of bounds.
LOCATE_POWER = """    nisa.tensor_scalar(dst=index, data=position, op0=nl.bitwise_and, operand0=SLOTS - 1 - 2**31)"""

SEQUENCE_OFFSETS = """
    sequence = nl.ndarray((rows, 1), dtype=nl.int32, buffer=nl.sbuf)
    nisa.iota(dst=sequence, pattern=[[0, 1]], channel_multiplier=1$first_row)
    # row // ROWS: what is subtracted makes it the nearest integer.
    half, share = (ROWS - 1) / 2, 1.0 / ROWS
    nisa.tensor_scalar(dst=sequence, data=sequence, op0=nl.subtract, operand0=half, op1=nl.multiply, operand1=share)
    nisa.tensor_scalar(dst=sequence, data=sequence, op0=nl.multiply, operand0=1.0 * SLOTS)"""

ADD_POWER = """
    nisa.tensor_tensor(dst=index, data1=index, data2=sequence, op=nl.bitwise_or)"""

LOCATE = """    # position // SLOTS: what is subtracted makes it the nearest integer, exactly below 2^22.
    laps = nl.ndarray((rows, 1), dtype=nl.int32, buffer=nl.sbuf)
    half, share = (SLOTS - 1) / 2, 1.0 / SLOTS
    nisa.tensor_scalar(dst=laps, data=position, op0=nl.subtract, operand0=half, op1=nl.multiply, operand1=share)
    nisa.scalar_tensor_tensor(
        dst=index, data=laps, op0=nl.multiply, operand0=-1.0 * SLOTS, op1=nl.add, operand1=position
    )
    padding = nl.ndarray((rows, 1), dtype=nl.int32, buffer=nl.sbuf)
    past_the_end = 1.0 * $all * SLOTS
    nisa.tensor_scalar(dst=padding, data=position, op0=nl.less, operand0=0.0, op1=nl.multiply, operand1=past_the_end)
    nisa.tensor_tensor(dst=index, data1=index, data2=padding, op=nl.add)"""

ADD = """
    nisa.tensor_tensor(dst=index, data1=index, data2=sequence, op=nl.add)"""
