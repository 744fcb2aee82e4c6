"""Device memory of another process on this machine, through CUDA's IPC handles."""

import math
import weakref
from typing import Any

import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv.gpu.driver import HANDLE_BYTES, driver
from groupconv_worker.contract import Array
from groupconv_worker.cuda.device import Device, storage
from groupconv_worker.cuda.errors import cuda_errors, is_sticky

_LAZY_PEER_ACCESS, _TO_DEVICE, _TO_HOST = 1, 1, 2  # cudaIpcMemLazyEnablePeerAccess, cudaMemcpyKind


class DeviceMemory:
    """An allocation that another process shares. It is closed when the last reference is dropped.

    Args:
        cupy: the module.
        handle: the other process's cudaIpcMemHandle_t.
        device: where the allocation is.
        size: its bytes.

    Raises:
        InvalidArgumentError: no such device, a handle that CUDA refuses, or an allocation of fewer bytes.
        DeviceLostError: the device failed.
    """

    def __init__(self, cupy: Any, handle: bytes, device: int, size: int) -> None:
        self._cupy, self.device = cupy, device
        count = cupy.cuda.runtime.getDeviceCount()
        if not 0 <= device < count:
            raise InvalidArgumentError("device_id", f"0 to {count - 1}", device)
        if len(handle) != HANDLE_BYTES:
            raise InvalidArgumentError("raw_handle", f"{HANDLE_BYTES} bytes", len(handle))
        runtime = cupy.cuda.runtime
        with cuda_errors(cupy), cupy.cuda.Device(device):
            try:
                self._pointer: int = runtime.ipcOpenMemHandle(handle, _LAZY_PEER_ACCESS)
                weakref.finalize(self, _close, cupy, device, self._pointer)
                self.read(size - 1, np.empty(1, np.uint8))  # fails beyond the end of the allocation
            except runtime.CUDARuntimeError as error:
                if is_sticky(cupy, error):
                    raise
                raise InvalidArgumentError(
                    "raw_handle", f"an allocation of another process with {size} bytes on device {device}", str(error)
                ) from None

    @property
    def address(self) -> int:
        """The address of the allocation on the device that it was opened for."""
        return self._pointer

    def tensor(self, offset: int, dtype: np.dtype, shape: tuple[int, ...], device: Device) -> "DeviceTensor":
        """A tensor in place at `offset`, a multiple of the element size, for an engine on `device`."""
        cupy = self._cupy
        count = math.prod(shape) * dtype.itemsize
        memory = cupy.cuda.UnownedMemory(self._pointer + offset, count, self, self.device)
        return DeviceTensor(cupy.ndarray(shape, storage(dtype), cupy.cuda.MemoryPointer(memory, 0)), dtype, device)

    def read(self, offset: int, out: Array) -> None:
        """Fill a contiguous host array with the bytes at `offset`."""
        with self._cupy.cuda.Device(self.device):
            self._cupy.cuda.runtime.memcpy(out.ctypes.data, self._pointer + offset, out.nbytes, _TO_HOST)

    def write(self, offset: int, y: Array) -> None:
        """Write the elements of a host array at `offset`, row-major."""
        data = np.ascontiguousarray(y)
        with self._cupy.cuda.Device(self.device):
            self._cupy.cuda.runtime.memcpy(self._pointer + offset, data.ctypes.data, data.nbytes, _TO_DEVICE)
            self._cupy.cuda.Stream.null.synchronize()  # the copy may not have ended yet


class DeviceTensor:
    """An array on a device, with its dtype by name (CuPy has no bfloat16).

    Args:
        array: CuPy's, of the storage dtype.
        dtype: of the elements.
        device: of the engine.

    Attributes:
        dtype, device: as given.
        shape: of the array.
    """

    def __init__(self, array: Any, dtype: np.dtype, device: Device) -> None:
        self._array, self.dtype, self.device = array, dtype, device
        self.shape: tuple[int, ...] = array.shape

    @property
    def ndim(self) -> int:
        """Dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> "DeviceTensor":
        return DeviceTensor(self._array[index], self.dtype, self.device)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def channels_first(self) -> "DeviceTensor":
        """A view (N, C, *spatial) of (N, *spatial, C)."""
        last = len(self.shape) - 1
        return DeviceTensor(self._array.transpose((0, last, *range(1, last))), self.dtype, self.device)

    def new_empty(self, shape: tuple[int, ...], dtype: np.dtype) -> "DeviceTensor":
        """A new tensor on the same device (see `contract.new_empty`)."""
        return DeviceTensor(self.device.empty(shape, storage(dtype)), dtype, self.device)

    def overlaps(self, other: "DeviceTensor") -> bool:
        """Whether two tensors without gaps have bytes in common."""
        mine, theirs = self._array.data.ptr, other._array.data.ptr  # noqa: SLF001 - of its own kind
        return bool(mine < theirs + other.nbytes and theirs < mine + self.nbytes)


def find_device(cupy: Any, uuid: bytes) -> int | None:
    """The ordinal of a device in this process, by its UUID, which is the same in every process."""
    for ordinal in range(cupy.cuda.runtime.getDeviceCount()):
        if driver().uuid(ordinal) == uuid:  # CuPy's properties cut the UUID at its first zero byte
            return ordinal
    return None


def _close(cupy: Any, device: int, pointer: int) -> None:
    with cupy.cuda.Device(device):
        cupy.cuda.runtime.ipcCloseMemHandle(pointer)
