"""Device memory of another process on this machine, through CUDA's IPC handles."""

import weakref
from typing import Any

import numpy as np

from groupconv.errors import InvalidArgumentError
from groupconv_worker.cuda.errors import cuda_errors, is_sticky
from groupconv_worker.engines.base import Array

HANDLE_BYTES = 64
"""Of a cudaIpcMemHandle_t. Source: CUDA Runtime API, CUDA_IPC_HANDLE_SIZE."""
_LAZY_PEER_ACCESS, _TO_DEVICE, _TO_HOST = 1, 1, 2  # cudaIpcMemLazyEnablePeerAccess, cudaMemcpyKind


class DeviceMemory:
    """An allocation that another process shares; it is closed when the last reference is dropped.

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
                self.read(size - 1, np.empty(1, np.uint8))  # CUDA knows where the allocation ends
            except runtime.CUDARuntimeError as error:
                if is_sticky(cupy, error):
                    raise
                raise InvalidArgumentError(
                    "raw_handle", f"an allocation of another process with {size} bytes on device {device}", str(error)
                ) from None

    def read(self, offset: int, out: Array) -> None:
        """Fill a contiguous host array with the bytes at `offset`."""
        with self._cupy.cuda.Device(self.device):
            self._cupy.cuda.runtime.memcpy(out.ctypes.data, self._pointer + offset, out.nbytes, _TO_HOST)

    def write(self, offset: int, y: Array) -> None:
        """Put the elements of a host array at `offset`, row-major."""
        data = np.ascontiguousarray(y)
        with self._cupy.cuda.Device(self.device):
            self._cupy.cuda.runtime.memcpy(self._pointer + offset, data.ctypes.data, data.nbytes, _TO_DEVICE)


def _close(cupy: Any, device: int, pointer: int) -> None:
    with cupy.cuda.Device(device):
        cupy.cuda.runtime.ipcCloseMemHandle(pointer)
