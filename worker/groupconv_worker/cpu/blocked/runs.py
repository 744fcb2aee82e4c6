"""Which channels and taps each block of filters sums, as tables for kernels/dense.py, and the weights in that order."""

import itertools
from typing import NamedTuple

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked.kernels.blocks import VECTORS
from groupconv_worker.cpu.blocked.layout import aligned

CHUNK = 24 * 2**10
"""Bytes of the weights of a block of filters that pass at a time: they stay in the first cache."""


class Runs(NamedTuple):
    """Tables and weights of kernels/dense.py.

    Attributes:
        runs: flat pairs (offset in x, channels that follow each other there).
        spans: flat triples (first run, last run, offset in weights) of each block of filters and chunk.
        chunks: of each block of filters.
        weights: flat, in the order in which they are read.
    """

    runs: Array
    spans: Array
    chunks: int
    weights: Array


class Piece(NamedTuple):
    """Channels that lie next to each other in x.

    Attributes:
        first, last: the channels.
        offset: where the first one lies, in elements.
    """

    first: int
    last: int
    offset: int


def pieces(first: int, last: int, lanes: int, plane: int) -> list[Piece]:
    """Channels `first` to `last` of a blocked tensor, block by block; blocks lie `plane` elements apart.

    Example:
        >>> pieces(4, 18, 8, 1000)
        [Piece(first=4, last=8, offset=4), Piece(first=8, last=16, offset=1000), Piece(first=16, last=18, offset=2000)]
    """
    edges = [first, *range(first // lanes * lanes + lanes, last, lanes), last]
    return [Piece(a, b, a // lanes * plane + a % lanes) for a, b in itertools.pairwise(edges)]


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
    w = filters.reshape(M, channels, -1)
    size, per_group = VECTORS * lanes, M // groups
    runs: list[tuple[int, int]] = []
    known: dict[tuple[int, int], tuple[int, list[Piece]]] = {}
    spans: list[list[tuple[int, int, int]]] = []
    packed: list[Array] = []
    at = 0
    for start in range(0, M, size):
        stop = min(start + size, M)
        width = -(-(stop - start) // lanes) * lanes
        seen = start // per_group * channels, -(-stop // per_group) * channels
        if seen not in known:
            known[seen] = len(runs), pieces(*seen, lanes, plane)
            runs += [(p.offset + tap, p.last - p.first) for p in known[seen][1] for tap in taps]
        first, parts = known[seen]
        block = np.zeros((seen[1] - seen[0], len(taps), width), np.float32)
        for m in range(start // per_group, -(-stop // per_group)):
            low, high = max(start, m * per_group), min(stop, (m + 1) * per_group)
            inputs = slice(m * channels - seen[0], (m + 1) * channels - seen[0])
            block[inputs, :, low - start : high - start] = w[low:high].transpose(1, 2, 0)
        per_piece = max(1, CHUNK // (4 * len(taps) * lanes * width))
        spans.append([])
        for number in range(0, len(parts), per_piece):
            chunk = parts[number : number + per_piece]
            run = first + number * len(taps)
            spans[-1].append((run, run + len(chunk) * len(taps), at))
            for p in chunk:
                packed.append(block[p.first - seen[0] : p.last - seen[0]].swapaxes(0, 1).reshape(-1))
                at += packed[-1].size
    return _runs(runs, spans, packed)


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
    return _runs(runs, spans, packed)


def _runs(runs: list[tuple[int, int]], spans: list[list[tuple[int, int, int]]], packed: list[Array]) -> Runs:
    chunks = max(map(len, spans))
    filled = [some + [(0, 0, 0)] * (chunks - len(some)) for some in spans]  # empty chunks where there are fewer
    weights = aligned(sum(w.size for w in packed))
    np.concatenate(packed, out=weights)
    flat = np.array(filled, np.int64).reshape(-1)
    return Runs(np.array(runs, np.int64).reshape(-1), flat, chunks, weights)
