"""Direct convolution with the lanes over output channels: dense convolutions and wide groups (kernels/filters.py)."""

import functools
import math

import numpy as np

from groupconv_worker.algorithms.filters import packed
from groupconv_worker.algorithms.grouped import weaving
from groupconv_worker.algorithms.plane import Plane, phases
from groupconv_worker.algorithms.samples import NATIVE, Buffers, Samples, bias_of, zero_padded
from groupconv_worker.engines.base import Array, Prepared, Problem
from groupconv_worker.kernels import filters, layout, simd
from groupconv_worker.program import Place, Program, Scratch, Stage, X, Y
from groupconv_worker.threads import Team

Block = tuple[int, int, int]
"""Vectors of filters, rows and pixels of a block."""


class Direct:
    """Takes float32, float64 and int32 accumulators, one or two axes, every kernel, stride and dilation.

    Args:
        team: the threads.
        buffers: scratch memory.
    """

    name = "direct"

    def __init__(self, team: Team, buffers: Buffers) -> None:
        self.team, self.buffers = team, buffers

    def supports(self, problem: Problem) -> bool:
        """One or two axes."""
        return problem.types.accumulate in NATIVE and bool(phases(zero_padded(problem.geometry)))

    def prepare(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:
        """Pack the filters for the lanes: a copy, cheap beside the arithmetic unless the map is tiny."""
        g = zero_padded(problem.geometry)
        activated = g.activation is None or g.activation.kind == "relu"
        kernel = _Direct(self, problem, weight, bias_of(bias, g, problem.types.accumulate), resident=resident)
        return Samples(problem, kernel, activated=activated)


class _Direct:
    algorithm = "direct"

    def __init__(self, direct: Direct, problem: Problem, weight: Array, bias: Array, *, resident: bool) -> None:
        g, dtype = zero_padded(problem.geometry), bias.dtype
        relu = int(g.activation is not None and g.activation.kind == "relu")
        output = g.output if g.rank == 2 else (1, *g.output)
        found, scratch, stages = phases(g), Scratch(), []
        spread = Spread([p.plane for p in found])
        wide = X
        if not spread.is_identity:
            wide = scratch.room(spread.size, dtype)
            stages.append(Stage(layout.spread(dtype), (X, wide, *spread.extents), spread.rows))
        V = vectors(found[0].plane, simd.lanes(dtype.itemsize))
        size = V * simd.lanes(dtype.itemsize)
        self.room = packed(weight, g, size, dtype, direct.team, direct.buffers, resident=resident)
        w = self.room.array
        padded = np.zeros((g.groups, -(-found[0].plane.filters // size) * size), dtype)
        padded[:, : found[0].plane.filters] = bias.reshape(g.groups, -1)
        # a one-shot kernel has little to gain at the edges of a map unless they are most of it
        worth_it = resident or any(max(p.plane.dilation) > 1 for p in found)
        # an infinite weight times a zero of the padding is a NaN
        leave_out = worth_it and bool(np.isfinite(np.dot(w, w)))
        tap = 0
        for phase in found:
            part = Y
            if phase.step != (1, 1):
                part = scratch.room(g.out_channels * math.prod(phase.plane.output), dtype)
            where = (tap, math.prod(g.kernel))
            stages.append(_stage(phase.plane, spread, (wide, w, padded, part), V, where, relu, leave_out=leave_out))
            if phase.step != (1, 1):
                stages.append(weaving(phase, part, output, g.out_channels, dtype))
            tap += math.prod(phase.plane.kernel)
        self.program = Program(direct.team, direct.buffers, stages, scratch)

    def sample(self, x: Array, y: Array) -> None:
        self.program.run(x, y)


def _stage(
    plane: Plane,
    spread: "Spread",
    arrays: tuple[Place, Array, Array, Place],
    V: int,
    where: tuple[int, int],
    relu: int,
    *,
    leave_out: bool,
) -> Stage:
    """One phase: from the spread input, packed weights and bias, into y.

    Args:
        plane: the phase.
        spread: how its input lies.
        arrays: spread input, packed weights, bias filled up to whole blocks, y.
        V: vectors of filters of a block.
        where: its first tap among the packed ones, and how many those are.
        relu: not 0 to clamp.
        leave_out: as in `tap_table`.
    """
    x, w, bias, y = arrays
    lanes = simd.lanes(w.dtype.itemsize)
    _, R, P = shape = block(plane, lanes)
    size = V * lanes
    count = -(-plane.filters // size)
    grid = (spread.low, spread.row, spread.step, spread.columns)
    taps, starts = tap_table(plane, grid, (size, *shape[1:]), where[0], leave_out=leave_out)
    channel = spread.step * spread.columns
    distances = (channel, plane.channels * channel, spread.row * plane.stride[0])
    sizes = (plane.channels, plane.filters, count, where[1], *plane.output, *distances)
    words = (x, w, bias, y, taps, starts, len(starts), *sizes, relu)
    return Stage(filters.kernel(w.dtype, V, R, P), words, plane.groups * count * -(-plane.output[0] // R))


class Spread:
    """The padded input (rows, C, phases of the stride, columns) that serves all `planes`, which differ in padding.

    Args:
        planes: of one input, stride and channel count.
    """

    def __init__(self, planes: list[Plane]) -> None:
        one = planes[0]
        self.channels, self.step = one.groups * one.channels, one.stride[1]
        self.low = (max(p.low[0] for p in planes), max(p.low[1] for p in planes))
        self.rows = max(
            (p.output[0] + ROWS - 1) * p.stride[0] + (p.kernel[0] - 1) * p.dilation[0] + self.low[0] - p.low[0]
            for p in planes
        )
        columns = max(
            (p.output[1] - 1) * p.stride[1] + (p.kernel[1] - 1) * p.dilation[1] + 1 + self.low[1] - p.low[1]
            for p in planes
        )
        self.columns = -(-columns // self.step)
        self.row = self.channels * self.step * self.columns
        self.size = self.rows * self.row
        # pointwise on one row: x is laid out as it is wanted
        alone = len(planes) == 1 and one.kernel == one.stride == (1, 1) and self.low == (0, 0)
        self.is_identity = alone and one.input == one.output and one.output[0] == 1
        self.extents = (self.channels, *one.input, *self.low, self.step, self.columns)


TABLE = 20_000
"""Most entries of a table of taps per block: on larger maps the edges, where taps see only padding, are few."""
ROWS = 4
"""Most rows of a block; the spread input has rows for the whole last block."""


@functools.lru_cache(maxsize=256)
def tap_table(
    plane: Plane, grid: tuple[tuple[int, int], int, int, int], block: Block, first: int = 0, *, leave_out: bool
) -> tuple[Array, Array]:
    """The taps of each block of outputs, as `filters.kernel` wants them: pairs of offsets, and where a block's begin.

    Args:
        plane: the convolution.
        grid: of the spread input its low padding, elements of a row, step and columns.
        block: filters, rows and pixels.
        first: the plane's first tap among the packed ones.
        leave_out: leave out the taps that see nothing but padding, block by block.
    """
    size, R, P = block
    (low, left), row, step, columns = grid
    down = low - plane.low[0] + np.arange(plane.kernel[0]) * plane.dilation[0]
    across = left - plane.low[1] + np.arange(plane.kernel[1]) * plane.dilation[1]
    into = (down[:, None] * row + across % step * columns + across // step).reshape(-1)
    pairs = np.stack([into, (first + np.arange(into.size)) * plane.channels * size], axis=1).astype(np.int64)
    met = np.ones((1, len(pairs)), bool)
    if leave_out and -(-plane.output[0] // R) * -(-plane.output[1] // P) * len(pairs) <= TABLE:
        seen = met_taps(plane, R, P)
        met = met if seen.all() else seen
    taps = np.concatenate([pairs[taps] for taps in met]).reshape(-1)
    ends = np.cumsum(met.sum(axis=1))
    starts = np.stack([ends - met.sum(axis=1), ends], axis=1).reshape(-1)
    return taps, starts


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
        return V, 1, even(width, most)
    return V, even(height, min(ROWS, max(1, simd.ACCUMULATORS // V // width))), width


def vectors(plane: Plane, lanes: int) -> int:
    """Vectors of filters of a block."""
    count = -(-plane.filters // lanes)
    return count if count in (1, 3) else 2


def met_taps(plane: Plane, R: int, P: int) -> Array:
    """Which taps meet the input at all, (blocks, K·L): at large dilations many see nothing but padding.

    Example:
        >>> met_taps(Plane(1, 8, 8, (1, 4), (1, 3), (1, 1), (1, 4), (0, 4), (1, 4)), 1, 4).tolist()
        [[False, True, False]]
    """
    axes = []
    for axis, (part, overlapping) in enumerate(((R, False), (P, True))):
        outputs, taps = plane.output[axis], np.arange(plane.kernel[axis]) * plane.dilation[axis]
        first = np.arange(0, outputs, part)
        if overlapping:
            first = np.minimum(first, outputs - part)
        last = np.minimum(first + part, outputs) - 1
        low, stride = plane.low[axis], plane.stride[axis]
        seen = (last[:, None] * stride + taps - low >= 0) & (first[:, None] * stride + taps - low < plane.input[axis])
        axes.append(seen)
    rows, columns = axes
    met = rows[:, None, :, None] & columns[None, :, None, :]  # (row blocks, pixel blocks, K, L)
    return met.reshape(len(rows) * len(columns), -1)


def even(extent: int, most: int) -> int:
    """The part, at most `most`, that cuts `extent` into the fewest and then most even parts."""
    return -(-extent // -(-extent // most))
