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
    found: int = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):  # no limit, or another version of cgroups
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found
