"""Winograd F(4×4, 3×3) on blocked tensors: 36 multiply-adds where the direct sum has 144.

Some tile rows at a time, so that what lies between stays in the second cache: transform the input, 36 products over
the channels, transform back. The transformed filters take 4 times the memory.
"""

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked.epilogue import Epilogue
from groupconv_worker.cpu.blocked.kernels import dense
from groupconv_worker.cpu.blocked.kernels import winograd as kernels
from groupconv_worker.cpu.blocked.kernels.blocks import LANES, VECTORS
from groupconv_worker.cpu.blocked.layout import aligned
from groupconv_worker.cpu.blocked.lowered import SCRATCH, Pass, beyond
from groupconv_worker.cpu.blocked.runs import blocked_runs
from groupconv_worker.cpu.kernels.winograd import apart
from groupconv_worker.cpu.kernels.winograd_tiles import FILTER, KERNEL, OUT, TILE
from groupconv_worker.cpu.program import Address, KernelStage

PRODUCTS = TILE * TILE
FEWEST = 16
"""Channels and filters below which the transforms cost more than the products save."""
MOST_OF_DIRECT = 0.8
"""Multiply-adds of the tiles, of those of the direct sum, above which Winograd does not pay."""
WEIGHTS = 16
"""Reading a weight costs as much as so many multiply-adds: where a map is small, the filters come from memory."""
CHUNK = 2**19
"""Bytes of tiles, before and behind the products, that pass at a time."""


def takes(one: Pass) -> bool:
    """Whether Winograd computes this pass: a 3×3 kernel at stride 1, of one group, on a blocked input."""
    plane = one.phase.plane
    ordinary = plane.kernel == (KERNEL, KERNEL) and plane.stride == plane.dilation == one.phase.step == (1, 1)
    return ordinary and plane.groups == 1 and one.x.pixel > 1


def pays(one: Pass) -> bool:
    """Whether Winograd is expected to be faster than the direct sum."""
    plane = one.phase.plane
    if not takes(one) or min(plane.channels, plane.filters) < FEWEST:
        return False
    rows, columns = plane.output
    tiles = -(-rows // OUT) * -(-columns // OUT)
    direct = KERNEL**2 * (rows * columns + WEIGHTS)
    return PRODUCTS * (tiles + WEIGHTS) <= MOST_OF_DIRECT * direct


def stages(one: Pass, filters: Array, bias: Array, epilogue: Epilogue) -> tuple[list[KernelStage], int]:
    """The stages of a pass, and the bytes of scratch memory that they need.

    Args:
        one: the pass, of one group.
        filters: (M, C, 3, 3).
        bias: of whole vectors of filters, and a vector of zeros.
        epilogue: what happens to the sums.
    """
    plane = one.phase.plane
    (rows, columns), (low, left) = plane.output, plane.low
    tile_rows, tiles = -(-rows // OUT), -(-columns // OUT)
    inputs, outputs = -(-plane.channels // LANES), -(-plane.filters // LANES)
    at_once = max(1, min(tile_rows, CHUNK // (4 * LANES * PRODUCTS * (inputs + outputs) * tiles)))
    x_plane = y_plane = apart(at_once * tiles * LANES)
    x_product, y_product = inputs * x_plane, outputs * y_plane
    seen, made = Address(SCRATCH), Address(SCRATCH, 4 * PRODUCTS * x_product)
    weights, runs, spans, chunks = _transformed(filters, x_plane, x_product)
    blocks, zeros = -(-outputs // VECTORS), np.zeros(LANES, np.float32)
    (above, below), (before, behind) = beyond(plane, 0), beyond(plane, 1)
    bounds = (-above, plane.input[0] + below, -before, plane.input[1] + behind)
    x, y, residual = one.addresses()
    other = one.residual or one.y
    found = []
    for first in range(0, tile_rows, at_once):
        count = min(at_once, tile_rows - first)
        part = (first, count, tiles)
        into = (*bounds, one.x.row, one.x.plane, *part, low, left, x_product, x_plane)
        tables = (Epilogue().parameters, runs, spans, chunks, 0, PRODUCTS, outputs, 1, count * tiles, 1, 0)
        products = (*tables, 0, LANES, y_plane, 0, LANES, 0, 0, 0)
        back = (epilogue.parameters, epilogue.code, rows, columns, *part, y_product, y_plane)
        cells = (one.y.plane, one.y.row, other.plane, other.row, outputs)
        found += [
            KernelStage(kernels.transform_input(), (x, seen, *into), inputs * count),
            KernelStage(dense.kernel(), (seen, weights, zeros, made, 0, *products), PRODUCTS * blocks),
            KernelStage(kernels.transform_output(), (made, bias, y, residual, *back, *cells), outputs * count),
        ]
    return found, 4 * PRODUCTS * (x_product + y_product)


def _transformed(filters: Array, plane: int, product: int) -> tuple[Array, Array, Array, int]:
    """The 36 products' weights, runs, spans and chunks, as kernels/dense.py wants them."""
    M, channels = filters.shape[:2]
    matrix = np.array(FILTER)
    both = np.kron(matrix, matrix).astype(np.float64)  # (36, 9)
    first = blocked_runs(filters[:, :, :1, :1], 1, [0], LANES, plane)
    size = len(first.weights)
    weights = aligned(PRODUCTS * size)
    flat = filters.reshape(M, channels, KERNEL**2).astype(np.float64)
    for number, row in enumerate(both):
        one = (flat @ row).astype(np.float32).reshape(M, channels, 1, 1)
        weights[number * size : (number + 1) * size] = blocked_runs(one, 1, [0], LANES, plane).weights
    steps = np.arange(PRODUCTS)[:, None]
    pairs = first.runs.reshape(1, -1) + np.resize([product, 0], len(first.runs)) * steps
    count = len(first.runs) // 2
    spans = first.spans.reshape(1, -1) + np.resize([count, count, size], len(first.spans)) * steps
    return weights, pairs.reshape(-1), spans.reshape(-1), first.chunks
