"""The supervisor: starts the fronts, holds what must be one, replaces a front that is lost, and ends all."""

import functools
import logging
import multiprocessing
import threading
import time
from concurrent.futures import Future, wait
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing.reduction import DupFd
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from groupconv.errors import FailedPreconditionError, UnavailableError
from groupconv.transport.address import joined
from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tls import certificates_for
from groupconv_server.binding import reserve
from groupconv_server.config import Config
from groupconv_server.fronts.child import Child, LogSettings, Watchdog
from groupconv_server.fronts.counters import Counters
from groupconv_server.fronts.disk import Disk
from groupconv_server.fronts.front import Start, run
from groupconv_server.fronts.ledger import Ledger
from groupconv_server.fronts.limits import Allowances
from groupconv_server.fronts.link import Handler
from groupconv_server.fronts.metrics import SummedMetrics
from groupconv_server.fronts.owner import WorkerOwner
from groupconv_server.fronts.sweeper import Sweeper
from groupconv_server.fronts.worker_processes import shared_workers
from groupconv_server.health import DEGRADED, NOT_SERVING, SERVING
from groupconv_server.overtime import OVERTIME
from groupconv_server.telemetry.page import Page

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0
"""Seconds before a front that was lost before it served is started again: more each time."""
ANSWER = 5.0
"""Seconds that fronts have for an answer that is one of several."""


class Front(Child):
    """A front's process, as the supervisor sees it.

    Attributes:
        index: of it.
        ready: done when it serves; the engines of its workers.
        serving: whether it serves.
        reloads: of the server, before this front was started.
    """

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index, self.serving, self.reloads = index, False, 0
        self.ready: Future[list[str]] = Future()


class Supervisor:
    """A server of several processes; a context manager that ends it.

    Args:
        config: of the server; `processes` is the number of fronts.
        logs: format and level of the fronts' logs; None leaves logging in them as it is.

    Attributes:
        web_url: the URL of its page, or None if there is no web port. The first front has it.
        in_order: whether every process that has ended at the stop did so in time.

    Raises:
        FailedPreconditionError: an option that does not go with several processes, or as of `Server`.
        UnavailableError: the port is taken.
    """

    def __init__(self, config: Config, logs: LogSettings | None = None) -> None:
        self.processes, self.in_order = config.processes, True
        _check(config)
        certificates_for(config.host, config.tls_cert, config.tls_key, config.tls_client_ca, insecure=config.insecure)
        self._opened = ExitStack()
        reserved = self._opened.enter_context(reserve(config.host, config.port))
        self.port: int = reserved.getsockname()[1]
        self.config = config = replace(config, port=self.port)
        self._child = replace(config, processes=1, metrics_port=None, layer_dir=None)
        self.web_url: str | None = None
        self._compiling, self._reloads = False, 0
        self._logs = logs
        self._counters, self._allowances = Counters(self.processes), Allowances(self.processes)
        self._numbers: dict[tuple[str, CallerLimits], int] = {}
        self._fronts: dict[int, Front] = {}
        self._restarts = dict.fromkeys(range(self.processes), 0)
        self._pauses = dict.fromkeys(range(self.processes), 0.0)
        self._lock, self._stopping = threading.RLock(), threading.Event()
        self._engines: list[str] = []
        self._page: Page | None = None
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["groupconv_server.memory.kept", run.__module__])
        try:
            workers = shared_workers(config, self._context, logs)
            self._owner = None if workers is None else WorkerOwner(workers)
            if self._owner is not None:
                self._opened.callback(self._owner.close)
            self._sum = SummedMetrics(functools.partial(self._gathered, "metrics"), shared=workers is not None)
            disk = None if config.layer_dir is None else Disk(config.layer_dir, config.limits, self.address)
            if disk is not None:
                self._opened.callback(disk.close)
            self.ledger = Ledger(self._counters, disk)
            self._sweeper = Sweeper(self.ledger, self.gather, self.port)
            self._opened.callback(self._sweeper.close)
            self._opened.callback(Watchdog(self._all).close)
            for index in range(self.processes):
                self._start(index)
            self._engines = [engine for front in list(self._fronts.values()) for engine in front.ready.result()]
            self._page = Page.of(config.metrics_host, config.metrics_port, self._sum.registry(), self.state)
            if self._page is not None:
                self._opened.callback(self._page.close)
        except BaseException:
            self._end(0.0)
            raise

    @property
    def address(self) -> str:
        """The address that clients connect to."""
        return joined(self.config.host, self.port)

    @property
    def metrics_url(self) -> str | None:
        """The URL of its metrics, or None if they are not served."""
        return None if self._page is None else self._page.url

    @property
    def pids(self) -> list[int]:
        """Ids of the fronts' processes."""
        with self._lock:
            return [front.pid for front in self._fronts.values() if front.pid]

    def described(self) -> str:
        """The processes and their workers, for people."""
        name, found = ("local", self._engines) if self._owner is None else (self._owner.name, self._owner.engines())
        engines = ", ".join(dict.fromkeys(found)) or "none has started"
        return f"{self.processes} processes and {len(found)} {name} worker{'s' * (len(found) != 1)} ({engines})"

    def state(self) -> tuple[str, str]:
        """SERVING, DEGRADED (a process is missing, or something is wrong) or NOT_SERVING; and the reason."""
        if self._stopping.is_set():
            return NOT_SERVING, "it is stopping"
        states = self.gather("health")
        missing = self.processes - len(states)
        wrong = [(state, reason) for state, reason in states if state != SERVING]
        if missing:
            wrong.append((DEGRADED, f"{missing} of {self.processes} processes do not answer"))
        if not states or all(state == NOT_SERVING for state, _ in states):
            return NOT_SERVING, wrong[0][1]
        return (DEGRADED, wrong[0][1]) if wrong else (SERVING, "")

    def gather(self, name: str, *arguments: Any) -> list[Any]:
        """Call all fronts that serve; one that does not answer is left out."""
        return list(self._gathered(name, *arguments).values())

    def reload(self) -> None:
        """Have every front read certificates and tokens again, also one that starts now or does not answer yet."""
        self._reloads += 1
        asked = [(front, front.link.start("reload")) for front in self._serving()]
        wait([answer for front, answer in asked if not front.silent], ANSWER)

    def compile_catalogue(self) -> None:
        """Have every engine load or compile the kernels of the catalogue, those that are started later, too."""
        self._compiling = True
        for front in self._serving():
            self._compile(front)

    def stop(self) -> None:
        """Let running requests end within the grace period, then end all processes."""
        self._end(self.config.grace + OVERTIME)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _start(self, index: int) -> None:
        """Start the process of a front."""
        front = Front(index)
        front.reloads = self._reloads
        front.link.handlers |= self._handlers(front)
        front.link.lost = functools.partial(self._lost, front)
        config = self._child if not index else replace(self._child, web_port=None)
        start = Start(index, self.processes, config, None if self._owner is None else self._owner.name, self._logs)
        shared = DupFd(self._counters.handle), DupFd(self._allowances.handle)
        with self._lock:
            if self._stopping.is_set():
                front.link.close()
                return
            self._fronts[index] = front
            front.start(self._context, f"front-{index}", run, start, *shared)

    def _handlers(self, front: Front) -> dict[str, Handler]:
        """The functions that a front may call, by name."""
        ledger = self.ledger
        return {
            "join": lambda: ledger.join(front.index, front.link),
            "ready": functools.partial(self._serves, front),
            "failed": front.ready.set_exception,
            "next_version": ledger.next_version,
            "publish": self._sweeper.publish,
            "remove": ledger.remove,
            "remove_regions": self._sweeper.remove,
            "remove_regions_of": self._sweeper.remove_of,
            "reload": ledger.reload,
            "unloaded": ledger.unloaded,
            "gather": self.gather,
            "restarts": lambda: dict(self._restarts),
            "allowance": self._number_of,
            **({} if self._owner is None else self._owner.handlers(front.index, front.link)),
        }

    def _serves(self, front: Front, engines: list[str], web_url: str | None) -> None:
        self._pauses[front.index] = 0.0
        if web_url is not None:  # the one that replaces it has the same port
            self.web_url = web_url
            self._child = replace(self._child, web_port=urlsplit(web_url).port)
        front.serving = True
        if front.reloads != self._reloads:  # it may have read the files before
            front.link.start("reload")
        if self._compiling:
            self._compile(front)
        front.ready.set_result(engines)

    def _compile(self, front: Front) -> None:
        """Have a front do so with its engine; where fronts share the workers, one does it for all."""
        if self._owner is None or front.index == 0:
            front.link.start("compile_catalogue")

    def _number_of(self, name: str, rates: CallerLimits) -> int:
        with self._lock:
            return self._numbers.setdefault((name, rates), len(self._numbers))

    def _lost(self, front: Front) -> None:
        """A front has ended: start another one, unless all end."""
        front.serving = False
        self.ledger.leave(front.index)
        if self._owner is not None:
            self._owner.leave(front.index)
        self._sum.lose(front.index)
        if not front.ready.done():
            front.ready.set_exception(UnavailableError(f"process {front.index} ended before it served"))
        with self._lock:
            if self._stopping.is_set() or self._fronts.get(front.index) is not front:
                return
        assert front.process is not None
        front.process.join()
        self._counters.clear(front.index)
        self._allowances.clear(front.index)
        if front.ready.exception() is not None and not self._restarts[front.index] and not self._engines:
            return  # the server does not start
        pause = self._pauses[front.index]
        self._pauses[front.index] = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * pause))
        self._restarts[front.index] += 1
        log.error("process %d (pid %s) is lost; it is replaced", front.index, front.process.pid)
        if not self._stopping.wait(pause):
            self._start(front.index)

    def _gathered(self, name: str, *arguments: Any) -> dict[int, Any]:
        asked = {f.index: f.link.start(name, *arguments) for f in self._serving() if not f.silent}
        wait(asked.values(), ANSWER)
        found = {}
        for index, answer in asked.items():
            with suppress(UnavailableError, TimeoutError):
                found[index] = answer.result(0)
        return found

    def _all(self) -> list[Front]:
        with self._lock:
            return [front for _, front in sorted(self._fronts.items())]

    def _serving(self) -> list[Front]:
        return [front for front in self._all() if front.serving]

    def _end(self, seconds: float) -> None:
        """End all fronts, those that are left after so many seconds by force."""
        self._stopping.set()
        until = time.monotonic() + seconds
        with self._lock:
            fronts = [front for front in self._fronts.values() if front.process is not None]
        for front in fronts:
            front.link.start("stop")
        for front in fronts:
            self.in_order = front.end(until) and self.in_order
        self._opened.close()


def _check(config: Config) -> None:
    """Refuse what does not go with several processes."""
    if config.evict_layers:
        why = "they do not know which layer was used last; leave --evict-layers out"
        raise FailedPreconditionError(f"--processes {config.processes}: {why}")
