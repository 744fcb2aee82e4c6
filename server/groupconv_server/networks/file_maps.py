"""Files as maps of a network: read by windows, written by windows, whole rows at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv.networks.tensors import TensorInfo
from groupconv_server.files.arrays import Readable, Writable
from groupconv_server.files.layout import View
from groupconv_server.files.values import count_outside, dtype_of_file, saturate
from groupconv_server.networks.pictures import check_scaling

Slices = tuple[slice, ...]


class FileMap:
    """One sample of a file as the input of a network: (1, C, *spatial).

    Where a file's parts are chunks or strips, rows are read as wholes and kept while windows lie side by side in them.

    Args:
        array: of the file, (N, C, *spatial).
        info: the input.
        sample: number of the sample.
        mean: one value, or one for each channel; subtracted.
        std: one value, or one for each channel; the rest is divided by it.
        picture: whether integers are pictures, whose range becomes 0 to 1 for a network of floats.

    Raises:
        InvalidArgumentError: `mean` or `std` do not fit the channels, or are meant for a network of integers.
    """

    def __init__(
        self,
        array: Readable,
        info: TensorInfo,
        sample: int = 0,
        *,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        picture: bool = False,
    ) -> None:
        channels = info.shape[1] if isinstance(info.shape[1], int) else array.shape[1]
        check_scaling(mean, std, channels)
        self._plain = tuple(mean) == (0.0,) and tuple(std) == (1.0,)
        if info.dtype.kind != "f" and not self._plain:
            raise InvalidArgumentError("--mean, --std", f"none, as the network takes {info.dtype}", [*mean, *std])
        self._array, self._info, self._sample, self._channels = array, info, sample, channels
        self._mean, self._std = mean, std
        source = np.dtype(array.dtype)
        self._unit = float(np.iinfo(source).max) if picture and source.kind in "ui" and info.dtype.kind == "f" else 1.0
        self.shape = (1, channels, *array.shape[2:])
        self.dtype = info.dtype if self._unit != 1 or not self._plain or source == np.bool_ else source
        self._rows, self._kept = (-1, -1), np.empty(0)

    def __getitem__(self, key: Slices) -> Array:
        part = self._window(key[2:])[: self._channels]
        if self.dtype == part.dtype:
            return part[None]
        values = part.astype(np.float32 if self.dtype.kind == "f" and self.dtype.itemsize <= 4 else self.dtype)
        if self._unit != 1:
            values /= self._unit
        if not self._plain:
            shape = (-1, *(1,) * (values.ndim - 1))
            values = (values - np.reshape(self._mean, shape)) / np.reshape(self._std, shape)
        return np.asarray(values, self.dtype)[None]

    def _window(self, ranges: Slices) -> Array:
        """A window with all channels of the file."""
        if isinstance(self._array, View):  # it reads no more than the window
            return self._array[(self._sample, slice(None), *ranges)]
        start, stop, _ = ranges[0].indices(self.shape[2])
        if self._rows != (start, stop):
            self._kept = np.asarray(self._array[self._sample, :, slice(start, stop)])
            self._rows = start, stop
        return self._kept[(slice(None), slice(None), *ranges[1:])]


class FileSink:
    """One sample of a file as the output of a network; windows come row by row, those of a row in order.

    Args:
        out: of the file, (N, M, *spatial).
        sample: number of the sample.
        shape: of the network's output, (1, M, *spatial), or (1, *spatial) where it has no channels.
        dtype: of the network's output. Floats from 0 to 1 that are written as integers get the integers' whole range.

    Attributes:
        saturated: values that did not fit the file's dtype.
    """

    def __init__(self, out: Writable, sample: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._out, self._sample, self.shape, self.dtype = out, sample, shape, dtype
        self._flat = len(shape) < len(out.shape)
        self._band: Array | None = None
        self._held = np.dtype(out.dtype)
        self.saturated = 0

    def __setitem__(self, key: Slices, value: Array) -> None:
        first = 1 if self._flat else 2
        rows = slice(*key[first].indices(self.shape[first])[:2])
        if self._band is None:
            channels = 1 if self._flat else self.shape[1]
            self._band = np.empty((channels, rows.stop - rows.start, *self.shape[first + 1 :]), self._held)
        rest = key[first + 1 :]
        part = value if self._flat else value[0]
        self._band[(slice(None), slice(None), *rest)] = self._fitted(part)
        ends = (s.indices(n)[1] == n for s, n in zip(rest, self.shape[first + 1 :], strict=True))
        if all(ends):
            self._out[self._sample, slice(None), rows] = self._band
            self._band = None

    def _fitted(self, value: Array) -> Array:
        if value.dtype == self._held:
            return value
        if self._held.kind in "iu" and value.dtype.kind == "f":
            value = value.astype(np.float64) * np.iinfo(self._held).max
        self.saturated += count_outside(value, self._held)
        return saturate(value, self._held)


def stored_dtype(wanted: str | None, computed: np.dtype, *, picture: bool) -> np.dtype:
    """The dtype of an output file: as computed, bool as uint8; of pictures uint8.

    Example:
        >>> stored_dtype(None, np.dtype("float32"), picture=True)
        dtype('uint8')
    """
    if wanted is None:
        small = picture or computed == np.bool_
        return np.dtype(np.uint8) if small else computed
    return dtype_of_file(wanted, "a dtype of numbers")


def output_shape(shape: tuple[Any, ...], rank: int) -> tuple[int, ...]:
    """The shape of a file for an output: with an axis of channels where the output has none.

    Raises:
        InvalidArgumentError: the output is no map.
    """
    if len(shape) not in (rank, rank - 1):
        raise InvalidArgumentError("--select", f"an output with {rank} axes, or {rank - 1}", list(shape))
    return shape if len(shape) == rank else (shape[0], 1, *shape[1:])
