"""A team of threads: one budget that every kernel of a worker shares.

A convolution of 0.2 ms cannot wait for a thread to be woken (60 to 100 µs here), so a helper that has just worked
looks out for more, spinning without the GIL, before it sleeps. Each thread has its share of the work, the same every
time, so that what it touched last time lies in its cache; who has finished takes parts from the others' shares, so a
helper that does wake late costs nothing.

Compiled work comes as a program (program.py), which a helper sees in its own words without the interpreter. Work in
Python (`Team.run`: onnxruntime, BLAS, FFT) comes through a queue.

Linux tends to wake a thread on the processor of the one that wakes it. Behind a caller that computes, it waited there
for many milliseconds, so a sleeping helper is first told to keep off that processor.
"""

import collections
import contextlib
import ctypes
import itertools
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from groupconv_worker.engines.base import Array
from groupconv_worker.kernels.program import INTERPRETER, JOB, LINE, NONE, attend, await_word

Work = Callable[[int, int], object]
"""work(first, last) does the tasks first … last - 1."""

PARTS = 2
"""Parts of the work for each thread."""
LOOKOUT = 200_000
"""Turns (a quarter of a nanosecond to one) for which a helper looks out for work, and a caller for its helpers."""
WAKE: tuple[None, int] = (None, 0)
"""No job, but a reason to look out."""
HANDOVER = 2_000
"""Turns to wait before asking for the GIL, which who announced work, or its end, still holds for a moment."""


class Team:
    """Splits tasks over at most `threads` threads, the caller's among them.

    Several callers may run at once: each takes the helpers that are free, so there are never more than
    `threads - 1` threads beside theirs.

    Example:
        >>> team = Team(2)
        >>> done = []
        >>> team.run(lambda first, last: done.extend(range(first, last)), 5)
        >>> sorted(done)
        [0, 1, 2, 3, 4]
        >>> team.close()
    """

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self._helpers = [_Helper() for _ in range(self.threads - 1)]
        self._free = list(self._helpers)
        self._dismiss = weakref.finalize(self, _dismiss, self._helpers)

    def run(self, work: Work, tasks: int, *, threads: int | None = None) -> None:
        """Do the tasks 0 … tasks - 1 on up to `threads` threads (all of the team's by default).

        `work` must release the GIL for parts to run at the same time. The first failure of a part is raised. For
        compiled work there is `program.Program`, which costs a hundredth.
        """
        helpers = self.hire(min(tasks, self.threads if threads is None else threads) - 1, attentive=False)
        if not helpers.all:
            work(0, tasks)
            return
        job = _Job(work, tasks, 1 + len(helpers.all))
        for share, helper in enumerate(helpers.all, start=1):
            helper.start((job, share))
        job.join_in(0)
        try:
            job.wait()
        finally:
            # a helper that has not even woken finds nothing left of this job; the next may be announced to it already
            self.dismiss(helpers)

    def hire(self, count: int, *, attentive: bool = True) -> "Helpers":
        """Up to `count` helpers, nobody else's until they are dismissed.

        Args:
            count: how many are wanted.
            attentive: wake those that sleep, for work that is announced in their words.
        """
        if count < 1 or not self._free:
            return NOBODY
        found: list[_Helper] = []
        while len(found) < count:
            try:
                found.append(self._free.pop())  # atomic, so several callers may take at once
            except IndexError:
                break
        if attentive:
            for helper in found:
                helper.wake()
        return Helpers(
            found, found[0].place if len(found) == 1 else np.array([int(h.place[0]) for h in found], np.int64)
        )

    def dismiss(self, helpers: "Helpers") -> None:
        """Give helpers back."""
        self._free.extend(helpers.all)

    def close(self) -> None:
        """End the helpers, once they have done what they were given."""
        self._dismiss()
        for helper in self._helpers:
            helper.thread.join()


class Helpers(NamedTuple):
    """Helpers of one job.

    Attributes:
        all: they.
        words: the address of each one's words (kernels/program.py).
    """

    all: "list[_Helper]"
    words: Array


NOBODY = Helpers([], np.zeros(0, np.int64))


class _Job:
    """Tasks in parts, dealt as one share to each of `threads` threads."""

    def __init__(self, work: Work, tasks: int, threads: int) -> None:
        self.work = work
        parts = min(tasks, PARTS * threads)
        bounds = [tasks * part // parts for part in range(parts + 1)]
        pairs = list(itertools.pairwise(bounds))
        self._shares = [
            collections.deque(pairs[parts * share // threads : parts * (share + 1) // threads])
            for share in range(threads)
        ]
        self._parts, self._finished = parts, itertools.count(1)  # `next` is atomic, as a deque's pops are
        self._over, self._bell = np.zeros(1, np.int64), queue.SimpleQueue[None]()
        self._errors: list[BaseException] = []

    def join_in(self, share: int) -> None:
        """Do the parts of this share, then those nobody has begun; return when none is left."""
        while (part := self._take(share)) is not None:
            try:
                self.work(*part)
            except BaseException as error:  # noqa: BLE001 - raised by `wait`, in the caller's thread
                self._errors.append(error)
            if next(self._finished) == self._parts:
                self._bell.put(None)
                self._over[0] = 1

    def _take(self, share: int) -> tuple[int, int] | None:
        with contextlib.suppress(IndexError):
            return self._shares[share].popleft()
        for other in self._shares:
            with contextlib.suppress(IndexError):
                return other.pop()
        return None

    def wait(self) -> None:
        """Return when every part is done; raise the first failure."""
        await_word(self._over.ctypes.data, LOOKOUT, HANDOVER)
        self._bell.get()
        if self._errors:
            raise self._errors[0]


class _Helper:
    """A thread that joins in jobs: those in its queue, and the compiled ones announced in its words."""

    def __init__(self) -> None:
        self._jobs = queue.SimpleQueue[tuple[_Job | None, int] | None]()
        room = np.zeros(3 * LINE, np.int64)
        first = -(room.ctypes.data // 8) % LINE
        self._words, self._asleep = room[first : first + 2 * LINE], False
        self.place = np.array([self._words.ctypes.data], np.int64)
        self.thread = threading.Thread(target=self._loop, name="groupconv", daemon=True)
        self.thread.start()

    def start(self, share: tuple[_Job, int] | None) -> None:
        """Join in a job, at this share of it; end if it is None."""
        if self._asleep and share is not None:
            _keep_off_this_processor(self.thread)
        self._jobs.put(share)
        self._words[JOB] = INTERPRETER

    def wake(self) -> None:
        """See that it looks out for compiled work. It may be late: who announces work must not count on it."""
        if self._asleep:
            self._asleep = False
            _keep_off_this_processor(self.thread)
            self._jobs.put(WAKE)

    def _loop(self) -> None:
        place = int(self.place[0])
        while True:
            if attend(place, LOOKOUT, HANDOVER):
                self._words[JOB] = NONE
            elif self._words[JOB] == NONE:  # else: announced to a helper awake, while it waited for the GIL to sleep
                self._asleep = True
                found = self._jobs.get()
                self._asleep = False
                if not self._join_in(found):
                    return
            while not self._jobs.empty():
                if not self._join_in(self._jobs.get()):
                    return

    @staticmethod
    def _join_in(found: tuple[_Job | None, int] | None) -> bool:
        if found is None:
            return False
        job, share = found
        if job is not None:
            job.join_in(share)
        return True


def _dismiss(helpers: list[_Helper]) -> None:
    """End the helpers."""
    for helper in helpers:
        helper.start(None)


def _keep_off_this_processor(thread: threading.Thread) -> None:
    """Let a thread run on any processor that the caller may use but the one it is on, if there is another."""
    if _current_processor is None or thread.native_id is None:
        return
    others = os.sched_getaffinity(0) - {_current_processor()}
    if others:
        with contextlib.suppress(OSError):  # the thread has ended, or the set has just been changed
            os.sched_setaffinity(thread.native_id, others)


# PyDLL keeps the GIL: the call takes less time than letting go of it
_current_processor = getattr(ctypes.PyDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None
