"""The supervisor: holds what must be one for all fronts, and puts a server of several processes together."""

import functools
import multiprocessing
import threading
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from groupconv.errors import FailedPreconditionError
from groupconv.transport.address import joined
from groupconv_server.access.rates import CallerLimits
from groupconv_server.access.tls import certificates_for
from groupconv_server.binding import reserve
from groupconv_server.config import Config
from groupconv_server.fronts.child import LogSettings, Watchdog
from groupconv_server.fronts.disk import Disk
from groupconv_server.fronts.front import Start, run
from groupconv_server.fronts.ledger import Ledger
from groupconv_server.fronts.link import Handler
from groupconv_server.fronts.metrics import SummedMetrics
from groupconv_server.fronts.owner import WorkerOwner
from groupconv_server.fronts.processes import FrontProcess, FrontProcesses
from groupconv_server.fronts.sweeper import Sweeper
from groupconv_server.fronts.worker_processes import shared_workers
from groupconv_server.health import DEGRADED, NOT_SERVING, SERVING
from groupconv_server.overtime import OVERTIME
from groupconv_server.telemetry.page import Page


class Supervisor:
    """A server of several processes; a context manager that ends it.

    Args:
        config: of the server; `processes` is the number of fronts.
        logs: format and level of the fronts' logs; None leaves logging in them as it is.

    Attributes:
        web_url: the URL of its page, or None if there is no web port. The first front has it.

    Raises:
        FailedPreconditionError: an option that does not go with several processes, or as of `Server`.
        UnavailableError: the port is taken.
    """

    def __init__(self, config: Config, logs: LogSettings | None = None) -> None:
        _check(config)
        certificates_for(config.host, config.tls_cert, config.tls_key, config.tls_client_ca, insecure=config.insecure)
        self._opened = ExitStack()
        reserved = self._opened.enter_context(reserve(config.host, config.port))
        self.port: int = reserved.getsockname()[1]
        self.config = config = replace(config, port=self.port)
        self.web_url: str | None = None
        self._compiling = False
        self._numbers: dict[tuple[str, CallerLimits], int] = {}
        self._lock = threading.Lock()
        try:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["groupconv_server.memory.kept", run.__module__])
            workers = shared_workers(config, context, logs)
            self._owner = None if workers is None else WorkerOwner(workers)
            if self._owner is not None:
                self._opened.callback(self._owner.close)
            front_config = replace(config, processes=1, metrics_port=None, layer_dir=None)
            start = Start(0, config.processes, front_config, None if workers is None else workers.name, logs)
            self._fronts = FrontProcesses(start, context, self._handlers, self._left)
            self._sum = SummedMetrics(lambda: self._fronts.gather("metrics"), shared=workers is not None)
            disk = None if config.layer_dir is None else Disk(config.layer_dir, config.limits, self.address)
            if disk is not None:
                self._opened.callback(disk.close)
            self.ledger = Ledger(self._fronts.counters, disk)
            self._sweeper = Sweeper(self.ledger, self.gather, self.port)
            self._opened.callback(self._sweeper.close)
            self._opened.callback(Watchdog(self._fronts.all).close)
            self._opened.callback(self._fronts.end, 0.0)
            self._engines = self._fronts.start()
            self._page = Page.of(config.metrics_host, config.metrics_port, self._sum.registry(), self.state)
            if self._page is not None:
                self._opened.callback(self._page.close)
        except BaseException:
            self._opened.close()
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
        return [front.pid for front in self._fronts.all() if front.pid]

    @property
    def in_order(self) -> bool:
        """Whether every process that was ended did so in time."""
        return self._fronts.in_order

    def described(self) -> str:
        """The processes and their workers, for people."""
        name, found = ("local", self._engines) if self._owner is None else (self._owner.name, self._owner.engines())
        engines = ", ".join(dict.fromkeys(found)) or "none has started"
        return f"{self.config.processes} processes and {len(found)} {name} worker{'s' * (len(found) != 1)} ({engines})"

    def state(self) -> tuple[str, str]:
        """SERVING, DEGRADED (a process is missing, or something is wrong) or NOT_SERVING; and the reason."""
        if self._fronts.stopping:
            return NOT_SERVING, "it is stopping"
        states = self.gather("health")
        missing = self.config.processes - len(states)
        wrong = [(state, reason) for state, reason in states if state != SERVING]
        if missing:
            wrong.append((DEGRADED, f"{missing} of {self.config.processes} processes do not answer"))
        if not states or all(state == NOT_SERVING for state, _ in states):
            return NOT_SERVING, wrong[0][1]
        return (DEGRADED, wrong[0][1]) if wrong else (SERVING, "")

    def gather(self, name: str, *arguments: Any) -> list[Any]:
        """Call all fronts that serve; one that does not answer is left out."""
        return list(self._fronts.gather(name, *arguments).values())

    def reload(self) -> None:
        """Have every front read certificates and tokens again, also one that starts now or does not answer yet."""
        self._fronts.reload()

    def compile_catalogue(self) -> None:
        """Have every engine load or compile the kernels of the catalogue, those that are started later, too."""
        self._compiling = True
        for front in self._fronts.serving():
            self._compile(front)

    def stop(self) -> None:
        """Let running requests end within the grace period, then end all processes."""
        self._fronts.end(self.config.grace + OVERTIME)
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _handlers(self, front: FrontProcess) -> dict[str, Handler]:
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
            "restarts": lambda: dict(self._fronts.restarts),
            "allowance": self._number_of,
            **({} if self._owner is None else self._owner.handlers(front.index, front.link)),
        }

    def _serves(self, front: FrontProcess, engines: list[str], web_url: str | None) -> None:
        if web_url is not None:
            self.web_url = web_url
        self._fronts.served(front, None if web_url is None else urlsplit(web_url).port)
        if self._compiling:
            self._compile(front)
        front.ready.set_result(engines)

    def _compile(self, front: FrontProcess) -> None:
        """Have a front do so with its engine; where fronts share the workers, one does it for all."""
        if self._owner is None or front.index == 0:
            front.link.start("compile_catalogue")

    def _number_of(self, name: str, rates: CallerLimits) -> int:
        with self._lock:
            return self._numbers.setdefault((name, rates), len(self._numbers))

    def _left(self, front: FrontProcess) -> None:
        """A front has ended."""
        self.ledger.leave(front.index)
        if self._owner is not None:
            self._owner.leave(front.index)
        self._sum.lose(front.index)


def _check(config: Config) -> None:
    """Refuse what does not go with several processes."""
    if config.evict_layers:
        why = "they do not know which layer was used last; leave --evict-layers out"
        raise FailedPreconditionError(f"--processes {config.processes}: {why}")
