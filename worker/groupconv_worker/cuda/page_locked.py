"""Host memory of others that is page-locked (cudaHostRegister), so that the device copies from it and to it by itself.

A copy from ordinary memory goes through a pinned buffer, which costs the CPU a second copy. Memory that is used again
and again, as that of a lane, is registered once instead. It stays in RAM until it is unregistered.
"""

import bisect
import logging
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any

from groupconv_worker.contract import Array

log = logging.getLogger(__name__)

_FLAGS = (
    1 | 2
)  # cudaHostRegisterPortable, cudaHostRegisterMapped: for every device of the process, which has its address


class PageLocked:
    """The registered memory of a process. Safe to use from several threads.

    Args:
        cupy: the module.
        limit: bytes that may be registered at a time.
    """

    def __init__(self, cupy: Any, limit: int) -> None:
        self._cupy, self.limit, self.nbytes = cupy, limit, 0
        self._ranges: list[tuple[int, int]] = []  # (first address, the one behind the last), in order
        self._refused = False
        self._lock = Lock()

    def register(self, memory: Array) -> Callable[[], None]:
        """Page-lock memory. If that cannot be, copies go through pinned buffers, and the log says so once.

        Args:
            memory: (bytes,) uint8, contiguous, as it was mapped.

        Returns:
            What undoes it. Call it before the memory is unmapped.
        """
        start, size = memory.ctypes.data, memory.nbytes
        with self._lock:
            if self.nbytes + size > self.limit:
                self._warn(f"{size} bytes, and {self.nbytes} of cuda.page_locked = {self.limit} are used")
                return _nothing
            try:
                self._cupy.cuda.runtime.hostRegister(start, size, _FLAGS)
            except self._cupy.cuda.runtime.CUDARuntimeError as error:
                self._warn(f"{size} bytes: CUDA refuses: {error}")
                return _nothing
            bisect.insort(self._ranges, (start, start + size))
            self.nbytes += size
        return lambda: self._unregister(start, size)

    def holds(self, array: Array) -> bool:
        """Whether the device can copy from or to this array as it is: it is contiguous, in registered memory."""
        if not self._ranges or not array.flags.c_contiguous:
            return False
        start, ranges = array.ctypes.data, self._ranges
        at = bisect.bisect_right(ranges, start, key=lambda known: known[0]) - 1
        return at >= 0 and start + array.nbytes <= ranges[at][1]

    def _unregister(self, start: int, size: int) -> None:
        with self._lock:
            self._ranges = [known for known in self._ranges if known[0] != start]
            self.nbytes -= size
            with suppress(self._cupy.cuda.runtime.CUDARuntimeError):  # the device is lost
                self._cupy.cuda.runtime.hostUnregister(start)

    def _warn(self, why: str) -> None:
        if not self._refused:
            log.warning("memory is not page-locked, so each copy to and from the GPU is made twice: %s", why)
        self._refused = True


def _nothing() -> None:
    """Undo nothing."""
