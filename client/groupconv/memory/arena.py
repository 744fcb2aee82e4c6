"""Shared memory of a client for its arrays: segments of /dev/shm, and blocks in them.

A block becomes free when the last array over it is garbage-collected, in any thread. The next array reuses it, so the
kernel need not map its pages again.
"""

import bisect
import contextlib
import ctypes
import math
import mmap
import os
import secrets
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
ALIGNMENT = 64
FIRST = 4 * 2**20
"""Bytes of the first segment, unless the first array is larger."""
CAPACITY = 2 * 2**30
"""Bytes of all segments together. Beyond this, tensors travel in messages."""
PROOF = 32
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14


class Segment:
    """A shared-memory object that only this user can open. Its file is removed as soon as the server has mapped it.

    Args:
        size: in bytes.

    Attributes:
        name: random name of the file in /dev/shm.
        proof: random first bytes, which prove to the server that this client made the segment.
        region: the server's name for it; None before registration and after retirement.

    Raises:
        OSError: this machine has no shared memory, or not enough.
    """

    def __init__(self, size: int) -> None:
        self.name, self.proof = f"groupconv-client-{secrets.token_hex(16)}", secrets.token_bytes(PROOF)
        self.region: str | None = None
        self.size = size
        handle = os.open(FOLDER / self.name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, size)
            os.pwrite(handle, self.proof, 0)
            self._memory = mmap.mmap(handle, size)
        except BaseException:
            self.unlink()
            raise
        finally:
            os.close(handle)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.returned: deque[tuple[int, int]] = deque()
        self._free = [(0, size)]  # offset and size, sorted; adjacent blocks are joined

    def unlink(self) -> None:
        """Remove the file. Processes that have mapped the memory keep it."""
        (FOLDER / self.name).unlink(missing_ok=True)

    def populate(self) -> None:
        """Map every page now, in one call, which is faster than a page fault each."""
        with contextlib.suppress(OSError):  # an older Linux maps pages at first use
            self._memory.madvise(_POPULATE_WRITE)

    def allocate(self, size: int) -> "Block | None":
        """The first free block of `size` bytes: low addresses are reused while they are in the CPU's caches."""
        while self.returned:
            self._join(*self.returned.popleft())
        for i, (offset, free) in enumerate(self._free):
            if free >= size:
                self._free[i : i + 1] = [(offset + size, free - size)] if free > size else []
                return Block(self, offset, size)
        return None

    def _join(self, offset: int, size: int) -> None:
        i = bisect.bisect(self._free, (offset, 0))
        if i < len(self._free) and self._free[i][0] == offset + size:
            size += self._free.pop(i)[1]
        if i and sum(self._free[i - 1]) == offset:
            i -= 1
            offset, size = self._free[i][0], self._free.pop(i)[1] + size
        self._free.insert(i, (offset, size))


class Block:
    """A part of a segment with NumPy's array interface: arrays over it, and their views, keep it alive."""

    __slots__ = ("__array_interface__", "offset", "segment", "size")

    def __init__(self, segment: Segment, offset: int, size: int) -> None:
        self.segment, self.offset, self.size = segment, offset, size
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size,),
            "data": (segment.address + offset, False),
        }

    def __del__(self) -> None:
        self.segment.returned.append(
            (self.offset, self.size)
        )  # atomic: this may run at any point, also within `allocate`

    def bytes(self) -> NDArray[np.uint8]:
        """The whole block, (size,) uint8."""
        return np.asarray(self)

    def array(self, dtype: np.dtype, shape: Sequence[int]) -> NDArray[Any]:
        """An array at the start of the block."""
        size = math.prod(shape) * dtype.itemsize
        return self.bytes()[:size].view(dtype).reshape(tuple(shape))


class Arena:
    """The segments of one client. Safe to use from several threads.

    Example:
        >>> arena = Arena()
        >>> segment = arena.begin_segment(1000)
        >>> arena.end_segment(segment, "the server's name"); segment.unlink()
        >>> x = arena.allocate(1000).array(np.dtype(np.float32), (10, 25))
        >>> arena.locate(x[5:])
        (<groupconv.memory.arena.Segment object at ...>, 500)
        >>> offset = arena.locate(x)[1]; del x
        >>> arena.allocate(400).offset == offset
        True
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._segments: list[Segment] = []
        self._lock = threading.Lock()
        self._pending = 0  # bytes of segments that are being registered
        self.retired: deque[str] = deque()  # regions that the server should release
        _arenas.add(self)

    def allocate(self, nbytes: int) -> Block | None:
        """A block of at least `nbytes`; None if no segment has one free."""
        size = -(-nbytes // ALIGNMENT) * ALIGNMENT
        with self._lock:
            for segment in self._segments:
                if (block := segment.allocate(size)) is not None:
                    return block
        return None

    def locate(self, x: NDArray[Any]) -> tuple[Segment, int] | None:
        """The segment that contains an array, and its offset there; None if it is elsewhere, or has gaps."""
        owner: Any = x.base
        while isinstance(owner, np.ndarray | memoryview):
            owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
        if type(owner) is not Block or owner.segment.region is None or not x.flags.c_contiguous:
            return None
        with self._lock:
            mine = owner.segment in self._segments
        return (owner.segment, x.__array_interface__["data"][0] - owner.segment.address) if mine else None

    def begin_segment(self, nbytes: int, *, concurrent: bool = False) -> Segment | None:
        """A new segment of at least `nbytes`, to be registered; call `end_segment` afterwards.

        Args:
            nbytes: size of the array that found no free block.
            concurrent: whether another segment may be waiting for its registration.

        Returns:
            None if the arena would exceed its capacity, or another segment is waiting and `concurrent` is false.

        Raises:
            OSError: this machine has no shared memory, or not enough.
        """
        with self._lock:
            used = sum(s.size for s in self._segments) + self._pending
            size = -(-max(nbytes, FIRST, used) // mmap.PAGESIZE) * mmap.PAGESIZE
            if used + size > self._capacity:
                size = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
            if used + size > self._capacity or (self._pending and not concurrent):
                return None
            self._pending += size
        try:
            return Segment(size)
        except BaseException:
            with self._lock:
                self._pending -= size
            raise

    def end_segment(self, segment: Segment, region: str | None) -> None:
        """Use a segment under the server's name for it, or drop it if the server refused (None)."""
        with self._lock:
            self._pending -= segment.size
            if region is not None:
                segment.region = region
                self._segments.append(segment)

    def retire(self, *segments: Segment) -> None:
        """Allocate no more blocks in segments that the server does not have, or may still write to.

        Arrays in them stay valid.
        """
        with self._lock:
            for segment in segments:
                if segment in self._segments:
                    self._segments.remove(segment)
                if segment.region is not None:
                    self.retired.append(segment.region)
                    segment.region = None

    def close(self) -> None:
        """Retire every segment."""
        self.retire(*self._segments)

    def forked(self) -> None:
        """Reset the arena in the child of a fork, without telling the server: the parent does that."""
        self._lock = threading.Lock()  # a thread of the parent may hold the old one
        self.close()
        self.retired.clear()


_arenas: "weakref.WeakSet[Arena]" = weakref.WeakSet()


def _reset_in_parent() -> None:
    """After a fork two processes share the arrays' memory, so neither may reuse it."""
    for arena in list(_arenas):
        arena.close()


def _reset_in_child() -> None:
    for arena in list(_arenas):
        arena.forked()


os.register_at_fork(after_in_parent=_reset_in_parent, after_in_child=_reset_in_child)
