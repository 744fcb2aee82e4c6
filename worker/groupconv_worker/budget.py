"""A budget of threads that runs share, first come, first served."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar

PATIENCE = 0.02
"""Seconds without any change after which a run that waits gets a thread beyond the budget."""
LENT = 32
"""Threads beyond the budget, at most."""

granted: ContextVar[int | None] = ContextVar("threads", default=None)
"""Threads of any team that the calling thread may have at work, itself among them; None for all of them."""


class ThreadBudget:
    """A lock whose holders share a budget of threads. They get threads in the order of their requests.

    A run that comes alone may have all threads. One of several gets a share, as splitting small work over many threads
    loses more than doing several runs at a time. If less than half of the share is free, it waits.

    A long run does not hold up others: if nothing has changed for `PATIENCE` seconds, a run that waits gets a thread
    beyond the budget, and shares the processors from then on. The thread is taken back as soon as no run waits. A run
    that must have all threads, or is stubborn, waits `STUBBORN` times longer; one that must be alone, until it is.

    Args:
        threads: the budget. 1 makes it a plain lock that, unlike `threading.Lock`, keeps an order.

    Example:
        >>> budget = ThreadBudget(4)
        >>> budget.acquire(among=2), budget.acquire(among=2), budget.acquire(timeout=0.01)
        (2, 2, 0)
        >>> budget.acquire(timeout=1)  # lent
        1
        >>> budget.release(1); budget.release(2); budget.release(2); budget.acquire()
        4
    """

    STUBBORN = 50

    def __init__(self, threads: int = 1) -> None:
        self.threads = self._free = threads
        self._holders = self._lent = 0
        self._alone = False
        self._changed = time.monotonic()
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()

    @property
    def inside(self) -> int:
        """Runs that hold threads or wait for some."""
        return self._holders + len(self._waiting)

    def acquire(
        self,
        timeout: float = -1,
        *,
        among: float = 1,
        whole: bool = False,
        alone: bool = False,
        stubborn: bool = False,
        over: Callable[[], bool] = lambda: False,
    ) -> int:
        """Wait for threads, for at most `timeout` seconds unless that is -1.

        Args:
            timeout: seconds.
            among: how many runs share the budget now, this one included.
            whole: whether it needs all threads, and waits longer for them.
            alone: whether no other run may hold a thread, however long that takes.
            stubborn: whether it waits longer before it gets a thread beyond the budget, as long runs that come together
                do: with more threads than processors each of them would be slower.
            over: called now and then; waiting ends once it returns True.

        Returns:
            How many threads it got, for `release`; 0 if it took too long.
        """
        whole = whole or alone
        share = self.threads if whole else max(1, int(self.threads / max(1.0, among)))
        least = share if whole else (share + 1) // 2
        with self._lock:
            if self._spare(whole=whole) >= least and not self._waiting and not (alone and self._holders):
                return self._take(share, whole=whole, alone=alone)
            mine = _Waiting(share, least, whole, alone)
            self._waiting.append(mine)
        until = math.inf if timeout < 0 else time.monotonic() + timeout
        patience = math.inf if alone else PATIENCE * (self.STUBBORN if whole or stubborn else 1)
        since, pause = time.monotonic(), PATIENCE
        while True:
            left = until - time.monotonic()
            if mine.bell.acquire(timeout=max(0.0, min(pause, left))):
                over()  # look again: a run that waited may have lost its caller, and finds out here
                return mine.got
            pause = min(0.1, 1.5 * pause)
            ended = (left <= pause and time.monotonic() >= until) or over()
            with self._lock:
                if mine.got:
                    return mine.got
                now = time.monotonic()
                if ended:
                    self._waiting.remove(mine)
                    self._admit()  # the next in the queue may need fewer
                    return 0
                if now - max(self._changed, since) >= patience and self._lent < LENT and not self._alone:
                    self._waiting.remove(mine)
                    self._lent += 1
                    self._free += 1
                    return self._take(1)

    def release(self, threads: int = 1) -> None:
        """Give threads back. The run that has waited longest gets them."""
        with self._lock:
            self._free += threads
            self._count(-threads)
            self._holders -= 1
            self._alone = False
            self._changed = time.monotonic()
            if self._waiting or self._lent:
                self._admit()

    def _spare(self, *, whole: bool) -> int:  # noqa: ARG002 - for budgets that several processes share
        """Threads that a run may get now."""
        return self._free

    def _count(self, threads: int) -> None:
        """Note that runs hold so many threads more."""

    def _take(self, share: int, *, whole: bool = False, alone: bool = False) -> int:
        got, self._alone = min(share, max(1, self._spare(whole=whole))), alone
        self._free -= got
        self._count(got)
        self._holders += 1
        self._changed = time.monotonic()
        return got

    def _admit(self) -> None:
        while self._waiting and self._spare(whole=self._waiting[0].whole) >= self._waiting[0].least:
            if self._waiting[0].alone and self._holders:
                return
            first = self._waiting.popleft()
            first.got = self._take(first.share, whole=first.whole, alone=first.alone)
            first.bell.release()
        if not self._waiting:
            back = min(self._lent, self._free)
            self._lent -= back
            self._free -= back

    def __enter__(self) -> None:
        self.acquire(alone=True)

    def __exit__(self, *_: object) -> None:
        self.release(self.threads)


class _Waiting:
    """A run that waits for threads: its share, the least it takes, whether it needs all or to be alone, what it got."""

    __slots__ = ("alone", "bell", "got", "least", "share", "whole")

    def __init__(self, share: int, least: int, whole: bool, alone: bool) -> None:
        self.share, self.least, self.whole, self.alone, self.got = share, least, whole, alone, 0
        self.bell = threading.Lock()
        self.bell.acquire()
