"""The thread of a process that polls its running jobs."""

import logging
import threading
import time
from typing import Protocol

log = logging.getLogger(__name__)

PERIOD = 0.02
"""Seconds between two polls of the watch."""
DROWSY = 50
"""Polls without any job after which the watch sleeps."""


class Polled(Protocol):
    """A job as the watch sees it."""

    def poll(self) -> bool:
        """Find out whether it is over."""


class Watch:
    """The thread that polls the running jobs. It sleeps while there are none."""

    def __init__(self) -> None:
        self.asleep = True
        self.jobs: list[Polled] = []  # a job is in it once for each time it was entered; changes are atomic
        self._awake, self._started = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Poll again: a job was entered while the watch slept."""
        with self._started:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="job-watch", daemon=True)
                self._thread.start()
        self._awake.set()

    def _run(self) -> None:
        while True:
            self._awake.wait()
            self._awake.clear()
            self.asleep, idle = False, 0
            while idle < DROWSY:
                time.sleep(PERIOD)
                jobs = set(self.jobs)
                idle = 0 if jobs else idle + 1
                while jobs:  # popped, so that no job is kept alive from here
                    try:
                        jobs.pop().poll()
                    except Exception:
                        log.exception("it could not be found out whether a job's caller is still there")
            self.asleep = True
            if self.jobs:  # one was entered just before `asleep` was set
                self._awake.set()
