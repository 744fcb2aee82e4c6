"""Arrays whose values lie one after another in a file, read by system calls.

A memory map would need no copy. But a program that shortens the file then ends this process by SIGBUS, at any time
until the last use of a view. A read of what is no longer there is an error.
"""

import math
import os
from io import FileIO
from typing import Any

import numpy as np

from groupconv.convolution.steps import Array
from groupconv.errors import DataLossError, InvalidArgumentError

GAP_BYTES = 16 * 2**10
"""Longest gap between two runs of values that is read too: copying it takes as long as another system call."""
PIECE_BYTES = 256 * 2**10
"""Bytes that are read with their gaps at once, and then copied without them. They stay in the processor's cache."""


class RawArray:
    """An array in a file. Indexing it reads the values into a new array.

    Args:
        file: open for reading, unbuffered; it stays open as long as the array is used.
        dtype: of the values.
        shape: of the array.
        offset: of the first value, in bytes.
        fortran: whether the first axis is the one whose values lie side by side.

    Raises:
        InvalidArgumentError: the file is too short.

    Example:
        >>> from tempfile import TemporaryFile
        >>> with TemporaryFile(buffering=0) as file:
        ...     _ = file.write(bytes(range(12)))
        ...     RawArray(file, np.dtype("uint8"), (3, 4))[1, 1:3].tolist()
        [5, 6]
    """

    def __init__(
        self, file: FileIO, dtype: np.dtype, shape: tuple[int, ...], offset: int = 0, *, fortran: bool = False
    ) -> None:
        self.shape, self.dtype = tuple(map(int, shape)), np.dtype(dtype)
        self._file, self._offset, self._fortran = file, offset, fortran
        self._expected = offset + math.prod(self.shape) * self.dtype.itemsize
        size = os.fstat(file.fileno()).st_size
        if size < self._expected:
            raise InvalidArgumentError("input", f"{self._expected} bytes in {file.name}", size)

    def __getitem__(self, key: Any) -> Array:
        """One integer or slice of step 1 for each axis."""
        slices = [k if isinstance(k, slice) else slice(k, k + 1) for k in key]
        ranges = [range(*s.indices(size)) for s, size in zip(slices, self.shape, strict=True)]
        part = self._read(ranges[::-1], self.shape[::-1]).T if self._fortran else self._read(ranges, self.shape)
        return part[tuple(slice(None) if isinstance(k, slice) else 0 for k in key)]

    def _read(self, ranges: list[range], shape: tuple[int, ...]) -> Array:
        out = np.empty([len(r) for r in ranges], self.dtype)
        if not out.size:
            return out
        cut = max((i for i, r in enumerate(ranges) if len(r) < shape[i]), default=0)  # behind it, all is wanted
        item = self.dtype.itemsize
        strides = [math.prod(shape[i + 1 :]) * item for i in range(len(shape))]
        starts = np.full(1, self._offset)
        for wanted, stride in zip(ranges[:cut], strides, strict=False):
            starts = (starts[:, None] + np.array(wanted) * stride).ravel()
        starts += ranges[cut].start * strides[cut] if ranges else 0
        runs = out.reshape(len(starts), -1).view(np.uint8)
        run, together = runs.shape[1], len(ranges[cut - 1]) if cut else 1
        if together > 1 and strides[cut - 1] - run <= GAP_BYTES:
            self._read_through(runs, starts.tolist(), strides[cut - 1], together)
        else:
            data = runs.reshape(-1).data
            for number, start in enumerate(starts.tolist()):
                self._fill(data[number * run : (number + 1) * run], start)
        return out

    def _read_through(self, runs: Array, starts: list[int], stride: int, together: int) -> None:
        """Fill `runs`, of which each `together` are `stride` bytes apart, by reading the gaps between them too."""
        most = max(1, PIECE_BYTES // stride)
        piece = np.empty((min(most, together), stride), np.uint8)
        data, run = piece.reshape(-1).data, runs.shape[1]
        for first in range(0, len(starts), together):
            for at in range(first, first + together, most):
                count = min(most, first + together - at)
                self._fill(data[: (count - 1) * stride + run], starts[at])
                runs[at : at + count] = piece[:count, :run]

    def _fill(self, buffer: memoryview, start: int) -> None:
        while got := os.preadv(self._file.fileno(), [buffer], start):
            if got == len(buffer):
                return
            buffer, start = buffer[got:], start + got
        left = min(start, os.fstat(self._file.fileno()).st_size)
        expected = f"{self._expected} bytes in {self._file.name}"
        raise DataLossError(f"input: expected {expected}, got {left}: the file became shorter while it was read")
