"""Arrays on a CUDA device, as their owner describes them and as the driver knows their memory.

There is no CUDA library here: whoever hands over such an array has loaded the driver, and what little is asked of it
goes through ctypes.

Source: CUDA Driver API (cuda.h); the CUDA Array Interface, version 3.
"""

import ctypes
import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groupconv.convolution.dtypes import BFLOAT16, DTYPES
from groupconv.errors import InternalError, InvalidArgumentError

HANDLE_BYTES, UUID_BYTES = 64, 16
"""Of a CUipcMemHandle and a CUuuid."""
_CONTEXT, _TYPE, _ID, _MANAGED, _ORDINAL, _SHAREABLE, _BASE, _SIZE = 1, 2, 7, 8, 9, 10, 11, 12  # CUpointer_attribute
_DEVICE_MEMORY = 2  # CU_MEMORYTYPE_DEVICE
_DEFAULT = 0  # the legacy default stream


@dataclass(frozen=True)
class Allocation:
    """Device memory that was allocated at once, and that another process may be given.

    Attributes:
        id: of no other allocation that this process makes, ever.
        base: its address.
        size: in bytes.
        context: of the driver, that it belongs to.
        ordinal: of its device, in this process.
    """

    id: int
    base: int
    size: int
    context: int
    ordinal: int


@dataclass(frozen=True)
class DeviceArray:
    """An array on a device, row-major without gaps.

    Attributes:
        owner: whose memory it is.
        pointer: its address.
        dtype: one that travels.
        shape: extents, each at least 1.
        stream: that the owner's work on it is queued on; None if that is done, ALL if it may be on any.
    """

    owner: Any = field(repr=False)
    pointer: int
    dtype: np.dtype
    shape: tuple[int, ...]
    stream: int | None

    @property
    def ndim(self) -> int:
        """Dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @functools.cached_property
    def allocation(self) -> Allocation | None:
        """What it is a part of; None if CUDA does not share that, as with managed memory and its own pools."""
        driver = _driver()
        found = None if driver is None else driver.allocation(self.pointer)
        if found is None or self.pointer + self.nbytes > found.base + found.size:
            return None
        return found

    def reshape(self, shape: tuple[int, ...]) -> "DeviceArray":
        """The same elements in another shape."""
        return replace(self, shape=shape)

    def astype(self, dtype: np.dtype) -> NDArray[Any]:
        """A copy on the host, of another dtype."""
        return self.host().astype(dtype)

    def host(self) -> NDArray[Any]:
        """A copy on the host."""
        x = np.empty(self.shape, self.dtype)
        driver().read(self.pointer, x, self.stream)
        return x

    def wait(self, allocation: Allocation) -> None:
        """Return when what the owner has queued is done: another process knows nothing of streams."""
        if self.stream is not None:
            with driver().current(allocation.context):
                driver().wait(self.stream)

    def fill(self, y: NDArray[Any]) -> None:
        """Copy a host array of the same shape and dtype there."""
        driver().write(self.pointer, np.ascontiguousarray(y), self.stream)


ALL = -1
"""In place of a stream: everything that is queued in the context, where the owner names none."""


def device_array(x: Any) -> DeviceArray | None:
    """An array on a device as what is needed to share it; None for what is on the host, has gaps, or does not travel.

    Args:
        x: anything; CuPy's arrays, torch's CUDA tensors and others with `__cuda_array_interface__` are such arrays.

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
    stream = interface["stream"] if "stream" in interface else ALL  # noqa: SIM401 - None is an answer
    return DeviceArray(x, interface["data"][0], dtype, shape, stream)


def noted(x: Any) -> Any:
    """`x`, or what it is on a device: to be asked in the caller's thread, as the interface tells that one's stream."""
    return device_array(x) or x


def unnoted(x: Any) -> Any:
    """The other way round, for what is not to be shared: a copy on the host, if the driver can make it."""
    if not isinstance(x, DeviceArray):
        return x
    return x.host() if has_driver() else x.owner


def destination(out: Any) -> DeviceArray | None:
    """`device_array` of what is to be filled.

    Raises:
        InvalidArgumentError: an array on a device that is read-only or cannot be filled in one piece.
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


class Driver:
    """What is used of libcuda.

    Args:
        library: loaded.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._call("cuInit", 0)

    def allocation(self, pointer: int) -> Allocation | None:
        """What a pointer is in, if another process may be given it."""
        names = (_CONTEXT, _TYPE, _ID, _MANAGED, _ORDINAL, _SHAREABLE, _BASE, _SIZE)
        values = self._attributes(pointer, names)
        if values is None:
            return None
        context, kind, id_, managed, ordinal, shareable, base, size = values
        if kind != _DEVICE_MEMORY or managed or not shareable or not context:
            return None
        return Allocation(id_, base, size, context, ordinal)

    def handle(self, allocation: Allocation) -> bytes | None:
        """What another process opens it by; None if CUDA will not have it shared."""
        handle = ctypes.create_string_buffer(HANDLE_BYTES)
        with self.current(allocation.context):
            status = self._library.cuIpcGetMemHandle(handle, ctypes.c_uint64(allocation.base))
        return None if status else handle.raw

    def uuid(self, ordinal: int) -> bytes:
        """What a device is called in every process."""
        device, uuid = ctypes.c_int(), ctypes.create_string_buffer(UUID_BYTES)
        self._call("cuDeviceGet", ctypes.byref(device), ordinal)
        self._call("cuDeviceGetUuid_v2", uuid, device)
        return uuid.raw

    def wait(self, stream: int) -> None:
        """Until a stream, or all of them, have done what was queued."""
        if stream == ALL:
            self._call("cuCtxSynchronize")
        else:
            self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def read(self, pointer: int, x: NDArray[Any], stream: int | None) -> None:
        """Copy from a device into a host array without gaps, after what is queued on a stream."""
        with self._after(pointer, stream):
            size = ctypes.c_size_t(x.nbytes)
            self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(x.ctypes.data), ctypes.c_uint64(pointer), size)

    def write(self, pointer: int, y: NDArray[Any], stream: int | None) -> None:
        """Copy a host array without gaps to a device, after what is queued on a stream."""
        with self._after(pointer, stream):
            size = ctypes.c_size_t(y.nbytes)
            self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(pointer), ctypes.c_void_p(y.ctypes.data), size)
            self.wait(_DEFAULT)  # it may return before the last bytes are there

    @contextmanager
    def current(self, context: int) -> Iterator[None]:
        """Have a context current in this thread."""
        self._call("cuCtxPushCurrent_v2", ctypes.c_void_p(context))
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    @contextmanager
    def _after(self, pointer: int, stream: int | None) -> Iterator[None]:
        """In the context of a pointer, once what is queued on a stream is done."""
        context, ordinal = self._attributes(pointer, (_CONTEXT, _ORDINAL)) or (0, 0)
        with self.current(context or self._primary(ordinal)):
            if stream is not None:
                self.wait(stream)
            yield

    def _attributes(self, pointer: int, names: Sequence[int]) -> tuple[int, ...] | None:
        """Attributes of a pointer; zeros of one that CUDA does not know."""
        count = len(names)
        values = (ctypes.c_uint64 * count)()
        places = (ctypes.c_void_p * count)(*(ctypes.addressof(values) + 8 * i for i in range(count)))
        asked = (ctypes.c_int * count)(*names)
        status = self._library.cuPointerGetAttributes(count, asked, places, ctypes.c_uint64(pointer))
        return None if status else tuple(values)

    @functools.cache  # noqa: B019 - the driver is there as long as the process
    def _primary(self, ordinal: int) -> int:
        """The context of whoever uses the runtime API."""
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ordinal)
        return context.value or 0

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises:
            InternalError: it failed.
        """
        status = getattr(self._library, name)(*arguments)
        if status:
            raise InternalError(f"CUDA: {name} failed with error {status}")


def has_driver() -> bool:
    """Whether there is a driver here, and a device."""
    return _driver() is not None


def driver() -> Driver:
    """The driver of this machine.

    Raises:
        InternalError: there is none.
    """
    found = _driver()
    if found is None:
        raise InternalError("CUDA: there is no driver (libcuda.so.1)")
    return found


@functools.cache
def _driver() -> Driver | None:
    try:
        return Driver(ctypes.CDLL("libcuda.so.1"))
    except (OSError, InternalError):  # no driver, or no device
        return None


def _interface(x: Any) -> dict[str, Any] | None:
    """What an array says of itself; torch refuses where a gradient is asked for."""
    try:
        found: dict[str, Any] | None = x.__cuda_array_interface__
    except (AttributeError, RuntimeError):
        return None
    return found


def _dtype(x: Any, typestr: str) -> np.dtype | None:
    """A dtype that travels; None for another one."""
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
