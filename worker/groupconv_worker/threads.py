"""A team of threads: one budget that every kernel of a worker shares."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Work = Callable[[int, int], object]
"""work(first, last) does the tasks first … last - 1."""


class Team:
    """Splits tasks over at most `threads` threads, the caller's among them.

    Several callers may run at once; the team then has no more than `threads - 1` threads of its own beside them.

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
        self._pool = ThreadPoolExecutor(self.threads - 1, "groupconv") if self.threads > 1 else None

    def run(self, work: Work, tasks: int, *, threads: int | None = None) -> None:
        """Do the tasks 0 … tasks - 1, in `threads` even parts (all of the team's by default).

        `work` must release the GIL for the parts to run at the same time.
        """
        parts = min(tasks, self.threads if threads is None else min(threads, self.threads))
        if parts <= 1 or self._pool is None:
            work(0, tasks)
            return
        bounds = [tasks * part // parts for part in range(parts + 1)]
        others = [self._pool.submit(work, a, b) for a, b in itertools.pairwise(bounds[1:])]
        try:
            work(0, bounds[1])
        finally:
            for other in others:
                other.result()

    def close(self) -> None:
        """End the team's own threads."""
        if self._pool is not None:
            self._pool.shutdown()
