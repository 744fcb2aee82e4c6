"""Rows in blocks: files store tiles and chunks, and taking one row would decode, or encode, all that it lies in."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from groupconv.wire.requests import Array
from groupconv_server.files.axes import Layout, View

BLOCK_BYTES = 4 * 2**20
BUFFER_BYTES = 32 * 2**20
"""Of rows that are written together, and of bands above which another axis is looked at."""


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

    Where the file stores several samples together, such as planes of a volume, and they are small, the block is all of
    them, whole: else each plane would decode them all.

    Args:
        view: over a file.
        chunks: extents of what the file stores together, along each of its axes; None is single rows.
    """

    def __init__(self, view: View, chunks: Sequence[int] | None) -> None:
        super().__init__(view, chunks)
        self._key, self._block = (-1, -1), np.empty(0, view.dtype)
        self._together = self._samples_together()

    def _samples_together(self) -> int:
        """Samples that the file stores together along their last axis, if they fit BUFFER_BYTES; else 1."""
        if not self.layout.samples:
            return 1
        last = self.layout.samples[-1]
        count = min(self.chunks[last], self.layout.array_shape[last])
        return count if count * math.prod(self.shape[1:]) * self.dtype.itemsize <= BUFFER_BYTES else 1

    def arranged(self, fold: str, first: str = "") -> "BlockReader":
        """The same array in another layout; see `Layout`."""
        return BlockReader(self._view.arranged(fold, first), self.chunks)

    def __getitem__(self, key: Any) -> Array:
        n, _, rows = key
        if self._together > 1:
            return self._of_several(n)[:, rows]
        parts = []
        for block in range(rows.start // self._rows, -(-rows.stop // self._rows)):
            first = block * self._rows
            if self._key != (n, block):
                stop = min(self.shape[2], first + self._rows)
                self._block, self._key = self._view[n, slice(None), slice(first, stop)], (n, block)
            parts.append(self._block[:, max(0, rows.start - first) : rows.stop - first])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _of_several(self, n: int) -> Array:
        """Sample `n`, of the block of whole samples that it is stored with."""
        extent = self.layout.array_shape[self.layout.samples[-1]]
        before, at = divmod(n, extent)
        first = at // self._together * self._together
        if self._key != (before, first):
            count = min(self._together, extent - first)
            self._block, self._key = self._view.samples(before * extent + first, count), (before, first)
        whole: Array = self._block[at - first]
        return whole


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


def chunks_for(layout: Layout, dtype: np.dtype, side: int = 256, depth: int = 16) -> tuple[int, ...]:
    """Chunks in which an output is stored: squares of a plane, some planes of a volume, one of every sample.

    Example:
        >>> from groupconv_server.files.axes import axes_of
        >>> chunks_for(Layout(axes_of((5, 40, 900, 1200), asked="tzyx")), np.dtype("uint8"))
        (1, 16, 256, 256)
    """
    sizes = {"Z": depth if "Z" in layout.spatial else 1, "Y": side, "X": side}
    row = layout.shape[1] * math.prod(layout.shape[3:]) * dtype.itemsize
    sizes[layout.spatial[0]] = max(1, min(sizes[layout.spatial[0]], BUFFER_BYTES // row))
    limits = (4 if i == layout.channel else sizes.get(kind, 1) for i, kind in enumerate(layout.kinds))
    return tuple(max(1, min(limit, size)) for limit, size in zip(limits, layout.array_shape, strict=True))


def best_first(view: View | BlockReader, reach: Mapping[str, int]) -> str:
    """The axis of space along which bands are small: the first one, unless that takes too much memory.

    Args:
        view: the input.
        reach: input rows that an output needs along each axis of space.

    Example:
        >>> volume = View(np.broadcast_to(np.float32(0), (9, 9000, 12000)), "zyx")
        >>> best_first(volume, {"Z": 17, "Y": 17, "X": 17})
        'Y'
    """
    kinds, shape = view.layout.kinds, view.shape
    chunks = getattr(view, "chunks", (1,) * len(kinds))
    extent = dict(zip(view.layout.spatial, shape[2:], strict=True))

    def nbytes(axis: str) -> int:
        rows = min(extent[axis], max(chunks[kinds.index(axis)], reach[axis]))
        return rows * shape[1] * math.prod(extent.values()) // extent[axis] * 4

    small = (axis for axis in view.layout.spatial if nbytes(axis) <= BUFFER_BYTES)
    return next(small, min(view.layout.spatial, key=nbytes))
