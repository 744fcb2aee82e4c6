"""The machine, or the container, that this process runs in."""

import contextlib
from pathlib import Path

import psutil


def memory() -> int:
    """Bytes of memory that it has.

    Example:
        >>> memory() > 2**20
        True
    """
    nbytes: int = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):  # no limit, or another version of cgroups
        nbytes = min(nbytes, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return nbytes
