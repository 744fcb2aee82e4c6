"""Where the arrays of a connection lie: memory that both sides have mapped, or each its own.

Shared memory is a memfd: it has no name, so nobody else can open it and nothing is left over when either side is
killed; the descriptor travels over the Unix socket. It is used again and again, so that no page is touched for the
first time once the largest shard has passed.

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
"""A larger one is at least so much larger."""


class MappedMemory:
    """So many bytes, mapped.

    Args:
        size: in bytes.
        handle: of shared memory, which is mapped and closed here; None has memory of this process alone.

    Raises:
        OSError: no memory, or a handle of something else.
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
        """The elements at an offset; the memory stays mapped while the array is held."""
        return np.ndarray(shape, dtype, self._map, offset)


def shared(size: int) -> int:
    """A descriptor of new memory to share, every page of it there, that nobody can make smaller.

    Raises:
        OSError: the machine, or this process's group, has no such memory.

    Example:
        >>> handle = shared(UNIT)
        >>> ours, theirs = MappedMemory(UNIT, os.dup(handle)), MappedMemory(UNIT, handle)
        >>> ours.array(64, np.dtype("i4"), (2,))[...] = 7
        >>> theirs.array(64, np.dtype("i4"), (2,)).tolist()
        [7, 7]
    """
    handle = os.memfd_create("groupconv-lane", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(handle, 0, size)  # a page that cannot be had later would end the process that touches it
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(handle)
        raise
    return handle


def fitting(size: int, before: int = 0) -> int:
    """How much to take for `size` bytes, where `before` were not enough.

    Example:
        >>> fitting(1), fitting(100_000), fitting(70_000, before=65_536)
        (65536, 131072, 131072)
    """
    return -(-max(size, int(before * GROWTH)) // UNIT) * UNIT


def _check(handle: int, size: int) -> None:
    if os.fstat(handle).st_size != size or not fcntl.fcntl(handle, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise OSError(f"memory that has not {size} bytes for good")
