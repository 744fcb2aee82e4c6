"""Transposed convolution of few input cells: every weight, as it lies, times every cell (kernels/cells.py).

With 4×4 cells a one-shot kernel uses each of its megabytes of weights 16 times. Packing them for the lanes takes half
as long as the sums.
"""

import functools
import math

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.caches import MIB, arrays_bytes, bounded
from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.cpu.algorithms.plane import bias_of
from groupconv_worker.cpu.algorithms.samples import Samples
from groupconv_worker.cpu.kernels import cells, simd
from groupconv_worker.cpu.kernels.atomic import LOOK
from groupconv_worker.cpu.program import Program, address
from groupconv_worker.cpu.stages import BIAS, WEIGHT, KernelStage, Scratch, X, Y
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool

FLOATS = np.dtype("float32"), np.dtype("float64")
PRODUCTS = 2**22
"""Most products of a sample, which lie in memory until they are added up."""
LINE = 64
"""Bytes of a cache line. No block is narrower: rows of weights lie pages apart, so caches lose the rest of a line."""
MOST = 4
"""Most lines of a block."""


class Cells:
    """Takes transposed kernels of one group, float32 and float64 accumulators, any number of axes.

    Args:
        team: the threads.
        buffers: scratch memory.
    """

    name = "cells"

    def __init__(self, team: Team, buffers: BufferPool) -> None:
        self.team, self.buffers = team, buffers
        self.programs = bounded(16 * MIB, arrays_bytes)(functools.partial(_Program, self))

    def supports(self, problem: Problem) -> bool:
        """Transposed, one group, so few input cells that the sums of a block stay in registers."""
        g, dtype = problem.geometry, problem.types.accumulate
        if not g.transposed or g.groups > 1 or dtype not in FLOATS or g.in_channels > LOOK:
            return False
        seen, columns = math.prod(g.input), math.prod(g.weight_shape[1:])
        V = vectors(seen)
        return bool(V) and columns >= V * simd.lanes(dtype.itemsize) and seen * columns <= PRODUCTS

    def prepare(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:  # noqa: ARG002
        """Keep the weights as they are."""
        g, accumulate = problem.geometry, problem.types.accumulate
        activated = g.activation is None or g.activation.kind == "relu"
        w = np.ascontiguousarray(weight.astype(accumulate, copy=False))
        program = self.programs(g.with_batch(1), w.dtype).program
        return Samples(problem, _Cells(program, w, bias_of(bias, g, accumulate)), activated=activated)


class _Cells:
    algorithm = "cells"

    def __init__(self, program: Program, weight: Array, bias: Array) -> None:
        self.program, self.weight, self.bias = program, weight, bias
        self.nbytes = weight.nbytes + bias.nbytes + program.nbytes

    def run(self, x: Array, y: Array) -> None:
        self.program.run(x, y, (address(self.weight), address(self.bias)))


class _Program:
    """The program of a geometry, of one sample."""

    def __init__(self, owner: Cells, g: Geometry, dtype: np.dtype) -> None:
        seen, columns, taps = math.prod(g.input), math.prod(g.weight_shape[1:]), math.prod(g.kernel)
        lanes = simd.lanes(dtype.itemsize)
        V = vectors(seen)
        row = columns + LINE // dtype.itemsize  # cells on different lines of the first cache
        scratch = Scratch()
        z = scratch.room(seen * row, dtype)
        places, starts = places_of(g, row)
        relu = int(g.activation is not None and g.activation.kind == "relu")
        stages = [
            KernelStage(
                cells.products(dtype, V, seen),
                (X, WEIGHT, z, g.in_channels, columns, row),
                -(-columns // (V * lanes)),
            ),
            KernelStage(
                cells.sums(dtype),
                (z, BIAS, Y, places, starts, taps, math.prod(g.output), relu),
                g.out_channels,
            ),
        ]
        self.program = Program(owner.team, owner.buffers, stages, scratch)

    @property
    def nbytes(self) -> int:
        """Bytes of the program."""
        return self.program.nbytes


def vectors(seen: int) -> int:
    """Vectors of a block for so many cells: of whole lines; 0 if the sums of one line are too many for the registers.

    Example:
        >>> vectors(1000)
        0
    """
    line = LINE // simd.WIDTH
    return line * min(MOST, simd.ACCUMULATORS // (seen * line))


def places_of(g: Geometry, row: int) -> tuple[Array, Array]:
    """Where the products of a filter are that an output adds up: cell · row + tap, and where an output's begin.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> places, starts = places_of(resolve(ConvSpec(transposed=True), (1, 1, 2), (1, 1, 2)), 100)
        >>> places.tolist(), starts.tolist()
        ([0, 1, 100, 101], [0, 1, 3, 4])
    """
    cell, tap, output = (np.zeros(1, np.int64) for _ in range(3))
    met = np.ones(1, bool)
    for axis in range(g.rank):
        i, k = (a.reshape(-1) for a in np.mgrid[: g.input[axis], : g.kernel[axis]])
        o = i * g.stride[axis] + k * g.dilation[axis] - g.padding[axis][0]
        if g.flip_kernel:
            k = g.kernel[axis] - 1 - k
        cell = np.add.outer(cell * g.input[axis], i).reshape(-1)
        tap = np.add.outer(tap * g.kernel[axis], k).reshape(-1)
        output = np.add.outer(output * g.output[axis], o).reshape(-1)
        met = np.logical_and.outer(met, (o >= 0) & (o < g.output[axis])).reshape(-1)
    order = np.flatnonzero(met)
    order = order[np.lexsort((cell[order], output[order]))]
    starts = np.searchsorted(output[order], np.arange(math.prod(g.output) + 1)).astype(np.int64)
    return (cell * row + tap)[order], starts
