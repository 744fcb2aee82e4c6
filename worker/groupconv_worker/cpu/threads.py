"""A team of threads, which all kernels of a worker share.

Waking a thread takes 60 to 100 µs, too long for a convolution of 0.2 ms. So after its work a helper spins for a while
without the GIL, looking for more, before it sleeps. Each thread gets the same share of the work every time, so its data
is still in its cache. A thread that has finished takes parts from the shares of the others, so a helper that wakes late
delays nobody.

Compiled work comes as a program (program.py): a helper finds it in its own words, without the interpreter. Work in
Python (`Team.run`: onnxruntime, BLAS, FFT, shards) comes through a queue, and a word announces it. A thread that
requests the GIL while another one holds it sleeps, and wakes 30 to 50 µs after it is free. So a helper waits until its
caller has released the GIL before it requests it, and reports that work is over after it has released the GIL itself.

Linux tends to wake a thread on the processor of the thread that wakes it. There it waited for many milliseconds behind
a caller that computes, so a sleeping helper is moved off that processor first.

A run that shares the threads with other runs may use some of them only (`budget.granted`).
"""

import contextlib
import ctypes
import os
import queue
import sys
import threading
import weakref
from typing import NamedTuple

import numpy as np

from groupconv_worker.budget import granted
from groupconv_worker.contract import Array
from groupconv_worker.cpu.kernels.program import (
    ASLEEP,
    INTERPRETER,
    JOB,
    LINE,
    NONE,
    OVER,
    announce,
    attend,
    await_word,
    rouse,
)
from groupconv_worker.cpu.shared_work import SharedWork, Work
from groupconv_worker.job import current

LOOKOUT = 200_000
"""Loop iterations (0.25 to 1 ns each) for which a helper spins before it sleeps, as does a caller that waits for it."""
HANDOVER = 2_000
"""Loop iterations to wait before requesting the GIL, which the thread that announced work holds for a moment."""


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
        compiled work there is `program.Program`, which costs a hundredth. No part begins once the job of this thread
        is over; work that takes long must check the job (job.py) by itself.
        """
        helpers = self.hire(min(tasks, self.threads if threads is None else threads) - 1)
        job = current()
        if not helpers.all:
            if job.word.value:
                job.check()
            work(0, tasks)
            return
        shared = SharedWork(work, tasks, 1 + len(helpers.all), job, helpers.all[0].prepared())
        for share, helper in enumerate(helpers.all, start=1):
            helper.start((shared, share))
        if not shared.join_in(0):
            await_word(shared.over, LOOKOUT)
        # a helper that has not even woken finds nothing left of this work; the next may be announced to it already
        self._free.extend(helpers.all)
        del shared.work, shared.errors[1:]  # a late helper still has this object in its queue
        if shared.errors:
            raise shared.errors.pop()  # it knows the frames that it came through, these the list: arrays would stay

    def expect(self, count: int) -> None:
        """Wake helpers for work that comes in a moment: up to `count` of those that are free."""
        for helper in self._free[: -1 - count : -1]:
            if helper.words[ASLEEP]:
                helper.wake()

    def hire(self, count: int) -> "Helpers":
        """Take up to `count` free helpers, and wake those that sleep; they belong to the caller until `dismiss`.

        The calling thread gets fewer if it was granted fewer threads.
        """
        most = granted.get()
        if most is not None and count >= most:
            count = most - 1
        if count < 1 or not self._free:
            return NOBODY
        hired: list[_Helper] = []
        while len(hired) < count:
            try:
                hired.append(self._free.pop())  # atomic, so several callers may take at once
            except IndexError:
                break
        for helper in hired:
            if helper.words[ASLEEP]:
                helper.wake()
        return hired[0].alone if len(hired) == 1 else _together(hired)

    def dismiss(self, helpers: "Helpers") -> None:
        """Give helpers back."""
        self._free.extend(helpers.all)

    def close(self) -> None:
        """End the helpers, once they have done what they were given."""
        self._dismiss()
        for helper in self._helpers:
            helper.thread.join()


class Helpers(NamedTuple):
    """Helpers that work for one caller.

    Attributes:
        all: the helpers.
        words: the address of each helper's words (kernels/program.py).
    """

    all: "list[_Helper]"
    words: Array


def _together(helpers: "list[_Helper]") -> Helpers:
    return Helpers(helpers, np.array([helper.address for helper in helpers], np.int64))


NOBODY = _together([])


class _Helper:
    """A thread that shares work: work in its queue, and compiled work announced in its words."""

    def __init__(self) -> None:
        self._jobs = queue.SimpleQueue[tuple[SharedWork, int] | None]()
        room = np.zeros(5 * LINE, np.int64)
        first = -(room.ctypes.data // 8) % LINE
        self.words, self._avoided = room[first : first + 4 * LINE], -1
        self.address = self.words.ctypes.data
        self.alone = _together([self])
        self.thread = threading.Thread(target=self._loop, name="groupconv", daemon=True)
        self.thread.start()

    def prepared(self) -> int:
        """Clear the word that reports that its next work is over. Return the word's address."""
        self.words[OVER] = 0
        return self.address + 8 * OVER

    def start(self, share: tuple[SharedWork, int] | None) -> None:
        """Do this share of some work; end the thread if it is None."""
        self._jobs.put(share)
        announce(self.address, INTERPRETER)

    def wake(self) -> None:
        """Wake a thread that sleeps. It may be late, so whoever announces work must not depend on it."""
        self._avoid_this_processor()
        rouse(self.address)

    def _loop(self) -> None:
        over: int | None = 0
        while over is not None:
            attend(self.address, over, LOOKOUT, HANDOVER)
            self.words[JOB] = NONE
            over = 0
            while over is not None and not self._jobs.empty():
                over = self._join_in()

    def _join_in(self) -> int | None:
        """Do the next work of the queue. Return the word that reports its end, 0 if others end it, None to end."""
        next_work = self._jobs.get()
        if next_work is None:
            return None
        work, share = next_work
        return work.over if work.join_in(share) else 0

    def _avoid_this_processor(self) -> None:
        """Keep the helper off the caller's processor, if the caller may use another one."""
        if _current_processor is None or self.thread.native_id is None:
            return
        here = _current_processor()
        if here == self._avoided:
            return
        others = os.sched_getaffinity(0) - {here}
        if others:
            with contextlib.suppress(OSError):  # the thread has ended, or the set has just been changed
                os.sched_setaffinity(self.thread.native_id, others)
                self._avoided = here


def _dismiss(helpers: list[_Helper]) -> None:
    """End the helpers."""
    for helper in helpers:
        helper.start(None)


# PyDLL keeps the GIL: the call takes less time than letting go of it
_current_processor = getattr(ctypes.PyDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None
