"""The limit of the memory of all streams together."""

import threading

from groupconv.errors import ResourceExhaustedError
from groupconv.text import human_bytes
from groupconv_server.memory.malloc import give_back

IDLE = 1.0
"""Seconds without a stream after which freed memory is returned to the kernel. Until then a stream may reuse it."""


class Budget:
    """Counts the bytes of all streams of a server. Safe to use from several threads.

    Example:
        >>> budget = Budget(100)
        >>> budget.reserve(60)
        >>> budget.reserve(60)
        Traceback (most recent call last):
        ...
        groupconv.errors.ResourceExhaustedError: streams hold 60 B of 100 B (--streams-mib); this one needs 60 B: ...

    Attributes:
        limit: of the bytes.
        held: bytes that are taken.
        elsewhere: bytes that the server's other processes have taken, of the same limit.
    """

    elsewhere: int = 0

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._changed = threading.Condition()
        self._returning: threading.Timer | None = None

    def reserve(self, nbytes: int) -> None:
        """Take `nbytes` from the budget.

        Raises:
            ResourceExhaustedError: fewer are left.
        """
        with self._changed:
            # Counted before the others are read, as they do: of two at the same time at least one sees the other.
            self.held += nbytes
            taken = self.held + self.elsewhere
            if taken > self.limit:
                self.held -= nbytes
                held, limit, needs = (human_bytes(n) for n in (taken - nbytes, self.limit, nbytes))
                raise ResourceExhaustedError(
                    f"streams hold {held} of {limit} (--streams-mib); this one needs {needs}: try again later",
                    retry_after=1.0,
                )
            if self._returning is not None:
                self._returning.cancel()
                self._returning = None

    def release(self, nbytes: int) -> None:
        """Return `nbytes` to the budget."""
        with self._changed:
            self.held -= nbytes
            if self.held == 0 and nbytes:
                self._returning = threading.Timer(IDLE, give_back)
                self._returning.daemon = True
                self._returning.start()
            self._changed.notify_all()

    def wait_until_free(self, timeout: float) -> bool:
        """Wait until no stream holds memory; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.held == 0, timeout)
