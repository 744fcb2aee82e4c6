"""What is noted of every request: it is given an id, counted, timed, traced, and written down if it is refused."""

import time
from collections.abc import Sequence
from typing import Any

import grpc
from opentelemetry.trace import INVALID_SPAN, Span

from groupconv_server.telemetry import audit
from groupconv_server.telemetry.metrics import Metrics
from groupconv_server.telemetry.request import ID_KEY, Request, current
from groupconv_server.telemetry.traces import Traces, end

UNKNOWN_METHOD = "unknown"
"""The label of methods that do not exist: their names are the caller's."""
UNREAD = "UNREAD"
"""The code of a request that no thread had begun when the server stopped."""
Metadata = Sequence[tuple[str, str | bytes]]


class Observer:
    """Notes requests.

    Args:
        metrics: where they are counted.
        traces: where spans of them go.
    """

    def __init__(self, metrics: Metrics, traces: Traces) -> None:
        self._metrics, self._traces = metrics, traces
        self._methods: dict[str, _Series] = {}

    def arrived(self, name: str, metadata: Metadata) -> "Watch":
        """A request is there; it is the present one of the context that its handler will run in, too."""
        given, retry = None, False
        for key, value in metadata:
            if key == ID_KEY:
                given = str(value)
            elif key == "grpc-previous-rpc-attempts":
                retry = True
        request = Request(name, given)
        current.set(request)
        return Watch(self, request, metadata, retry)

    def series(self, name: str) -> "_Series":
        """Of a method that exists, or of `UNKNOWN_METHOD`."""
        found = self._methods.get(name)
        if found is None:
            found = self._methods[name] = _Series(name, self._metrics)
        return found

    def begin(self, watch: "Watch") -> Span:
        """The span of a request."""
        return self._traces.begin(watch.request, watch.metadata, watch.arrived)


class _Series:
    """The series of one method, looked up once."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self.name = name.lstrip("/")
        self.in_flight = metrics.in_flight.labels(self.name)
        self.duration = metrics.duration.labels(self.name)
        self.receive = metrics.receive.labels(self.name)
        self.bytes_in, self.bytes_out = metrics.bytes_in.labels(self.name), metrics.bytes_out.labels(self.name)
        self.retries = metrics.retries.labels(self.name)
        self._requests, self._refused = metrics.requests, metrics.refused
        self._ended: dict[str, Any] = {}

    def ended(self, code: str) -> None:
        """Count a request by its status."""
        child = self._ended.get(code)
        if child is None:
            child = self._ended[code] = self._requests.labels(self.name, code)
        child.inc()

    def refused(self, code: str) -> None:
        """Count a refusal."""
        self._refused.labels(self.name, code).inc()


class Watch:
    """One request, from its arrival to its end."""

    __slots__ = ("_begun", "_observer", "_retry", "_span", "arrived", "metadata", "request", "series")

    def __init__(self, observer: Observer, request: Request, metadata: Metadata, retry: bool) -> None:
        self.arrived = time.perf_counter()
        self.request, self.metadata = request, metadata
        self._observer, self._retry = observer, retry
        self._span: Span = INVALID_SPAN
        self._begun = False
        self.series: _Series | None = None

    def of(self, method: str) -> None:
        """It is one for this method, which exists; or for none."""
        self.series = series = self._observer.series(method)
        if method == UNKNOWN_METHOD:
            self.request.method = method
        if self._retry:
            series.retries.inc()

    def begin(self, context: grpc.ServicerContext) -> None:
        """A thread starts on it."""
        series = self.series
        assert series is not None
        self._begun = True
        series.receive.observe(time.perf_counter() - self.arrived)
        series.in_flight.inc()
        self._span = self._observer.begin(self)
        context.set_trailing_metadata(((ID_KEY, self.request.id),))

    def end(self, context: grpc.ServicerContext, otherwise: str) -> None:
        """It has ended, with `otherwise` if gRPC knows of no status; a refusal is written down."""
        series = self.series
        assert series is not None
        code = _code(context, otherwise)
        series.in_flight.dec()
        seconds = time.perf_counter() - self.arrived
        series.duration.observe(seconds)
        series.ended(code)
        if code == "OK":
            audit.done(self.request, seconds)
            end(self._span, code)
            return
        reason = _text(context)
        if audit.refused(self.request, code, context.peer(), reason, seconds):
            series.refused(code)
        end(self._span, code, reason)

    def __del__(self) -> None:
        """Count a request that no thread was given."""
        if not self._begun and self.series is not None:
            self.series.ended(UNREAD)
            self.series.refused(UNREAD)
            why = "over the limit of messages or of requests at a time, or cancelled"
            audit.refused(self.request, UNREAD, "", why, time.perf_counter() - self.arrived)


def _code(context: Any, otherwise: str) -> str:
    """The status a request ended with, by name."""
    code = context.code()
    if code is not None:
        return str(code.name)
    if context.is_active():
        return otherwise
    return "CANCELLED" if context.time_remaining() else "DEADLINE_EXCEEDED"


def _text(context: Any) -> str:
    details = context.details()
    return details.decode(errors="replace") if isinstance(details, bytes) else details or ""
