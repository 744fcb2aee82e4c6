"""CUDA's IPC handles, played by host memory: allocations of "another process", opened, copied and closed by address."""

import ctypes

import numpy as np

from emulation.streams import NULL

INVALID_VALUE, INVALID_HANDLE = 1, 400


class Ipc:
    """What `cupy.cuda.runtime` offers of it.

    Args:
        refuse: makes the error of a status.
    """

    def __init__(self, refuse: type[Exception]) -> None:
        self._refuse = refuse
        self._shared: dict[bytes, np.ndarray] = {}
        self.open: list[int] = []

    def share(self, memory: np.ndarray) -> bytes:
        """The handle of an allocation, as its owner would get it."""
        handle = memory.ctypes.data.to_bytes(64, "little")
        self._shared[handle] = memory
        return handle

    def open_handle(self, handle: bytes, flags: int) -> int:
        if handle not in self._shared:
            raise self._refuse(INVALID_HANDLE)
        self.open.append(self._shared[handle].ctypes.data)
        return self.open[-1]

    def close_handle(self, pointer: int) -> None:
        self.open.remove(pointer)

    def memcpy(self, to: int, of: int, size: int, kind: int) -> None:
        device = to if kind == 1 else of
        inside = any(
            m.ctypes.data in self.open and m.ctypes.data <= device and device + size <= m.ctypes.data + m.nbytes
            for m in self._shared.values()
        )
        if not inside:
            raise self._refuse(INVALID_VALUE)
        data = ctypes.string_at(of, size) if kind == 1 else b""  # staged: it is on the device some time later
        NULL.enqueue(lambda: ctypes.memmove(to, data or of, size))
        if kind != 1:
            NULL.synchronize()
