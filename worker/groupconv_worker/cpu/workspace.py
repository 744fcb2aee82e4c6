"""Scratch memory of a run, kept between runs."""

import threading
from collections import deque
from typing import NamedTuple

import numpy as np

from groupconv_worker.contract import Array


class Buffer(NamedTuple):
    """Scratch memory: its size, the address of its first cache line, and the array that holds it."""

    bytes: int
    address: int
    memory: Array


class BufferPool:
    """Scratch memory that is kept between runs: fresh memory costs a page fault for each 4 KiB.

    Args:
        limit: bytes of a buffer that is kept; a larger one is let go.

    Example:
        >>> buffers = BufferPool()
        >>> buffer = buffers.take(100)
        >>> buffer.address % 64, buffer.bytes
        (0, 100)
        >>> buffers.give(buffer)
        >>> buffers.take(50) is buffer
        True
    """

    LIMIT = 32 * 2**20
    KEPT = 8
    """Buffers that are kept."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._free: list[Buffer] = []
        self._returned: deque[Buffer] = deque()
        self._lock = threading.Lock()

    def take(self, size: int) -> Buffer:
        """Take `size` bytes until `give`: the smallest kept buffer that fits, or a new one."""
        with self._lock:
            while self._returned:
                self._free.append(self._returned.popleft())
            while len(self._free) > self.KEPT:
                self._free.pop(min(range(len(self._free)), key=lambda i: self._free[i].bytes))
            best = -1
            for i, buffer in enumerate(self._free):
                if buffer.bytes >= size and (best < 0 or buffer.bytes < self._free[best].bytes):
                    best = i
            if best >= 0:
                return self._free.pop(best)
        memory = np.empty(size + 63, np.uint8)
        return Buffer(size, -(-memory.ctypes.data // 64) * 64, memory)

    def give(self, buffer: Buffer) -> None:
        """Give a buffer back. Takes no lock: a destructor may call it in a thread that holds the lock."""
        if buffer.bytes <= self.limit:
            self._returned.append(buffer)
            while len(self._returned) > self.KEPT:  # appending and popping at an end are atomic
                self._returned.popleft()


class ScratchArray:
    """An uninitialised array for as long as this object lives: the weights of a one-shot kernel, in packed form.

    Args:
        buffers: gives the memory; None for memory of its own, which a resident kernel holds for long.
        count: elements.
        dtype: of the elements.
    """

    def __init__(self, buffers: BufferPool | None, count: int, dtype: np.dtype) -> None:
        self._buffers, self._buffer = buffers, None
        if buffers is None:
            self.array = np.empty(count, dtype)
            return
        size = count * dtype.itemsize
        self._buffer = buffers.take(size)
        start = self._buffer.address - self._buffer.memory.ctypes.data
        self.array = self._buffer.memory[start : start + size].view(dtype)

    def __del__(self) -> None:
        if self._buffers is not None and self._buffer is not None:
            self._buffers.give(self._buffer)
