"""A job: work for one caller, and what ends it early: its deadline, a caller who has gone, the end of the process.

A thread that runs a job enters it (`with job:`). Meanwhile one thread of the process (watch.py) polls all jobs every
few hundredths of a second, and sets the word of a job that is over. Compiled programs read that word between blocks,
and loops in Python between pieces of at most some tens of milliseconds, so work ends within `PROMPT`.

Code deep inside an engine finds the job of its thread with `current()`.
"""

import copy
import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self

from groupconv.errors import CancelledError, DeadlineExceededError, GroupconvError
from groupconv_worker.watch import Watch

PROMPT = 0.1
"""Seconds within which a job that is over lets go of its worker."""


def always() -> bool:
    """Return True: the caller is always there."""
    return True


class Job:
    """Work for one caller. Several threads may be in it at a time.

    Args:
        deadline: on the clock of time.monotonic(), or None.
        alive: returns whether the caller is still there. It is called again and again, and must not block.
        priority: 1 goes before 2, and so on; 0 goes after all of them.

    Attributes:
        deadline, priority: as given.
        watched: whether it can be over without `stop`: it has a deadline, or a caller who may go.
        word: an integer that is not 0 once the job is over.
        address: of the word, for compiled code.

    Example:
        >>> job = Job(deadline=time.monotonic() - 1)
        >>> job.over, job.poll(), job.over
        (False, True, True)
        >>> job.check()
        Traceback (most recent call last):
            ...
        groupconv.errors.DeadlineExceededError: the deadline passed
    """

    __slots__ = ("_alive", "_ends", "_error", "_tokens", "address", "deadline", "priority", "watched", "word")

    def __init__(self, deadline: float | None = None, alive: Callable[[], bool] = always, priority: int = 0) -> None:
        self.deadline, self._alive, self.priority = deadline, alive, priority
        self.watched = deadline is not None or alive is not always
        self.word = ctypes.c_int64()
        self.address = ctypes.addressof(self.word)
        self._error: GroupconvError | None = None
        self._tokens: dict[int, list[Token[Job]]] = {}
        self._ends: list[Callable[[], None]] = []

    @property
    def over(self) -> bool:
        """Whether the word says that the job is over; see `poll`."""
        return self.word.value != 0

    @property
    def left(self) -> float | None:
        """Seconds until the deadline, 0 after it; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def stop(self, error: GroupconvError) -> None:
        """End the job: its threads stop and raise `error`. The first call counts."""
        self._error = self._error or error
        self.word.value = 1
        for end in list(self._ends):
            end()

    @contextmanager
    def on_stop(self, end: Callable[[], None]) -> Iterator[None]:
        """Enter the job, and call `end` if it is stopped meanwhile: for a library that has its own way to stop."""
        self._ends.append(end)
        try:
            with self:
                yield
        finally:
            self._ends.remove(end)

    def poll(self) -> bool:
        """Look at the clock, and ask whether the caller is still there. Return whether the job is over."""
        if not self.word.value:
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.stop(DeadlineExceededError("the deadline passed"))
            elif not self._alive():
                self.stop(CancelledError("the caller has gone"))
        return self.word.value != 0

    def check(self) -> None:
        """Return if the job is not over. Cheap enough between pieces of a microsecond.

        Raises:
            DeadlineExceededError: its deadline passed.
            CancelledError: its caller has gone.
            GroupconvError: the error that it was stopped with.
        """
        if self.word.value and self._error is not None:
            # a copy: the job outlives it, and a raised error keeps the frames that it passed, with their arrays
            raise copy.copy(self._error)

    def __enter__(self) -> Self:
        self._tokens.setdefault(threading.get_ident(), []).append(running.set(self))
        if self.watched:
            _watch.jobs.append(self)
            if _watch.asleep:
                _watch.wake()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        running.reset(self._tokens[threading.get_ident()].pop())
        if self.watched:
            _watch.jobs.remove(self)


_watch = Watch()
ENDLESS = Job()
"""The job of a thread that has entered none: it never ends."""
running: ContextVar[Job] = ContextVar("job", default=ENDLESS)
"""The job that a thread is in. A team's thread sets it for its share of a caller's work, which is watched already."""
current = running.get
"""The job that the calling thread is in; `ENDLESS` without one."""


class Jobs:
    """The jobs that run on one executor, which may stop all of them at once.

    Example:
        >>> jobs, job = Jobs(), Job()
        >>> jobs.enter(job)
        >>> jobs.end(GroupconvError("closed"))
        >>> job.over
        True
        >>> jobs.leave(job)
    """

    def __init__(self) -> None:
        self._running: dict[int, Job] = {}
        self._ended: GroupconvError | None = None

    def enter(self, job: Job) -> None:
        """Enter a job unless it is over. The same thread calls `leave` when the work is done.

        Raises:
            GroupconvError: why the job is over, or what `end` was given.
        """
        self._running[id(job)] = job
        if self._ended is not None:  # looked at after the job was added, so `end` cannot miss it
            job.stop(self._ended)
        if job.word.value or (job.watched and job.poll()):
            del self._running[id(job)]
            job.check()
        job.__enter__()

    def leave(self, job: Job) -> None:
        """Leave a job that was entered."""
        self._running.pop(id(job), None)
        job.__exit__(None, None, None)

    def end(self, error: GroupconvError) -> None:
        """Stop the jobs that run, and each that comes, with this error."""
        self._ended = error
        for job in list(self._running.values()):
            job.stop(error)
