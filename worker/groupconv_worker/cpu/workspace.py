"""Scratch memory of a run, kept between runs."""

import threading
from typing import NamedTuple

import numpy as np

from groupconv_worker.contract import Array


class Buffer(NamedTuple):
    """Scratch memory: how much, the address of its first cache line, and what holds it."""

    bytes: int
    address: int
    memory: Array


class Buffers:
    """Scratch memory that is kept between runs: fresh memory costs a page fault for each 4 KiB.

    Example:
        >>> buffers = Buffers()
        >>> buffer = buffers.take(100)
        >>> buffer.address % 64, buffer.bytes
        (0, 100)
        >>> buffers.give(buffer)
        >>> buffers.take(50) is buffer
        True
    """

    LIMIT = 32 * 2**20
    """Bytes of a buffer that is kept; a larger one is let go."""
    KEPT = 8
    """Buffers that are kept."""

    def __init__(self) -> None:
        self._free: list[Buffer] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> Buffer:
        """Memory for `size` bytes, nobody else's until it is given back: of what is kept the smallest that fits."""
        with self._lock:
            best = -1
            for i, buffer in enumerate(self._free):
                if buffer.bytes >= size and (best < 0 or buffer.bytes < self._free[best].bytes):
                    best = i
            if best >= 0:
                return self._free.pop(best)
        memory = np.empty(size + 63, np.uint8)
        return Buffer(size, -(-memory.ctypes.data // 64) * 64, memory)

    def give(self, buffer: Buffer) -> None:
        """Give back what was taken."""
        if buffer.bytes <= self.LIMIT:
            with self._lock:
                self._free.append(buffer)
                if len(self._free) > self.KEPT:
                    self._free.pop(min(range(len(self._free)), key=lambda i: self._free[i].bytes))


class Room:
    """An uninitialised array for as long as this object lives: the weights of a one-shot kernel, in packed form.

    Args:
        buffers: where the memory comes from; None for fresh memory, which a resident kernel holds for long.
        count: elements.
        dtype: theirs.
    """

    def __init__(self, buffers: Buffers | None, count: int, dtype: np.dtype) -> None:
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
