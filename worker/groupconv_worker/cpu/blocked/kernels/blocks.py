"""How many pixels a block has: what stays in registers, and how a row is cut into blocks without a rest."""

from numba import njit

from groupconv_worker.cpu.kernels import simd

LANES = simd.lanes(4)
"""Channels of a block: float32 elements of one vector."""
PIXELS = (0, 12, 6, 4) if simd.ACCUMULATORS < 28 else (0, 14, 14)
"""Most pixels of a block, by its vectors of filters. Of 16 registers, 12 hold sums; of 32, 28."""
VECTORS = len(PIXELS) - 1
"""Vectors of filters of a block, at most."""


@njit(inline="always")
def cut(columns, most):
    """As few blocks of a row as can be, of two sizes that differ by one: how many, the larger size, how many of it.

    Example:
        >>> cut(55, 14), cut(9, 8)
        ((4, 14, 3), (2, 5, 1))
    """
    count = (columns + most - 1) // most
    size = (columns + count - 1) // count
    return count, size, columns - count * (size - 1)
