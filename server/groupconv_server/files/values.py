"""Values between files and streams: what travels, what a file holds."""

from collections.abc import Callable
from typing import Any

import numpy as np

from groupconv.convolution.dtypes import DTYPES
from groupconv.wire.requests import Array
from groupconv_server.files.axes import Readable, Writable


class Converted:
    """An array of another dtype, converted as it is read or written.

    Args:
        array: what is read or filled.
        dtype: what it is seen as.
        convert: values read to `dtype`, or values of `dtype` to what is written.
    """

    def __init__(self, array: Any, dtype: np.dtype, convert: Callable[[Array], Array]) -> None:
        self._array, self._convert = array, convert
        self.shape, self.dtype = tuple(array.shape), dtype

    def __getitem__(self, key: Any) -> Array:
        return self._convert(self._array[key])

    def __setitem__(self, key: Any, value: Array) -> None:
        self._array[key] = self._convert(value)


def travels(array: Readable) -> Readable:
    """`array` in a dtype that travels: other integers as float32 (exact up to 24 bits), large ones as float64."""
    dtype = np.dtype(array.dtype)
    if dtype == np.bool_:
        return Converted(array, np.dtype(np.uint8), lambda part: part.astype(np.uint8) * 255)
    if dtype.newbyteorder("=") in DTYPES.values() and dtype != np.int32:
        return array
    wide = np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)
    return Converted(array, wide, lambda part: part.astype(wide))


def fitted(out: Writable, dtype: np.dtype, *, absolute: bool) -> Writable:
    """`out` for results of `dtype`, which are saturated to what it holds, their magnitudes if `absolute`."""
    held = np.dtype(out.dtype)
    if held == dtype and not absolute:
        return out
    return Converted(out, dtype, lambda part: saturate(np.abs(part) if absolute else part, held))


def saturate(y: Array, dtype: np.dtype) -> Array:
    """Round to integers and clip to the range of `dtype`; NaN becomes 0.

    Example:
        >>> saturate(np.array([-3.0, 1.6, 300.0]), np.dtype("uint8")).tolist()
        [0, 2, 255]
    """
    if not np.issubdtype(dtype, np.integer):
        return y.astype(dtype)
    info = np.iinfo(dtype)
    clipped: Array = np.clip(np.rint(np.nan_to_num(y.astype(np.float64))), info.min, info.max).astype(dtype)
    return clipped
