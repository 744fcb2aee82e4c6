"""Whether the output of a stream lies where its input does: its bands would replace rows that are still read."""

from pathlib import Path
from typing import Any

import numpy as np

from groupconv.errors import InvalidArgumentError

WORK = 100_000
"""Bound of NumPy's exact search for common elements of two arrays with strides. Past it they count as overlapping."""


def overlaps(x: Any, out: Any) -> bool:
    """Whether filling `out` may change `x`.

    Args:
        x: an array, or anything with slices.
        out: the same; or None, which overlaps nothing.

    Example:
        >>> x = np.zeros((2, 8))
        >>> overlaps(x, x[1:]), overlaps(x[:, ::2], x[:, 1::2]), overlaps(x, x.copy())
        (True, False, False)
    """
    if x is out:
        return out is not None
    x, out = _viewed(x), _viewed(out)
    if not isinstance(x, np.ndarray) or not isinstance(out, np.ndarray):
        return type(x) is type(out) and (x == out) is True  # the same array of an HDF5 file or Zarr, opened twice
    if _in_one_file(x, out):
        return True
    try:
        return bool(np.shares_memory(x, out, max_work=WORK))  # type: ignore[arg-type] # the stub has 0 and -1 only
    except np.exceptions.TooHardError:
        return True


def check_apart(x: Any, out: Any) -> None:
    """Check that a stream may fill `out` while it reads `x`.

    Raises:
        InvalidArgumentError: they overlap.
    """
    if overlaps(x, out):
        raise InvalidArgumentError(
            "out", "an array apart from the input, which is read while `out` is filled", "the same"
        )


def _viewed(array: Any) -> Any:
    """A tensor in the host's memory as a NumPy array, without a copy; anything else as it is."""
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack_device__"):
        return array
    try:
        return np.from_dlpack(array)
    except (BufferError, RuntimeError, TypeError, ValueError):  # on a device, or of a dtype that NumPy has not
        return array


def _in_one_file(x: Any, out: Any) -> bool:
    """Whether both are memory maps of one file, whose addresses differ."""
    first, second = (str(getattr(array, "filename", None) or "") for array in (x, out))
    return bool(first and second) and Path(first).samefile(second)
