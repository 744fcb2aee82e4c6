"""Arrays whose values lie one after another in a file, read and written by system calls.

A memory map would need no copy. But a program that shortens the file then ends this process by SIGBUS, at any time
until the last use of a view; so does a full disk, if a map is written. A read of what is no longer there is an error.
"""

import math
import os
from io import FileIO
from types import TracebackType
from typing import Any, Self

import numpy as np

from groupconv.convolution.steps import Array
from groupconv.errors import DataLossError, InvalidArgumentError

GAP_BYTES = 16 * 2**10
"""Longest gap between two runs of values that is read too: copying it takes as long as another system call."""
PIECE_BYTES = 256 * 2**10
"""Bytes that are read with their gaps at once, and then copied without them. They stay in the processor's cache."""


class RawArray:
    """An array in a file. Indexing it reads the values into a new array; assigning to a part of it writes them.

    Safe to use from several threads. It needs `os.preadv`, which Linux and macOS have.

    Args:
        file: open and unbuffered; it stays open as long as the array is used.
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
        ...     x = RawArray(file, np.dtype("uint8"), (3, 4))
        ...     x[2, :2] = 77
        ...     x[1:, 1:3].tolist()
        [[5, 6], [77, 10]]
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
        """An integer or a slice of step 1 for each axis; axes without one are whole."""
        ranges, numbers = self._ranges(key)
        part = self._read(ranges[::-1], self.shape[::-1]).T if self._fortran else self._read(ranges, self.shape)
        selected: Array = part[numbers]
        return selected

    def __setitem__(self, key: Any, value: Any) -> None:
        """Write a part of a file that is open for writing, in C's order."""
        if self._fortran or not self._file.writable():
            raise TypeError(f"{self._file.name} is open for reading alone")
        ranges, numbers = self._ranges(key)
        part = np.empty([len(r) for r in ranges], self.dtype)
        part[numbers] = value
        if part.size:
            runs, starts, _, _ = self._runs(part, ranges, self.shape)
            for run, start in zip(runs, starts, strict=True):
                self._spill(run.data, start)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape} {self.dtype} in {self._file.name})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """All of it."""
        return self[()].astype(self.dtype if dtype is None else dtype, copy=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _ranges(self, key: Any) -> tuple[list[range], tuple[Any, ...]]:
        """The indices of each axis, and what takes the axes of integers from an array of these extents."""
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) > len(self.shape):
            raise IndexError(f"{len(keys)} indices for {len(self.shape)} axes")
        keys += (slice(None),) * (len(self.shape) - len(keys))
        ranges = []
        for k, size in zip(keys, self.shape, strict=True):
            indices = range(size)[k] if isinstance(k, slice) else range(at := range(size)[k], at + 1)
            if indices.step != 1:
                raise IndexError(
                    f"expected slices of step 1, got step {indices.step}: read the part, then x[…][::step]"
                )
            ranges.append(indices)
        return ranges, tuple(slice(None) if isinstance(k, slice) else 0 for k in keys)

    def _read(self, ranges: list[range], shape: tuple[int, ...]) -> Array:
        out = np.empty([len(r) for r in ranges], self.dtype)
        if not out.size:
            return out
        runs, starts, stride, together = self._runs(out, ranges, shape)
        if together > 1 and stride - runs.shape[1] <= GAP_BYTES:
            self._read_through(runs, starts, stride, together)
        else:
            data, run = runs.reshape(-1).data, runs.shape[1]
            for number, start in enumerate(starts):
                self._fill(data[number * run : (number + 1) * run], start)
        return out

    def _runs(self, part: Array, ranges: list[range], shape: tuple[int, ...]) -> tuple[Array, list[int], int, int]:
        """What lies side by side in the file.

        Returns:
            The bytes of each run as a row, and where they begin in the file; the distance between the runs of the axis
            before, and how many that has.
        """
        cut = max((i for i, r in enumerate(ranges) if len(r) < shape[i]), default=0)  # behind it, all is wanted
        item = self.dtype.itemsize
        strides = [math.prod(shape[i + 1 :]) * item for i in range(len(shape))]
        starts = np.full(1, self._offset)
        for wanted, stride in zip(ranges[:cut], strides, strict=False):
            starts = (starts[:, None] + np.array(wanted) * stride).ravel()
        starts += ranges[cut].start * strides[cut] if ranges else 0
        runs = part.reshape(len(starts), -1).view(np.uint8)
        return runs, starts.tolist(), strides[cut - 1] if cut else 0, len(ranges[cut - 1]) if cut else 1

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
        raise became_shorter(self._file, self._expected, min(start, os.fstat(self._file.fileno()).st_size))

    def _spill(self, buffer: memoryview, start: int) -> None:
        while buffer:
            put = os.pwritev(self._file.fileno(), [buffer], start)
            buffer, start = buffer[put:], start + put


def became_shorter(file: FileIO, expected: int, got: int) -> DataLossError:
    """The error of a file that had `expected` bytes, and `got` when it was read."""
    return DataLossError(
        f"input: expected {expected} bytes in {file.name}, got {got}: the file became shorter while it was read"
    )
