"""The few functions of the CUDA driver that the SDK and the workers need, through ctypes.

The SDK depends on no CUDA library: a caller with an array on a device has loaded the driver already.

Source: CUDA Driver API (cuda.h).
"""

import ctypes
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from groupconv.errors import InternalError

HANDLE_BYTES, UUID_BYTES = 64, 16
"""Sizes of a CUipcMemHandle and a CUuuid."""
_CONTEXT, _TYPE, _ID, _MANAGED, _ORDINAL, _SHAREABLE, _BASE, _SIZE = 1, 2, 7, 8, 9, 10, 11, 12  # CUpointer_attribute
_VALUES_OF_64_BITS = 122  # CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS
_DEVICE_MEMORY = 2  # CU_MEMORYTYPE_DEVICE
_DEFAULT = 0  # the legacy default stream


@dataclass(frozen=True)
class Allocation:
    """One allocation of device memory that can be shared with another process.

    Attributes:
        id: unique among all allocations of this process, past and future.
        base: address on the device.
        size: in bytes.
        context: the driver's context that it belongs to.
        ordinal: number of its device in this process.
    """

    id: int
    base: int
    size: int
    context: int
    ordinal: int


ALL = -1
"""In place of a stream: all work that is queued in the context. For arrays whose owner does not name a stream."""


class Driver:
    """The functions of libcuda that are needed.

    Args:
        library: libcuda, loaded by ctypes.

    Raises:
        InternalError: CUDA does not start, for example because there is no device.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._call("cuInit", 0)

    def allocation(self, pointer: int) -> Allocation | None:
        """The allocation that contains a pointer; None if it cannot be shared with another process."""
        names = (_CONTEXT, _TYPE, _ID, _MANAGED, _ORDINAL, _SHAREABLE, _BASE, _SIZE)
        values = self._attributes(pointer, names)
        if values is None:
            return None
        context, kind, id_, managed, ordinal, shareable, base, size = values
        if kind != _DEVICE_MEMORY or managed or not shareable or not context:
            return None
        return Allocation(id_, base, size, context, ordinal)

    def handle(self, allocation: Allocation) -> bytes | None:
        """The handle by which another process opens an allocation; None if CUDA refuses to share it."""
        handle = ctypes.create_string_buffer(HANDLE_BYTES)
        with self.current(allocation.context):
            status = self._library.cuIpcGetMemHandle(handle, ctypes.c_uint64(allocation.base))
        return None if status else handle.raw

    def uuid(self, ordinal: int) -> bytes:
        """The UUID of a device, which is the same in every process."""
        device, uuid = ctypes.c_int(), ctypes.create_string_buffer(UUID_BYTES)
        self._call("cuDeviceGet", ctypes.byref(device), ordinal)
        self._call("cuDeviceGetUuid_v2", uuid, device)
        return uuid.raw

    def wait(self, stream: int) -> None:
        """Block until the work queued on a stream, or on all of them, is done."""
        if stream == ALL:
            self._call("cuCtxSynchronize")
        else:
            self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def has_values(self, ordinal: int) -> bool:
        """Whether streams of a device can wait for values of 64 bits (CUDA 11.7 and later)."""
        if not hasattr(self._library, "cuStreamWaitValue64_v2"):
            return False
        device, supported = ctypes.c_int(), ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ordinal)
        self._call("cuDeviceGetAttribute", ctypes.byref(supported), _VALUES_OF_64_BITS, device)
        return bool(supported.value)

    def wait_value(self, stream: int, word: int, value: int) -> None:
        """Have a stream wait, on the device, until a word of 64 bits is at least a value.

        Args:
            stream: of the current context.
            word: address of memory that the device sees, as `on_device` gives it for memory of the host.
            value: below 2^63.
        """
        self._call("cuStreamWaitValue64_v2", ctypes.c_void_p(stream), ctypes.c_uint64(word), ctypes.c_uint64(value), 0)

    def write_value(self, stream: int, word: int, value: int) -> None:
        """Have a stream write a word of 64 bits, behind all that it has written before (see `wait_value`)."""
        self._call("cuStreamWriteValue64_v2", ctypes.c_void_p(stream), ctypes.c_uint64(word), ctypes.c_uint64(value), 0)

    def on_device(self, address: int) -> int:
        """The address in the current context of page-locked memory of the host."""
        device_address = ctypes.c_uint64()
        self._call("cuMemHostGetDevicePointer_v2", ctypes.byref(device_address), ctypes.c_void_p(address), 0)
        return device_address.value

    def read(self, pointer: int, x: NDArray[Any], stream: int | None) -> None:
        """Copy from a device into a contiguous host array, after the work queued on a stream."""
        with self._after(pointer, stream):
            size = ctypes.c_size_t(x.nbytes)
            self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(x.ctypes.data), ctypes.c_uint64(pointer), size)

    def write(self, pointer: int, y: NDArray[Any], stream: int | None) -> None:
        """Copy a contiguous host array to a device, after the work queued on a stream."""
        with self._after(pointer, stream):
            size = ctypes.c_size_t(y.nbytes)
            self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(pointer), ctypes.c_void_p(y.ctypes.data), size)
            self.wait(_DEFAULT)  # the copy may return before the last bytes arrive

    @contextmanager
    def current(self, context: int) -> Iterator[None]:
        """Make a context current in this thread."""
        self._call("cuCtxPushCurrent_v2", ctypes.c_void_p(context))
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    @contextmanager
    def _after(self, pointer: int, stream: int | None) -> Iterator[None]:
        """Enter the context of a pointer, after the work queued on a stream."""
        context, ordinal = self._attributes(pointer, (_CONTEXT, _ORDINAL)) or (0, 0)
        with self.current(context or self._primary(ordinal)):
            if stream is not None:
                self.wait(stream)
            yield

    def _attributes(self, pointer: int, names: Sequence[int]) -> tuple[int, ...] | None:
        """Attributes of a pointer; zeros if CUDA does not know the pointer."""
        count = len(names)
        values = (ctypes.c_uint64 * count)()
        addresses = (ctypes.c_void_p * count)(*(ctypes.addressof(values) + 8 * i for i in range(count)))
        attributes = (ctypes.c_int * count)(*names)
        status = self._library.cuPointerGetAttributes(count, attributes, addresses, ctypes.c_uint64(pointer))
        return None if status else tuple(values)

    @functools.cache  # noqa: B019 - the driver lives as long as the process
    def _primary(self, ordinal: int) -> int:
        """The primary context of a device, which the runtime API uses."""
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ordinal)
        return context.value or 0

    def _call(self, name: str, *arguments: Any) -> None:
        """Call a function of libcuda.

        Raises:
            InternalError: the function failed.
        """
        status = getattr(self._library, name)(*arguments)
        if status:
            raise InternalError(f"CUDA: {name} failed with error {status}")


def has_driver() -> bool:
    """Whether this machine has a CUDA driver and a device."""
    return _driver() is not None


def driver() -> Driver:
    """The CUDA driver of this machine.

    Raises:
        InternalError: there is no driver, or no device.
    """
    loaded = _driver()
    if loaded is None:
        raise InternalError("CUDA: no driver (libcuda.so.1) or no device on this machine")
    return loaded


@functools.cache
def _driver() -> Driver | None:
    try:
        return Driver(ctypes.CDLL("libcuda.so.1"))
    except (OSError, InternalError):  # no driver, or no device
        return None
