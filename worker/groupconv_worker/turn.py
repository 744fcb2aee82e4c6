"""One after another, first come, first served."""

import threading
from collections import deque


class Turn:
    """A lock that threads get in the order in which they asked for it; `threading.Lock` promises none.

    Example:
        >>> turn = Turn()
        >>> turn.acquire(), turn.acquire(timeout=0.01)
        (True, False)
        >>> turn.release(); turn.acquire()
        True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    def acquire(self, timeout: float = -1) -> bool:
        """Wait for it, for at most `timeout` seconds unless that is -1; whether it was got."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            bell = threading.Lock()
            bell.acquire()
            self._waiting.append(bell)
        if bell.acquire(timeout=timeout):
            return True
        with self._lock:
            if bell not in self._waiting:  # it was handed over this moment
                return True
            self._waiting.remove(bell)
            return False

    def release(self) -> None:
        """Hand it to who has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
