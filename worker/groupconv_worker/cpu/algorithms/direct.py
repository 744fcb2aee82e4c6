"""Direct convolution with the lanes over output channels: dense convolutions and wide groups (kernels/filters.py)."""

import functools
import math
from dataclasses import replace

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.caches import MIB, arrays_bytes, bounded
from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.cpu.algorithms.blocking import Block, block, last_block, pixel_blocks, row_blocks, strips, vectors
from groupconv_worker.cpu.algorithms.filters import CHUNK, Chunk, chunks, packing
from groupconv_worker.cpu.algorithms.plane import Phase, Plane, bias_of, phases, zero_padded
from groupconv_worker.cpu.algorithms.samples import NATIVE, Samples
from groupconv_worker.cpu.kernels import filters, layout, simd
from groupconv_worker.cpu.program import Program, address
from groupconv_worker.cpu.stages import BIAS, WEIGHT, Address, KernelStage, Scratch, X, Y
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool, ScratchArray
from groupconv_worker.taps import padding_dominates

UNROLLED = 4
"""Channels of a group up to which the kernel has no loop over them."""
MAX_STEP = 16
"""Largest stride along a row, and distance of a phase's outputs."""


class Direct:
    """Takes float32, float64 and int32 accumulators, one or two axes, every kernel, stride and dilation.

    Args:
        team: the threads.
        buffers: scratch memory.
    """

    name = "direct"

    def __init__(self, team: Team, buffers: BufferPool) -> None:
        self.team, self.buffers = team, buffers
        self.passes = bounded(32 * MIB, arrays_bytes)(functools.partial(_Passes, self))

    def supports(self, problem: Problem) -> bool:
        """One or two axes; a padded input that is not much larger than what came and what goes; short steps.

        The compiled code has an instruction for each cell of a step along a row.
        """
        g = problem.geometry
        phases_of_kernel = phases(zero_padded(g))
        short = all(max(phase.plane.stride[1], phase.step[1]) <= MAX_STEP for phase in phases_of_kernel)
        return problem.types.accumulate in NATIVE and bool(phases_of_kernel) and short and not padding_dominates(g)

    def prepare(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:
        """Pack the filters for the lanes; those of a one-shot kernel when it runs, chunk by chunk."""
        g = zero_padded(problem.geometry)
        activated = g.activation is None or g.activation.kind == "relu"
        kernel = _Direct(self, g, weight, bias_of(bias, g, problem.types.accumulate), resident=resident)
        return Samples(problem, kernel, activated=activated)


class _Direct:
    algorithm = "direct"

    def __init__(self, direct: Direct, g: Geometry, weight: Array, bias: Array, *, resident: bool) -> None:
        w = np.ascontiguousarray(weight.astype(bias.dtype, copy=False))
        edges = g.transposed or any(map(any, g.padding))
        with np.errstate(all="ignore"):  # an infinite weight times a zero of the padding is a NaN
            leave_out = edges and bool(np.isfinite(np.vdot(w, w)))
        once = not resident and g.batch == 1
        self.passes = passes = direct.passes(g.with_batch(1), w.dtype, leave_out=leave_out, once=once)
        self.filters = w
        if passes.packing is not None:
            self.room = ScratchArray(None if resident else direct.buffers, passes.filters, w.dtype)
            self.filters = self.room.array
            passes.packing.run(w[None], self.filters[None])
        self.bias = np.zeros((g.groups, passes.biases), w.dtype)
        self.bias[:, : g.out_channels // g.groups] = bias.reshape(g.groups, -1)
        self.weights = address(self.filters), address(self.bias)

    @property
    def nbytes(self) -> int:
        return self.filters.nbytes + self.bias.nbytes + self.passes.nbytes

    def run(self, x: Array, y: Array) -> None:
        self.passes.program.run(x, y, self.weights)


class _Passes:
    """What kernels of one geometry share, of whatever weights: their programs.

    Args:
        direct: the algorithm.
        g: the geometry, of one sample.
        dtype: of all arrays.
        leave_out: as in `tap_table`.
        once: the filters are used for one sample: a chunk of them is packed and used while it is in the second cache.

    Attributes:
        packing: X, the filters, into Y, flat (g, blocks, K·L in `tap_order`, C/g, block); None if `program` takes the
            filters as they are.
        filters: elements of that.
        biases: of a group, filled up to whole blocks.
        program: X into Y, with the filters and filled up biases as its weights.
    """

    def __init__(self, direct: Direct, g: Geometry, dtype: np.dtype, *, leave_out: bool, once: bool) -> None:
        relu = int(g.activation is not None and g.activation.kind == "relu")
        output = g.output if g.rank == 2 else (1, *g.output)
        scratch, stages, lanes = Scratch(), [], simd.lanes(dtype.itemsize)
        striped = [replace(phase, plane=strips(phase, lanes)) for phase in phases(g)]
        spread = Spread([p.plane for p in striped], lanes)
        wide = X
        if not spread.is_identity:
            wide = scratch.room(spread.size, dtype)
            stages.append(KernelStage(layout.spread(dtype), (X, wide, *spread.extents), spread.rows))
        size = vectors(striped[0].plane, lanes) * lanes
        blocks = -(-striped[0].plane.filters // size)
        block_filters = math.prod(g.weight_shape) // g.out_channels * size
        self.filters, self.biases = g.groups * blocks * block_filters, blocks * size
        everything = Chunk(0, g.groups, 0, blocks)
        cut, packed, self.packing = [everything], WEIGHT, None
        if once:
            most = max(1, CHUNK // (block_filters * dtype.itemsize)) * direct.team.threads
            cut = chunks(g.groups, blocks, most)
            packed = scratch.room(max(c.groups * c.blocks for c in cut) * block_filters, dtype)
        else:
            self.packing = Program(direct.team, direct.buffers, [packing(g, size, dtype, everything, X, Y)])
        for chunk in cut:
            if once:
                stages.append(packing(g, size, dtype, chunk, WEIGHT, packed))
            tap = 0
            for phase in striped:
                where = (tap, math.prod(g.kernel))
                stages.append(
                    _stage(phase, spread, wide, dtype, where, output, relu, chunk, packed, leave_out=leave_out)
                )
                tap += math.prod(phase.plane.kernel)
        self.program = Program(direct.team, direct.buffers, stages, scratch)

    @property
    def nbytes(self) -> int:
        """Bytes of both programs."""
        return self.program.nbytes + (0 if self.packing is None else self.packing.nbytes)


def _stage(
    phase: Phase,
    spread: "Spread",
    x: Address,
    dtype: np.dtype,
    where: tuple[int, int],
    output: tuple[int, ...],
    relu: int,
    chunk: Chunk,
    packed: Address,
    *,
    leave_out: bool,
) -> KernelStage:
    """One phase of a chunk: from the spread input, with packed filters and filled up biases, into its cells of y.

    Args:
        phase: the phase.
        spread: how its input lies.
        x: the spread input.
        dtype: of all arrays.
        where: its first tap among the packed ones, and how many those are.
        output: rows and columns of y.
        relu: not 0 to clamp.
        chunk: the blocks of filters to use.
        packed: where the packed filters are.
        leave_out: as in `tap_table`.
    """
    plane, lanes = phase.plane, simd.lanes(dtype.itemsize)
    V, R, P = block(plane, lanes)
    size = V * lanes
    count = -(-plane.filters // size)
    taps, starts = tap_table(plane, (spread.low, spread.row), (size, R, P), where[0], leave_out=leave_out)
    within_x = (spread.channel, plane.channels * spread.channel, spread.row * plane.stride[0])
    width = plane.output[1] if phase.step[1] == 1 else output[1]
    within_y = (math.prod(output), phase.step[0] * width)
    first = chunk.group * plane.filters + chunk.block * size
    y = Y.plus((first * within_y[0] + phase.start[0] * width + phase.start[1]) * dtype.itemsize)
    x = x.plus(chunk.group * within_x[1] * dtype.itemsize)
    bias = BIAS.plus((chunk.group * count + chunk.block) * size * dtype.itemsize)
    left = plane.filters - chunk.block * size
    sizes = (plane.channels, left, chunk.blocks, where[1], *plane.output, *within_x, *within_y)
    words = (x, packed, bias, y, taps, starts, len(starts), *sizes, relu)
    rest = -(-(plane.filters - (count - 1) * size) // lanes)
    C = plane.channels if plane.channels <= UNROLLED else 0
    run = filters.kernel(dtype, C, V, rest, R, P, last_block(plane.output[1], P), plane.stride[1], phase.step[1])
    return KernelStage(run, words, chunk.groups * chunk.blocks * -(-plane.output[0] // R))


FEW_CHANNELS = 8
"""Channels up to which an unpadded input is read as it lies; of more, those of one row are brought together."""


class Spread:
    """The input that serves all `planes`, which differ in padding: x itself or a padded copy (rows, C, columns).

    Args:
        planes: of one input, stride and channel count.
        lanes: elements of a vector.
    """

    def __init__(self, planes: list[Plane], lanes: int) -> None:
        one = planes[0]
        self.channels, (height, width) = one.groups * one.channels, one.input
        self.low = (max(p.low[0] for p in planes), max(p.low[1] for p in planes))
        # the last block of rows is a whole one
        heights = [-(-p.output[0] // R) * R for p, (_, R, _) in [(p, block(p, lanes)) for p in planes]]
        self.rows = max(_seen(p, 0, rows) + self.low[0] - p.low[0] for p, rows in zip(planes, heights, strict=True))
        self.columns = max(_seen(p, 1, p.output[1]) + self.low[1] - p.low[1] for p in planes)
        fits = self.low == (0, 0) and self.rows <= height and self.columns <= width
        pointwise = all(p.kernel == p.stride == (1, 1) for p in planes)
        self.is_identity = fits and (pointwise or self.channels <= FEW_CHANNELS)
        self.extents = (self.channels, *one.input, *self.low, self.columns)
        self.row, self.channel = self.channels * self.columns, self.columns
        self.size = self.rows * self.row
        if self.is_identity:
            self.row, self.channel = width, height * width


def _seen(plane: Plane, axis: int, outputs: int) -> int:
    """Cells that so many outputs see along an axis."""
    return (outputs - 1) * plane.stride[axis] + (plane.kernel[axis] - 1) * plane.dilation[axis] + 1


TABLE = 20_000
"""Most entries of a table of taps per block: on larger maps the edges, where taps see only padding, are few."""


@bounded(32 * MIB, arrays_bytes)
def tap_table(
    plane: Plane, grid: tuple[tuple[int, int], int], block: Block, first: int = 0, *, leave_out: bool
) -> tuple[Array, Array]:
    """The taps of each block of outputs, as `filters.kernel` wants them: pairs of offsets, and where a block's begin.

    Args:
        plane: the convolution.
        grid: of the spread input its low padding and elements from row to row.
        block: filters, rows and pixels.
        first: the plane's first tap among the packed ones.
        leave_out: leave out the taps that see nothing but padding, block by block.
    """
    size, R, P = block
    (low, left), row = grid
    down = low - plane.low[0] + np.arange(plane.kernel[0]) * plane.dilation[0]
    across = left - plane.low[1] + np.arange(plane.kernel[1]) * plane.dilation[1]
    into = (down[:, None] * row + across).reshape(-1)
    pairs = np.stack([into, (first + np.arange(into.size)) * plane.channels * size], axis=1).astype(np.int64)
    met = np.ones((1, len(pairs)), bool)
    if leave_out and -(-plane.output[0] // R) * -(-plane.output[1] // P) * len(pairs) <= TABLE:
        seen = met_taps(plane, R, P)
        met = met if seen.all() else seen
    taps = np.concatenate([pairs[taps] for taps in met]).reshape(-1)
    ends = np.cumsum(met.sum(axis=1))
    starts = np.stack([ends - met.sum(axis=1), ends], axis=1).reshape(-1)
    return taps, starts


def met_taps(plane: Plane, R: int, P: int) -> Array:
    """Which taps meet the input at all, (blocks, K·L): at large dilations many see nothing but padding.

    Example:
        >>> met_taps(Plane(1, 8, 8, (1, 4), (1, 3), (1, 1), (1, 4), (0, 4), (1, 4)), 1, 4).tolist()
        [[False, True, False]]
    """
    axes = []
    for axis, (first, last) in enumerate((row_blocks(plane.output[0], R), pixel_blocks(plane.output[1], P))):
        taps = np.arange(plane.kernel[axis]) * plane.dilation[axis]
        low, stride = plane.low[axis], plane.stride[axis]
        seen = (last[:, None] * stride + taps - low >= 0) & (first[:, None] * stride + taps - low < plane.input[axis])
        axes.append(seen)
    rows, columns = axes
    met = rows[:, None, :, None] & columns[None, :, None, :]  # (row blocks, pixel blocks, K, L)
    return met.reshape(len(rows) * len(columns), -1)
