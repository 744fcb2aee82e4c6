"""Kernel argument structs: what kernels take by value, as NumPy structs of the same layout.

Everything here follows from a geometry, is computed on the host with NumPy alone, and is tested without a device.

Axes are depth, height, width; a convolution of lower rank has leading extents of 1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array

GATHER = np.dtype(
    [
        ("x_batch", np.int64),
        ("y_batch", np.int64),
        ("rows", np.int64),
        ("batch", np.int32),
        ("groups", np.int32),
        ("c", np.int32),
        ("m", np.int32),
        ("in", np.int32, 3),
        ("out", np.int32, 3),
        ("in_step", np.int32, 3),
        ("out_step", np.int32, 3),
        ("padding_mode", np.int32),
        ("phases", np.int32),
        ("m_pitch", np.int32),
    ],
    align=True,
)
"""`Gather` of kernels/gather.cuh."""

EPILOGUE = np.dtype(
    [("bias", np.uint64), ("slope", np.uint64), ("slope_step", np.int32), ("activation", np.int32)], align=True
)
"""`Epilogue` of kernels/epilogue.cuh: device addresses, 0 for none."""

TAP = np.dtype([("c", np.int32), ("z", np.int32), ("y", np.int32), ("x", np.int32)])
"""`Tap` of kernels/gather.cuh."""

CROP = np.dtype(
    [
        ("y_batch", np.int64),
        ("channels", np.int32),
        ("from", np.int32, 3),
        ("out", np.int32, 3),
        ("step", np.int32, 3),
        ("shift", np.int32, 3),
    ],
    align=True,
)
"""`Crop` of kernels/finish.cu."""

PADDING_MODES = {"zeros": 0, "reflect": 1, "replicate": 2, "circular": 3}
ACTIVATIONS = {
    None: 0,
    "relu": 1,
    "leaky_relu": 2,
    "prelu": 2,  # a leaky ReLU whose slope is learned
    "sigmoid": 3,
    "tanh": 4,
    "silu": 5,
    "gelu": 6,
    "gelu_tanh": 7,
}


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        shape: template arguments of the kernel.
        blocks, threads, shared: of the grid, of a block, and bytes of a block's dynamic shared memory.
        argument: the struct that describes the launch to the kernel.
    """

    shape: tuple[int, ...]
    blocks: int
    threads: int
    shared: int
    argument: Array


@dataclass(frozen=True)
class ReductionOrder:
    """The reduction of every output, in the order the kernels run through it.

    A plain convolution has one phase; a transposed one has one for each remainder of an output's index by
    the stride (kernels/gather.cuh says why).

    Attributes:
        taps: (rows,) structs of `TAP`; row = (phase, channel of the group, kernel tap).
        starts: (phases + 1,) int32, the first row of each phase.
        kernel_index: (rows,) which of the ΠK taps of the flattened (and unflipped) kernel each row is.
    """

    taps: Array
    starts: Array
    kernel_index: Array

    @property
    def phases(self) -> int:
        """Number of phases."""
        return len(self.starts) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays, on the host."""
        return self.taps.nbytes + self.starts.nbytes + self.kernel_index.nbytes


def three(values: tuple[Any, ...], fill: Any) -> tuple[Any, Any, Any]:
    """`values` for depth, height and width.

    Example:
        >>> three((5, 7), 1)
        (1, 5, 7)
    """
    a, b, c = (fill,) * (3 - len(values)) + tuple(values)
    return a, b, c


def phases_of(g: Geometry) -> ReductionOrder:
    """The taps of `g` by phase.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> g = resolve(ConvSpec(stride=2, transposed=True), (1, 1, 4), (1, 1, 3))
        >>> phases_of(g).starts  # even outputs meet taps 0 and 2, odd ones tap 1
        array([0, 2, 3], dtype=int32)
    """
    channels = g.in_channels // g.groups
    index: Array = np.zeros((), np.int64)
    phase: Array = np.zeros((), np.int64)
    offsets: list[Array] = []
    count = 1
    for k, axis in enumerate(_axis_taps(g)):
        index = index[..., None] * g.kernel[k] + axis.taps
        phase = np.where((phase[..., None] < 0) | (axis.phase < 0), -1, phase[..., None] * axis.phases + axis.phase)
        count *= axis.phases
        offsets = [o[..., None] for o in offsets] + [axis.offset]
    phase = phase.reshape(-1)
    met = np.argsort(phase, kind="stable")[np.count_nonzero(phase < 0) :]  # by phase, in the order of the kernel
    phase, sizes = phase[met], np.bincount(phase[phase >= 0], minlength=count)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    # each phase has its taps once for every channel
    rows = channels * starts[phase] + (np.arange(len(met)) - starts[phase])
    rows = rows + np.arange(channels)[:, None] * sizes[phase]
    taps, kernel_index = np.empty(rows.size, TAP), np.empty(rows.size, np.int64)
    taps["c"][rows] = np.arange(channels)[:, None]
    for name, offset in zip("zyx", three(tuple(offsets), np.zeros(1, np.int64)), strict=True):
        taps[name][rows] = np.broadcast_to(offset, g.kernel).reshape(-1)[met]
    kernel_index[rows] = index.reshape(-1)[met]
    return ReductionOrder(taps, (channels * starts).astype(np.int32), kernel_index)


def is_near(g: Geometry) -> bool:
    """Whether the kernels may use `Locator<true>` of kernels/gather.cuh: zeros around, all offsets in 32 bits.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> is_near(resolve(ConvSpec(padding=1), (1, 3, 4000, 4000), (8, 3, 3, 3)))
        True
        >>> is_near(resolve(ConvSpec(), (1, 3, 40_000, 40_000), (8, 3, 3, 3)))
        False
    """
    steps = zip(g.stride, g.output, strict=True)
    positions = [-(-o // s) if g.transposed else o * s for s, o in steps]
    reach = (
        max(i, p) + e + abs(low)
        for i, p, e, (low, _) in zip(g.input, positions, g.effective_kernel, g.padding, strict=True)
    )
    return g.padding_mode == "zeros" and (g.in_channels // g.groups + 2) * math.prod(reach) < 2**31


def device_taps(g: Geometry, taps: Array) -> Array:
    """The taps of `phases_of(g)` as the kernels take them: `c` is the offset of a tap from its cell where `is_near`."""
    if not is_near(g):
        return taps
    near, (depth, height, width) = taps.copy(), three(g.input, 1)
    near["c"] = ((taps["c"] * depth + taps["z"]) * height + taps["y"]) * width + taps["x"]
    return near


class _AxisTaps(NamedTuple):
    """The taps of one axis: their index in the kernel, their phase (-1 if they reach no output), their offset."""

    taps: Array
    phase: Array
    offset: Array
    phases: int


def _axis_taps(g: Geometry) -> Iterator[_AxisTaps]:
    for kernel, s, d, (low, _), out in zip(g.kernel, g.stride, g.dilation, g.padding, g.output, strict=True):
        taps = np.arange(kernel)
        index, at = (taps[::-1] if g.flip_kernel else taps), taps * d
        if not g.transposed:
            yield _AxisTaps(index, np.zeros_like(at), at - low, 1)
            continue
        # a phase beyond the last output has none: a stride wider than the output costs nothing
        phase, phases = (at - low) % s, min(s, out)
        yield _AxisTaps(index, np.where(phase < phases, phase, -1), (phase + low - at) // s, phases)


def gather_of(g: Geometry, order: ReductionOrder, batch: int, groups: int, m_pitch: int) -> Array:
    """The `GATHER` struct for `groups` groups of `batch` samples, in arrays that hold nothing else."""
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    struct = np.zeros((), dtype=GATHER)
    struct["in"], struct["out"] = three(g.input, 1), three(g.output, 1)
    struct["x_batch"] = groups * channels * math.prod(g.input)
    struct["y_batch"] = groups * filters * math.prod(g.output)
    struct["rows"] = len(order.taps)
    struct["batch"], struct["groups"], struct["c"], struct["m"] = batch, groups, channels, filters
    struct["in_step"] = three((1,) * g.rank if g.transposed else g.stride, 1)
    struct["out_step"] = three(g.stride if g.transposed else (1,) * g.rank, 1)
    struct["padding_mode"] = PADDING_MODES[g.padding_mode]
    struct["phases"] = order.phases
    struct["m_pitch"] = m_pitch
    return struct


def pack_filters(weight: Array, g: Geometry, order: ReductionOrder, vector: int) -> Array:
    """The filters as (g, rows, m_pitch), filters last: neighbouring threads load neighbouring filters.

    Args:
        weight: (M, C/g, *kernel), transposed (C, M/g, *kernel).
        g: the geometry.
        order: `phases_of(g)`.
        vector: filters per 16-byte load; m_pitch is M/g rounded up to it.

    Returns:
        a contiguous array of the weight's dtype, zero beyond M/g.
    """
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    if g.transposed:
        by_tap = weight.reshape(g.groups, channels, filters, -1).transpose(0, 1, 3, 2)
    else:
        by_tap = weight.reshape(g.groups, filters, channels, -1).transpose(0, 2, 3, 1)
    packed = np.zeros((g.groups, len(order.taps), -(-filters // vector) * vector), dtype=weight.dtype)
    packed[:, :, :filters] = by_tap[:, order.taps["c"], order.kernel_index]  # (g, rows, M/g)
    return packed
