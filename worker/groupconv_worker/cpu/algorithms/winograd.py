"""Winograd F(4×4, 3×3) and F(2×2, 5×5): 36 multiply-adds where the direct sum has 144 or 100 (kernels/winograd.py).

The transforms add numbers of different size, so the error is normwise: at an output it is at most about
20·ε·‖w‖₂·‖x of the tile‖₂. A direct sum promises terms·ε·(|x| ∗ |w|) instead. Where the pixels of a tile, over all
channels, are of similar size and the filters are dense, 9·C/g terms leave room for the difference
(docs/convolution.md). So a sample with a window that is much darker than its tile (`steady`) is summed directly. Where
a result is not finite, a NaN or an infinity has spread over its tile, so the sample is computed again directly.
"""

import functools
import math
from dataclasses import replace

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.caches import MIB, arrays_bytes, bounded
from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.cpu.algorithms.blocking import even
from groupconv_worker.cpu.algorithms.direct import Direct
from groupconv_worker.cpu.algorithms.gemm import Gemm
from groupconv_worker.cpu.algorithms.plane import Plane, bias_of, filters_of, phases, zero_padded
from groupconv_worker.cpu.algorithms.samples import Samples
from groupconv_worker.cpu.algorithms.winograd_kernel import WinogradKernel
from groupconv_worker.cpu.kernels import simd
from groupconv_worker.cpu.kernels import winograd as kernels
from groupconv_worker.cpu.kernels.forms import NotCompiledError
from groupconv_worker.cpu.kernels.winograd import apart
from groupconv_worker.cpu.kernels.winograd_tiles import LANES, TILE, VARIANTS
from groupconv_worker.cpu.program import Program
from groupconv_worker.cpu.stages import BIAS, NOTE, WEIGHT, KernelStage, Scratch, X, Y
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool, ScratchArray
from groupconv_worker.pieces import erf
from groupconv_worker.taps import overlap, padding_dominates

FEWEST = {3: 16, 5: 32}
"""Channels and filters per group, by the kernel's extent, below which the transforms cost more than the products save.
"""
FEWEST_TILES = 8
"""Tiles below which the transformed filters, read once per few tiles, cost more than they save."""
FEW_TILES = 16
"""Tiles up to which one block takes all of them, so that the filters pass once."""
MOST_OF_DIRECT = 0.75
"""Products of the tiles, of those of the direct sum, above which the transforms do not pay."""
CHUNK, MOST_CHUNK = 2**20, 2**22
"""Bytes of transformed tiles that pass at a time, so that they stay in the second cache; and where the transformed
filters have more bytes, as many as these, for each pass reads all of them."""


class Winograd:
    """Takes float32, 3×3 and 5×5 at stride 1, wide groups, on maps of several tiles.

    Args:
        team: the threads.
        buffers: scratch memory.
    """

    name = "winograd"

    def __init__(self, team: Team, buffers: BufferPool) -> None:
        self.team, self.buffers, self.direct = team, buffers, Direct(team, buffers)
        self.gemm = Gemm(np, erf, team=team)
        self.passes = bounded(16 * MIB, arrays_bytes)(functools.partial(_Passes, self))

    def supports(self, problem: Problem) -> bool:
        """3×3 and 5×5, stride 1."""
        g = zero_padded(problem.geometry)
        if problem.types.accumulate != np.float32 or g.transposed or padding_dominates(problem.geometry):
            return False
        extent = g.kernel[0]
        if extent not in VARIANTS or g.kernel != (extent, extent):
            return False
        wide = min(g.in_channels, g.out_channels) // g.groups >= FEWEST[extent]
        tiles = math.prod(tile_counts(phases(g)[0].plane))
        # at large dilations the tiles are mostly edge
        worth_it = tiles >= FEWEST_TILES and tiles * TILE**2 <= MOST_OF_DIRECT * math.prod(g.output) * extent**2
        # a window of padding alone has the sum 0, exactly
        seen = all(max(pair) < extent * d - d + 1 for pair, d in zip(g.padding, g.dilation, strict=True))
        return not g.exact and wide and max(g.stride) == 1 and worth_it and seen and max(g.input) < 2**30

    def pays_once(self, problem: Problem) -> bool:
        """Whether a one-shot kernel has fewer products than a direct sum, which leaves out taps that see padding."""
        g = zero_padded(problem.geometry)
        seen = [
            [overlap(o, 1, tap * d - low, h) for tap in range(k)]
            for o, k, d, (low, _), h in zip(g.output, g.kernel, g.dilation, g.padding, g.input, strict=True)
        ]
        direct: int = math.prod(sum(met[0].stop - met[0].start for met in axis if met) for axis in seen)
        return math.prod(tile_counts(phases(g)[0].plane)) * TILE**2 <= MOST_OF_DIRECT * direct

    def prepare(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:
        """Transform the filters, which takes 4 times their memory; the filters of a one-shot kernel when it runs.

        A one-shot kernel's direct form is made if it is needed.
        """
        g = zero_padded(problem.geometry)
        activated = g.activation is None or g.activation.kind == "relu"
        # it stands in for the kernel, which leaves any other activation than relu to Samples
        plain = Problem(g if activated else replace(g, activation=None), problem.types)
        once = functools.partial(self._direct, plain, weight, bias, resident=resident)
        fallback = once() if resident else None
        direct = once if fallback is None else lambda: fallback  # `once` holds the weights as they came
        passes = self.passes(g.with_batch(1), once=not resident and g.batch == 1)
        dtype, room = np.dtype(np.float32), None
        filters = np.ascontiguousarray(filters_of(weight, g, dtype))
        if passes.transform is not None:
            room = ScratchArray(None if resident else self.buffers, passes.filters, dtype)
            passes.transform.run(filters[None], room.array[None])
            filters = room.array
        biases = np.zeros((g.groups, passes.biases), dtype)
        biases[:, : g.out_channels // g.groups] = bias_of(bias, g, dtype).reshape(g.groups, -1)
        nbytes = passes.nbytes + (0 if fallback is None else fallback.nbytes)
        kernel = WinogradKernel(passes.program, phases(g)[0].plane, filters, biases, direct, nbytes, room)
        return Samples(problem, kernel, activated=activated)

    def _direct(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:
        """What takes its place where an input is not finite; BLAS where that is not compiled."""
        try:
            return self.direct.prepare(problem, weight, bias, resident=resident)
        except NotCompiledError:
            return self.gemm.prepare(problem, weight, bias, resident=resident)


class _Passes:
    """What kernels of one geometry share, of whatever weights: their programs.

    Args:
        winograd: the algorithm.
        g: the geometry, of one sample.
        once: the filters are used for one sample. If its tiles pass in one or two chunks, a block of filters is
            transformed for each of them, and used while it is in the second cache.

    Attributes:
        transform: X, the filters (M, C/g, K, K), into Y, flat (36, g, blocks of filters, channels, size of a block);
            None if `program` takes the filters as they are.
        filters: elements of that.
        biases: of a group, filled up to whole blocks.
        program: X into Y, with the filters and filled up biases as its weights.
    """

    def __init__(self, winograd: Winograd, g: Geometry, *, once: bool) -> None:
        plane, dtype = phases(g)[0].plane, np.dtype(np.float32)
        extent, out = plane.kernel[0], VARIANTS[plane.kernel[0]].out
        relu = int(g.activation is not None and g.activation.kind == "relu")
        tile_rows, tiles = tile_counts(plane)
        inputs, outputs = -(-plane.channels // LANES), -(-plane.filters // LANES)
        row_bytes = 4 * TILE**2 * plane.groups * LANES * (inputs + outputs) * tiles
        # a band is a tile row of each phase of the dilation: tiles of neighbouring rows
        band = plane.dilation[0]
        chunk = min(MOST_CHUNK, max(CHUNK, 4 * TILE**2 * plane.groups * inputs * outputs * LANES**2))
        rows = band * min(tile_rows // band, max(-(-FEWEST_TILES // (tiles * band)), chunk // (row_bytes * band)))
        once = once and 2 * rows >= tile_rows
        vectors, size = block(rows * tiles)
        blocks = -(-outputs // vectors)
        outputs = blocks * vectors
        columns = -(-(out * tiles + (extent - 1) * plane.dilation[1]) // LANES) * LANES
        G, count, scratch, threads = plane.groups, rows * tiles, Scratch(), winograd.team.threads
        wide_rows = out * rows + (extent - 1) * band
        wide = scratch.room(G * max(inputs, outputs) * wide_rows * columns * LANES, dtype)
        x_product, w_product, y_product = (
            apart(G * inputs * count * LANES),
            apart((1 if once else G * blocks) * inputs * LANES * vectors * LANES),
            apart(G * outputs * count * LANES),
        )
        seen, y_tiles = (scratch.room(TILE**2 * product, dtype) for product in (x_product, y_product))
        apart_by = (x_product, w_product, y_product)
        if once:
            room = scratch.room(threads * TILE**2 * w_product, dtype)
            sizes = (plane.channels, plane.filters, inputs, blocks, count, *apart_by, threads, *[0] * threads)
            multiply = kernels.product_of_filters(vectors, size, extent)
            products = KernelStage(multiply, (seen, WEIGHT, room, y_tiles, *sizes), G * blocks)
        else:
            multiply = kernels.product(vectors, size)
            products = KernelStage(
                multiply, (seen, WEIGHT, y_tiles, G, inputs, blocks, count, *apart_by), TILE**2 * G * blocks
            )
        stages = []
        for start in range(0, tile_rows, rows):
            # the last chunk overlaps its neighbour: every chunk has as many tiles as a block needs
            part = (min(start, tile_rows - rows) * out, *plane.dilation, rows, tiles)
            into = (plane.channels, inputs, *plane.input, *plane.low, *part, columns, x_product)
            back = (plane.filters, outputs, *plane.output, *part, columns, y_product, relu)
            stages += [
                KernelStage(kernels.transform_input(extent), (X, wide, seen, *into), G * inputs),
                products,
                KernelStage(kernels.transform_output(extent), (y_tiles, BIAS, wide, Y, *back, NOTE), G * outputs),
            ]
        self.program = Program(winograd.team, winograd.buffers, stages, scratch)
        self.filters, self.biases = TILE**2 * w_product, outputs * LANES
        self.transform = None
        if not once:
            padded = (plane.channels, plane.filters, blocks, inputs * LANES, vectors * LANES, w_product)
            stage = KernelStage(kernels.transform_filters(extent), (X, Y, *padded), G * blocks)
            self.transform = Program(winograd.team, winograd.buffers, [stage])

    @property
    def nbytes(self) -> int:
        """Bytes of the programs."""
        return self.program.nbytes + (0 if self.transform is None else self.transform.nbytes)


def tile_counts(plane: Plane) -> tuple[int, int]:
    """Tiles per axis: those that cover each sub-image of every d-th cell, a dilation being as many images without one.

    Example:
        >>> tile_counts(Plane(1, 8, 8, (33, 14), (3, 3), (1, 1), (6, 1), (6, 1), (33, 14)))
        (12, 4)
    """
    out = VARIANTS[plane.kernel[0]].out
    rows, columns = (d * -(-o // (out * d)) for o, d in zip(plane.output, plane.dilation, strict=True))
    return rows, columns


def block(tiles: int) -> tuple[int, int]:
    """Vectors of filters and tiles of a block of the product.

    Example:
        >>> block(16) if simd.ACCUMULATORS == 28 else (1, 16)
        (1, 16)
    """
    if tiles <= min(FEW_TILES, simd.ACCUMULATORS):
        return 1, tiles
    return 2, even(tiles, simd.ACCUMULATORS // 2)
