"""A kernel that computes while a better one is prepared: what came of that, and whether it is over."""

import threading
from collections.abc import Callable

from groupconv_worker.contract import Prepared


class Improvement:
    """Something that is prepared beside the requests, as those see it who wait for it.

    Attributes:
        over: whether it is done, has failed or was dropped. Who prepares the kernel again gets the better one, if any.

    Example:
        >>> improvement, seen = Improvement(), []
        >>> improvement.then(lambda: seen.append("before"))
        >>> improvement.end()
        >>> improvement.then(lambda: seen.append("after"))
        >>> seen, improvement.over
        (['before', 'after'], True)
    """

    def __init__(self) -> None:
        self.over = False
        self._lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []

    def then(self, call: Callable[[], None]) -> None:
        """Call this when it is over; now if it is."""
        with self._lock:
            if not self.over:
                self._calls.append(call)
                return
        call()

    def end(self) -> None:
        """It is over."""
        with self._lock:
            self.over, calls, self._calls = True, self._calls, []
        for call in calls:
            call()


class Meanwhile:
    """A prepared kernel that computes until a better one can be had.

    Args:
        prepared: the kernel.
        improvement: what is being prepared.
    """

    def __init__(self, prepared: Prepared, improvement: Improvement) -> None:
        self.prepared, self.improvement = prepared, improvement
        self.algorithm, self.run = prepared.algorithm, prepared.run

    @property
    def nbytes(self) -> int:
        """Bytes that the kernel keeps."""
        return self.prepared.nbytes
