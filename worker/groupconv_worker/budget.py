"""Turns at a budget of threads, first come, first served."""

import threading
from collections import deque


class Turn:
    """A lock whose holders share a budget of threads; they get it in the order in which they asked.

    Who comes alone may have all of the budget. Who is one of several takes a share, as splitting small work over many
    threads loses more than doing several at a time. Who could have less than half of the share waits.

    Args:
        threads: the budget; 1 makes it a plain lock, which, other than `threading.Lock`, promises an order.

    Example:
        >>> turn = Turn(4)
        >>> turn.acquire(among=2), turn.acquire(among=2), turn.acquire(timeout=0.01)
        (2, 2, 0)
        >>> turn.release(2); turn.release(2); turn.acquire()
        4
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = self._free = threads
        self._holders = 0
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()

    @property
    def inside(self) -> int:
        """How many hold threads or wait for some."""
        return self._holders + len(self._waiting)

    def acquire(self, timeout: float = -1, *, among: float = 1, whole: bool = False) -> int:
        """Wait for threads, for at most `timeout` seconds unless that is -1.

        Args:
            timeout: seconds.
            among: how many share the budget now, the caller among them.
            whole: whether nothing less than all of it will do.

        Returns:
            The threads got, to be given back; 0 if it took too long.
        """
        share = self.threads if whole else max(1, int(self.threads / max(1.0, among)))
        least = share if whole else (share + 1) // 2
        with self._lock:
            if self._free >= least and not self._waiting:
                return self._take(share)
            mine = _Waiting(share, least)
            self._waiting.append(mine)
        if mine.bell.acquire(timeout=timeout):
            return mine.got
        with self._lock:
            if not mine.got:
                self._waiting.remove(mine)
                self._admit()  # who stood behind may want less
            return mine.got

    def release(self, threads: int = 1) -> None:
        """Give them back, to who has waited longest."""
        with self._lock:
            self._free += threads
            self._holders -= 1
            self._admit()

    def _take(self, share: int) -> int:
        got = min(share, self._free)
        self._free -= got
        self._holders += 1
        return got

    def _admit(self) -> None:
        while self._waiting and self._free >= self._waiting[0].least:
            first = self._waiting.popleft()
            first.got = self._take(first.share)
            first.bell.release()

    def __enter__(self) -> None:
        self.acquire(whole=True)

    def __exit__(self, *_: object) -> None:
        self.release(self.threads)


class _Waiting:
    """Who waits: for which share, and at least so much; what it got."""

    __slots__ = ("bell", "got", "least", "share")

    def __init__(self, share: int, least: int) -> None:
        self.share, self.least, self.got = share, least, 0
        self.bell = threading.Lock()
        self.bell.acquire()
