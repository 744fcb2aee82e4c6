"""Work in Python that the threads of a team share."""

import collections
import itertools
from collections.abc import Callable

from groupconv_worker.job import Job, running

Work = Callable[[int, int], object]
"""work(first, last) does the tasks first … last - 1."""

PARTS = 2
"""Parts of the work for each thread."""


class SharedWork:
    """Tasks in parts, one share of them for each thread.

    Attributes:
        over: the address of a word that becomes 1 when a helper has done the last part and lets go of the GIL.
        errors: of parts that failed.
    """

    def __init__(self, work: Work, tasks: int, threads: int, job: Job, over: int) -> None:
        self.work, self.over, self._job = work, over, job
        self._count = count = min(tasks, PARTS * threads)
        parts = [(tasks * part // count, tasks * (part + 1) // count) for part in range(count)]
        self._shares = [
            collections.deque(parts[count * share // threads : count * (share + 1) // threads])
            for share in range(threads)
        ]
        self._finished = itertools.count(1)  # `next` is atomic, as a deque's pops are
        self.errors: list[BaseException] = []

    def join_in(self, share: int) -> bool:
        """Do the parts of this share, then those that no thread has begun. Return whether it did the last one."""
        job, own, last = self._job, self._shares[share], False
        token = running.set(job)
        for parts in (own, *self._shares):
            take = parts.popleft if parts is own else parts.pop
            while parts:
                try:
                    first, stop = take()
                except IndexError:  # another thread took the last one meanwhile
                    break
                try:
                    if job.word.value:
                        job.check()
                    self.work(first, stop)
                except BaseException as error:  # noqa: BLE001 - raised by `Team.run`, in the caller's thread
                    self.errors.append(error)
                last = next(self._finished) == self._count
        running.reset(token)
        return last
