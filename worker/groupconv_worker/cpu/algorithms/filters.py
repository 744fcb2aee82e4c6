"""Filters packed for the lanes of `kernels.filters`, whatever order the weights come in."""

import math

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.caches import MIB, arrays_bytes, bounded
from groupconv_worker.contract import Array
from groupconv_worker.cpu.algorithms.plane import phases
from groupconv_worker.cpu.kernels import layout, simd
from groupconv_worker.cpu.program import KernelStage, X, Y


def packing(g: Geometry, block: int, dtype: np.dtype) -> KernelStage:
    """X, the weights (of `g.weight_shape`), into Y, flat (g, blocks, K·L in `tap_order`, C/g, block), all of `dtype`.

    A group's filters are filled up with zeros to whole blocks. A task is a block.
    """
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    taps = math.prod(g.kernel)
    count = -(-filters // block)
    whole = channels * taps
    if g.transposed:  # (C, M/g, *K): a piece is what a filter has of one channel
        width, distances, pieces = taps, (taps, filters * whole, filters * taps), channels
    else:
        width, distances, pieces = whole, (whole, filters * whole, 0), 1
    sizes = (filters, count, width, block, simd.lanes(dtype.itemsize), *distances, pieces, block, whole * block)
    places = _places(g.with_batch(1), block, pieces)
    return KernelStage(layout.interleave(dtype), (X, Y, places, *sizes), g.groups * count)


@bounded(16 * MIB, arrays_bytes)
def _places(g: Geometry, block: int, pieces: int) -> Array:
    """Where the weights of a filter's piece go in (K·L, C/g, block)."""
    channels, order = g.in_channels // g.groups, tap_order(g)
    taps = np.empty_like(order)
    taps[order] = np.arange(len(order)) * channels * block
    if pieces > 1:
        return taps
    return (taps + np.arange(channels)[:, None] * block).reshape(-1)


def tap_order(g: Geometry) -> Array:
    """The kernel's taps, flat, as they follow each other when packed: phase by phase, those of no phase last.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> tap_order(resolve(ConvSpec(flip_kernel=True), (1, 1, 8), (1, 1, 3)))
        array([2, 1, 0])
    """
    columns, count = g.kernel[-1], math.prod(g.kernel)
    met = [np.add.outer(np.array(p.taps[0]) * columns, p.taps[1]).reshape(-1) for p in phases(g)]
    order = np.concatenate([*met, np.empty(0, np.int64)]).astype(np.int64)
    left = np.ones(count, bool)
    left[order] = False
    order = np.concatenate([order, np.flatnonzero(left)])
    return count - 1 - order if g.flip_kernel else order
