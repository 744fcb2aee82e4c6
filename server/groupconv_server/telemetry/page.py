"""HTTP on a port of its own: /metrics for Prometheus, /healthz and /readyz for probes that have no gRPC."""

from collections.abc import Callable, Iterable
from typing import Any, Self

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

from groupconv.errors import UnavailableError

State = Callable[[], tuple[str, str]]
"""Returns SERVING, DEGRADED or NOT_SERVING, and the reason."""
PATHS = "/metrics, /healthz and /readyz"


class Page:
    """Served from threads until it is closed.

    `/healthz` is 200 while the process answers. `/readyz` is 200 while the server takes requests, else 503 with the
    reason.

    Args:
        host: address to listen on.
        port: to listen on; 0 picks a free one.
        registry: has the metrics.
        state: of the server.

    Raises:
        UnavailableError: the port is taken.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, state: State) -> None:
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise UnavailableError(
                f"cannot show metrics on {host}:{port}: {error.strerror or error}; give another --metrics-port"
            ) from None
        self._server.set_app(_with_health(make_wsgi_app(registry), state))
        self.url = f"http://{host}:{self._server.server_port}/metrics"

    @classmethod
    def of(cls, host: str, port: int | None, registry: CollectorRegistry, state: State) -> Self | None:
        """The page, or None where no port is given."""
        return None if port is None else cls(host, port, registry, state)

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _with_health(metrics: Callable[..., Any], state: State) -> Callable[..., Iterable[bytes]]:
    """A WSGI application that answers the probes, and has `metrics` answer the rest."""

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path == "/metrics":
            answer: Iterable[bytes] = metrics(environ, start_response)
            return answer
        status, text = _health(path, state)
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        if method not in ("GET", "HEAD"):
            status, text = "405 Method Not Allowed", f"expected GET or HEAD, got {method}"
            headers.append(("Allow", "GET, HEAD"))
        body = f"{text}\n".encode()
        start_response(status, [*headers, ("Content-Length", str(len(body)))])
        return [body if method != "HEAD" else b""]

    return application


def _health(path: str, state: State) -> tuple[str, str]:
    """Status line and text of a path."""
    if path == "/healthz":
        return "200 OK", "ok"
    if path == "/readyz":
        name, reason = state()
        return "503 Service Unavailable" if name == "NOT_SERVING" else "200 OK", f"{name}: {reason}" if reason else name
    return "404 Not Found", f"expected one of {PATHS}, got {path}"
