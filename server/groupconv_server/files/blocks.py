"""Rows in blocks: files store tiles and chunks, and taking one row would decode, or encode, all that it lies in."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from groupconv.wire.requests import Array
from groupconv_server.files.axes import Layout, View

BLOCK_BYTES = 4 * 2**20


def rows_of_a_block(view: View, chunk: int) -> int:
    """Rows of whole chunks that make about BLOCK_BYTES, at least one chunk."""
    row: int = view.dtype.itemsize * math.prod(view.shape[3:]) * view.shape[1]
    return chunk * max(1, BLOCK_BYTES // max(1, chunk * row))


class _Blocks:
    def __init__(self, view: View, chunks: Sequence[int] | None) -> None:
        self.chunks = tuple(chunks) if chunks else (1,) * len(view.layout.axes)
        self._view, self._rows = view, rows_of_a_block(view, self.chunks[view.axis_in_file])
        self.shape, self.dtype, self.layout = view.shape, view.dtype, view.layout


class BlockReader(_Blocks):
    """`view`, of which the block read last is kept.

    Args:
        view: over a file.
        chunks: extents of what the file stores together, along each of its axes; None is single rows.
    """

    def __init__(self, view: View, chunks: Sequence[int] | None) -> None:
        super().__init__(view, chunks)
        self._key, self._block = (-1, -1), np.empty(0, view.dtype)

    def arranged(self, fold: str, first: str = "") -> "BlockReader":
        """The same array in another layout; see `Layout`."""
        return BlockReader(self._view.arranged(fold, first), self.chunks)

    def __getitem__(self, key: Any) -> Array:
        n, _, rows = key
        parts = []
        for block in range(rows.start // self._rows, -(-rows.stop // self._rows)):
            first = block * self._rows
            if self._key != (n, block):
                stop = min(self.shape[2], first + self._rows)
                self._block, self._key = self._view[n, slice(None), slice(first, stop)], (n, block)
            parts.append(self._block[:, max(0, rows.start - first) : rows.stop - first])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class BlockWriter(_Blocks):
    """`view`, which is written a block at a time, in the order of the rows; rows that come again are there already.

    Args:
        view: over a file.
        chunks: extents of what the file stores together, along each of its axes; None is single rows.
    """

    def __init__(self, view: View, chunks: Sequence[int] | None) -> None:
        super().__init__(view, chunks)
        self._position = 0  # n·H + row of the first that is not there
        self._buffer = np.empty((view.shape[1], min(self._rows, view.shape[2]), *view.shape[3:]), view.dtype)

    def __setitem__(self, key: Any, value: Array) -> None:
        n, _, rows = key
        height = self.shape[2]
        at = max(rows.start, self._position - n * height)
        while at < rows.stop:
            first = at // self._rows * self._rows
            stop, end = min(rows.stop, first + self._rows), min(height, first + self._rows)
            self._buffer[:, at - first : stop - first] = value[:, at - rows.start : stop - rows.start]
            if stop == end:
                self._view[n, slice(None), slice(first, end)] = self._buffer[:, : end - first]
            at, self._position = stop, n * height + stop


def chunks_for(layout: Layout, side: int = 256, depth: int = 16) -> tuple[int, ...]:
    """Chunks in which an output is stored: squares of a plane, some planes of a volume, one of every sample.

    Example:
        >>> from groupconv_server.files.axes import Axis
        >>> chunks_for(Layout((Axis("t", "N", 5), Axis("z", "Z", 40), Axis("y", "Y", 900), Axis("x", "X", 1200))))
        (1, 16, 256, 256)
    """
    sizes = {"Z": depth if "Z" in layout.spatial else 1, "Y": side, "X": side}
    limits = (4 if i == layout.channel else sizes.get(kind, 1) for i, kind in enumerate(layout.kinds))
    return tuple(max(1, min(limit, size)) for limit, size in zip(limits, layout.array_shape, strict=True))
