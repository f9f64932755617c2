"""Rows in HBM to features on the partitions, and back: the Tensor Engine transposes."""

from g4c.lowering.nki.linear.device.tiles import tile_features, tile_groups
from g4c.lowering.nki.simulator import isa as nisa
from g4c.lowering.nki.simulator import language as nl


def load_rows(source, first, rows, place, folds):
    """Rows of source [*, width] in SBUF: tiles [up to 128, line width], a row in `folds` lines.

    `place`: partition where few lines start: 0, 32, 64 or 96. Small loads at different places have different engines.
    """
    width = source.shape[1]
    lines = source.reshape((source.shape[0] * folds, width // folds))
    tiles = []
    for start in range(folds * first, folds * (first + rows), 128):
        count = min(128, folds * (first + rows) - start)
        at = place if count <= 32 else 0
        tile = nl.ndarray((at + count, width // folds), dtype=source.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile[at : at + count, :], src=lines[start : start + count, :])
        tiles.append(tile[at : at + count, :])
    return tiles


def rows_to_features(target, tiles):
    """target [128, tiles, rows] = what load_rows has loaded, with its features on the partitions."""
    _, columns, rows = target.shape
    start = 0
    for lines in tiles:
        count, width = lines.shape
        folds = max(1, columns // ((width + 127) // 128))
        fold = columns // folds  # tiles per line
        elements = 1024 if lines.dtype == nl.bfloat16 else 512  # a PSUM bank
        pitch = count + count % 2  # the Tensor Engine writes to multiples of four bytes
        for tile, together, partitions in tile_groups(0, width, elements // pitch):
            bank = nl.ndarray((128, elements), dtype=lines.dtype, buffer=nl.psum)
            for t in range(together):
                at, limit, step = tile_features(tile + t, width)
                nisa.nc_transpose(dst=bank[:partitions, t * pitch : t * pitch + count], data=lines[:, at:limit:step])
            # line r * folds + f holds tiles f * fold + t of row r
            nisa.tensor_copy(
                dst=target.ap(
                    [[columns * rows, partitions], [rows, together], [1, count // folds], [fold * rows, folds]],
                    offset=tile * rows + start,
                ),
                src=bank.ap([[elements, partitions], [pitch, together], [folds, count // folds], [1, folds]], offset=0),
            )
        start += count // folds


def load_features(source, first, rows, place, folds):
    """Rows of source [*, width] with their features on the partitions: [128, tiles, rows]."""
    target = nl.ndarray((128, (source.shape[1] + 127) // 128, rows), dtype=source.dtype, buffer=nl.sbuf)
    rows_to_features(target, load_rows(source, first, rows, place, folds))
    return target


def store_features(outputs, source, first, rows, folds):
    """Rows of outputs from `first` on = source [128, tiles, rows], each in `folds` lines.

    outputs: (tensor [*, width] in HBM, its first feature) one by one.
    """
    columns, pitch = source.shape[1], source.shape[2]
    last, start = outputs[-1]
    width = start + last.shape[1]
    fold, line = columns // folds, width // folds  # tiles and features per line
    elements = 1024 if source.dtype == nl.bfloat16 else 512  # a PSUM bank
    for start in range(0, rows, 128):
        count = min(128, rows - start)
        lines = nl.ndarray((count * folds, line), dtype=source.dtype, buffer=nl.sbuf)
        for at in range(0, line, elements):
            length = min(elements, line - at)
            bank = nl.ndarray((128, elements), dtype=source.dtype, buffer=nl.psum)
            for tile in range(at // 128, (at + length + 127) // 128):
                low = 128 * tile - at
                partitions = min(128, length - low)
                pattern = [[columns * pitch, partitions], [1, count], [fold * pitch, folds]]
                nisa.nc_transpose(
                    dst=bank[: count * folds, low : low + partitions],
                    data=source.ap(pattern, offset=tile * pitch + start),
                )
            whole = length // 256  # pairs of tiles, whose features alternate
            if whole > 0:
                nisa.tensor_copy(
                    dst=lines.ap([[line, count * folds], [256, whole], [1, 2], [2, 128]], offset=at),
                    src=bank[: count * folds, : 256 * whole],
                )
            if length % 256 > 0:
                rest = bank[: count * folds, 256 * whole : length]
                nisa.tensor_copy(dst=lines[:, at + 256 * whole : at + length], src=rest)
        for output, feature in outputs:
            row = first + start
            if folds == 1:
                part = lines[:, feature : feature + output.shape[1]]
                nisa.dma_copy(dst=output[row : row + count, :], src=part)
            else:
                each = output.shape[1] // line
                target = output.reshape((output.shape[0] * each, line))
                part = lines[feature // line : feature // line + count * each, :]
                nisa.dma_copy(dst=target[row * each : (row + count) * each, :], src=part)


def load_vector(source, place):
    """source [width] in HBM as one fp32 value per feature: [128, tiles]. `place` as in load_rows."""
    width = source.shape[0]
    tiles = (width + 127) // 128
    target = nl.ndarray((128, tiles), dtype=nl.float32, buffer=nl.sbuf)
    features = target.ap([[tiles, 128], [1, tiles], [1, 1]], offset=0)
    rows_to_features(features, load_rows(source.reshape((1, width)), 0, 1, place, 1))
    return target


def load_scalar(source):
    """source [1] in HBM on every partition: fp32 [128, 1]."""
    line = nl.ndarray((128, 1), dtype=source.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=line, src=source.ap([[0, 128], [1, 1]], offset=0))
    target = nl.ndarray((128, 1), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_copy(dst=target, src=line)
    return target
