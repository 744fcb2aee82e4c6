"""Winograd F(4×4, 3×3): 36 multiply-adds where the direct sum has 144 (kernels/winograd.py).

The transforms add numbers of different size, so the error is larger than that of the direct sum: at an output it
is about 20·ε·‖w‖₂·‖x of the tile‖₂ (docs/performance.md measures it). Where a
result is not finite, a NaN or an infinity has spread over its tile, so the whole is computed again directly.
"""

import functools
from collections.abc import Callable

import numpy as np

from groupconv_worker.algorithms.direct import Direct, even, pack
from groupconv_worker.algorithms.plane import Plane, filters_of, phases
from groupconv_worker.algorithms.samples import Buffers, Samples, bias_of, zero_padded
from groupconv_worker.engines.base import Array, Prepared, Problem
from groupconv_worker.kernels import simd
from groupconv_worker.kernels import winograd as kernels
from groupconv_worker.kernels.winograd_tiles import LANES, OUT, TILE
from groupconv_worker.program import Program, Scratch, Stage, X, Y
from groupconv_worker.threads import Team

FEWEST = 16
"""Channels and filters per group below which the transforms cost more than the products save."""
FEWEST_TILES = 8
"""Tiles below which the transformed filters, read once per few tiles, cost more than they save."""
FEW_TILES = 16
"""Tiles up to which one block takes all of them, so that the filters pass once."""
CHUNK = 2**20
"""Bytes of transformed tiles that pass at a time, so that they stay in the second cache."""


class Winograd:
    """Takes float32, 3×3 at stride and dilation 1, wide groups, on maps of several tiles.

    Args:
        team: the threads.
        buffers: scratch memory.
    """

    name = "winograd"

    def __init__(self, team: Team, buffers: Buffers) -> None:
        self.team, self.buffers, self.direct = team, buffers, Direct(team, buffers)

    def supports(self, problem: Problem) -> bool:
        """3×3, stride 1, dilation 1."""
        g = zero_padded(problem.geometry)
        if problem.types.accumulate != np.float32 or g.transposed or g.kernel != (3, 3):
            return False
        wide = min(g.in_channels, g.out_channels) // g.groups >= FEWEST
        tiles = -(-g.output[0] // OUT) * -(-g.output[1] // OUT)
        return wide and max(*g.stride, *g.dilation) == 1 and tiles >= FEWEST_TILES and max(g.input) < 2**30

    def prepare(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:
        """Transform the filters: 4 times their memory. A one-shot kernel's direct form is made if it is needed."""
        g = zero_padded(problem.geometry)
        w = filters_of(weight, g, problem.types.accumulate)
        activated = g.activation is None or g.activation.kind == "relu"
        relu = int(g.activation is not None and activated)
        direct = functools.partial(self.direct.prepare, Problem(g, problem.types), weight, bias, resident=resident)
        kept = direct() if resident else None
        kernel = _Winograd(
            self, phases(g)[0].plane, w, bias_of(bias, g, w.dtype), relu, lambda: kept if kept is not None else direct()
        )
        return Samples(problem, kernel, activated=activated)


class _Winograd:
    algorithm = "winograd"

    def __init__(
        self, winograd: Winograd, plane: Plane, w: Array, bias: Array, relu: int, direct: Callable[[], Prepared]
    ) -> None:
        self.direct = direct
        tile_rows, tiles = (-(-o // OUT) for o in plane.output)
        inputs, outputs = -(-plane.channels // LANES), -(-plane.filters // LANES)
        row_bytes = 4 * TILE**2 * plane.groups * LANES * (inputs + outputs) * tiles
        rows = min(tile_rows, max(-(-FEWEST_TILES // tiles), CHUNK // row_bytes))
        vectors, size = block(rows * tiles)
        blocks = -(-outputs // vectors)
        outputs, multiply, dtype = blocks * vectors, kernels.product(vectors, size), bias.dtype
        weights = transformed(w, plane, inputs, blocks, vectors * LANES, winograd)
        padded = np.zeros((plane.groups, outputs * LANES), dtype)
        padded[:, : plane.filters] = bias.reshape(plane.groups, -1)
        columns = -(-(OUT * tiles + 2) // LANES) * LANES
        G, count, scratch = plane.groups, rows * tiles, Scratch()
        wide = scratch.room(G * inputs * (OUT * rows + 2) * columns * LANES, dtype)
        seen, made = (scratch.room(TILE**2 * G * n * count * LANES, dtype) for n in (inputs, outputs))
        stages = []
        for start in range(0, tile_rows, rows):
            # the last chunk overlaps its neighbour: every chunk has as many tiles as a block needs
            part = (min(start, tile_rows - rows), rows, tiles)
            into = (plane.channels, inputs, *plane.input, *plane.low, *part, columns, G * inputs * count * LANES)
            back = (plane.filters, outputs, *plane.output, *part, G * outputs * count * LANES, relu)
            stages += [
                Stage(kernels.transform_input(), (X, wide, seen, *into), G * inputs),
                Stage(multiply, (seen, weights, made, inputs, blocks, count), TILE**2 * G * blocks),
                Stage(kernels.transform_output(), (made, padded, Y, *back), G * outputs),
            ]
        self.program = Program(winograd.team, winograd.buffers, stages, scratch)

    def sample(self, x: Array, y: Array) -> None:
        self.program.run(x, y)
        flat = y.reshape(-1)
        if not np.isfinite(np.dot(flat, flat)):
            self.direct().run(x[None], y[None])


def block(tiles: int) -> tuple[int, int]:
    """Vectors of filters and tiles of a block of the product.

    Example:
        >>> block(16) if simd.ACCUMULATORS == 28 else (1, 16)
        (1, 16)
    """
    if tiles <= min(FEW_TILES, simd.ACCUMULATORS):
        return 1, tiles
    return 2, even(tiles, simd.ACCUMULATORS // 2)


def transformed(w: Array, plane: Plane, inputs: int, blocks: int, size: int, winograd: Winograd) -> Array:
    """The filters (M, C/g, 3, 3) -> flat (36, g, blocks, channels, size)."""
    channels, count = inputs * LANES, plane.groups * blocks
    packed, product = pack(w, plane.groups, size, winograd.team, winograd.buffers), count * channels * size
    out = np.empty(TILE**2 * product, w.dtype)
    stage = Stage(kernels.transform_filters(), (X, Y, plane.channels, channels, size, product), count)
    Program(winograd.team, winograd.buffers, [stage]).run(packed, out)
    return out
