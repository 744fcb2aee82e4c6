"""A job: work for one caller, and what ends it early: its deadline, a caller who has gone, the end of the process.

Whoever runs a job enters it (`with job:`). From then on one thread of the process, the watch, looks at its deadline and
its caller every `PERIOD`, and sets the job's word when one of them is over. Compiled programs read that word between
blocks, and loops in Python between pieces of at most some tens of milliseconds: so work ends within `PROMPT`.

What runs deep inside an engine asks for the job of its thread (`current`), as threads.keep_to does for its threads.
"""

import ctypes
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from groupconv.errors import CancelledError, DeadlineExceededError, GroupconvError

log = logging.getLogger(__name__)

PROMPT = 0.1
"""Seconds within which a job that is over lets go of its worker."""
PERIOD = 0.02
"""Seconds between two looks of the watch."""
DROWSY = 50
"""Looks that find no job before the watch sleeps."""


def always() -> bool:
    """Yes."""
    return True


class Job:
    """Work for one caller. Several threads may be in it at a time.

    Args:
        deadline: on the clock of time.monotonic(); None for none.
        alive: whether the caller is still there. It is asked again and again, and must not wait.

    Attributes:
        deadline: as given.
        address: of the word that is not 0 once the job is over.

    Example:
        >>> job = Job(deadline=time.monotonic() - 1)
        >>> job.over, job.look(), job.over
        (False, True, True)
        >>> job.check()
        Traceback (most recent call last):
            ...
        groupconv.errors.DeadlineExceededError: the deadline passed
    """

    __slots__ = ("_alive", "_before", "_error", "_word", "address", "deadline")

    def __init__(self, deadline: float | None = None, alive: Callable[[], bool] = always) -> None:
        self.deadline, self._alive = deadline, alive
        self._word = ctypes.c_int64()
        self.address = ctypes.addressof(self._word)
        self._error: GroupconvError | None = None
        self._before: dict[int, list[Job | None]] = {}

    @property
    def over(self) -> bool:
        """Whether it was stopped, as far as is known: costs a look at a word."""
        return self._word.value != 0

    @property
    def watched(self) -> bool:
        """Whether it may end by itself."""
        return self.deadline is not None or self._alive is not always

    @property
    def left(self) -> float | None:
        """Seconds until the deadline, 0 after it; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def stop(self, error: GroupconvError) -> None:
        """End it: who works on it stops, and raises `error`. Of several the first counts."""
        self._error = self._error or error
        self._word.value = 1

    def look(self) -> bool:
        """Look at the clock and the caller; whether the job is over."""
        if not self._word.value:
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.stop(DeadlineExceededError("the deadline passed"))
            elif not self._alive():
                self.stop(CancelledError("the caller has gone"))
        return self._word.value != 0

    def check(self) -> None:
        """Go on, if the job is not over. Cheap enough between pieces of a microsecond.

        Raises:
            DeadlineExceededError: its deadline passed.
            CancelledError: its caller has gone.
            GroupconvError: what it was stopped with.
        """
        if self._word.value and self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        thread = threading.get_ident()
        self._before.setdefault(thread, []).append(_running.get(thread))
        _running[thread] = self
        if _watch.asleep and self.watched:
            _watch.wake()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        thread = threading.get_ident()
        entered = self._before[thread]  # several times, where one function calls another
        before = entered.pop()
        if not entered:
            del self._before[thread]
        if before is None:
            del _running[thread]
        else:
            _running[thread] = before


ENDLESS = Job()
"""Nobody's: it has no end."""

_running: dict[int, Job] = {}
"""The job of each thread that is in one."""


def current() -> Job:
    """The job that the calling thread is in; `ENDLESS` if it is in none."""
    return _running.get(threading.get_ident(), ENDLESS)


class _Watch:
    """The thread that looks at the running jobs; it sleeps while there are none."""

    def __init__(self) -> None:
        self.asleep = True
        self._awake, self._started = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """A job was entered while it slept."""
        with self._started:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="job-watch", daemon=True)
                self._thread.start()
        self._awake.set()

    def _look(self) -> None:
        while True:
            self._awake.wait()
            self._awake.clear()
            self.asleep, idle = False, 0
            while idle < DROWSY:
                time.sleep(PERIOD)
                jobs = {job for job in list(_running.values()) if job.watched}
                idle = 0 if jobs else idle + 1
                for job in jobs:
                    try:
                        job.look()
                    except Exception:
                        log.exception("a caller could not be asked whether it is there")
            self.asleep = True
            if any(job.watched for job in list(_running.values())):  # entered before it could see that nobody looks
                self._awake.set()


_watch = _Watch()
