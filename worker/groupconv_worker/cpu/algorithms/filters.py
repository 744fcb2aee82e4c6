"""Filters packed for the lanes of `kernels.filters`, whatever order the weights come in."""

import math
from typing import NamedTuple

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.caches import MIB, arrays_bytes, bounded
from groupconv_worker.contract import Array
from groupconv_worker.cpu.algorithms.plane import phases
from groupconv_worker.cpu.kernels import layout, simd
from groupconv_worker.cpu.stages import Address, KernelStage

CHUNK = 2**19
"""Bytes of packed filters that a thread uses at a time: as many as its second cache holds beside what else it reads."""
MOST_CHUNKS = 64
"""Most chunks of a kernel: each takes a stage for every phase of the output."""


class Chunk(NamedTuple):
    """Blocks of filters that are packed together: all blocks of some groups, or some blocks of one group.

    Attributes:
        group: the first.
        groups: how many.
        block: the first of each group.
        blocks: how many of each group.
    """

    group: int
    groups: int
    block: int
    blocks: int


def chunks(groups: int, blocks: int, most: int) -> list[Chunk]:
    """All blocks of all groups, cut into even chunks of at most `most` blocks; of more if there were over MOST_CHUNKS.

    Example:
        >>> chunks(1, 5, 3)
        [Chunk(group=0, groups=1, block=0, blocks=3), Chunk(group=0, groups=1, block=3, blocks=2)]
        >>> chunks(3, 2, 4)
        [Chunk(group=0, groups=2, block=0, blocks=2), Chunk(group=2, groups=1, block=0, blocks=2)]
    """
    most = max(most, -(-groups * blocks // MOST_CHUNKS))
    pieces = -(-blocks // most)
    if most < blocks and groups * pieces <= MOST_CHUNKS:
        each = -(-blocks // pieces)
        starts = range(0, blocks, each)
        return [Chunk(group, 1, at, min(each, blocks - at)) for group in range(groups) for at in starts]
    together = max(1, most // blocks, -(-groups // MOST_CHUNKS))
    each = -(-groups // -(-groups // together))
    return [Chunk(at, min(each, groups - at), 0, blocks) for at in range(0, groups, each)]


def packing(g: Geometry, block: int, dtype: np.dtype, chunk: Chunk, weights: Address, out: Address) -> KernelStage:
    """Weights (of `g.weight_shape`) into `out`, flat (groups, blocks, K·L in `tap_order`, C/g, block), all of `dtype`.

    A group's filters are filled up with zeros to whole blocks. A task is a block.
    """
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    taps = math.prod(g.kernel)
    whole = channels * taps
    if g.transposed:  # (C, M/g, *K): a piece is what a filter has of one channel
        width, distances, pieces = taps, (taps, filters * whole, filters * taps), channels
    else:
        width, distances, pieces = whole, (whole, filters * whole, 0), 1
    left = filters - chunk.block * block
    sizes = (left, chunk.blocks, width, block, simd.lanes(dtype.itemsize), *distances, pieces, block, whole * block)
    places = _places(g.with_batch(1), block, pieces)
    first = weights.plus((chunk.group * distances[1] + chunk.block * block * distances[0]) * dtype.itemsize)
    return KernelStage(layout.interleave(dtype), (first, out, places, *sizes), chunk.groups * chunk.blocks)


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
