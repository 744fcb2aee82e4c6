"""Arrays with channels last: views of them with channels in front, as the server computes, and back."""

from typing import Any, Literal, get_args

import numpy as np

from groupconv.arguments import as_array, checked_output, fill
from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv.gpu.arrays import device_array

Layout = Literal["NCHW", "NHWC"]
LAYOUTS: tuple[str, ...] = get_args(Layout)


def is_last(layout: Layout | None) -> bool:
    """Whether channels are the last axis.

    Raises:
        InvalidArgumentError: there is no such layout.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InvalidArgumentError("layout", f"one of {', '.join(LAYOUTS)}", layout)
    return layout == "NHWC"


def channels_first(x: Any, rank: int, out: Any = None) -> Array:
    """A view (N, C, *spatial) of an input (N, *spatial, C), or (C, *spatial) of (*spatial, C). No element is copied.

    Args:
        x: an array on the host.
        rank: number of spatial axes.
        out: array for `channels_last` to fill, which is checked with the input; or None.

    Raises:
        InvalidArgumentError: one of them is on a device, has too few or too many axes, or `out` cannot be filled.

    Example:
        >>> channels_first(np.zeros((2, 8, 9, 3)), 2).shape
        (2, 3, 8, 9)
    """
    if device_array(x) is not None:
        raise _on_device("input")
    array = as_array(x, "input")
    _check_dimensions("input", array.shape, rank)
    if out is not None:
        if checked_output(out) is not None:
            raise _on_device("out")
        _check_dimensions("out", out.shape, rank)
    return np.moveaxis(array, -1, array.ndim - rank - 1)


def channels_last(y: Array, rank: int, out: Any = None) -> Any:
    """A view (N, *spatial, C) of an output (N, C, *spatial), or (*spatial, C) of (C, *spatial); or `out`, filled.

    Raises:
        InvalidArgumentError: `out` has another shape or dtype.

    Example:
        >>> channels_last(np.zeros((3, 8, 9)), 2).shape
        (8, 9, 3)
    """
    last = np.moveaxis(y, y.ndim - rank - 1, -1)
    return last if out is None else fill(out, last)


def _on_device(field: str) -> InvalidArgumentError:
    return InvalidArgumentError("layout", f"NCHW, as {field} is on a device", "NHWC")


def _check_dimensions(field: str, shape: tuple[int, ...], rank: int) -> None:
    if len(shape) not in (rank + 1, rank + 2):
        expected = f"{rank + 2} dimensions, or {rank + 1} without a batch"
        raise InvalidArgumentError(f"{field}.shape", expected, tuple(shape))
