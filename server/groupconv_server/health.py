"""Whether the server can serve, for the health service and for people."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from groupconv_server.executors.base import Executor

TICK = 0.25
"""Seconds between checks of the workers."""

WATCHERS, WATCHERS_OF_ONE = 64, 8
"""Open calls of Watch, at most: in all, and of one connection."""

SERVING, DEGRADED, NOT_SERVING = "SERVING", "DEGRADED", "NOT_SERVING"
Response = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):
    """The health service: one status for all services of a server.

    Args:
        services: full names that exist, "" for the server among them.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._services = frozenset(services)
        self._changed = threading.Condition()
        self._status = Response.NOT_SERVING
        self._watchers: Counter[str] = Counter()

    def set(self, status: Any) -> None:
        """Change the status and notify the watchers."""
        with self._changed:
            self._status = status
            self._changed.notify_all()

    def Check(  # noqa: N802 - the RPC's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Response:
        """The status now."""
        if request.service not in self._services:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"service: expected one of {', '.join(sorted(filter(None, self._services)))}, got {request.service!r}",
            )
        return Response(status=self._status)

    def Watch(  # noqa: N802 - the RPC's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[Response]:
        """The status now and whenever it changes. An unknown service gets SERVICE_UNKNOWN and the end of the stream."""
        if request.service not in self._services:
            yield Response(status=Response.SERVICE_UNKNOWN)
            return
        peer = context.peer()
        with self._changed:
            if self._watchers.total() >= WATCHERS or self._watchers[peer] >= WATCHERS_OF_ONE:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "as many calls of Watch are open as may be")
            self._watchers[peer] += 1
        try:
            if not context.add_callback(self._wake):
                return
            sent: Any = None
            while context.is_active():
                with self._changed:
                    while self._status == sent and context.is_active():
                        self._changed.wait()
                    sent = self._status
                yield Response(status=sent)
        finally:
            with self._changed:
                self._watchers[peer] -= 1
                self._watchers += Counter()  # keeps what is above 0

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Health:
    """Follows the workers: NOT_SERVING without one, else SERVING. gRPC's protocol has no third status.

    Args:
        executor: has the workers.
        services: full names; they share the status.

    Attributes:
        servicer: the health service.
    """

    def __init__(self, executor: Executor, services: Sequence[str]) -> None:
        self.servicer = HealthServicer(("", *services))
        self._executor = executor
        self._stopping = threading.Event()
        self._reported: bool | None = None
        self._thread = threading.Thread(target=self._follow, name="health", daemon=True)

    def state(self) -> tuple[str, str]:
        """SERVING, DEGRADED (it serves, but something is wrong) or NOT_SERVING; and the reason."""
        trouble = self._executor.trouble()
        if self._stopping.is_set():
            return NOT_SERVING, "it is stopping"
        if not self._executor.workers():
            return NOT_SERVING, trouble or "no worker is there"
        return (DEGRADED, trouble) if trouble else (SERVING, "")

    def start(self) -> None:
        """Report the status, and again whenever it changes."""
        self._report()
        self._thread.start()

    def stop(self) -> None:
        """NOT_SERVING for good."""
        self._stopping.set()
        self._thread.join()
        self.servicer.set(Response.NOT_SERVING)

    def _follow(self) -> None:
        while not self._stopping.wait(TICK):
            self._report()

    def _report(self) -> None:
        serving = bool(self._executor.workers())
        if serving is not self._reported:
            self._reported = serving
            self.servicer.set(Response.SERVING if serving else Response.NOT_SERVING)
