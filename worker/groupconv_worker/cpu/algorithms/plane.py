"""Every convolution of one or two axes as ordinary group-wise correlations on planes.

An ordinary convolution is one of them. A transposed one is s·t of them, one for each phase of its output (the
sub-pixel decomposition): output cells f, f + s, f + 2s, … of an axis only ever meet the taps k with
f + p - k·d divisible by s, and meet them as a convolution of stride 1 does, so no zero is ever multiplied.

    y[f + s·q] = Σ_k w[k] · x[q + (f + p - k·d) / s]        over those k

Source: Shi et al., "Is the deconvolution layer the same as a convolutional layer?" (2016).
"""

import functools
import itertools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array

Two = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Plane:
    """y[m, i, j] = Σ w[m, c, k, l] · x[c, i·s + k·d - low, j·s' + l·d' - low'], zeros outside x.

    Attributes:
        groups, channels, filters: g, C/g, M/g.
        input, kernel, stride, dilation, output: per axis (rows, columns); one axis is a single row.
        low: padding before the first cell per axis; may be negative.
    """

    groups: int
    channels: int
    filters: int
    input: Two
    kernel: Two
    stride: Two
    dilation: Two
    low: Two
    output: Two

    @property
    def macs(self) -> int:
        """Multiply-adds, those with padding among them."""
        per_output = self.channels * self.kernel[0] * self.kernel[1]
        return self.groups * self.filters * self.output[0] * self.output[1] * per_output


@dataclass(frozen=True, slots=True)
class Phase:
    """One correlation, the kernel taps it uses and the output cells it makes.

    Attributes:
        plane: the correlation.
        taps: the kernel's taps it uses per axis, in its order.
        start, step: its output cells are start, start + step, … per axis.
    """

    plane: Plane
    taps: tuple[range, range]
    start: Two
    step: Two


MOST_PHASES = 256
"""Phases of a convolution that is run phase by phase. Each is a stage of its own, so with more of them the stages cost
more than the arithmetic."""


@functools.lru_cache(512)
def phases(g: Geometry) -> tuple[Phase, ...]:
    """The correlations that make up `g`.

    The cost is that of the phases there are, whatever the stride, the dilation and the kernel.

    Returns:
        At most `MOST_PHASES`. None for three axes (unless pointwise), where no tap reaches some output cells, or where
        there are more.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> up = resolve(ConvSpec(transposed=True, stride=2, padding=1), (1, 8, 4, 4), (8, 8, 4, 4))
        >>> [(list(p.taps[1]), p.plane.low, p.start) for p in phases(up)][:2]
        [([3, 1], (1, 1), (0, 0)), ([2, 0], (1, 0), (0, 1))]
    """
    if g.is_pointwise and not g.transposed:  # space is left alone, so it is one row, whatever its rank
        cells = (1, math.prod(g.input))
        one = (1, 1)
        channels = g.in_channels // g.groups, g.out_channels // g.groups
        return (
            Phase(Plane(g.groups, *channels, cells, one, one, one, (0, 0), cells), (range(1), range(1)), (0, 0), one),
        )
    if g.rank > 2:
        return ()
    if g.transposed and math.prod(map(min, g.stride, g.output)) > MOST_PHASES:
        return ()
    axes = [_axis(g, axis) for axis in range(g.rank)]
    rows, columns = axes if g.rank == 2 else ([_SINGLE], axes[0])
    extents = g.input if g.rank == 2 else (1, *g.input)
    all_phases = []
    for row, column in itertools.product(rows, columns):
        plane = Plane(
            groups=g.groups,
            channels=g.in_channels // g.groups,
            filters=g.out_channels // g.groups,
            input=(extents[0], extents[1]),
            kernel=(len(row.taps), len(column.taps)),
            stride=(row.stride, column.stride),
            dilation=(row.dilation, column.dilation),
            low=(row.low, column.low),
            output=(row.output, column.output),
        )
        all_phases.append(Phase(plane, (row.taps, column.taps), (row.start, column.start), (row.step, column.step)))
    return tuple(all_phases)


class _Axis(NamedTuple):
    """One axis of one phase; names as in Plane and Phase."""

    taps: range = range(1)
    stride: int = 1
    low: int = 0
    dilation: int = 1
    output: int = 1
    start: int = 0
    step: int = 1


_SINGLE = _Axis()
"""The axis of rows that a 1-D convolution lacks."""


def _axis(g: Geometry, axis: int) -> list[_Axis]:
    """The phases of one axis; none if no tap reaches one of them."""
    kernel, s, d, low, outputs = g.kernel[axis], g.stride[axis], g.dilation[axis], g.padding[axis][0], g.output[axis]
    if not g.transposed:
        return [_Axis(range(kernel), s, low, d, outputs)]
    # f + low - k·d is divisible by s for one k of every `period`, if at all
    common = math.gcd(s, d)
    period, axes = s // common, []
    inverse = pow(d // common, -1, period)
    for f in range(min(s, outputs)):
        first = (f + low) // common * inverse % period
        if (f + low) % common or first >= kernel:
            return []
        taps = range(first, kernel, period)[::-1]
        offset = (f + low - taps[0] * d) // s
        dilation = d // common if len(taps) > 1 else 1
        axes.append(_Axis(taps, 1, -offset, dilation, -(-(outputs - f) // s), f, s))
    return axes


def zero_padded(g: Geometry) -> Geometry:
    """`g` on an input that already has its padding, if that is no zeros; else `g`."""
    if g.padding_mode == "zeros":
        return g
    return replace(g, input=g.padded, padding=((0, 0),) * g.rank, padding_mode="zeros")


def bias_of(bias: Array | None, g: Geometry, dtype: np.dtype) -> Array:
    """The bias (M,) of `dtype`, zeros if there is none; a copy."""
    return np.zeros(g.out_channels, dtype) if bias is None else bias.astype(dtype)


def filters_of(weight: Array, g: Geometry, dtype: np.dtype) -> Array:
    """The weight as correlations have it: (M, C/g, K, L) of `dtype`, a copy only where one is needed."""
    w = weight.astype(dtype, copy=False)
    if g.flip_kernel:
        w = np.flip(w, tuple(range(2, w.ndim)))
    if g.transposed:  # (C, M/g, *K) -> (M, C/g, *K)
        w = w.reshape(g.groups, g.in_channels // g.groups, g.out_channels // g.groups, *g.kernel)
        w = w.swapaxes(1, 2)
    kernel = g.kernel if g.rank == 2 else (1, g.kernel[-1])  # three axes: pointwise
    return w.reshape(g.out_channels, g.in_channels // g.groups, *kernel)


def phase_filters(filters: Array, phase: Phase) -> Array:
    """The filters (M, C/g, K, L) cut to the taps of a phase, contiguous."""
    if phase.taps == tuple(map(range, filters.shape[2:])):
        return np.ascontiguousarray(filters)
    rows, columns = np.ix_(*phase.taps)
    return np.ascontiguousarray(filters[:, :, rows, columns])
