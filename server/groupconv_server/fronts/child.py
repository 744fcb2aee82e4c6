"""A process that this one has started, and the link to it."""

import faulthandler
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

from groupconv.errors import CancelledError, UnavailableError
from groupconv_server.admission.gate import present
from groupconv_server.fronts.link import Link
from groupconv_server.memory.malloc import keep_pages
from groupconv_server.telemetry import logs

log = logging.getLogger(__name__)

LogSettings = tuple[str, str | int]
"""Format and level of a log."""
BEAT = 1.0
"""Seconds between two signs of life of a process, and between two looks for them."""
GLANCE = 0.05
"""Seconds between two looks whether a request that waits for the supervisor has ended."""
SILENT, HUNG = 3, 30
"""Looks without a sign of life after which nobody waits for a process, and after which it is ended. Looks are counted
and not seconds, so that a machine that stood still ends nobody."""


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

    @property
    def silent(self) -> bool:
        """Whether it is not worth waiting for an answer: the process is stopped, or hangs."""
        return self.link.missed >= SILENT

    def look(self) -> None:
        """Look for a sign of life since the last look. A process that hangs is ended; its link says that it is lost."""
        if self.link.look() == HUNG:
            log.error("process %s has given no sign of life for %.0f s; it is ended", self.pid, HUNG * BEAT)
            self.kill()


class Watchdog:
    """Looks after processes until it is closed, and shows them that this one runs.

    Args:
        children: returns those that there are.
    """

    def __init__(self, children: Callable[[], Iterable[Child]]) -> None:
        self._children, self._stopping = children, threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(BEAT):
            for child in self._children():
                if not child.link.over:
                    child.link.beat()
                    child.look()


class SupervisorLink(Link):
    """A process's link to its supervisor.

    Its calls end with the request that they are made for, and if the supervisor does not answer because it is stopped
    or hangs.
    """

    def start(self, name: str, *arguments: Any, handle: int | None = None) -> Future[Any]:
        """As of `Link`. While the supervisor is silent every call fails, and is sent only if that takes no memory."""
        if self.missed >= SILENT and self.unsent:
            answer: Future[Any] = Future()
            answer.set_exception(_silent())
            return answer
        answer = super().start(name, *arguments, handle=handle)
        if self.missed >= SILENT:
            self.fail(_silent())
        return answer

    def call(self, name: str, *arguments: Any, handle: int | None = None) -> Any:
        """As of `Link`.

        Raises:
            UnavailableError: the supervisor has gone, or does not answer.
            CancelledError: the caller of the request has gone, or its deadline has passed.
        """
        if self.missed >= SILENT:
            raise _silent()
        answer, ticket = self.start(name, *arguments, handle=handle), present.get()
        while ticket is not None and not wait([answer], GLANCE).done:
            if ticket.ended:
                raise CancelledError(f"the caller has gone while the supervisor was asked for {name}")
        return answer.result()

    def look(self) -> int:
        """As of `Link`. Calls that wait for a supervisor that has become silent fail."""
        if super().look() >= SILENT:
            self.fail(_silent())
        return self.missed


def _silent() -> UnavailableError:
    return UnavailableError("the supervisor of this server does not answer; try again")


def set_up(end: socket.socket, log_settings: LogSettings | None) -> tuple[SupervisorLink, threading.Event]:
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
    link = SupervisorLink(end, {"stop": over.set}, lost=over.set)
    threading.Thread(target=_beat, args=(link,), name="signs of life", daemon=True).start()
    return link, over


def _beat(link: SupervisorLink) -> None:
    """Send signs of life, and look for those of the supervisor.

    This goes on until the link ends: also while the process waits for its last requests.
    """
    said = False
    while not link.over:
        link.beat()
        if (silent := link.look() >= SILENT) != said:
            said = silent
            log.error("the supervisor %s", "does not answer" if silent else "answers again")
        time.sleep(BEAT)
