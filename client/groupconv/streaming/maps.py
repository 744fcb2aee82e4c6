"""Maps that are streamed through a network: sources that are read by windows, sinks that are written by windows."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from groupconv.arguments import as_array
from groupconv.errors import InvalidArgumentError
from groupconv.networks.tensors import Array, TensorInfo, converted
from groupconv.streaming.bands import Bands, dtype_of_bands

Slices = tuple[slice, ...]


class Source(Protocol):
    """A map to read.

    Attributes:
        shape: of the whole, as the network's input has it.
        unbatched: whether what is read lacks the first axis.
    """

    shape: tuple[int, ...]
    unbatched: bool

    def read(self, window: Slices) -> Array:
        """A window in the dtype of the network's input; windows come in the order of their rows."""


class Sliced:
    """Anything with a shape, a dtype and slices along all axes: NumPy arrays and memory maps, Zarr, HDF5.

    Args:
        array: of the input's shape; one sample may lack the first axis.
        info: the input.

    Raises:
        InvalidArgumentError: the number of axes does not fit.
    """

    def __init__(self, array: Any, info: TensorInfo) -> None:
        shape, rank = tuple(array.shape), len(info.shape)
        if len(shape) not in (rank, rank - 1):
            raise InvalidArgumentError(f"inputs[{info.name!r}].shape", f"{rank} axes, as in {info}", list(shape))
        self._array, self._info, self.unbatched = array, info, len(shape) < rank
        self.shape = (1, *shape) if self.unbatched else shape
        converted(info, np.empty(0, np.dtype(array.dtype).newbyteorder("=")))

    def read(self, window: Slices) -> Array:
        """As in `Source`."""
        part = as_array(self._array[window[1:] if self.unbatched else window], f"inputs[{self._info.name!r}]")
        part = converted(self._info, part.astype(part.dtype.newbyteorder("="), copy=False))
        return part[None] if self.unbatched else part


class Iterated:
    """An iterator of bands (1, C, rows, …) or (C, rows, …) of one sample. Rows that a later window needs are kept.

    Args:
        bands: the iterator.
        shape: of all bands together.
        dtype: of each.
        info: the input.

    Raises:
        InvalidArgumentError: there are several samples, or the number of axes or the dtype does not fit.
    """

    def __init__(self, bands: Iterable[Any], shape: Sequence[int], dtype: Any, info: TensorInfo) -> None:
        if not isinstance(shape, Sequence):
            raise InvalidArgumentError("shape", "the shape of all bands together", shape)
        rank = len(info.shape)
        self.unbatched = len(shape) < rank
        self.shape = (1, *shape) if self.unbatched else tuple(shape)
        if len(self.shape) != rank or self.shape[0] != 1:
            raise InvalidArgumentError("shape", f"one sample with {rank} axes, for an iterator of bands", list(shape))
        self._info, self._dtype = info, dtype_of_bands(dtype)
        converted(info, np.empty(0, self._dtype))
        self._bands = Bands(bands, self.shape[2], 2)

    def read(self, window: Slices) -> Array:
        """As in `Source`."""
        start, stop, _ = window[2].indices(self.shape[2])
        self._bands.forget(start)
        whole_parts = self._bands.parts(start, stop, self._checked)
        parts = [part[(*window[:2], slice(None), *window[3:])] for part in whole_parts]
        return converted(self._info, parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2))

    def _checked(self, band: Any) -> Array:
        array = as_array(band, f"inputs[{self._info.name!r}]")
        array = array[None] if array.ndim == len(self.shape) - 1 else array
        wanted = list(self.shape)
        if array.ndim == len(wanted):
            wanted[2] = array.shape[2]
        if list(array.shape) != wanted or array.dtype != self._dtype:
            raise InvalidArgumentError("input", f"bands of {self._dtype} {list(self.shape)}, cut along axis 2", array)
        return array


class Sink:
    """An output to write.

    Args:
        out: an array of the output's shape and dtype, anything that takes slices along all axes; None makes one.
        info: the output with its extents.
        unbatched: whether `out` lacks the first axis.

    Raises:
        InvalidArgumentError: `out` has another shape or dtype.
    """

    def __init__(self, out: Any, info: TensorInfo, *, unbatched: bool) -> None:
        self._unbatched = unbatched
        wanted = tuple(info.shape[1:] if unbatched else info.shape)
        if out is None:
            out = np.empty(wanted, info.dtype)
        elif tuple(out.shape) != wanted or np.dtype(out.dtype) != info.dtype:
            expected = f"shape {wanted} and dtype {info.dtype} for {info.name!r}"
            raise InvalidArgumentError("out", expected, f"{tuple(out.shape)}, {out.dtype}")
        self.out = out

    def write(self, place: Slices, part: Array) -> None:
        """Write a part, which may be empty."""
        if part.size:
            self.out[place[1:] if self._unbatched else place] = part[0] if self._unbatched else part
