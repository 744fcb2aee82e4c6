"""What the methods of a worker's process share: the job of a caller elsewhere, and the end of the process."""

import logging
import os
import time
from collections.abc import Callable
from typing import NoReturn

from groupconv_worker.contract import DeviceLostError
from groupconv_worker.job import Job

log = logging.getLogger(__name__)

DEVICE_LOST = 70
"""Exit status of a worker's process whose device failed (EX_SOFTWARE of sysexits.h)."""


def expiring(expires: float | None, alive: Callable[[], bool]) -> Job:
    """A job that ends when it expires, on the clock of time.time(), or when its caller is not there any more."""
    return Job(None if expires is None else time.monotonic() + expires - time.time(), alive)


def leave(error: DeviceLostError) -> NoReturn:
    """End this process, whose device is lost.

    A broken context cannot be mended in the process that has it. Ray starts another one and the executor runs the
    work again; an orderly exit would count as wanted and restart nothing.
    """
    log.error("the device is lost; this worker ends", exc_info=error)
    logging.shutdown()
    os._exit(DEVICE_LOST)
