"""Runs the users of the load test with Locust.

Locust's users are greenlets, and gRPC's calls block a thread. So each call runs in a thread, which also times it, and
nothing is patched (LOCUST_SKIP_MONKEY_PATCH): docs/adr/0005-locust-without-gevent-grpc.md. The main thread makes no
call, so a signal finds it without a lock of gRPC.
"""

import logging
import math
import os
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any, Self

os.environ.setdefault("LOCUST_SKIP_MONKEY_PATCH", "1")

import gevent
import locust
import locust.stats
from gevent.threadpool import ThreadPool
from locust.env import Environment
from locust.exception import StopUser

from groupconv.client import Client
from groupconv.errors import GroupconvError
from groupconv_server.load.case import LoadCase
from groupconv_server.load.memory import MemoryProbe
from groupconv_server.load.outcome import LoadOutcome
from groupconv_server.load.profile import Profile
from groupconv_server.load.requester import Requester, Sample
from groupconv_server.load.schedule import Schedule

log = logging.getLogger(__name__)


class Load:
    """A load that Locust runs, for some seconds or from Locust's page in the browser.

    Before the clock starts, each case is deployed and requested once, and its answer is verified. As a context manager
    it takes its layers away at the end.

    Args:
        profile: of the load.
        connect: opens a user's connection.
        target: the server's address, for reports.
        memory: samples the server's memory; None does not.

    Raises:
        GroupconvError: the server does not answer the first requests.
    """

    def __init__(
        self, profile: Profile, connect: Callable[[], Client], *, target: str, memory: MemoryProbe | None = None
    ) -> None:
        self.profile, self.connect, self.memory = profile, connect, memory
        run = secrets.token_hex(4)
        self.cases = [LoadCase(entry, profile.seed, run) for entry in profile.mix]
        self.outcome = LoadOutcome([f"{case.name}{' stream' * (case.transport == 'stream')}" for case in self.cases])
        self.threads = ThreadPool(profile.users + 1)
        try:
            self._call(self._first_answers)
        except BaseException:
            self.threads.join()
            self._call(self._unload_layers)
            raise
        self.schedule, self.limit = Schedule(profile), math.inf
        logging.getLogger("locust").setLevel(logging.WARNING)
        locust.stats.PERCENTILES_TO_CHART = [0.5, 0.95, 0.99]
        locust.stats.HISTORY_STATS_INTERVAL_SEC = max(1, int(profile.seconds / 120))
        self.environment = Environment(user_classes=[_user_class(self)], host=target, stop_timeout=profile.timeout)
        self.runner = self.environment.create_local_runner()
        gevent.spawn(locust.stats.stats_history, self.runner)

    def _call(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread and raise here what it raises: gevent prints the traceback of what a thread raises."""

        def caught() -> Exception | None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - the caller raises it
                return error
            return None

        if error := self.threads.apply(caught):
            raise error

    def _first_answers(self) -> None:
        with self.connect() as client:
            for case in self.cases:
                if wrong := case.error(case.send(client, case.deploy(client))):
                    self.outcome.first_wrong.append(f"{case.name}: {wrong}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the users, and take the layers away that they loaded."""
        self.runner.quit()
        self.threads.join()  # a request that still runs could load a layer again
        self._call(self._unload_layers)

    def _unload_layers(self) -> None:
        if not any(case.resident for case in self.cases):
            return
        try:
            with self.connect() as client:
                for case in {case.layer: case for case in self.cases if case.resident}.values():
                    case.unload(client)
        except GroupconvError as error:
            log.warning("layers named %s may still be loaded: %s", self.cases[0].layer.rpartition("/")[0] + "/*", error)

    def _begin(self, **_: Any) -> None:
        self.schedule = Schedule(self.profile)
        self.outcome.begin()
        if self.memory:
            self.memory.begin()

    def run(self, progress: Callable[[float, LoadOutcome], None] = lambda *_: None) -> LoadOutcome:
        """Run for the profile's seconds, and wait for the requests that are then still running.

        Args:
            progress: called about four times a second, with the elapsed seconds.
        """
        self._begin()
        self.limit = self.profile.seconds
        self.runner.start(self.profile.users, spawn_rate=self.profile.users)
        while (elapsed := time.perf_counter() - self.outcome.start) < self.profile.seconds:
            gevent.sleep(min(0.25, self.profile.seconds - elapsed))
            progress(elapsed, self.outcome)
            if self.memory and self.memory.due():
                self.threads.apply(self.memory.sample)
        self.outcome.missed = self.schedule.missed(self.profile.seconds)
        self.runner.stop()
        self.outcome.end(self.profile.seconds)
        self.outcome.memory = self.memory.samples if self.memory else []
        return self.outcome

    def serve(self, host: str, port: int) -> None:
        """Serve Locust's page until interrupted. The page starts and stops the load, and sets the number of users."""
        from locust.argument_parser import parse_options

        sys.argv[1:] = []  # Locust's page would read our arguments
        users = str(self.profile.users)
        self.environment.parsed_options = parse_options(["--users", users, "--spawn-rate", users])
        self.environment.events.test_start.add_listener(self._begin)
        page = self.environment.create_web_ui(host, port)
        page.greenlet.join()

    def report(self) -> str:
        """Locust's report, as a page of HTML."""
        from locust.html import get_html_report

        page: str = get_html_report(self.environment, show_download_link=False)
        return page


def end_load(number: int, _: object) -> None:
    """Handle a signal: the main greenlet, while it waits, raises SystemExit with 128 and the signal's number."""
    hub = gevent.get_hub()
    hub.loop.run_callback_threadsafe(hub.parent.throw, SystemExit(128 + number))


def _user_class(load: Load) -> type[locust.User]:
    class ConvolutionUser(locust.User):
        """A connection that sends the requests of the schedule."""

        def on_start(self) -> None:
            self.requester: Requester = load.threads.apply(Requester, (load.connect, load.cases))

        def on_stop(self) -> None:
            load.threads.apply(self.requester.close)

        @locust.task
        def send(self) -> None:
            if time.perf_counter() - load.outcome.start >= load.limit:
                raise StopUser
            due, case, verify = load.schedule.next()
            if due is not None:
                if due >= load.limit:
                    raise StopUser
                due += load.outcome.start
                gevent.sleep(max(0.0, due - time.perf_counter()))
            sample: Sample = load.threads.apply(self.requester.send, (case,), {"due": due, "verify": verify})
            load.outcome.add(sample)
            self.environment.events.request.fire(
                request_type=load.cases[case].transport,
                name=load.cases[case].name,
                response_time=sample.seconds * 1e3,
                response_length=sample.bytes,
                exception=_error(sample),
                context={},
            )

    return ConvolutionUser


def _error(sample: Sample) -> Exception | None:
    if sample.failed:
        return RuntimeError(sample.failed)
    return AssertionError(f"wrong answer: {sample.wrong}") if sample.wrong else None
