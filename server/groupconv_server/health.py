"""Whether the server can serve, for the health service and for people."""

import threading
from collections.abc import Sequence

from grpc_health.v1 import health, health_pb2

from groupconv_server.executors.base import Executor

TICK = 0.25
"""Seconds between looks at the workers."""

SERVING, DEGRADED, NOT_SERVING = "SERVING", "DEGRADED", "NOT_SERVING"


class Health:
    """Follows the workers: NOT_SERVING while there is none, SERVING else. gRPC's protocol knows no third.

    Args:
        executor: whose workers.
        services: by their full names, that serve or do not, together.

    Attributes:
        servicer: answers for gRPC.
    """

    def __init__(self, executor: Executor, services: Sequence[str]) -> None:
        self.servicer = health.HealthServicer()
        self._executor, self._services = executor, ("", *services)
        self._stopping = threading.Event()
        self._told: bool | None = None
        self._thread = threading.Thread(target=self._follow, name="health", daemon=True)
        for service in self._services:
            self.servicer.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)

    def state(self) -> tuple[str, str]:
        """SERVING, DEGRADED (it serves, and something is wrong) or NOT_SERVING, and what is wrong."""
        trouble = self._executor.trouble()
        if self._stopping.is_set():
            return NOT_SERVING, "it is stopping"
        if not self._executor.workers():
            return NOT_SERVING, trouble or "no worker is there"
        return (DEGRADED, trouble) if trouble else (SERVING, "")

    def start(self) -> None:
        """Tell, and follow from now on."""
        self._tell()
        self._thread.start()

    def stop(self) -> None:
        """NOT_SERVING for good."""
        self._stopping.set()
        self._thread.join()
        self.servicer.enter_graceful_shutdown()

    def _follow(self) -> None:
        while not self._stopping.wait(TICK):
            self._tell()

    def _tell(self) -> None:
        serving = bool(self._executor.workers())
        if serving is not self._told:
            self._told = serving
            status = health_pb2.HealthCheckResponse
            for service in self._services:
                self.servicer.set(service, status.SERVING if serving else status.NOT_SERVING)
