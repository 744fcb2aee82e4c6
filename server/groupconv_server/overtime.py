"""The time that a process has to end in order, and what happens then."""

import logging
import os
import threading

log = logging.getLogger(__name__)

OVERTIME = 2.5
"""Seconds that the server has to release its resources after the grace period. Then the process ends anyway."""

NOT_IN_ORDER = 75
"""Exit status of a server that did not end in time (EX_TEMPFAIL of sysexits.h)."""


def end_at_the_latest(seconds: float) -> None:
    """End the process after so many seconds, even if a worker, a library or a thread hangs."""

    def end() -> None:
        log.error("the server has not ended in order within %.0f s: it ends now", seconds)
        logging.shutdown()
        os._exit(NOT_IN_ORDER)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
