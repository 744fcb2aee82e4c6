"""Shared memory of a client in which arrays lie: segments of /dev/shm, and the parts of them that are taken.

A part is given back when the last array over it is collected, whichever thread that happens in, and taken again by the
next array: no page is touched for the first time twice.
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
"""Bytes of the first segment, if no more are wanted at once."""
CAPACITY = 2 * 2**30
"""Bytes of all segments together; beyond, tensors travel in messages."""
PROOF = 32
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14


class Segment:
    """An object in shared memory that only this user can open, and that has a file only until a server has mapped it.

    Args:
        size: in bytes.

    Attributes:
        name: of the file in /dev/shm, at random.
        proof: its first bytes, at random, which show a server that this client made it.
        region: what the server calls it; None until it is registered, and once nothing more is taken from it.

    Raises:
        OSError: there is no shared memory here, or not so much.
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
        self._free = [(0, size)]  # by offset, none next to another

    def unlink(self) -> None:
        """Remove the file; the memory stays for those who have mapped it."""
        (FOLDER / self.name).unlink(missing_ok=True)

    def populate(self) -> None:
        """Map every page now: one call is faster than a fault for each."""
        with contextlib.suppress(OSError):  # an older Linux maps them as they are touched
            self._memory.madvise(_POPULATE_WRITE)

    def take(self, size: int) -> "Slot | None":
        """The first free part of so many bytes; the lowest ones stay in use, and in the caches."""
        while self.returned:
            self._join(*self.returned.popleft())
        for i, (offset, free) in enumerate(self._free):
            if free >= size:
                self._free[i : i + 1] = [(offset + size, free - size)] if free > size else []
                return Slot(self, offset, size)
        return None

    def _join(self, offset: int, size: int) -> None:
        i = bisect.bisect(self._free, (offset, 0))
        if i < len(self._free) and self._free[i][0] == offset + size:
            size += self._free.pop(i)[1]
        if i and sum(self._free[i - 1]) == offset:
            i -= 1
            offset, size = self._free[i][0], self._free.pop(i)[1] + size
        self._free.insert(i, (offset, size))


class Slot:
    """A part of a segment, as NumPy's array interface: an array over it holds it, and so do all views of that array."""

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
        self.segment.returned.append((self.offset, self.size))  # atomic: this may happen anywhere, within `take` too

    def bytes(self) -> NDArray[np.uint8]:
        """All of it."""
        return np.asarray(self)

    def array(self, dtype: np.dtype, shape: Sequence[int]) -> NDArray[Any]:
        """An array at its beginning."""
        size = math.prod(shape) * dtype.itemsize
        return self.bytes()[:size].view(dtype).reshape(tuple(shape))


class Arena:
    """The segments of one client. Safe to use from several threads.

    Example:
        >>> arena = Arena()
        >>> segment = arena.begin(1000)
        >>> arena.end(segment, "as the server calls it"); segment.unlink()
        >>> x = arena.take(1000).array(np.dtype(np.float32), (10, 25))
        >>> arena.lies_in(x[5:])
        (<groupconv.memory.arena.Segment object at ...>, 500)
        >>> at = arena.lies_in(x)[1]; del x
        >>> arena.take(400).offset == at
        True
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._segments: list[Segment] = []
        self._lock = threading.Lock()
        self._growing = 0  # bytes of segments that are being registered
        self.retired: deque[str] = deque()  # regions that the server may let go
        _arenas.add(self)

    def take(self, nbytes: int) -> Slot | None:
        """Room for so many bytes; None if there is none now."""
        size = -(-nbytes // ALIGNMENT) * ALIGNMENT
        with self._lock:
            for segment in self._segments:
                if (slot := segment.take(size)) is not None:
                    return slot
        return None

    def lies_in(self, x: NDArray[Any]) -> tuple[Segment, int] | None:
        """The segment that an array lies in, with its offset there; None if it lies elsewhere, or with gaps."""
        owner: Any = x.base
        while isinstance(owner, np.ndarray | memoryview):
            owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
        if type(owner) is not Slot or owner.segment.region is None or not x.flags.c_contiguous:
            return None
        with self._lock:
            mine = owner.segment in self._segments
        return (owner.segment, x.__array_interface__["data"][0] - owner.segment.address) if mine else None

    def begin(self, nbytes: int, *, beside: bool = False) -> Segment | None:
        """A segment with room for so many bytes, to be registered; None if that would be too much.

        Args:
            nbytes: of the array that there was no room for.
            beside: also while another one is being registered.

        Raises:
            OSError: there is no shared memory here.
        """
        with self._lock:
            there = sum(s.size for s in self._segments) + self._growing
            size = -(-max(nbytes, FIRST, there) // mmap.PAGESIZE) * mmap.PAGESIZE
            if there + size > self._capacity:
                size = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
            if there + size > self._capacity or (self._growing and not beside):
                return None
            self._growing += size
        try:
            return Segment(size)
        except BaseException:
            with self._lock:
                self._growing -= size
            raise

    def end(self, segment: Segment, region: str | None) -> None:
        """The server has named the segment, or not taken it."""
        with self._lock:
            self._growing -= segment.size
            if region is not None:
                segment.region = region
                self._segments.append(segment)

    def retire(self, *segments: Segment) -> None:
        """Take nothing more from segments: the server does not know them, or may write in them still.

        Arrays in them stay as they are.
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
        """In the child of a fork: a thread that is not here may hold the lock, and the parent tells the server."""
        self._lock = threading.Lock()
        self.close()
        self.retired.clear()


_arenas: "weakref.WeakSet[Arena]" = weakref.WeakSet()


def _part() -> None:
    """After a fork two processes have the same arrays: what lies in them must not be written again by either."""
    for arena in list(_arenas):
        arena.close()


def _part_child() -> None:
    for arena in list(_arenas):
        arena.forked()


os.register_at_fork(after_in_parent=_part, after_in_child=_part_child)
