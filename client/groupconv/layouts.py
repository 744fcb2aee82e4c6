"""Arrays with channels last: views of them with channels in front, as the server computes, and back."""

from typing import Any, Literal, get_args

import numpy as np

from groupconv.arguments import as_array
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


def channels_first(x: Any, rank: int, field: str) -> Any:
    """A view (N, C, *spatial) of an array (N, *spatial, C), or (C, *spatial) of (*spatial, C). No element is copied.

    Args:
        x: an array on the host; None stays None.
        rank: number of spatial axes.
        field: what errors call it.

    Raises:
        InvalidArgumentError: it is on a device, or has too few axes.

    Example:
        >>> channels_first(np.zeros((2, 8, 9, 3)), 2, "input").shape
        (2, 3, 8, 9)
    """
    if x is None:
        return None
    if device_array(x) is not None:
        raise InvalidArgumentError("layout", f"NCHW, as {field} is on a device", "NHWC")
    array = as_array(x, field)
    if array.ndim not in (rank + 1, rank + 2):
        raise InvalidArgumentError(
            f"{field}.shape", f"{rank + 2} dimensions, or {rank + 1} without a batch", array.shape
        )
    return np.moveaxis(array, -1, array.ndim - rank - 1)


def channels_last(y: Any, rank: int) -> Any:
    """A view (N, *spatial, C) of an array (N, C, *spatial), or (*spatial, C) of (C, *spatial).

    Example:
        >>> channels_last(np.zeros((3, 8, 9)), 2).shape
        (8, 9, 3)
    """
    return np.moveaxis(y, y.ndim - rank - 1, -1)
