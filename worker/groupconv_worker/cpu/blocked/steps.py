"""Which taps and lanes each vector of outputs sums, as tables for lanewise.py, and the weights in that order."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked.layout import aligned


class Steps(NamedTuple):
    """Tables and weights of a convolution lane by lane.

    Attributes:
        steps: flat pairs (offset in x, offset in lanes).
        spans: flat triples (first step, last step, offset in weights) of each vector of outputs.
        lanes: vectors of int32: the lane of x from which each lane takes its input; empty if each takes its own.
        weights: flat vectors, one for each step of each vector of outputs.
    """

    steps: Array
    spans: Array
    lanes: Array
    weights: Array


def depthwise_steps(filters: Array, offsets: list[int], lanes: int) -> Steps:
    """Steps where each output channel sums the input channel of its own number.

    Args:
        filters: (M, 1, K, L).
        offsets: where each tap reads, in elements from the cell of the output; or each row of taps.
        lanes: channels of a vector.
    """
    count, vectors = filters[0].size, -(-len(filters) // lanes)
    weights = aligned(vectors * count * lanes)
    packed = np.zeros((vectors * lanes, count), np.float32)
    packed[: len(filters)] = filters.reshape(-1, count)
    weights[:] = packed.reshape(vectors, lanes, count).swapaxes(1, 2).reshape(-1)
    spans = [(0, len(offsets), v * count * lanes) for v in range(vectors)]
    return Steps(_flat([(offset, 0) for offset in offsets]), _flat(spans), np.zeros(1, np.int32), weights)


def group_steps(filters: Array, groups: int, taps: list[int], lanes: int, plane: int) -> Steps:
    """Steps where each output channel sums the few input channels of its group.

    Args:
        filters: (M, C/g, K, L).
        groups: g.
        taps: where each tap reads, in elements from the cell of the output.
        lanes: channels of a vector.
        plane: elements of x from block to block.
    """
    M, channels = filters.shape[:2]
    w = filters.reshape(M, channels, -1)
    steps: list[tuple[int, int]] = []
    spans: list[tuple[int, int, int]] = []
    orders: list[Array] = []
    packed: list[Array] = []
    for start in range(0, M, lanes):
        m = np.minimum(np.arange(start, start + lanes), M - 1)  # lanes beyond the last take its inputs, times 0
        exists = np.arange(start, start + lanes) < M
        first = len(steps)
        for channel in range(channels):
            source = m // (M // groups) * channels + channel
            for block in np.unique(source // lanes):
                here = source // lanes == block
                order = np.where(here, source % lanes, source[here][0] % lanes)
                weights = np.where((here & exists)[:, None], w[m, channel], 0)
                steps += [(int(block) * plane + tap, len(orders) * lanes) for tap in taps]
                orders.append(order)
                packed.append(weights.T.reshape(-1))
        spans.append((first, len(steps), first * lanes))
    weights = aligned(len(steps) * lanes)
    np.concatenate(packed, out=weights)
    return Steps(_flat(steps), _flat(spans), np.concatenate(orders).astype(np.int32), weights)


def step_count(filters: int, channels: int, groups: int, lanes: int) -> int:
    """Steps of each tap over all vectors of outputs, as `group_steps` makes them.

    Example:
        >>> step_count(32, 4, 8, lanes=16)
        8
    """
    m = np.minimum(np.arange(-(-filters // lanes) * lanes), filters - 1)
    first = m // (filters // groups) * channels
    blocks = (first[:, None] + np.arange(channels)) // lanes  # (M, C/g)
    by_vector = np.sort(blocks.reshape(-1, lanes, channels), axis=1)
    return int((np.diff(by_vector, axis=1) != 0).sum() + by_vector[:, 0].size)


def _flat(rows: Sequence[tuple[int, ...]]) -> Array:
    return np.array(rows, np.int64).reshape(-1)
