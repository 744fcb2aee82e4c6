"""What is noted of every request: it is given an id, counted, timed, traced, and written down if it is refused."""

import logging
import time
from collections.abc import Sequence
from typing import Any

import grpc
from opentelemetry.trace import Span

from groupconv_server.telemetry import audit
from groupconv_server.telemetry.metrics import Metrics
from groupconv_server.telemetry.request import ID_KEY, Request, current
from groupconv_server.telemetry.requests import MethodSeries
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

    def series(self, method: str) -> MethodSeries:
        """Of a method that exists, or of `UNKNOWN_METHOD`."""
        return self._metrics.requests.of(method.lstrip("/"))

    def arrived(self, method: str, series: MethodSeries, metadata: Metadata) -> "ObservedRequest":
        """A request is there; it is the present one of the context that its handler will run in, too."""
        given = None
        for key, value in metadata:
            if key == ID_KEY:
                given = str(value)
            elif key == "grpc-previous-rpc-attempts":
                series.retried()
        watch = ObservedRequest(method, given, metadata, series, self._traces)
        current.set(watch)
        return watch


class ObservedRequest(Request):
    """One request, from its arrival to its end.

    Attributes:
        bytes_in, bytes_out: of its messages so far.
    """

    __slots__ = ("_arrived", "_begun", "_metadata", "_series", "_span", "_traces", "bytes_in", "bytes_out")

    def __init__(
        self, method: str, given: str | None, metadata: Metadata, series: MethodSeries, traces: Traces
    ) -> None:
        super().__init__(method, given)
        self._arrived = time.perf_counter()
        self._metadata, self._series, self._traces = metadata, series, traces
        self._span: Span | None = None
        self._begun = False
        self.bytes_in = self.bytes_out = 0

    def begin(self, context: grpc.ServicerContext) -> None:
        """A thread starts on it."""
        self._begun = True
        self._series.begun(self, time.perf_counter() - self._arrived)
        if self._arrived >= self._traces.next_look:
            self._span = self._traces.begin(self, self._metadata, self._arrived)
        context.set_trailing_metadata(((ID_KEY, self.id),))

    def end(self, context: Any, otherwise: str, *, active: bool) -> None:
        """It has ended, with `otherwise` if gRPC knows of no status; a refusal is written down.

        Args:
            context: of the request.
            otherwise: its status, by name.
            active: whether gRPC had not ended it.
        """
        found = context.code()
        code = otherwise if found is None and active else _code(found, context)
        seconds = time.perf_counter() - self._arrived
        self._series.ended(self, code, seconds)
        if code == "OK":
            reason = ""
            if audit.log.isEnabledFor(logging.DEBUG):
                audit.done(self, seconds)
        else:
            reason = _text(context)
            if audit.refused(self, code, context.peer(), reason, seconds):
                self._series.refused(code)
        if self._span is not None:
            end(self._span, code, reason)

    def __del__(self) -> None:
        """Count a request that no thread was given; a destructor may run anywhere, so it takes no lock."""
        if not self._begun:
            self._series.unread.append(UNREAD)
            why = "over the limit of messages or of requests at a time, or cancelled"
            audit.unread(self, UNREAD, why, time.perf_counter() - self._arrived)


def _code(found: grpc.StatusCode | None, context: Any) -> str:
    """The status a request ended with, by name: that it was given, or why gRPC ended it."""
    if found is not None:
        return found.name
    return "CANCELLED" if context.time_remaining() else "DEADLINE_EXCEEDED"


def _text(context: Any) -> str:
    details = context.details()
    return details.decode(errors="replace") if isinstance(details, bytes) else details or ""
