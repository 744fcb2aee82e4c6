"""Reading and writing rows in blocks of whole chunks, so that a file's chunks are decoded or encoded only once."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from groupconv.convolution.steps import Array
from groupconv_server.files.layout import Layout, View

BLOCK_BYTES = 4 * 2**20
BUFFER_BYTES = 32 * 2**20
"""Limit of a block of several samples and, in `band_axis`, of a band."""


def block_rows(view: View, chunk: int) -> int:
    """Rows in a block: whole chunks of about BLOCK_BYTES together, and at least one chunk."""
    row: int = view.dtype.itemsize * math.prod(view.shape[3:]) * view.shape[1]
    chunk = max(1, chunk)
    return chunk * max(1, BLOCK_BYTES // max(1, chunk * row))


class _Blocks:
    def __init__(self, view: View, chunks: Sequence[int] | None) -> None:
        self.chunks = tuple(chunks) if chunks else (1,) * len(view.layout.axes)
        self._view, self._rows = view, block_rows(view, self.chunks[view.axis_in_file])
        self.shape, self.dtype, self.layout = view.shape, view.dtype, view.layout


class BlockReader(_Blocks):
    """Reads `view` in blocks, and keeps the last block.

    Where a chunk has several samples, such as planes of a volume, and they are small, a block is all samples of the
    chunk. Otherwise the chunk would be decoded once for each sample.

    Args:
        view: of a file.
        chunks: the extents of a chunk along each axis of the file; None means single rows.
    """

    def __init__(self, view: View, chunks: Sequence[int] | None) -> None:
        super().__init__(view, chunks)
        self._key, self._block = (-1, -1), np.empty(0, view.dtype)
        self._per_chunk = self._samples_per_chunk()

    def _samples_per_chunk(self) -> int:
        """Samples in a chunk, along their last axis, if they fit BUFFER_BYTES; else 1."""
        if not self.layout.samples:
            return 1
        last = self.layout.samples[-1]
        count = min(self.chunks[last], self.layout.array_shape[last])
        return count if count * math.prod(self.shape[1:]) * self.dtype.itemsize <= BUFFER_BYTES else 1

    def arranged(self, fold: str, first: str = "") -> "BlockReader":
        """The same array in another layout; arguments as of `Layout`."""
        return BlockReader(self._view.arranged(fold, first), self.chunks)

    def __getitem__(self, key: Any) -> Array:
        n, _, rows = key
        if self._per_chunk > 1:
            return self._whole_sample(n)[:, rows]
        parts = []
        for block in range(rows.start // self._rows, -(-rows.stop // self._rows)):
            first = block * self._rows
            if self._key != (n, block):
                stop = min(self.shape[2], first + self._rows)
                self._block, self._key = self._view[n, slice(None), slice(first, stop)], (n, block)
            parts.append(self._block[:, max(0, rows.start - first) : rows.stop - first])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _whole_sample(self, n: int) -> Array:
        """Sample `n`, from the block of all samples of its chunk."""
        extent = self.layout.array_shape[self.layout.samples[-1]]
        before, at = divmod(n, extent)
        first = at // self._per_chunk * self._per_chunk
        if self._key != (before, first):
            count = min(self._per_chunk, extent - first)
            self._block, self._key = self._view.samples(before * extent + first, count), (before, first)
        whole: Array = self._block[at - first]
        return whole


class BlockWriter(_Blocks):
    """Writes `view` in blocks, in the order of the rows. Rows that come a second time are skipped.

    Args:
        view: of a file.
        chunks: the extents of a chunk along each axis of the file; None means single rows.
    """

    def __init__(self, view: View, chunks: Sequence[int] | None) -> None:
        super().__init__(view, chunks)
        self._position = 0  # n·H + row, of the first row that is not there
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
    """The chunks of an output: squares of a plane, and several planes of a volume.

    Example:
        >>> from groupconv_server.files.axes import axes_of
        >>> chunks_for(Layout(axes_of((5, 40, 900, 1200), requested="tzyx")), np.dtype("uint8"))
        (1, 16, 256, 256)
    """
    sizes = {"Z": depth if "Z" in layout.spatial else 1, "Y": side, "X": side}
    row = layout.shape[1] * math.prod(layout.shape[3:]) * dtype.itemsize
    sizes[layout.spatial[0]] = max(1, min(sizes[layout.spatial[0]], BUFFER_BYTES // row))
    limits = (4 if i == layout.channel else sizes.get(kind, 1) for i, kind in enumerate(layout.kinds))
    return tuple(max(1, min(limit, size)) for limit, size in zip(limits, layout.array_shape, strict=True))


def band_axis(view: View | BlockReader, extents: Mapping[str, int]) -> str:
    """The first axis of space along which bands fit BUFFER_BYTES; if there is none, the one with the smallest bands.

    Args:
        view: the input.
        extents: input rows that one output row needs, along each axis of space.

    Example:
        >>> volume = View(np.broadcast_to(np.float32(0), (9, 9000, 12000)), "zyx")
        >>> band_axis(volume, {"Z": 17, "Y": 17, "X": 17})
        'Y'
    """
    kinds, shape = view.layout.kinds, view.shape
    chunks = getattr(view, "chunks", (1,) * len(kinds))
    extent = dict(zip(view.layout.spatial, shape[2:], strict=True))

    def nbytes(axis: str) -> int:
        rows = min(extent[axis], max(chunks[kinds.index(axis)], extents[axis]))
        return rows * shape[1] * math.prod(n for other, n in extent.items() if other != axis) * 4

    small = (axis for axis in view.layout.spatial if nbytes(axis) <= BUFFER_BYTES)
    return next(small, min(view.layout.spatial, key=nbytes))
