"""Any convolution of one sample on channel-blocked tensors, lowered to stages of a program."""

from dataclasses import replace

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array
from groupconv_worker.cpu.algorithms.plane import Plane, filters_of, phase_filters, phases
from groupconv_worker.cpu.blocked import winograd
from groupconv_worker.cpu.blocked.epilogue import Epilogue
from groupconv_worker.cpu.blocked.kernels import dense, lanewise
from groupconv_worker.cpu.blocked.kernels.blocks import LANES, VECTORS
from groupconv_worker.cpu.blocked.layout import Blocked, Plain
from groupconv_worker.cpu.blocked.lowered import (
    RESIDUAL,
    SCRATCH,
    Grid,
    Lowered,
    Pass,
    X,
    Y,
    beyond,
    check,
    check_margin,
    padded_bias,
)
from groupconv_worker.cpu.blocked.runs import Runs, blocked_runs, filter_blocks, met_groups, plain_runs
from groupconv_worker.cpu.blocked.steps import depthwise_steps, group_steps, step_count
from groupconv_worker.cpu.kernels.layout import spread
from groupconv_worker.cpu.stages import Address, KernelStage

ROWS = (3, 5)
"""Kernel widths for which a depthwise kernel loads each pixel once for all taps of a row."""
MOVE = 1.5
"""What a step costs that moves lanes, beside one that broadcasts a pixel."""


def convolution(
    g: Geometry,
    x: Blocked | Plain,
    y: Blocked,
    weight: Array,
    bias: Array | None = None,
    epilogue: Epilogue = Epilogue(),  # noqa: B008 - it is frozen
    *,
    use_winograd: bool | None = None,
) -> Lowered:
    """Lower a convolution of one sample.

    Args:
        g: the convolution; its batch and its activation are not read.
        x: how the input lies. The margins of a blocked one are zeros, as wide as what taps read beyond the map. A plain
            one is for few channels, as a network's first layer has.
        y: how the output lies; its margins are not written.
        weight: of `g.weight_shape`, float32.
        bias: (M,), float32.
        epilogue: the residual and the activation.
        use_winograd: whether a 3×3 kernel at stride 1 is computed by Winograd's algorithm, where it can be; by default
            where that is expected to be faster. Its filters take 4 times the memory, and its error is larger.

    Raises:
        ValueError: a layout is not that of the geometry, a margin is too narrow, or there is no lowering.
    """
    check(g, x, y, epilogue)
    all_phases = phases(g)
    if not all_phases or g.rank > 2 or g.padding_mode != "zeros":
        raise ValueError(f"geometry: expected one or two axes, padded with zeros, with a tap for each output, got {g}")
    filters = filters_of(weight, g, np.dtype(np.float32))
    start, out = padded_bias(bias, g.out_channels, y.lanes), Grid.of(y, Y)
    residual = None if epilogue.residual is None else Grid.of(epilogue.residual, RESIDUAL)
    stages, scratch = [], 0
    for phase in all_phases:
        plane = _on_rows(phase.plane, g)
        if isinstance(x, Plain):
            copies, grid = _padded(plane, x)
            stages += copies
            scratch = max(scratch, grid.size if grid.base == SCRATCH else 0)
        else:
            check_margin(plane, x)
            grid = Grid.of(x, X)
        one = Pass(replace(phase, plane=plane), grid, out, residual)
        if winograd.pays(one) if use_winograd is None else use_winograd and winograd.takes(one):
            winograd_stages, size = winograd.stages(one, phase_filters(filters, phase), start, epilogue)
            stages += winograd_stages
            scratch = max(scratch, size)
        else:
            stages.append(_stage(one, phase_filters(filters, phase), start, epilogue))
    return Lowered(tuple(stages), scratch)


def _on_rows(plane: Plane, g: Geometry) -> Plane:
    """The plane with the rows of the map: a pointwise convolution has its cells in one row."""
    if not g.is_pointwise:
        return plane
    rows, columns = (1, *g.output)[-2:]
    return replace(plane, input=(rows, columns), output=(rows, columns))


def _padded(plane: Plane, x: Plain) -> tuple[list[KernelStage], Grid]:
    """A plain input as its taps need it: itself, or a copy (rows, channels, columns) with zeros around it."""
    reach = [beyond(plane, axis) for axis in (0, 1)]
    if max(plane.low) <= 0 and not any(map(any, reach)):
        return [], Grid.of(x, X)
    rows, columns = (low + extent + high for (low, high), extent in zip(reach, (x.rows, x.columns), strict=True))
    (low, _), (left, _) = reach
    size = -(-rows * x.channels * columns * 4 // 64) * 64
    words = (Address(X), Address(SCRATCH), x.channels, x.rows, x.columns, low, left, columns)
    row = x.channels * columns
    stage = KernelStage(spread(np.dtype(np.float32)), words, rows)
    return [stage], Grid(SCRATCH, low * row + left, columns, row, 1, size)


def _stage(one: Pass, filters: Array, start: Array, epilogue: Epilogue) -> KernelStage:
    """The stage of one pass, by the kernel that takes fewer steps."""
    plane, lanes = one.phase.plane, LANES
    tables: tuple[Array | int, ...]
    vectors = -(-len(filters) // lanes)
    count = plane.groups * plane.filters
    moves = one.x.pixel > 1 and MOVE * step_count(count, plane.channels, plane.groups, lanes) < _dense_steps(plane)
    if one.x.pixel > 1 and plane.channels == plane.filters == 1:
        by_rows = plane.kernel[1] in ROWS and plane.stride[1] in (1, 2) and plane.dilation[1] == 1
        steps = depthwise_steps(filters, one.tap_rows() if by_rows else one.taps(), lanes)
        function = lanewise.kernel(0, *((plane.kernel[1], plane.stride[1]) if by_rows else (1, 0)))
        tables = (*steps[:3], one.x.plane)
        weights, tasks = steps.weights, vectors
    elif moves:
        steps = group_steps(filters, plane.groups, one.taps(), lanes, one.x.plane)
        function, tables = lanewise.kernel(1, 1, 0), (*steps[:3], 0)
        weights, tasks = steps.weights, vectors
    else:
        runs = _runs(one, filters)
        function, tables = dense.kernel(), (*runs[:3], lanes, runs.groups)
        weights, vectors = runs.weights, runs.vectors
        tasks = runs.groups * -(-vectors // VECTORS)
    bands = one.bands(tasks)
    x, y, residual = one.addresses()
    extents = (vectors, *one.extents, bands, epilogue.code)
    words = (x, weights, start, y, residual, epilogue.parameters, *tables, *extents, *one.distances())
    return KernelStage(function, words, tasks * bands)


def _dense_steps(plane: Plane) -> int:
    """Steps of each tap over all vectors of outputs, as `blocked_runs` makes them."""
    M = plane.groups * plane.filters
    blocks = filter_blocks(M, plane.groups, LANES)
    return sum(len(met_groups(b, plane.filters)) * plane.channels * -(-len(b) // LANES) for b in blocks)


def _runs(one: Pass, filters: Array) -> Runs:
    plane = one.phase.plane
    if one.x.pixel > 1:
        return blocked_runs(filters, plane.groups, one.taps(), LANES, one.x.plane)
    if plane.groups > 1:
        raise ValueError(f"x: expected a blocked layout for {plane.groups} groups, got a plain one")
    return plain_runs(filters, plane.dilation[1], one.tap_rows(), one.x.plane, LANES)
