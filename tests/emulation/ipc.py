"""CUDA's IPC handles, played by host memory: allocations are opened, copied and closed by address.

An allocation of "another process" may be one of this process, which a test has shared (`Ipc.share`), or really another
process's, where allocations are pages (`memory.PAGES`): the first export puts a memfd in their place, which others open
under /proc/PID/fd. A page behind it lists who has it open, as CUDA leaves it undefined what happens when it is freed.
"""

import ctypes
import mmap
import os
import struct
from pathlib import Path

import numpy as np

from emulation import streams
from emulation.streams import NULL

INVALID_VALUE, INVALID_CONTEXT, INVALID_HANDLE = 1, 201, 400
HANDLE = struct.Struct("<8sqqq32x")  # MAGIC, process, descriptor, bytes
MAGIC = b"exported"
PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
MAP_FIXED = 0x10

EXPORTED: dict[int, tuple[int, int]] = {}
"""Descriptor and bytes of this process's allocations that others may have open, by address."""
FREED_WHILE_OPEN: list[int] = []
"""Processes that had memory open when it was freed, and had not ended."""


def export(address: int, size: int) -> bytes:
    """The handle of an allocation of this process, which consists of pages."""
    assert address % PAGE == 0, "allocations are no pages"
    if address not in EXPORTED:
        whole = -(-size // PAGE) * PAGE
        descriptor = os.memfd_create("emulated-device")
        os.truncate(descriptor, whole + PAGE)
        os.pwrite(descriptor, ctypes.string_at(address, whole), 0)
        access = mmap.PROT_READ | mmap.PROT_WRITE
        placed = LIBC.mmap(address, whole, access, mmap.MAP_SHARED | MAP_FIXED, descriptor, 0)
        assert placed == address, os.strerror(ctypes.get_errno())
        EXPORTED[address] = descriptor, whole
    return HANDLE.pack(MAGIC, os.getpid(), *EXPORTED[address])


def freed(address: int) -> None:
    """Forget an allocation of this process."""
    if address in EXPORTED:
        descriptor, size = EXPORTED.pop(address)
        openers = np.frombuffer(os.pread(descriptor, PAGE, size), np.int64)
        FREED_WHILE_OPEN.extend(int(pid) for pid in openers if pid and Path(f"/proc/{pid}").exists())
        os.close(descriptor)


class Opened:
    """An allocation of another process."""

    def __init__(self, pid: int, descriptor: int, size: int) -> None:
        mine = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR)
        try:
            self._map, self.size, self.count = mmap.mmap(mine, size + PAGE), size, 0
        finally:
            os.close(mine)
        self.memory = np.frombuffer(self._map, np.uint8)
        self.address = self.memory.ctypes.data
        openers = self.memory[size:].view(np.int64)
        self._openers = openers[int(np.argmin(openers)) :][:1]  # whoever opens at the same time has another descriptor
        self._openers[:] = os.getpid()
        streams.allocate(self.address, size)

    def close(self) -> None:
        streams.free(self.address, self.size)
        self._openers[:] = 0


class Ipc:
    """What `cupy.cuda.runtime` offers of it.

    Args:
        refuse: makes the error of a status.
    """

    def __init__(self, refuse: type[Exception]) -> None:
        self._refuse = refuse
        self._shared: dict[bytes, np.ndarray] = {}
        self._others: dict[bytes, Opened] = {}
        self.open: list[int] = []

    def share(self, memory: np.ndarray) -> bytes:
        """The handle of an allocation, as its owner would get it."""
        handle = memory.ctypes.data.to_bytes(64, "little")
        self._shared[handle] = memory
        return handle

    def open_handle(self, handle: bytes, flags: int) -> int:
        if handle.startswith(MAGIC):
            return self._open_other(handle)
        if handle not in self._shared:
            raise self._refuse(INVALID_HANDLE)
        self.open.append(self._shared[handle].ctypes.data)
        return self.open[-1]

    def _open_other(self, handle: bytes) -> int:
        _, pid, descriptor, size = HANDLE.unpack(handle)
        if pid == os.getpid():
            raise self._refuse(INVALID_CONTEXT)  # nobody opens its own memory
        if handle not in self._others:
            try:
                self._others[handle] = Opened(pid, descriptor, size)
            except OSError:
                raise self._refuse(INVALID_HANDLE) from None
        found = self._others[handle]
        found.count += 1
        self.open.append(found.address)
        return found.address

    def close_handle(self, pointer: int) -> None:
        self.open.remove(pointer)
        for handle, other in list(self._others.items()):
            if other.address == pointer:
                other.count -= 1
                if not other.count:
                    del self._others[handle]
                    other.close()

    def memcpy(self, to: int, of: int, size: int, kind: int) -> None:
        device = to if kind == 1 else of
        known = [(m.ctypes.data, m.nbytes) for m in self._shared.values()]
        known += [(other.address, other.size) for other in self._others.values()]
        if not any(start in self.open and start <= device <= start + n - size for start, n in known):
            raise self._refuse(INVALID_VALUE)
        data = ctypes.string_at(of, size) if kind == 1 else b""  # staged: it is on the device some time later
        NULL.enqueue(lambda: ctypes.memmove(to, data or of, size))
        if kind != 1:
            NULL.synchronize()
