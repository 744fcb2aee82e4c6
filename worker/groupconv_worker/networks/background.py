"""Work beside the calls, one piece after the other in a thread of its own."""

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Background:
    """A thread that starts with the first piece of work.

    Args:
        name: of the thread.

    Attributes:
        closed: whether its owner is; what fails from then on is not logged.

    Example:
        >>> found, background = [], Background("example")
        >>> background.do(lambda: found.append(1))
        >>> background.wait()
        >>> found
        [1]
    """

    def __init__(self, name: str) -> None:
        self._name, self.closed = name, False
        self._work = queue.SimpleQueue[Callable[[], None]]()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def do(self, work: Callable[[], None]) -> None:
        """Have a piece of work done after those before it."""
        self._work.put(work)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Block until all work so far is done (for tests)."""
        done = threading.Event()
        self.do(done.set)
        done.wait()

    def _loop(self) -> None:
        while True:
            work = self._work.get()
            try:
                work()
            except Exception:
                if not self.closed:
                    log.exception("%s: a network could not be tried", self._name)
            del work  # it holds arrays
