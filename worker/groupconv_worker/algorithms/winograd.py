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
from groupconv_worker.kernels.winograd import LANES, OUT, TILE
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
        self.team, self.buffers, self.plane, self.relu, self.direct = (
            winograd.team,
            winograd.buffers,
            plane,
            relu,
            direct,
        )
        self.tile_rows, self.tiles = (-(-o // OUT) for o in plane.output)
        self.inputs, outputs = -(-plane.channels // LANES), -(-plane.filters // LANES)
        row_bytes = 4 * TILE**2 * plane.groups * LANES * (self.inputs + outputs) * self.tiles
        self.rows = min(self.tile_rows, max(-(-FEWEST_TILES // self.tiles), CHUNK // row_bytes))
        vectors, tiles = block(self.rows * self.tiles)
        self.blocks = -(-outputs // vectors)
        self.outputs, self.multiply = self.blocks * vectors, kernels.product(vectors, tiles)
        self.w = transformed(w, plane, self.inputs, self.blocks, vectors * LANES, self.team)
        padded = np.zeros((plane.groups, self.outputs * LANES), bias.dtype)
        padded[:, : plane.filters] = bias.reshape(plane.groups, -1)
        self.bias = padded.reshape(-1)
        self.columns = -(-(OUT * self.tiles + 2) // LANES) * LANES

    def sample(self, x: Array, y: Array) -> None:
        flat = x.reshape(-1), y.reshape(-1)
        for first in range(0, self.tile_rows, self.rows):
            # the last chunk overlaps its neighbour: every chunk has as many tiles as a block needs
            self._chunk(*flat, min(first, self.tile_rows - self.rows))
        if not np.isfinite(np.dot(flat[1], flat[1])):
            self.direct().run(x[None], y[None])

    def _chunk(self, x: Array, y: Array, first: int) -> None:
        """Tile rows first … first + self.rows - 1."""
        plane, tiles = self.plane, self.rows * self.tiles
        G, inputs, outputs = plane.groups, self.inputs, self.outputs
        wide_size = G * inputs * (OUT * self.rows + 2) * self.columns * LANES
        with (
            self.buffers.take((wide_size,), x.dtype) as wide,
            self.buffers.take((TILE**2 * G * inputs * tiles * LANES,), x.dtype) as seen,
            self.buffers.take((TILE**2 * G * outputs * tiles * LANES,), x.dtype) as made,
        ):
            rows = (first, self.rows, self.tiles)
            into = (plane.channels, inputs, *plane.input, *plane.low, *rows, self.columns, G * inputs * tiles * LANES)
            out = (plane.filters, outputs, *plane.output, *rows, G * outputs * tiles * LANES)
            self.team.run(
                lambda a, b: kernels.transform_input(x, wide, seen, into, a, b),
                G * inputs,
            )
            self.team.run(
                lambda a, b: self.multiply(seen, self.w, made, (inputs, self.blocks, tiles), a, b),
                TILE**2 * G * self.blocks,
            )
            self.team.run(
                lambda a, b: kernels.transform_output(made, self.bias, y, out, self.relu, a, b),
                G * outputs,
            )


def block(tiles: int) -> tuple[int, int]:
    """Vectors of filters and tiles of a block of the product.

    Example:
        >>> block(16) if simd.ACCUMULATORS == 28 else (1, 16)
        (1, 16)
    """
    if tiles <= min(FEW_TILES, simd.ACCUMULATORS):
        return 1, tiles
    return 2, even(tiles, simd.ACCUMULATORS // 2)


def transformed(w: Array, plane: Plane, inputs: int, blocks: int, size: int, team: Team) -> Array:
    """The filters (M, C/g, 3, 3) -> flat (36, g, blocks, channels, size)."""
    channels, count = inputs * LANES, plane.groups * blocks
    packed, product = pack(w, plane.groups, size, team), count * channels * size
    out = np.empty(TILE**2 * product, w.dtype)
    extents = (plane.channels, channels, size, product)
    team.run(lambda a, b: kernels.transform_filters(packed, out, extents, a, b), count)
    return out
