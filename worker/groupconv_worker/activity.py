"""What runs in a process, for another process to see: tuning waits for gaps between shards.

Two words of shared memory: how many shards run or wait, and how many have come.
"""

import mmap
import os
import threading
from typing import Self

INSIDE, ENTERED = 0, 1


class Activity:
    """Shards that run or wait in a process. Safe to use from several threads.

    Args:
        handle: a descriptor of the memory of another process's; None makes new memory.

    Attributes:
        handle: a descriptor of the memory, for the other process; `words` is the memory itself.

    Example:
        >>> here = Activity()
        >>> there = Activity(here.handle)
        >>> with here:
        ...     there.inside, there.entered
        (1, 1)
        >>> there.inside, there.entered
        (0, 1)
    """

    def __init__(self, handle: int | None = None) -> None:
        self.handle = os.memfd_create("groupconv-activity") if handle is None else handle
        if handle is None:
            os.ftruncate(self.handle, mmap.PAGESIZE)
        self.words = memoryview(mmap.mmap(self.handle, mmap.PAGESIZE)).cast("q")
        self._lock = threading.Lock()

    @property
    def inside(self) -> int:
        """Shards that run or wait."""
        return self.words[INSIDE]

    @property
    def entered(self) -> int:
        """Shards that have come so far."""
        return self.words[ENTERED]

    def enter(self) -> None:
        """Count a shard."""
        with self._lock:
            self.words[INSIDE] += 1
            self.words[ENTERED] += 1

    def leave(self) -> None:
        """A shard has ended."""
        with self._lock:
            self.words[INSIDE] -= 1

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


ACTIVITY = Activity()
"""The activity of this process."""
