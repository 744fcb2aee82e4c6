"""One lock for each name, so that changes of one layer do not wait for those of another."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class NamedLocks:
    """Locks by name. A lock exists while a thread holds it or waits for it.

    Example:
        >>> locks = NamedLocks()
        >>> with locks.of("a"), locks.of("b"):
        ...     len(locks)
        2
        >>> len(locks)
        0
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used: dict[str, tuple[threading.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._used)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Hold the lock of a name. It is not reentrant."""
        with self._lock:
            lock, users = self._used.get(name, (threading.Lock(), 0))
            self._used[name] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, users = self._used.pop(name)
                if users > 1:
                    self._used[name] = lock, users - 1
