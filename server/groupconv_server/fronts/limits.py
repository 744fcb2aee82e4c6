"""Limits that hold for all fronts together: requests, memory, streams, and the rates of tokens."""

import fcntl
import math
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from groupconv_server.access.rates import Allowance, CallerLimits
from groupconv_server.admission.gate import Gate
from groupconv_server.fronts.counters import Counters, elsewhere, own
from groupconv_server.streaming.budget import Budget
from groupconv_worker.budget import ThreadBudget


class SharedGate(Gate):
    """A gate whose limits hold for the requests of all fronts."""

    def __init__(self, running: int, waiting: int, nbytes: int, counters: Counters) -> None:
        self._inside, self._brief, self._bytes = (counters.word(name) for name in ("inside", "brief", "nbytes"))
        super().__init__(running, waiting, nbytes)

    inside, inside_elsewhere = own("_inside"), elsewhere("_inside")
    brief = own("_brief")
    nbytes, nbytes_elsewhere = own("_bytes"), elsewhere("_bytes")

    def everywhere(self) -> Callable[[], int]:
        """A function that returns how many requests, which are no streams, run or wait in all processes."""
        return self._brief.everywhere


class SharedBudget(Budget):
    """The memory of the streams of all fronts."""

    def __init__(self, limit: int, counters: Counters) -> None:
        self._word = counters.word("streams")
        super().__init__(limit)

    held = own("_word")
    elsewhere = elsewhere("_word")


class SharedThreads(ThreadBudget):
    """The threads of the engines of all fronts: each has a share, and takes what the others leave idle.

    Args:
        threads: of all fronts together.
        processes: how many fronts.
        counters: of all fronts.
    """

    def __init__(self, threads: int, processes: int, counters: Counters) -> None:
        super().__init__(threads)
        self._word, self._share = counters.word("threads"), max(1, threads // processes)

    def _spare(self, *, whole: bool) -> int:
        if whole:  # it waits for this front's runs, and not for those of others
            return self._free
        held = self._word.get()
        return min(self._free, max(self._share - held, self.threads - held - self._word.elsewhere()))

    def _count(self, threads: int) -> None:
        self._word.set(self._word.get() + threads)


PAUSE = 0.01
"""Seconds between two tries to take a lock that another process has."""


class SharedLock:
    """A lock that one thread of all fronts holds; the thread that has it may take it again.

    Args:
        handle: of shared memory that nobody else locks. The kernel unlocks for a process that is lost.

    Example:
        >>> lock = SharedLock(os.memfd_create("example"))
        >>> lock.acquire(timeout=1), lock.acquire(timeout=1)
        (True, True)
        >>> lock.release(); lock.release()
    """

    def __init__(self, handle: int) -> None:
        self._handle, self._held, self._lock = handle, 0, threading.RLock()

    def acquire(self, timeout: float = -1) -> bool:
        """Take it within so many seconds, or without limit."""
        until = math.inf if timeout < 0 else time.monotonic() + timeout
        if not self._lock.acquire(timeout=timeout):
            return False
        while not self._held and not self._locked():
            if time.monotonic() >= until:
                self._lock.release()
                return False
            time.sleep(PAUSE)
        self._held += 1
        return True

    def release(self) -> None:
        """Give it back."""
        self._held -= 1
        if not self._held:
            fcntl.lockf(self._handle, fcntl.LOCK_UN)
        self._lock.release()

    def _locked(self) -> bool:
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


ALLOWANCES = 4096
"""Limited tokens that the supervisor numbers, at most."""
_FLOATS = 4
"""Numbers of an allowance beside the running requests: level and time of both buckets."""


class Allowances:
    """What limited tokens have used, in shared memory.

    Args:
        processes: how many fronts.
        index: of this one.
        handle: of the memory; None makes it.
    """

    def __init__(self, processes: int, index: int = 0, handle: int | None = None) -> None:
        self._width = _FLOATS + processes
        self._index, self._processes = index, processes
        size = ALLOWANCES * self._width * 8
        self.handle = os.memfd_create("groupconv-allowances") if handle is None else handle
        if handle is None:
            os.ftruncate(self.handle, size)
        memory = memoryview(mmap.mmap(self.handle, size))
        self._floats, self._counts = memory.cast("d"), memory.cast("q")
        self._lock = threading.Lock()  # locks of files are the process's

    def clear(self, index: int) -> None:
        """Forget the running requests of a process that has ended."""
        for number in range(ALLOWANCES):
            at = number * self._width + _FLOATS + index
            if self._counts[at]:
                self._counts[at] = 0

    @contextmanager
    def locked(self, number: int) -> "Iterator[tuple[memoryview[float], int]]":
        """The memory of an allowance, which no other process touches meanwhile. The kernel unlocks for a lost one."""
        start = number * self._width
        with self._lock:
            fcntl.lockf(self.handle, fcntl.LOCK_EX, self._width * 8, start * 8)
            try:
                yield self._floats, start
            finally:
                fcntl.lockf(self.handle, fcntl.LOCK_UN, self._width * 8, start * 8)

    def running(self, start: int) -> tuple[int, int]:
        """Running requests of an allowance: here, and elsewhere."""
        counts = self._counts[start + _FLOATS : start + _FLOATS + self._processes].tolist()
        here = counts[self._index]
        return here, sum(counts) - here

    def run(self, start: int, here: int) -> None:
        """Write how many requests of an allowance run here."""
        self._counts[start + _FLOATS + self._index] = here


class SharedAllowance(Allowance):
    """The allowance of a token, the same at all fronts.

    Args:
        name, rates: of the token.
        shared: has what it used.
        number: of this token there.
    """

    def __init__(self, name: str, rates: CallerLimits, shared: Allowances, number: int) -> None:
        super().__init__(name, rates)
        if number >= ALLOWANCES:
            raise ValueError(f"at most {ALLOWANCES} entries with limits, where the server has several processes")
        self._shared, self._number = shared, number

    def enter(self) -> None:
        """Count a request in; see `Allowance.enter`."""
        with self._present():
            super().enter()

    def leave(self) -> None:
        """Count a request out."""
        with self._present():
            super().leave()

    def spend(self, nbytes: int) -> float:
        """Charge a message; returns the seconds until the debt is paid."""
        if self._bytes is None:
            return 0.0
        with self._present():
            return super().spend(nbytes)

    @contextmanager
    def _present(self) -> Iterator[None]:
        """Within the block, this object's state is what all fronts have used."""
        with self._shared.locked(self._number) as (floats, start):
            buckets = [(start, self._requests), (start + 2, self._bytes)]
            for at, bucket in buckets:
                if bucket is not None and floats[at + 1]:
                    bucket.level, bucket.at = floats[at], floats[at + 1]
            here, others = self._shared.running(start)
            self._running = here + others
            try:
                yield
            finally:
                for at, bucket in buckets:
                    if bucket is not None:
                        floats[at], floats[at + 1] = bucket.level, bucket.at
                self._shared.run(start, self._running - others)
