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
    """An array on a device without gaps, row-major but for one axis that may be the last one in memory.

    Attributes:
        owner: the caller's array, whose memory this is.
        pointer: address on the device.
        dtype: a supported one.
        shape: extents, each at least 1.
        stream: the stream with the owner's unfinished work on the array; None if there is none, `ALL` if unknown.
        innermost: the axis that is the last one in memory, where it is not the last one of `shape`: 1 for (N, C, H, W)
            with channels last.
    """

    owner: Any = field(repr=False)
    pointer: int
    dtype: np.dtype
    shape: tuple[int, ...]
    stream: int | None
    innermost: int | None = None

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
        allocation = driver().allocation(self.pointer)
        if allocation is None or self.pointer + self.nbytes > allocation.base + allocation.size:
            return None
        return allocation

    def reshape(self, shape: tuple[int, ...]) -> "DeviceArray":
        """The same elements with a batch axis in front, or without it."""
        moved = None if self.innermost is None else self.innermost + len(shape) - self.ndim
        return replace(self, shape=shape, innermost=moved)

    def channels_first(self, axis: int) -> "DeviceArray | None":
        """The last axis seen as this one, as a view; None if another axis is the last one in memory."""
        if self.innermost is not None:
            return None
        *rest, channels = self.shape
        return replace(self, shape=(*rest[:axis], channels, *rest[axis:]), innermost=axis)

    def astype(self, dtype: np.dtype) -> NDArray[Any]:
        """A copy on the host in another dtype."""
        return self.host().astype(dtype)

    def host(self) -> NDArray[Any]:
        """A copy on the host."""
        innermost = self.ndim - 1 if self.innermost is None else self.innermost
        x = np.empty(_at_end(self.shape, innermost), self.dtype)
        driver().read(self.pointer, x, self.stream)
        return x if self.innermost is None else np.moveaxis(x, -1, innermost)

    def wait(self, allocation: Allocation) -> None:
        """Block until the owner's queued work is done: another process cannot wait for this process's streams."""
        if self.stream is not None:
            with driver().current(allocation.context):
                driver().wait(self.stream)

    def fill(self, y: NDArray[Any]) -> None:
        """Copy a host array of the same shape and dtype to the device."""
        memory = y if self.innermost is None else np.moveaxis(y, self.innermost, -1)
        driver().write(self.pointer, np.ascontiguousarray(memory), self.stream)


Tensor = NDArray[Any] | DeviceArray
"""An array of a request or an answer. Both kinds have shape, dtype, ndim, nbytes, reshape and astype."""


def device_array(x: Any) -> DeviceArray | None:
    """The description of an array on a device; None if it is on the host, has gaps, or an unsupported dtype.

    Channels that are last in memory and not in the shape (torch's channels_last) are no gaps.

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
    innermost, strides = None, interface.get("strides")
    if not _contiguous(shape, strides, dtype.itemsize):
        innermost = next((axis for axis in (1, 0) if _innermost(axis, shape, strides, dtype.itemsize)), None)
        if innermost is None:
            return None
    stream = interface["stream"] if "stream" in interface else ALL  # noqa: SIM401 - None is a valid value
    return DeviceArray(x, interface["data"][0], dtype, shape, stream, innermost)


def as_device_array(x: Any) -> Any:
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
    array = device_array(out)
    interface = _interface(out if array is None else array.owner)
    if interface is not None and (array is None or interface["data"][1]):
        expected = f"to be writable and without gaps on the device, of {', '.join(DTYPES)}"
        got = f"{interface['typestr']}, strides {interface.get('strides')}, data {interface['data']}"
        raise InvalidArgumentError("out", expected, got)
    return array


def _interface(x: Any) -> dict[str, Any] | None:
    try:
        interface: dict[str, Any] | None = x.__cuda_array_interface__
    except (AttributeError, RuntimeError):  # torch raises RuntimeError for a tensor that requires a gradient
        return None
    return interface


def _dtype(x: Any, typestr: str) -> np.dtype | None:
    """The supported dtype of an array, or None."""
    if str(getattr(x, "dtype", "")).endswith("bfloat16"):  # its typestr is that of any two bytes
        return BFLOAT16
    dtype = np.dtype(typestr)
    return dtype if dtype in DTYPES.values() else None


def _innermost(axis: int, shape: tuple[int, ...], strides: Sequence[int] | None, itemsize: int) -> bool:
    """Whether an array is contiguous once this axis is moved to the end, as torch's channels_last is."""
    return _contiguous(_at_end(shape, axis), _at_end(tuple(strides or ()), axis), itemsize)


def _at_end(values: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """One value for each axis, with that of `axis` moved to the end."""
    return (*values[:axis], *values[axis + 1 :], *values[axis : axis + 1])


def _contiguous(shape: tuple[int, ...], strides: Sequence[int] | None, itemsize: int) -> bool:
    expected = itemsize
    for extent, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if extent > 1 and stride != expected:
            return False
        expected *= extent
    return True
