"""How many pixels a block has: what stays in registers, and how a row is cut into blocks without a rest."""

from numba import njit

from groupconv_worker.cpu.kernels import simd

LANES = simd.lanes(4)
"""Channels of a block: float32 elements of one vector."""
VECTORS = 2
"""Vectors of filters of a block."""
PIXELS = (0, 12, 6) if simd.ACCUMULATORS < 28 else (0, 14, 14)
"""Most pixels of a block, by its vectors of filters."""


@njit(inline="always")
def piece(columns, most, number):
    """Where block `number` of a row begins, and its pixels: as few blocks as can be, of two sizes that differ by one.

    Example:
        >>> [piece(55, 14, j) for j in range(4)]
        [(0, 14), (14, 14), (28, 14), (42, 13)]
    """
    count = (columns + most - 1) // most
    size = (columns + count - 1) // count
    whole = columns - count * (size - 1)  # blocks of `size` pixels; the others have one less
    if number < whole:
        return number * size, size
    return whole + number * (size - 1), size - 1
