"""The memory of a connection's arrays: shared on one node, private between nodes.

Shared memory is a memfd. It has no name, so nobody else can open it, and nothing is left over when either side is
killed. Its descriptor travels over the Unix socket. It is used for all shards of a connection, so that no page is
touched for the first time once the largest shard has passed.

Source: memfd_create(2), fcntl(2) on file seals.
"""

import fcntl
import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIT = 2**16
"""Bytes: sizes are multiples of it."""
GROWTH = 1.25
"""A replacement is at least this much larger."""


class MappedMemory:
    """Mapped memory.

    Args:
        size: in bytes.
        handle: a descriptor of shared memory, which is closed here; None maps private memory.

    Raises:
        OSError: there is no memory, or the handle is not shared memory of this size.
    """

    def __init__(self, size: int, handle: int | None = None) -> None:
        self.size = size
        if handle is None:
            self._map = mmap.mmap(-1, size)
            return
        try:
            _check(handle, size)
            self._map = mmap.mmap(handle, size)
        finally:
            os.close(handle)

    def array(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> NDArray[Any]:
        """An array at an offset, in bytes; the memory stays mapped while the array exists."""
        return np.ndarray(shape, dtype, self._map, offset)


def shared(size: int) -> int:
    """A descriptor of new memory to share, with all pages allocated, that cannot be made smaller.

    Raises:
        OSError: the machine, or this process's control group, has not so much memory.

    Example:
        >>> handle = shared(UNIT)
        >>> ours, theirs = MappedMemory(UNIT, os.dup(handle)), MappedMemory(UNIT, handle)
        >>> ours.array(64, np.dtype("i4"), (2,))[...] = 7
        >>> theirs.array(64, np.dtype("i4"), (2,)).tolist()
        [7, 7]
    """
    handle = os.memfd_create("groupconv-lane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(handle, 0, size)  # touching a page that cannot be allocated later would end the process
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(handle)
        raise
    return handle


def fitting(size: int, before: int = 0) -> int:
    """Bytes to allocate for `size` bytes, where `before` were not enough.

    Example:
        >>> fitting(1), fitting(100_000), fitting(70_000, before=65_536)
        (65536, 131072, 131072)
    """
    return -(-max(size, int(before * GROWTH)) // UNIT) * UNIT


def _check(handle: int, size: int) -> None:
    if os.fstat(handle).st_size != size or not fcntl.fcntl(handle, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise OSError(f"the descriptor is not sealed shared memory of {size} bytes")
