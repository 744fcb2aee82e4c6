"""Arrays on a CUDA device, as their owner describes them.

Source: the CUDA Array Interface, version 3.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groupconv.convolution.dtypes import BFLOAT16, DTYPES
from groupconv.errors import InvalidArgumentError
from groupconv.gpu.driver import ALL, Allocation, driver, has_driver


@dataclass(frozen=True)
class DeviceArray:
    """An array on a device, row-major without gaps.

    Attributes:
        owner: the caller's array, whose memory this is.
        pointer: address on the device.
        dtype: a supported one.
        shape: extents, each at least 1.
        stream: the stream with the owner's unfinished work on the array; None if there is none, `ALL` if unknown.
    """

    owner: Any = field(repr=False)
    pointer: int
    dtype: np.dtype
    shape: tuple[int, ...]
    stream: int | None

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the elements in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @functools.cached_property
    def allocation(self) -> Allocation | None:
        """The allocation that holds the array; None if CUDA cannot share it (managed memory, CUDA's own pools)."""
        if not has_driver():
            return None
        found = driver().allocation(self.pointer)
        if found is None or self.pointer + self.nbytes > found.base + found.size:
            return None
        return found

    def reshape(self, shape: tuple[int, ...]) -> "DeviceArray":
        """The same elements in another shape."""
        return replace(self, shape=shape)

    def astype(self, dtype: np.dtype) -> NDArray[Any]:
        """A copy on the host in another dtype."""
        return self.host().astype(dtype)

    def host(self) -> NDArray[Any]:
        """A copy on the host."""
        x = np.empty(self.shape, self.dtype)
        driver().read(self.pointer, x, self.stream)
        return x

    def wait(self, allocation: Allocation) -> None:
        """Block until the owner's queued work is done: another process cannot wait for this process's streams."""
        if self.stream is not None:
            with driver().current(allocation.context):
                driver().wait(self.stream)

    def fill(self, y: NDArray[Any]) -> None:
        """Copy a host array of the same shape and dtype to the device."""
        driver().write(self.pointer, np.ascontiguousarray(y), self.stream)


Tensor = NDArray[Any] | DeviceArray
"""An array of a request or an answer. Both kinds have shape, dtype, ndim, nbytes, reshape and astype."""


def device_array(x: Any) -> DeviceArray | None:
    """An array on a device, described; None if it is on the host, has gaps, or has a dtype that is not supported.

    Call it in the thread that works on the array: the interface names the current stream of the calling thread.

    Args:
        x: anything. Arrays on a device have `__cuda_array_interface__` (CuPy's arrays, torch's CUDA tensors).

    Example:
        >>> device_array(np.zeros(3)) is device_array([1.0, 2.0]) is None
        True
    """
    if isinstance(x, DeviceArray):
        return x
    interface = None if isinstance(x, np.ndarray) else _interface(x)
    if interface is None:
        return None
    shape, dtype = tuple(interface["shape"]), _dtype(x, interface["typestr"])
    if dtype is None or 0 in shape or interface.get("mask") is not None:
        return None
    if not _contiguous(shape, interface.get("strides"), dtype.itemsize):
        return None
    stream = interface["stream"] if "stream" in interface else ALL  # noqa: SIM401 - None is a valid value
    return DeviceArray(x, interface["data"][0], dtype, shape, stream)


def described(x: Any) -> Any:
    """`device_array(x)`, or `x` itself if it is not on a device."""
    return device_array(x) or x


def on_host(x: Any) -> Any:
    """A `DeviceArray` as a host copy, or as its owner if there is no driver to copy with; anything else unchanged."""
    if not isinstance(x, DeviceArray):
        return x
    return x.host() if has_driver() else x.owner


def device_output(out: Any) -> DeviceArray | None:
    """`device_array` of an array to fill.

    Raises:
        InvalidArgumentError: `out` is on a device and is read-only, has gaps, or has an unsupported dtype.
    """
    if out is None or isinstance(out, np.ndarray):
        return None
    found = device_array(out)
    interface = _interface(out if found is None else found.owner)
    if interface is not None and (found is None or interface["data"][1]):
        expected = f"to be writable and without gaps on the device, of {', '.join(DTYPES)}"
        got = f"{interface['typestr']}, strides {interface.get('strides')}, data {interface['data']}"
        raise InvalidArgumentError("out", expected, got)
    return found


def _interface(x: Any) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] | None = x.__cuda_array_interface__
    except (AttributeError, RuntimeError):  # torch raises RuntimeError for a tensor that requires a gradient
        return None
    return found


def _dtype(x: Any, typestr: str) -> np.dtype | None:
    """The supported dtype of an array, or None."""
    if str(getattr(x, "dtype", "")).endswith("bfloat16"):  # its typestr is that of any two bytes
        return BFLOAT16
    dtype = np.dtype(typestr)
    return dtype if dtype in DTYPES.values() else None


def _contiguous(shape: tuple[int, ...], strides: Sequence[int] | None, itemsize: int) -> bool:
    expected = itemsize
    for extent, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if extent > 1 and stride != expected:
            return False
        expected *= extent
    return True
