"""A process that this one has started, and the link to it."""

import faulthandler
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

from groupconv_server.fronts.link import Link
from groupconv_server.memory.malloc import keep_pages
from groupconv_server.telemetry import logs

LogSettings = tuple[str, str | int]
"""Format and level of a log."""


class Child:
    """A process, before and after it is started.

    Attributes:
        link: to it. Its handlers are complete before the process starts.
        process: None until it starts.
    """

    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair()
        self.link = Link(ours, {})
        self.process: BaseProcess | None = None

    @property
    def pid(self) -> int | None:
        """The id of the process."""
        return None if self.process is None else self.process.pid

    def start(self, context: ForkServerContext, name: str, target: Callable[..., None], *arguments: Any) -> None:
        """Start the process: it calls `target` with its end of the link, and with the arguments."""
        with self._theirs:
            process = context.Process(target=target, args=(self._theirs, *arguments), name=name)
            process.start()
        self.process = process

    def end(self, until: float) -> bool:
        """Wait for the end of the process, then end it by force.

        Args:
            until: on the clock of time.monotonic().

        Returns:
            Whether it ended in order.
        """
        process = self.process
        assert process is not None
        process.join(max(0.0, until - time.monotonic()))
        self.kill()
        process.join()
        self.link.close()
        return process.exitcode == 0

    def kill(self) -> None:
        """End the process now, if it has not ended."""
        if self.process is not None:
            self.process.kill()


def set_up(end: socket.socket, log_settings: LogSettings | None) -> tuple[Link, threading.Event]:
    """Begin in a process that was started as a `Child`: its signals, its log, its memory and its link.

    Args:
        end: of the link.
        log_settings: None leaves logging as it is.

    Returns:
        The link, and an event that is set once the process is to end: the other end calls `stop`, or has gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # they may be sent to all: the supervisor decides
        signal.signal(number, signal.SIG_IGN)
    if log_settings is not None:
        logs.configure(*log_settings, sys.stderr)
        logging.captureWarnings(capture=True)
        faulthandler.enable()
    keep_pages()
    over = threading.Event()
    return Link(end, {"stop": over.set}, lost=over.set), over
