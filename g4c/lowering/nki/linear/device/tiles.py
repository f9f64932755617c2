"""Features on the partitions: [128, tiles, rows].

Two neighboring tiles hold 256 features: feature 256 g + 2 p + i is at partition p of tile 2 g + i, so that the rows
2 p and 2 p + 1 of a weight, which lie next to each other in HBM, go to one partition. What is left of a width that is
no multiple of 256 lies in order, in one tile of 128 or less, or two.
"""


def tile_features(tile, width):
    """Where in the width the features of a tile are: first, limit, step.

    Of 256 neighbors the even ones are a tile and the odd ones: rows 2 p and 2 p + 1 of a weight are on one partition.
    """
    if 256 * (tile // 2) + 256 <= width:
        return 256 * (tile // 2) + tile % 2, 256 * (tile // 2) + 256, 2
    return 128 * tile, min(128 * tile + 128, width), 1


def tile_groups(first, width, together):
    """Tiles of the features first to first + width - 1, `together` at a time: (tile, tiles, partitions).

    A last tile of less than 128 features is a group of its own.
    """
    groups = []
    whole = width // 128
    for tile in range(0, whole, together):
        groups.append((first // 128 + tile, min(together, whole - tile), 128))
    if width % 128 > 0:
        groups.append((first // 128 + whole, 1, width % 128))
    return groups


def equal_parts(width, most):
    """The width of equal parts of at most `most`, but for the last; multiples of 256, or the whole."""
    parts = (width + most - 1) // most
    if parts == 1:
        return width
    return min(most, (width + 256 * parts - 1) // (256 * parts) * 256)


def group_of(tensor, group, rows):
    """A group of a tensor [128, tiles, rows]."""
    tile, tiles, partitions = group
    return tensor[:partitions, tile : tile + tiles, :rows]


def in_bank(bank, group, rows):
    """A group in [128, 512], a PSUM bank or a tile of its shape: [partitions, tiles, rows]."""
    _, tiles, partitions = group
    return bank.ap([[512, partitions], [rows, tiles], [1, rows]], offset=0)


def per_feature(vector, group, rows):
    """A group of one value per feature [128, tiles], the same for all rows: [partitions, tiles, rows]."""
    tile, tiles, partitions = group
    return vector.ap([[vector.shape[1], partitions], [1, tiles], [0, rows]], offset=tile)


def per_row(vector, group, rows):
    """One value per row [128, 512], the same for all tiles of a group: [partitions, tiles, rows]."""
    _, tiles, partitions = group
    return vector.ap([[512, partitions], [0, tiles], [1, rows]], offset=0)
