"""Sources and sinks of a stream: arrays of any kind that can be sliced by rows.

Row n·H + h of a feature map (N, C, H, …) is row h of sample n. A row travels with all its channels, so consecutive
rows travel as an array (rows, C, …).
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from groupconv.arguments import as_array, supported, supported_input
from groupconv.convolution.dtypes import as_dtype, is_float
from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError


class Source(Protocol):
    """Rows to send.

    Attributes:
        shape: (N, C, H, …).
        dtype: a supported one.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def rows(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop` of one sample as (rows, C, …)."""

    def forget(self, row: int) -> None:
        """Rows before `row` will not be read again, so the source may drop them."""


class Sliced:
    """Anything with a shape, a dtype and slices by rows: NumPy arrays and memory maps, Zarr, HDF5.

    Args:
        array: (N, C, H, …), or (C, H, …) for one sample.
        rank: spatial axes.
        kernel: dtype of the first kernel.

    Raises:
        InvalidArgumentError: the number of dimensions does not fit.
    """

    def __init__(self, array: Any, rank: int, kernel: np.dtype) -> None:
        shape = tuple(array.shape)
        if len(shape) not in (rank + 1, rank + 2):
            raise InvalidArgumentError("input.shape", f"{rank + 2} dimensions, or {rank + 1} for one sample", shape)
        self._array, self._unbatched = array, len(shape) == rank + 1
        self.shape = (1, *shape) if self._unbatched else shape
        self.dtype = supported_input(np.empty(0, array.dtype), kernel).dtype

    def rows(self, start: int, stop: int) -> Array:
        """As in `Source`."""
        n, height = start // self.shape[2], self.shape[2]
        within = slice(start - n * height, stop - n * height)
        key = (slice(None), within) if self._unbatched else (n, slice(None), within)
        rows = as_array(self._array[key], "input")
        return supported("input", rows, self.dtype).swapaxes(0, 1)

    def forget(self, row: int) -> None:
        """Do nothing: the array has every row."""


class Bands:
    """Bands from an iterator. Those with rows that may be read again are kept.

    Args:
        bands: the iterator.
        height: rows of all of them together.
        axis: of the rows in a checked band.
    """

    def __init__(self, bands: Iterable[Any], height: int, axis: int) -> None:
        self._bands, self._height, self._axis = iter(bands), height, axis
        self._kept: deque[tuple[int, Array]] = deque()
        self._end = 0

    def parts(self, start: int, stop: int, checked: Callable[[Any], Array]) -> list[Array]:
        """Rows `start` to `stop` as views of the bands that have them.

        Args:
            start: the first row.
            stop: the row after the last.
            checked: makes an array of what the iterator gives. It is not kept, as whoever gives it keeps the bands.

        Raises:
            InvalidArgumentError: the iterator ends before, or gives something else than a band.
        """
        while self._end < stop:
            self._take(checked)
        before = (slice(None),) * self._axis
        return [
            band[(*before, slice(max(0, start - at), stop - at))]
            for at, band in self._kept
            if at < stop and at + band.shape[self._axis] > start
        ]

    def forget(self, row: int) -> None:
        """Drop the bands that end before `row`."""
        while self._kept and self._kept[0][0] + self._kept[0][1].shape[self._axis] <= row:
            self._kept.popleft()

    def _take(self, checked: Callable[[Any], Array]) -> None:
        band = next(self._bands, None)
        if band is None:
            raise InvalidArgumentError("input", f"bands of {self._height} rows in all", f"{self._end} rows")
        array = checked(band)
        self._kept.append((self._end, array))
        self._end += array.shape[self._axis]


def dtype_of_bands(dtype: Any) -> np.dtype:
    """The dtype that a caller gives for an iterator's bands.

    Raises:
        InvalidArgumentError: NumPy does not know it.
    """
    try:
        band_dtype: np.dtype = np.dtype(dtype)
    except TypeError:
        raise InvalidArgumentError("dtype", "a dtype of numbers", dtype) from None
    return band_dtype


class Iterated:
    """An iterator of bands (1, C, rows, …) or (C, rows, …) of one sample. Rows that may be read again are kept.

    Args:
        bands: the iterator.
        shape: (1, C, H, …) of all of them together.
        dtype: of each.
        kernel: dtype of the first kernel.

    Raises:
        InvalidArgumentError: `shape` has several samples, or the dtype is not supported.
    """

    def __init__(self, bands: Iterable[Any], shape: tuple[int, ...], dtype: Any, kernel: np.dtype) -> None:
        if shape[0] != 1:
            raise InvalidArgumentError("input.shape", "one sample, for an iterator of bands", shape)
        self._given = dtype_of_bands(dtype)
        self.shape, self.dtype = shape, supported_input(np.empty(0, self._given), kernel).dtype
        self._bands = Bands(bands, shape[2], 0)

    def rows(self, start: int, stop: int) -> Array:
        """As in `Source`."""
        parts = self._bands.parts(start, stop, self._checked)
        if sum(map(len, parts)) != stop - start:
            raise InvalidArgumentError("input", f"row {start} again, to resume", "an iterator that is past it")
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def forget(self, row: int) -> None:
        """As in `Source`."""
        self._bands.forget(row)

    def _checked(self, band: Any) -> Array:
        array = as_array(band, "input")
        if array.dtype.newbyteorder("=") == self._given.newbyteorder("="):
            array = supported("input", array, self.dtype)
        array = array[0] if array.ndim == len(self.shape) and array.shape[0] == 1 else array
        wanted = (self.shape[1], *self.shape[3:])
        if array.ndim != len(self.shape) - 1 or (array.shape[0], *array.shape[2:]) != wanted:
            raise InvalidArgumentError("input", f"bands ({wanted[0]}, rows, …) of shape {self.shape}", array.shape)
        if array.dtype != self.dtype:
            raise InvalidArgumentError("input.dtype", str(self.dtype), str(array.dtype))
        return array.swapaxes(0, 1)


class Narrowed:
    """A source whose floats are converted to a smaller dtype.

    Args:
        source: of floats.
        dtype: float16 or bfloat16.

    Raises:
        InvalidArgumentError: another dtype, or a source of integers.
    """

    def __init__(self, source: Source, dtype: Any) -> None:
        narrow = as_dtype("wire_dtype", dtype)
        if narrow.itemsize != 2:
            raise InvalidArgumentError("wire_dtype", "float16 or bfloat16", dtype)
        if not is_float(source.dtype):
            raise InvalidArgumentError("wire_dtype", "an input of floats", str(source.dtype))
        self._source, self.shape, self.dtype = source, source.shape, narrow

    def rows(self, start: int, stop: int) -> Array:
        """As in `Source`."""
        return self._source.rows(start, stop).astype(self.dtype)

    def forget(self, row: int) -> None:
        """As in `Source`."""
        self._source.forget(row)


class Sink:
    """Writes rows to anything that accepts slices by rows: NumPy arrays and memory maps, Zarr, HDF5.

    Args:
        out: (N, M, H', …), or (M, H', …) for one sample; None makes an array.
        shape: (N, M, H', …) of the output.
        dtype: of the rows that arrive.
        unbatched: whether `out` lacks the sample axis.
        wide: dtype of `out` if rows travel in a smaller one.

    Raises:
        InvalidArgumentError: `out` has another shape or dtype.
    """

    def __init__(
        self, out: Any, shape: tuple[int, ...], dtype: np.dtype, *, unbatched: bool, wide: np.dtype | None = None
    ) -> None:
        dtype = wide or dtype
        self._height, self._unbatched = shape[2], unbatched
        wanted = shape[1:] if unbatched else shape
        if out is None:
            out = np.empty(wanted, dtype)
        elif tuple(out.shape) != wanted or out.dtype != dtype:
            raise InvalidArgumentError("out", f"shape {wanted} and dtype {dtype}", f"{tuple(out.shape)}, {out.dtype}")
        self.out = out

    def write(self, start: int, rows: Array) -> None:
        """Write rows (rows, M, …) from row `start` on; they may belong to several samples."""
        while len(rows):
            n, h = divmod(start, self._height)
            some = rows[: self._height - h]
            within = slice(h, h + len(some))
            key = (slice(None), within) if self._unbatched else (n, slice(None), within)
            self.out[key] = some.swapaxes(0, 1)
            start, rows = start + len(some), rows[len(some) :]
