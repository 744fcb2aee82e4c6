"""Arrays with channels last: views of them with channels in front, as the server computes, and back."""

from typing import Any, Literal, get_args

import numpy as np

from groupconv.arguments import as_array, checked_output, fill
from groupconv.convolution.steps import Array
from groupconv.errors import InvalidArgumentError
from groupconv.gpu.arrays import DeviceArray, Tensor, device_array
from groupconv.gpu.driver import has_driver

Layout = Literal["NCHW", "NHWC"]
LAYOUTS: tuple[str, ...] = get_args(Layout)


def is_channels_last(layout: Layout | None) -> bool:
    """Whether channels are the last axis.

    Raises:
        InvalidArgumentError: there is no such layout.
    """
    if layout is not None and layout not in LAYOUTS:
        raise InvalidArgumentError("layout", f"one of {', '.join(LAYOUTS)}", layout)
    return layout == "NHWC"


def channels_first(x: Any, rank: int) -> Tensor:
    """A view (N, C, *spatial) of an input (N, *spatial, C), or (C, *spatial) of (*spatial, C). No element is copied.

    Args:
        x: an array, on the host or on a device.
        rank: number of spatial axes.

    Raises:
        InvalidArgumentError: it has too few or too many axes.

    Example:
        >>> channels_first(np.zeros((2, 8, 9, 3)), 2).shape
        (2, 3, 8, 9)
    """
    if has_driver() and (on_device := _on_device(x, "input", rank)) is not None:
        return on_device
    array = as_array(x, "input")
    _check_dimensions("input", array.shape, rank)
    return np.moveaxis(array, -1, array.ndim - rank - 1)


def checked_out(out: Any, rank: int) -> DeviceArray | None:
    """An array for the output, with channels last: a view with channels in front if it is on a device, else None.

    Raises:
        InvalidArgumentError: it cannot be filled, or has too few or too many axes.
    """
    if out is None:
        return None
    if checked_output(out) is None:
        _check_dimensions("out", out.shape, rank)
        return None
    view = _on_device(out, "out", rank)
    if view is None:
        raise InvalidArgumentError("out", "to be without gaps on the device", f"shape {tuple(out.shape)}")
    return view


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


def _on_device(x: Any, field: str, rank: int) -> DeviceArray | None:
    """An array on a device with its channels in front; None if it is not there, or has to be copied."""
    array = device_array(x)
    if array is None:
        return None
    _check_dimensions(field, array.shape, rank)
    return array.channels_first(array.ndim - rank - 1)


def _check_dimensions(field: str, shape: tuple[int, ...], rank: int) -> None:
    if len(shape) not in (rank + 1, rank + 2):
        expected = f"{rank + 2} dimensions, or {rank + 1} without a batch"
        raise InvalidArgumentError(f"{field}.shape", expected, tuple(shape))
