"""How the map and the filters of a direct convolution are cut into blocks that stay in registers."""

from dataclasses import replace

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.algorithms.plane import Phase, Plane
from groupconv_worker.cpu.kernels import simd

Block = tuple[int, int, int]
"""Vectors of filters, rows and pixels of a block."""
ROWS = 4
"""Most rows of a block."""


def block(plane: Plane, lanes: int) -> Block:
    """Vectors of filters, rows and pixels that fill the registers and waste little of the map's edges.

    Example:
        >>> V, R, P = block(Plane(1, 64, 64, (56, 56), (3, 3), (1, 1), (1, 1), (1, 1), (56, 56)), 16)
        >>> V * R * P <= simd.ACCUMULATORS
        True
    """
    V = vectors(plane, lanes)
    most = min(simd.ACCUMULATORS // V, lanes)
    height, width = plane.output
    if width > most // 2:
        return V, 1, even(width, most) if simd.WIDTH != 32 else -(-width // -(-width // most))
    return V, even(height, min(ROWS, max(1, simd.ACCUMULATORS // V // width))), width


STRIP = (4, 2, 1)
"""Blocks of pixels of a strip."""


def strips(phase: Phase, lanes: int) -> Plane:
    """A long row that no tap shifts (pointwise), cut into rows of whole blocks, which threads can share evenly.

    Only a phase that is the whole output can be cut so: the cells of another one lie apart in the output, where the
    rows of its plane and the pieces of a row are not the same distance from each other.

    Example:
        >>> row = Plane(1, 8, 80, (1, 784), (1, 1), (1, 1), (1, 1), (0, 0), (1, 784))
        >>> strips(Phase(row, ((0,), (0,)), (0, 0), (1, 1)), 16).output
        (14, 56)
        >>> strips(Phase(row, ((0,), (0,)), (0, 1), (1, 2)), 16) == row
        True
    """
    plane, cells = phase.plane, phase.plane.output[1]
    whole = phase.start == plane.low == (0, 0) and phase.step == (1, 1)
    if not whole or plane.kernel != (1, 1) or plane.input != plane.output or plane.output[0] > 1:
        return plane
    most = min(simd.ACCUMULATORS // vectors(plane, lanes), lanes)
    sizes = [count * P for P in range(most, most * 2 // 3, -1) for count in STRIP]
    columns = next((size for size in sizes if cells % size == 0), cells)
    return replace(plane, input=(cells // columns, columns), output=(cells // columns, columns))


def vectors(plane: Plane, lanes: int) -> int:
    """Vectors of filters of a block."""
    count = -(-plane.filters // lanes)
    return count if count in (1, 3) else 2


def row_blocks(extent: int, R: int) -> tuple[Array, Array]:
    """First and last row of each block."""
    first = np.arange(0, extent, R)
    return first, np.minimum(first + R, extent) - 1


def pixel_blocks(extent: int, P: int) -> tuple[Array, Array]:
    """First and last pixel of each block of a row.

    Example:
        >>> pixel_blocks(14, 5)
        (array([ 0,  5, 10]), array([ 4,  9, 13]))
        >>> pixel_blocks(9, 8)
        (array([0, 1]), array([7, 8]))
    """
    first, Q = np.arange(0, extent, P), last_block(extent, P)
    if Q == P:
        first = np.minimum(first, extent - P)
        return first, first + P - 1
    sizes = np.full(len(first), P)
    sizes[extent - len(first) * Q :] = Q
    return np.cumsum(sizes) - sizes, np.cumsum(sizes) - 1


def last_block(extent: int, P: int) -> int:
    """Pixels of the last blocks of a row: P - 1 if whole blocks of P and P - 1 make up the row, P if not.

    Example:
        >>> last_block(14, 5), last_block(15, 5), last_block(9, 8)
        (4, 5, 8)
    """
    count = -(-extent // P)
    return P - 1 if extent % P and extent >= count * (P - 1) else P


def even(extent: int, most: int) -> int:
    """The part, at most `most`, that cuts `extent` with little left over into few parts: each costs half a cell more.

    Example:
        >>> even(144, 14), even(55, 14), even(35, 14), even(4, 3)
        (12, 11, 12, 2)
    """
    return min(range(min(extent, most), 0, -1), key=lambda size: -(-extent // size) * (2 * size + 1))
