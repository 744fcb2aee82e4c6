"""Which channels and taps each block of filters sums, as tables for kernels/dense.py, and the weights in that order."""

import itertools
from typing import NamedTuple

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked.kernels.blocks import VECTORS
from groupconv_worker.cpu.blocked.layout import aligned

CHUNK = 128 * 2**10
"""Bytes of the weights of a block of filters that pass at a time: they stay in the second cache."""


class Runs(NamedTuple):
    """Tables and weights of kernels/dense.py.

    Attributes:
        runs: flat pairs (offset in x, channels that follow each other there); the last is there twice, for the kernel
            fetches the pixels of the next run ahead.
        spans: flat triples (first run, last run, offset in weights) of each block of filters and chunk.
        chunks: of each block of filters.
        groups, vectors: groups of filters of which no block has parts of two, and the vectors of each.
        weights: flat, in the order in which they are read.
    """

    runs: Array
    spans: Array
    chunks: int
    groups: int
    vectors: int
    weights: Array


class ChannelRun(NamedTuple):
    """Channels that lie next to each other in x.

    Attributes:
        first, last: the channels.
        offset: where the first one lies, in elements.
    """

    first: int
    last: int
    offset: int


def channel_runs(first: int, last: int, lanes: int, plane: int) -> list[ChannelRun]:
    """Channels `first` to `last` of a blocked tensor, block by block; blocks lie `plane` elements apart.

    Example:
        >>> channel_runs(4, 18, 8, 1000)
        [ChannelRun(first=4, last=8, offset=4), ChannelRun(first=8, last=16, offset=1000),
         ChannelRun(first=16, last=18, offset=2000)]
    """
    edges = [first, *range(first // lanes * lanes + lanes, last, lanes), last]
    return [ChannelRun(a, b, a // lanes * plane + a % lanes) for a, b in itertools.pairwise(edges)]


def grouped(filters: int, groups: int, lanes: int) -> tuple[int, int]:
    """Groups of vectors of filters such that few blocks sum the channels of several groups, and the vectors of each.

    Example:
        >>> grouped(96, 1, lanes=16), grouped(96, 3, lanes=16), grouped(100, 4, lanes=16)
        ((1, 6), (3, 2), (7, 1))
    """
    vectors = -(-filters // lanes)
    if groups == 1:
        return 1, vectors
    per_group, rest = divmod(filters // groups, lanes)
    return (vectors, 1) if rest else (groups, per_group)


def filter_blocks(filters: int, groups: int, lanes: int) -> list[range]:
    """The filters of each block.

    Example:
        >>> filter_blocks(40, 1, lanes=8), filter_blocks(12, 3, lanes=8)
        ([range(0, 16), range(16, 32), range(32, 40)], [range(0, 8), range(8, 12)])
    """
    count, vectors = grouped(filters, groups, lanes)
    starts = [group * vectors + part for group in range(count) for part in range(0, vectors, VECTORS)]
    sizes = [min(VECTORS, vectors - start % vectors) for start in starts]
    return [range(a * lanes, min((a + n) * lanes, filters)) for a, n in zip(starts, sizes, strict=True)]


def met_groups(block: range, per_group: int) -> range:
    """The groups of which a block has filters."""
    return range(block.start // per_group, -(-block.stop // per_group))


def blocked_runs(filters: Array, groups: int, taps: list[int], lanes: int, plane: int) -> Runs:
    """Runs over a blocked input.

    A block of filters that has parts of several groups sums the channels of all of them, with zeros for weights.

    Args:
        filters: (M, C/g, K, L).
        groups: g.
        taps: where each tap reads, in elements from the cell of the output.
        lanes: channels of a block.
        plane: elements of x from block to block.
    """
    M, channels = filters.shape[:2]
    runs: list[tuple[int, int]] = []
    known: dict[range, tuple[int, list[ChannelRun]]] = {}
    spans: list[list[tuple[int, int, int]]] = []
    packed: list[Array] = []
    at = 0
    for block in filter_blocks(M, groups, lanes):
        seen = met_groups(block, M // groups)
        if seen not in known:
            known[seen] = len(runs), channel_runs(seen.start * channels, seen.stop * channels, lanes, plane)
            runs += [(p.offset + tap, p.last - p.first) for p in known[seen][1] for tap in taps]
        first, parts = known[seen]
        weights = _weights(filters, block, seen, M // groups, lanes)
        count = -(-weights.nbytes // CHUNK)
        per_chunk = -(-len(parts) // count)
        spans.append([])
        for number in range(0, len(parts), per_chunk):
            chunk = parts[number : number + per_chunk]
            run = first + number * len(taps)
            spans[-1].append((run, run + len(chunk) * len(taps), at))
            for p in chunk:
                some = weights[p.first - seen.start * channels : p.last - seen.start * channels]
                packed.append(some.swapaxes(0, 1).reshape(-1))
                at += some.size
    return _runs(runs, spans, packed, grouped(M, groups, lanes))


def _weights(filters: Array, block: range, seen: range, per_group: int, lanes: int) -> Array:
    """The weights of a block of filters for all channels of the groups that it meets: (channels, taps, filters)."""
    channels = filters.shape[1]
    w = filters.reshape(len(filters), channels, -1)
    weights = np.zeros((len(seen) * channels, w.shape[2], -(-len(block) // lanes) * lanes), np.float32)
    for number, group in enumerate(seen):
        some = range(max(block.start, group * per_group), min(block.stop, (group + 1) * per_group))
        place = slice(some.start - block.start, some.stop - block.start)
        weights[number * channels : (number + 1) * channels, :, place] = w[some.start : some.stop].transpose(1, 2, 0)
    return weights


def plain_runs(filters: Array, dilation: int, rows: list[int], plane: int, lanes: int) -> Runs:
    """Runs over a plain input of few channels: neighbors along a row of the kernel take the place of channels.

    Args:
        filters: (M, C, K, L).
        dilation: along a row.
        rows: where each row of the kernel reads, in elements from the cell of the output.
        plane: elements of x from channel to channel.
        lanes: filters of a vector.
    """
    M, channels, _, width = filters.shape
    starts = [c * plane + row for c in range(channels) for row in rows]
    runs = (
        [(s, width) for s in starts] if dilation == 1 else [(s + k * dilation, 1) for s in starts for k in range(width)]
    )
    spans, packed, at = [], [], 0
    for start in range(0, M, VECTORS * lanes):
        some = filters[start : start + VECTORS * lanes].reshape(-1, filters[0].size)
        block = np.zeros((some.shape[1], -(-len(some) // lanes) * lanes), np.float32)
        block[:, : len(some)] = some.T
        spans.append([(0, len(runs), at)])
        packed.append(block.reshape(-1))
        at += block.size
    return _runs(runs, spans, packed, grouped(M, 1, lanes))


def _runs(
    runs: list[tuple[int, int]], spans: list[list[tuple[int, int, int]]], packed: list[Array], groups: tuple[int, int]
) -> Runs:
    chunks = max(map(len, spans))
    filled = [some + [(0, 0, 0)] * (chunks - len(some)) for some in spans]  # empty chunks where there are fewer
    weights = aligned(sum(w.size for w in packed))
    np.concatenate(packed, out=weights)
    flat = np.array(filled, np.int64).reshape(-1)
    return Runs(np.array([*runs, runs[-1]], np.int64).reshape(-1), flat, chunks, *groups, weights)
