"""Direct convolution with the lanes along a row: groups of few channels, depthwise above all (kernels/rows.py)."""

import itertools
import math
from dataclasses import replace

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.caches import MIB, arrays_bytes, bounded
from groupconv_worker.contract import Array, Prepared, Problem
from groupconv_worker.cpu.algorithms.plane import Phase, Plane, bias_of, filters_of, phase_filters, phases, zero_padded
from groupconv_worker.cpu.algorithms.samples import NATIVE, Samples
from groupconv_worker.cpu.kernels import layout, rows, simd
from groupconv_worker.cpu.program import Program, address
from groupconv_worker.cpu.stages import BIAS, WEIGHT, Address, KernelStage, Scratch, X, Y
from groupconv_worker.cpu.threads import Team
from groupconv_worker.cpu.workspace import BufferPool
from groupconv_worker.taps import padding_dominates

Block = tuple[int, int, int]
"""Filters, rows and vectors of a block."""

MAX_TAPS = 64
"""Kernel taps that are unrolled; more make code that no instruction cache holds."""
MAX_STEP = 4
"""Largest stride and dilation: each is compiled apart, so they are kept few."""
THREAD_MACS = 200_000
"""Multiply-adds below which a second thread costs more than it does."""


class Grouped:
    """Takes float32, float64 and int32 accumulators, one or two axes, small kernels.

    Args:
        team: the threads.
        buffers: scratch memory.
        block: the block's extents; by default `blocks` chooses.
    """

    def __init__(self, team: Team, buffers: BufferPool, block: Block | None = None) -> None:
        self.team, self.buffers, self.block = team, buffers, block
        self.program = bounded(32 * MIB, arrays_bytes)(self._program)
        self.name = "grouped" if block is None else "grouped {}x{}x{}".format(*block)

    def supports(self, problem: Problem) -> bool:
        """Few taps, a small stride and dilation, one or two axes."""
        phases_of_kernel = phases(zero_padded(problem.geometry))
        return (
            bool(phases_of_kernel)
            and not padding_dominates(problem.geometry)
            and problem.types.accumulate in NATIVE
            and all(_supported(p.plane) for p in phases_of_kernel)
        )

    def prepare(self, problem: Problem, weight: Array, bias: Array | None, *, resident: bool) -> Prepared:
        """The kernel reads the weights as they are; a resident one keeps a copy."""
        g = zero_padded(problem.geometry)
        w, order = np.ascontiguousarray(weight.astype(problem.types.accumulate, copy=False)), _order(g)
        if order is not None:
            w = w.reshape(-1).take(order)
        elif resident and np.shares_memory(w, weight):
            w = w.copy()
        activated = g.activation is None or g.activation.kind == "relu"
        kernel = _Grouped(self, g, w, bias_of(bias, g, w.dtype))
        return Samples(problem, kernel, activated=activated)

    def _program(self, g: Geometry, dtype: np.dtype) -> Program:
        """The program of `g`; it takes weights and bias when it runs."""
        relu = int(g.activation is not None and g.activation.kind == "relu")
        output = g.output if g.rank == 2 else (1, *g.output)
        scratch, stages, macs, weights = Scratch(), [], 0, 0
        for phase in phases(g):
            compiled = PlaneKernel(fold(phase.plane), dtype, self.block)
            w = Address(WEIGHT.base, weights * dtype.itemsize)
            macs += compiled.macs
            weights += g.out_channels * phase.plane.channels * math.prod(phase.plane.kernel)
            if phase.step == (1, 1):
                stages.append(compiled.stage(X, w, BIAS, Y, relu))
                continue
            part = scratch.room(g.out_channels * math.prod(phase.plane.output), dtype)
            stages.append(compiled.stage(X, w, BIAS, part, relu))
            stages.append(weaving(phase, part, output, g.out_channels, dtype))
        return Program(self.team, self.buffers, stages, scratch, threads=1 + macs // THREAD_MACS)


class _Grouped:
    def __init__(self, grouped: Grouped, g: Geometry, w: Array, bias: Array) -> None:
        self.algorithm, self.kept, self.weights = grouped.name, (w, bias), (address(w), address(bias))
        self.program = grouped.program(g if g.batch == 1 else g.with_batch(1), w.dtype)

    @property
    def nbytes(self) -> int:
        return self.program.nbytes + sum(array.nbytes for array in self.kept)

    def run(self, x: Array, y: Array) -> None:
        self.program.run(x, y, self.weights)


@bounded(16 * MIB, arrays_bytes)
def _order(g: Geometry) -> Array | None:
    """The position in the kernel of each weight in order (phases, M, C/g, taps); None if the order is the same."""
    indices = np.arange(math.prod(g.weight_shape)).reshape(g.weight_shape)
    filters = filters_of(indices, g, indices.dtype)
    order = np.concatenate([phase_filters(filters, phase).reshape(-1) for phase in phases(g)])
    return None if np.array_equal(order, indices.reshape(-1)) else order


class PlaneKernel:
    """The kernel for one plane."""

    def __init__(self, plane: Plane, dtype: np.dtype, block: Block | None = None) -> None:
        lanes = simd.lanes(dtype.itemsize)
        F, R, V = block or blocks(plane, lanes)[0]
        V = min(V, -(-plane.output[1] // lanes))  # a phase may be narrower than the one the block was chosen for
        self.run = rows.kernel(dtype, F, R, V, *plane.kernel, *plane.stride, *plane.dilation, _masked(plane, lanes, V))
        self.geometry = (plane.channels, *plane.input, *plane.output, plane.filters, *plane.low)
        self.tasks = plane.groups * (plane.filters // F) * -(-plane.output[0] // R)
        self.macs, self.zeros = plane.macs, np.zeros(plane.input[1], dtype)

    def stage(self, x: Address, w: Array | Address, bias: Array | Address, y: Address, relu: int) -> KernelStage:
        """The work, from `x` into `y`."""
        return KernelStage(self.run, (x, w, bias, y, self.zeros, *self.geometry, relu), self.tasks)


FOLD = (64, 48, 32, 16)
"""Columns of a folded row, whole vectors all."""


def fold(plane: Plane) -> Plane:
    """A long row that no tap shifts (pointwise) folded into short ones, so that all filters of a row find it cached.

    Example:
        >>> fold(Plane(1, 8, 8, (1, 3136), (1, 1), (1, 1), (1, 1), (0, 0), (1, 3136))).output
        (49, 64)
    """
    cells = plane.output[1]
    if plane.kernel != (1, 1) or plane.input != plane.output or plane.output[0] > 1:
        return plane
    columns = next((c for c in FOLD if cells % c == 0), cells)
    return replace(plane, input=(cells // columns, columns), output=(cells // columns, columns))


def weaving(phase: Phase, part: Address, output: tuple[int, ...], channels: int, dtype: np.dtype) -> KernelStage:
    """Put a phase, computed at `part`, into its cells of y (channels, *output)."""
    where = (phase.start[0], phase.step[0], phase.start[1], phase.step[1])
    return KernelStage(layout.weave(dtype), (part, Y, *phase.plane.output, *output, *where), channels)


def blocks(plane: Plane, lanes: int) -> list[Block]:
    """Block shapes worth trying, the best guess first (fitted to measurements: docs/performance.md).

    Example:
        >>> blocks(Plane(8, 4, 4, (56, 56), (3, 3), (1, 1), (1, 1), (1, 1), (56, 56)), 16)[0][0]
        4
    """
    vectors, height = -(-plane.output[1] // lanes), plane.output[0]
    wanted = _of_16_registers(plane, vectors) if simd.WIDTH == 32 else _of_32_registers(plane, vectors)
    fitting = [
        (f, min(r, height), min(v, vectors))
        for f, r, v in wanted
        if plane.filters % f == 0 and f * min(r, height) * min(v, vectors) <= simd.ACCUMULATORS + 2
    ]
    return list(dict.fromkeys(fitting)) or [(1, 1, 1)]


def _of_32_registers(plane: Plane, vectors: int) -> list[Block]:
    """Candidates with the 32 registers of AVX-512 and NEON."""
    taps = plane.kernel[0] * plane.kernel[1]
    if plane.kernel == (1, 1):
        return [(8, 1, 2), (4, 1, 4), (5, 1, 4), (3, 1, 4), (1, 1, 4)]
    if plane.filters == 1 or plane.channels == 1:
        widths = list(dict.fromkeys(v for v in (vectors, 4, 2, 1) if v <= min(vectors, 7)))
        return [(1, r, v) for v in widths[:2] for r in ((14, 7, 4) if v == 1 else (4, 8) if taps > 25 else (4, 2))]
    filters = next(f for f in (4, 3, 2, 1) if plane.filters % f == 0)
    return [(filters, 2, 2), (filters, 1, 4), (filters, 4, 1), (filters, 2, 1), (8, 1, 2), (8, 2, 1)]


def _of_16_registers(plane: Plane, vectors: int) -> list[Block]:
    """Candidates with the 16 registers of AVX2, of which masks take some: 10 accumulators, 14 without masks inside."""
    if plane.kernel == (1, 1):
        return [(4, 1, 2), (5, 1, 2), (3, 1, 3), (1, 1, 4)]
    if plane.filters == 1 or plane.channels == 1:
        wide = min((5, 4, 3), key=lambda v: -(-vectors // v) * v)
        if vectors <= 2:
            return [(1, 14, 1), (1, 7, 1), (1, 5, 2)]
        return [(1, 6, 2), (1, 2, wide)] if plane.stride[1] > 1 else [(1, 2, wide), (1, 6, 2), (1, 1, 7)]
    return [(4, 1, 2), (2, 1, 4), (2, 2, 2), (3, 1, 2), (1, 2, 4)]


def _supported(plane: Plane) -> bool:
    small = max(*plane.stride, *plane.dilation) <= MAX_STEP
    return small and plane.kernel[0] * plane.kernel[1] <= MAX_TAPS and plane.input[1] < 2**30


def _masked(plane: Plane, lanes: int, V: int) -> int:
    """Bit v·L + l for each vector v of a block that at tap column l may reach outside the input row; -1 for all."""
    columns, stride, dilation = plane.kernel[1], plane.stride[1], plane.dilation[1]
    if V * columns > MAX_TAPS - 2:
        return -1
    last = max(plane.output[1] - V * lanes, 0) * stride  # where the last block of a row begins
    bits = 0
    for v, k in itertools.product(range(V), range(columns)):
        start = v * lanes * stride + k * dilation - plane.low[1]
        if start < 0 or last + start + lanes * stride > plane.input[1]:
            bits |= 1 << (v * columns + k)
    return bits
