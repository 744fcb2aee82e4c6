"""The page that Prometheus scrapes: /metrics over HTTP, on a port of its own."""

from typing import Self

from prometheus_client import CollectorRegistry, start_http_server

from groupconv.errors import UnavailableError


class Page:
    """Served from a thread until it is closed.

    Args:
        host: address to listen on.
        port: to listen on; 0 picks a free one.
        registry: has the metrics.

    Raises:
        UnavailableError: the port is taken.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise UnavailableError(f"cannot show metrics on {host}:{port}: {error.strerror or error}") from None
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    @classmethod
    def of(cls, host: str, port: int | None, registry: CollectorRegistry) -> Self | None:
        """The page, or None where no port is given."""
        return None if port is None else cls(host, port, registry)

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
