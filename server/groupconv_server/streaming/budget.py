"""What all streams of a server may hold together."""

import threading

from groupconv.errors import ResourceExhaustedError
from groupconv.text import human_bytes


class Budget:
    """Bytes that all streams of a server may hold together; safe to use from several threads.

    Example:
        >>> budget = Budget(100)
        >>> budget.reserve(60)
        >>> budget.reserve(60)
        Traceback (most recent call last):
        ...
        groupconv.errors.ResourceExhaustedError: streams hold 60 B of 100 B; this one needs 60 B: try again later
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._changed = threading.Condition()

    def reserve(self, nbytes: int) -> None:
        """Take `nbytes`.

        Raises:
            ResourceExhaustedError: they are not left.
        """
        with self._changed:
            if self.held + nbytes > self.limit:
                held, limit, needs = (human_bytes(n) for n in (self.held, self.limit, nbytes))
                raise ResourceExhaustedError(
                    f"streams hold {held} of {limit}; this one needs {needs}: try again later", retry_after=1.0
                )
            self.held += nbytes

    def release(self, nbytes: int) -> None:
        """Give `nbytes` back."""
        with self._changed:
            self.held -= nbytes
            self._changed.notify_all()

    def wait_until_free(self, timeout: float) -> bool:
        """Wait until no stream holds anything; False if `timeout` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: self.held == 0, timeout)
