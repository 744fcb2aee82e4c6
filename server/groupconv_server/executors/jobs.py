"""The jobs that an executor runs, so that all of them can be ended at once."""

from collections.abc import Iterator
from contextlib import contextmanager

from groupconv.errors import UnavailableError
from groupconv_worker.job import Job


class Jobs:
    """Those that run now.

    Example:
        >>> jobs, job = Jobs(), Job()
        >>> with jobs.of(job):
        ...     jobs.end()
        ...     job.over
        True
    """

    def __init__(self) -> None:
        self._running: dict[int, Job] = {}
        self._ended = False

    @contextmanager
    def of(self, job: Job) -> Iterator[None]:
        """While a job runs.

        Raises:
            UnavailableError: the executor ends.
        """
        self._running[id(job)] = job  # the same one may be there for another of its chains, but not at the same time
        try:
            if self._ended:
                self._stop(job)
            job.check()
            yield
        finally:
            self._running.pop(id(job), None)

    def end(self) -> None:
        """Stop those that run, and each that comes."""
        self._ended = True
        for job in list(self._running.values()):
            self._stop(job)

    def _stop(self, job: Job) -> None:
        job.stop(UnavailableError("the server is stopping"))
