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
from groupconv_worker.cpu.blocked.runs import Runs, blocked_runs
from groupconv_worker.cpu.kernels.winograd import apart
from groupconv_worker.cpu.kernels.winograd_tiles import FILTER, KERNEL, OUT, TILE
from groupconv_worker.cpu.stages import Address, KernelStage

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
    """Whether Winograd computes this pass: 3×3 at stride 1 on a blocked input, in groups of whole vectors."""
    plane = one.phase.plane
    ordinary = plane.kernel == (KERNEL, KERNEL) and plane.stride == plane.dilation == one.phase.step == (1, 1)
    whole = plane.groups == 1 or plane.channels % LANES == plane.filters % LANES == 0
    return ordinary and whole and one.x.pixel > 1


def pays(one: Pass) -> bool:
    """Whether Winograd is expected to be faster than the direct sum."""
    plane = one.phase.plane
    return takes(one) and worth(plane.channels, plane.filters, plane.output)


def worth(channels: int, filters: int, output: tuple[int, ...]) -> bool:
    """Whether it is, for so many channels and filters of a group and an output of these rows and columns."""
    if min(channels, filters) < FEWEST:
        return False
    rows, columns = output
    tiles = -(-rows // OUT) * -(-columns // OUT)
    direct = KERNEL**2 * (rows * columns + WEIGHTS)
    return PRODUCTS * (tiles + WEIGHTS) <= MOST_OF_DIRECT * direct


def stages(one: Pass, filters: Array, bias: Array, epilogue: Epilogue) -> tuple[list[KernelStage], int]:
    """The stages of a pass, and the bytes of scratch memory that they need.

    Args:
        one: the pass.
        filters: (M, C/g, 3, 3).
        bias: of whole vectors of filters, and a vector of zeros.
        epilogue: what happens to the sums.
    """
    plane = one.phase.plane
    (rows, columns), (low, left) = plane.output, plane.low
    tile_rows, tiles = -(-rows // OUT), -(-columns // OUT)
    inputs, outputs = (-(-plane.groups * count // LANES) for count in (plane.channels, plane.filters))
    at_once = max(1, min(tile_rows, CHUNK // (4 * LANES * PRODUCTS * (inputs + outputs) * tiles)))
    x_plane = y_plane = apart(at_once * tiles * LANES)
    x_product, y_product = inputs * x_plane, outputs * y_plane
    tiles_in, tiles_out = Address(SCRATCH), Address(SCRATCH, 4 * PRODUCTS * x_product)
    runs = _transformed(filters, plane.groups, x_plane, x_product)
    blocks, zeros = runs.groups * -(-runs.vectors // VECTORS), np.zeros(LANES, np.float32)
    (above, below), (before, behind) = beyond(plane, 0), beyond(plane, 1)
    bounds = (-above, plane.input[0] + below, -before, plane.input[1] + behind)
    x, y, residual = one.addresses()
    other = one.residual or one.y
    kernel_stages = []
    for first in range(0, tile_rows, at_once):
        count = min(at_once, tile_rows - first)
        part = (first, count, tiles)
        into = (*bounds, one.x.row, one.x.plane, *part, low, left, x_product, x_plane)
        tables = (Epilogue().parameters, *runs[:3], 0, runs.groups, runs.vectors)
        products = (*tables, 1, count * tiles, 1, 0, 0, LANES, y_plane, 0, LANES, 0, 0, 0)
        back = (epilogue.parameters, epilogue.code, rows, columns, *part, y_product, y_plane)
        cells = (one.y.plane, one.y.row, other.plane, other.row, outputs)
        kernel_stages += [
            KernelStage(kernels.transform_input(), (x, tiles_in, *into), inputs * count),
            KernelStage(dense.kernel(), (tiles_in, runs.weights, zeros, tiles_out, 0, *products), blocks),
            KernelStage(kernels.transform_output(), (tiles_out, bias, y, residual, *back, *cells), outputs * count),
        ]
    return kernel_stages, 4 * PRODUCTS * (x_product + y_product)


def _transformed(filters: Array, groups: int, plane: int, product: int) -> Runs:
    """The runs and weights of the products: 36 convolutions of one tap on tensors `product` elements apart."""
    M, channels = filters.shape[:2]
    matrix = np.array(FILTER)
    flat = filters.reshape(M * channels, KERNEL**2).astype(np.float64)
    transformed = (np.kron(matrix, matrix) @ flat.T).astype(np.float32).reshape(PRODUCTS, M, channels, 1, 1)
    first = blocked_runs(transformed[0], groups, [0], LANES, plane)
    size = len(first.weights)
    weights = aligned(PRODUCTS * size)
    for number, one in enumerate(transformed):
        weights[number * size : (number + 1) * size] = blocked_runs(one, groups, [0], LANES, plane).weights
    steps, count = np.arange(PRODUCTS)[:, None], len(first.runs) // 2
    runs = first.runs + np.resize([product, 0], len(first.runs)) * steps
    spans = first.spans + np.resize([count, count, size], len(first.spans)) * steps
    return Runs(runs.reshape(-1), spans.reshape(-1), first.chunks, PRODUCTS * first.groups, first.vectors, weights)
