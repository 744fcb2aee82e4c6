"""Conversion of values from the dtypes of files to those of requests, and back."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from groupconv.convolution.dtypes import BFLOAT16, DTYPES
from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv_server.files.arrays import Readable, Writable

READABLE = "bool, integers or floats"
"""Dtypes of files that can be read, in either byte order."""


class Converted:
    """An array whose values are converted as they are read or written.

    Args:
        array: that is read or written.
        dtype: of the converted array.
        convert: converts values of `array` that are read, or values that are written to it.
    """

    def __init__(self, array: Any, dtype: np.dtype, convert: Callable[[Array], Array]) -> None:
        self._array, self._convert = array, convert
        self.shape, self.dtype = tuple(array.shape), dtype

    def __getitem__(self, key: Any) -> Array:
        return self._convert(self._array[key])

    def __setitem__(self, key: Any, value: Array) -> None:
        self._array[key] = self._convert(value)


def as_request_dtype(array: Readable) -> Readable:
    """`array` in a dtype that requests can have, in this machine's byte order.

    bool becomes 0 and 255 of uint8, as in a picture. int16 and uint16 become float32, which holds them exactly. Longer
    integers and floats become float64.

    Raises:
        InvalidArgumentError: the values are not numbers, or complex.
    """
    dtype = np.dtype(array.dtype)
    if dtype == np.bool_:
        return Converted(array, np.dtype(np.uint8), lambda part: part.astype(np.uint8) * np.uint8(255))
    if dtype.kind not in "iuf" and dtype != BFLOAT16:
        readable = READABLE + (", such as the real part or the magnitude" if dtype.kind == "c" else "")
        raise InvalidArgumentError("input.dtype", readable, _described(dtype))
    native = dtype.newbyteorder("=")
    if native not in DTYPES.values() or native == np.int32:
        native = np.dtype(np.float32 if native.itemsize <= 2 else np.float64)
    return array if native == dtype else Converted(array, native, lambda part: _cast(part, native))


def conversion_notes(dtype: np.dtype) -> tuple[str, ...]:
    """A line for the user about what `as_request_dtype` changes in values of `dtype`, or no line.

    Example:
        >>> conversion_notes(np.dtype("bool")), conversion_notes(np.dtype("uint16"))
        (('bool: read as 0 and 255 of uint8',), ())
    """
    if dtype == np.bool_:
        return ("bool: read as 0 and 255 of uint8",)
    if dtype.kind in "iu" and dtype.itemsize == 8:
        return (f"{dtype.newbyteorder('=')}: computed as float64, exact up to 2**53",)
    if dtype.kind == "f" and dtype.itemsize > 8:
        return (f"{dtype.newbyteorder('=')}: computed as float64",)
    if dtype.kind == "f" and dtype.itemsize == 2:
        return ("float16: summed in float32, the result is rounded to float16",)
    return ()


class Fitted:
    """An output that rounds and saturates results to its dtype.

    Args:
        out: the output in the file.
        dtype: of the results.
        absolute: whether the output gets absolute values.
        parts: results for each channel. If there are several, the output gets their Euclidean norm.

    Attributes:
        saturated: values so far that were outside the range of the output's dtype.
    """

    def __init__(self, out: Writable, dtype: np.dtype, *, absolute: bool, parts: int = 1) -> None:
        self._out, self._absolute, self._parts, self._held = out, absolute, parts, np.dtype(out.dtype)
        n, channels, *spatial = out.shape
        self.shape, self.dtype = (n, channels * parts, *spatial), dtype
        self.saturated = 0

    def __setitem__(self, key: Any, value: Array) -> None:
        if self._parts > 1:
            value = np.sqrt((value.reshape(-1, self._parts, *value.shape[1:]).astype(np.float64) ** 2).sum(axis=1))
        elif self._absolute:
            value = np.abs(value)
        if value.dtype != self._held:
            self.saturated += count_outside(value, self._held)
            value = saturate(value, self._held)
        self._out[key] = value

    def notes(self) -> tuple[str, ...]:
        """A line for the user about saturated values, or no line."""
        return saturation_notes(self.saturated, math.prod(self._out.shape), self._held)


def saturation_notes(saturated: int, size: int, dtype: np.dtype) -> tuple[str, ...]:
    """A line for the user about how many of `size` values were saturated to the range of `dtype`, or no line."""
    if not saturated:
        return ()
    count = f"{saturated} values ({saturated / size:.2g} of all)"
    return (f"{count} are outside the range of {dtype} and were saturated, NaN to 0 (--dtype)",)


def dtype_of_file(wanted: str, expected: str) -> np.dtype:
    """The dtype of numbers that `--dtype` names for a file.

    Raises:
        InvalidArgumentError: it names no such dtype.
    """
    try:
        dtype = np.dtype(wanted)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "uif":
        raise InvalidArgumentError("--dtype", f"{expected} (uint8, uint16, float32, …)", wanted)
    return dtype


def count_outside(y: Array, dtype: np.dtype) -> int:
    """How many values, NaN included, `saturate` clips to the range of `dtype`; 0 for floats.

    Example:
        >>> count_outside(np.array([-3.0, 1.6, 300.0, np.nan]), np.dtype("uint8"))
        3
    """
    if dtype.kind not in "iu":
        return 0
    info = np.iinfo(dtype)
    return int(np.count_nonzero(~((y < info.max + 0.5) & (y >= info.min - 0.5))))  # a NaN is neither


def saturate(y: Array, dtype: np.dtype) -> Array:
    """Round to integers and clip to the range of `dtype`. NaN becomes 0.

    Example:
        >>> saturate(np.array([-3.0, 1.6, 300.0]), np.dtype("uint8")).tolist()
        [0, 2, 255]
        >>> saturate(np.array([2.0**70, -(2.0**70)]), np.dtype("int64")).tolist()
        [9223372036854775807, -9223372036854775808]
    """
    if not np.issubdtype(dtype, np.integer):
        return _cast(y, dtype)
    info = np.iinfo(dtype)
    rounded = np.rint(np.nan_to_num(y.astype(np.float64)))
    if dtype.itemsize < 8:
        small: Array = np.clip(rounded, info.min, info.max).astype(dtype)
        return small
    # float64 rounds the largest value up to 2**63 or 2**64, which the dtype does not hold.
    high, low = rounded >= float(info.max), rounded <= float(info.min)
    large: Array = np.where(high | low, 0, rounded).astype(dtype)
    large[high], large[low] = info.max, info.min
    return large


def _cast(y: Array, dtype: np.dtype) -> Array:
    """`y` as floats. Values that are too large become infinite, without a warning."""
    with np.errstate(over="ignore"):
        return y.astype(dtype)


def _described(dtype: np.dtype) -> str:
    if dtype.names:
        return f"records with the fields {', '.join(dtype.names)}"
    return {"U": "strings", "S": "strings", "T": "strings", "O": "objects", "V": "raw bytes"}.get(
        dtype.kind, str(dtype)
    )
