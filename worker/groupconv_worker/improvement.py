"""A kernel that computes while a better one is prepared, and the preparation that others wait for."""

import threading
from collections.abc import Callable

from groupconv_worker.contract import Prepared


class Improvement:
    """The preparation of a better kernel beside the requests, as an event with callbacks.

    Attributes:
        over: whether the preparation is done, has failed or was dropped. A kernel that is prepared after that is the
            better one, if there is one.

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
        """Have a function called when the preparation is over; now if it is."""
        with self._lock:
            if not self.over:
                self._calls.append(call)
                return
        call()

    def end(self) -> None:
        """Mark the preparation as over, and call the functions that wait for it."""
        with self._lock:
            self.over, calls, self._calls = True, self._calls, []
        for call in calls:
            call()


class InterimKernel:
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
