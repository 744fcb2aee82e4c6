"""A server as a process: it runs until a signal ends it."""

import logging
import os
import signal
from collections.abc import Callable

from groupconv_server.config import Config
from groupconv_server.fronts.supervisor import Supervisor
from groupconv_server.memory.malloc import keep_pages
from groupconv_server.overtime import NOT_IN_ORDER, OVERTIME, end_at_the_latest
from groupconv_server.server import Server

log = logging.getLogger(__name__)


def serve(config: Config, ready: Callable[[Server | Supervisor], None], logs: tuple[str, str | int]) -> None:
    """Run a server until SIGTERM or SIGINT. On SIGHUP it reads its certificates and tokens again.

    Args:
        config: of the server.
        ready: called with the server once it takes requests.
        logs: format and level of the logs, for the processes of a server that has several.
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
    with Server(config) if config.processes == 1 else Supervisor(config, logs) as server:
        up = True
        ready(server)
        server.compile_catalogue()
        while (came := os.read(received, 1)[0]) not in ends:
            if came == signal.SIGHUP:
                server.reload()
        log.info("stopping: running requests have %.0f s", config.grace)
        more = OVERTIME if isinstance(server, Server) else 2 * OVERTIME  # each front ends in time, or is ended
        end_at_the_latest(config.grace + more)
    if isinstance(server, Supervisor) and not server.in_order:
        raise SystemExit(NOT_IN_ORDER)
