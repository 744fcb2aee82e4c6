"""The processes of the fronts: started, asked together, replaced when one is lost, and ended."""

import functools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import DupFd
from typing import Any

from groupconv.errors import UnavailableError
from groupconv_server.fronts.child import Child
from groupconv_server.fronts.counters import Counters
from groupconv_server.fronts.front import Start, run
from groupconv_server.fronts.limits import Allowances
from groupconv_server.fronts.link import Handler

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0
"""Seconds before a front that was lost before it served is started again: more each time."""
ANSWER = 5.0
"""Seconds that fronts have for an answer that is one of several."""


class FrontProcess(Child):
    """A front's process, as the supervisor sees it.

    Attributes:
        index: of it.
        ready: done when it serves; the engines of its workers.
        serving: whether it serves.
        reloads: of the server, before this front was started.
    """

    def __init__(self, index: int, reloads: int) -> None:
        super().__init__()
        self.index, self.serving, self.reloads = index, False, reloads
        self.ready: Future[list[str]] = Future()


class FrontProcesses:
    """All fronts of a server. Safe to use from several threads.

    Args:
        start: what the first front is started with; the others have no web port.
        context: starts processes.
        handlers: returns the functions that a front may call, by name.
        left: called when a front has ended, before another one replaces it.

    Attributes:
        counters: what the fronts count together.
        restarts: how often each front was replaced, by its index.
        reloads: how often all were told to read their files again.
        in_order: whether every front that was ended did so in time.
    """

    def __init__(
        self,
        start: Start,
        context: ForkServerContext,
        handlers: Callable[[FrontProcess], dict[str, Handler]],
        left: Callable[[FrontProcess], None],
    ) -> None:
        count = start.processes
        self._first, self._context, self._handlers, self._left = start, context, handlers, left
        self.counters, self._allowances = Counters(count), Allowances(count)
        self.restarts = dict.fromkeys(range(count), 0)
        self.reloads, self.in_order = 0, True
        self._pauses = dict.fromkeys(range(count), 0.0)
        self._fronts: dict[int, FrontProcess] = {}
        self._all_served = False
        self._lock, self._stopping = threading.RLock(), threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether they are ended."""
        return self._stopping.is_set()

    def start(self) -> list[str]:
        """Start all; returns the engines of their workers once all serve.

        Raises:
            Exception: why a front could not start.
        """
        for index in self.restarts:
            self._start(index)
        engines = [engine for front in self.all() for engine in front.ready.result()]
        self._all_served = True
        return engines

    def served(self, front: FrontProcess, web_port: int | None) -> None:
        """A front serves; the one that replaces it gets the same web port."""
        self._pauses[front.index] = 0.0
        if web_port is not None:
            self._first = replace(self._first, config=replace(self._first.config, web_port=web_port))
        front.serving = True
        if front.reloads != self.reloads:  # it may have read the files before
            front.link.start("reload")

    def reload(self) -> None:
        """Have all read their files again, also one that starts now or does not answer yet."""
        self.reloads += 1
        asked = [(front, front.link.start("reload")) for front in self.serving()]
        wait([answer for front, answer in asked if not front.silent], ANSWER)

    def all(self) -> list[FrontProcess]:
        """Those that there are, also before they serve."""
        with self._lock:
            return [front for _, front in sorted(self._fronts.items())]

    def serving(self) -> list[FrontProcess]:
        """Those that serve."""
        return [front for front in self.all() if front.serving]

    def gather(self, name: str, *arguments: Any) -> dict[int, Any]:
        """Call all that serve; the answers by index, without those that do not answer in time."""
        asked = {f.index: f.link.start(name, *arguments) for f in self.serving() if not f.silent}
        wait(asked.values(), ANSWER)
        answers = {}
        for index, answer in asked.items():
            with suppress(UnavailableError, TimeoutError):
                answers[index] = answer.result(0)
        return answers

    def end(self, seconds: float) -> None:
        """End all, those that are left after so many seconds by force."""
        self._stopping.set()
        until = time.monotonic() + seconds
        fronts = [front for front in self.all() if front.process is not None]
        for front in fronts:
            front.link.start("stop")
        for front in fronts:
            self.in_order = front.end(until) and self.in_order

    def _start(self, index: int) -> None:
        front = FrontProcess(index, self.reloads)
        front.link.handlers |= self._handlers(front)
        front.link.lost = functools.partial(self._lost, front)
        start = replace(self._first, index=index)
        if index:
            start = replace(start, config=replace(start.config, web_port=None))
        with self._lock:
            if self.stopping:
                front.link.close()
                return
            self._fronts[index] = front
            shared = DupFd(self.counters.handle), DupFd(self._allowances.handle)
            front.start(self._context, f"front-{index}", run, start, *shared)

    def _lost(self, front: FrontProcess) -> None:
        """A front has ended: start another one, unless all end."""
        front.serving = False
        self._left(front)
        if not front.ready.done():
            front.ready.set_exception(UnavailableError(f"process {front.index} ended before it served"))
        with self._lock:
            if self.stopping or self._fronts.get(front.index) is not front:
                return
        assert front.process is not None
        front.process.join()
        self.counters.clear(front.index)
        self._allowances.clear(front.index)
        if front.ready.exception() is not None and not self.restarts[front.index] and not self._all_served:
            return  # the server does not start
        pause = self._pauses[front.index]
        self._pauses[front.index] = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * pause))
        self.restarts[front.index] += 1
        log.error("process %d (pid %s) is lost; it is replaced", front.index, front.process.pid)
        if not self._stopping.wait(pause):
            self._start(front.index)
