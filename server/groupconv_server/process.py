"""A server as a process: it runs until a signal ends it."""

import logging
import os
import signal
import threading
from collections.abc import Callable

from groupconv_server.config import Config
from groupconv_server.memory.malloc import keep_pages
from groupconv_server.server import Server

log = logging.getLogger(__name__)

OVERTIME = 2.5
"""Seconds that the server has to release its resources after the grace period. Then the process ends anyway."""

NOT_IN_ORDER = 75
"""Exit status of a server that did not end in time (EX_TEMPFAIL of sysexits.h)."""


def serve(config: Config, ready: Callable[[Server], None]) -> None:
    """Run a server until SIGTERM or SIGINT. On SIGHUP it reads its certificates and tokens again.

    Args:
        config: of the server.
        ready: called with the server once it takes requests.
    """
    up = False

    def stop(*_: object) -> None:
        if not up:  # there is nothing to end in order, and the first worker may take long to start
            raise SystemExit(0)

    # A pipe, not an Event. A handler that runs while this thread enters the Event's lock would wait for ever, and a
    # signal that another thread receives does not end a wait for a lock.
    received, sent = os.pipe()
    os.set_blocking(sent, False)
    signal.set_wakeup_fd(sent)
    ends = {signal.SIGTERM, signal.SIGINT}
    for number in ends:
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, lambda *_: None)  # the pipe has its byte; the default would end the process
    keep_pages()
    with Server(config) as server:
        up = True
        ready(server)
        server.background.compile_catalogue()
        while (came := os.read(received, 1)[0]) not in ends:
            if came == signal.SIGHUP:
                server.reload()
        log.info("stopping: running requests have %.0f s", config.grace)
        _end_at_the_latest(config.grace + OVERTIME)


def _end_at_the_latest(seconds: float) -> None:
    """End the process after so many seconds, even if a worker, a library or a thread hangs."""

    def end() -> None:
        log.error("the server has not ended in order within %.0f s: it ends now", seconds)
        logging.shutdown()
        os._exit(NOT_IN_ORDER)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
