"""What runs in a process, for another process to see: tuning waits for gaps between shards.

Two words of shared memory: how many shards run or wait, and how many have come.
"""

import mmap
import os
import threading
import time
from typing import Self

INSIDE, ENTERED = 0, 1
LOOK = 0.001
"""Seconds between two looks whether a shard runs."""
PATIENCE = 1.0
"""Seconds to wait for a gap."""


class BusyError(Exception):
    """There was no gap."""


class Activity:
    """Shards that run or wait in a process. Safe to use from several threads.

    Args:
        handle: a descriptor of the memory of another process's; None makes new memory.

    Attributes:
        handle: a descriptor of the memory, for the other process.

    Example:
        >>> here = Activity()
        >>> there = Activity(here.handle)
        >>> with here:
        ...     there.inside, there.entered
        (1, 1)
        >>> there.inside, there.gap()
        (0, 1)
    """

    def __init__(self, handle: int | None = None) -> None:
        self.handle = os.memfd_create("groupconv-activity") if handle is None else handle
        if handle is None:
            os.ftruncate(self.handle, mmap.PAGESIZE)
        self._words = memoryview(mmap.mmap(self.handle, mmap.PAGESIZE)).cast("q")
        self._lock = threading.Lock()

    @property
    def inside(self) -> int:
        """Shards that run or wait."""
        return self._words[INSIDE]

    @property
    def entered(self) -> int:
        """Shards that have come so far."""
        return self._words[ENTERED]

    def gap(self) -> int:
        """Wait until no shard runs or waits. Returns how many have come: if that has changed, the gap is over.

        Raises:
            BusyError: shards ran all the time.
        """
        limit = time.monotonic() + PATIENCE
        while self.inside:
            if time.monotonic() > limit:
                raise BusyError
            time.sleep(LOOK)
        return self.entered

    def __enter__(self) -> Self:
        with self._lock:
            self._words[INSIDE] += 1
            self._words[ENTERED] += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._words[INSIDE] -= 1


ACTIVITY = Activity()
"""Of this process."""
