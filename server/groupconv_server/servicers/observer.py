"""What every request passes first: it is given an id, counted, timed, and written down if it is refused."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.trace import INVALID_SPAN, Span

from groupconv.errors import InvalidArgumentError
from groupconv_server.servicers.door import HEALTH, kind_of
from groupconv_server.servicers.errors import abort
from groupconv_server.telemetry import audit
from groupconv_server.telemetry.metrics import Metrics
from groupconv_server.telemetry.request import ID_KEY, Request, current
from groupconv_server.telemetry.traces import Traces, end

UNKNOWN_METHOD = "unknown"
"""The label of methods that do not exist: their names are the caller's."""
UNREAD = "UNREAD"
"""The code of a request that gRPC ended before a thread had it: too large, too many at a time, or cancelled."""


class Observer(grpc.ServerInterceptor):
    """Outermost of the interceptors, so that it sees what the others refuse. Health passes unseen."""

    def __init__(self, metrics: Metrics, traces: Traces) -> None:
        self._metrics, self._traces = metrics, traces
        self._methods: dict[str, _Method] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Put a `_Watch` around a method."""
        name = handler_call_details.method
        if name.startswith(HEALTH):
            return continuation(handler_call_details)
        given, retry = None, False
        for key, value in handler_call_details.invocation_metadata:
            if key == ID_KEY:
                given = str(value)
            elif key == "grpc-previous-rpc-attempts":
                retry = True
        request = Request(name, given)
        current.set(request)  # of this request's own context, in which its handler runs too
        handler = continuation(handler_call_details)
        if handler is None:
            request.method = name = UNKNOWN_METHOD
            handler = grpc.stream_stream_rpc_method_handler(_unknown)
        method = self._methods.get(name)
        if method is None:
            method = self._methods[name] = _Method(name, self._metrics)
        if retry:
            method.retries.inc()
        return _Watch(method, request, handler, self._traces, handler_call_details.invocation_metadata).handler()


class _Method:
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


class _Watch:
    """One request: counts its bytes and its end."""

    __slots__ = ("arrived", "behavior", "given", "inner", "metadata", "method", "request", "span", "traces")

    def __init__(self, method: _Method, request: Request, handler: Any, traces: Traces, metadata: Any) -> None:
        self.method, self.request, self.inner = method, request, handler
        self.traces, self.metadata = traces, metadata
        self.span: Span = INVALID_SPAN
        self.behavior: Any = None
        self.given = False
        self.arrived = time.perf_counter()

    def handler(self) -> Any:
        """The handler in its place."""
        inner = self.inner
        kind = kind_of(inner)
        self.behavior = getattr(inner, kind)
        watched: Any = self.stream if inner.response_streaming else self.unary
        if pool := getattr(self.behavior, "experimental_thread_pool", None):
            watched = functools.partial(watched)  # takes an attribute, as a bound method does not
            watched.experimental_thread_pool = pool  # where grpc looks for it
        return inner._replace(
            request_deserializer=self.read,
            response_serializer=self.wrote,
            **{kind: watched},
        )

    def read(self, raw: bytes) -> Any:
        """Parse a message; one that is none goes on as it is, to be refused where there is a context for it."""
        self.method.bytes_in.inc(len(raw))
        parse = self.inner.request_deserializer
        if parse is None:
            return raw
        try:
            return parse(raw)
        except DecodeError:
            return _Malformed(len(raw))

    def wrote(self, message: Any) -> bytes:
        """Serialize a message."""
        serialize = self.inner.response_serializer
        raw: bytes = message if serialize is None else serialize(message)
        self.method.bytes_out.inc(len(raw))
        return raw

    def unary(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Run a method that returns its answer."""
        self.begin(context)
        try:
            answer = self.behavior(_sound(request, context), context)
        except BaseException:
            self.ended(context, _code(context, "UNKNOWN"))
            raise
        self.ended(context, _code(context, "OK"))
        return answer

    def stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Run a method that yields its answers."""
        self.begin(context)
        try:
            yield from self.behavior(_sound(request, context), context)
        except BaseException:
            self.ended(context, _code(context, "UNKNOWN"))
            raise
        self.ended(context, _code(context, "OK"))

    def begin(self, context: grpc.ServicerContext) -> None:
        """A thread starts on the request."""
        method = self.method
        self.given = True
        method.receive.observe(time.perf_counter() - self.arrived)
        method.in_flight.inc()
        self.span = self.traces.begin(self.request, self.metadata, self.arrived)
        context.set_trailing_metadata(((ID_KEY, self.request.id),))

    def ended(self, context: grpc.ServicerContext, code: str) -> None:
        """Count the end, and write down a refusal."""
        method = self.method
        method.in_flight.dec()
        seconds = time.perf_counter() - self.arrived
        method.duration.observe(seconds)
        method.ended(code)
        if code == "OK":
            audit.done(self.request, seconds)
            end(self.span, code)
            return
        reason = _text(context)
        if audit.refused(self.request, code, context.peer(), reason, seconds):
            method.refused(code)
        end(self.span, code, reason)

    def __del__(self) -> None:
        """Count a request that no thread was given."""
        if not self.given:
            self.method.ended(UNREAD)
            self.method.refused(UNREAD)
            why = "over the limit of messages or of requests at a time, or cancelled"
            audit.refused(self.request, UNREAD, "", why, time.perf_counter() - self.arrived)


class _Malformed(NamedTuple):
    """In place of a message that could not be parsed; gRPC itself would answer INTERNAL, and no handler would know."""

    size: int

    def error(self) -> InvalidArgumentError:
        """What it is answered with."""
        return InvalidArgumentError("message", "a message of this method", f"{self.size} other bytes")


def _sound(request: Any, context: grpc.ServicerContext) -> Any:
    """The request, or its messages one by one, unless one is malformed."""
    if isinstance(request, bytes):  # the most of them
        return request
    if isinstance(request, _Malformed):
        abort(context, request.error())
    return _each_sound(request) if isinstance(request, Iterator) else request


def _each_sound(requests: Iterator[Any]) -> Iterator[Any]:
    for request in requests:
        if isinstance(request, _Malformed):
            raise request.error()
        yield request


def _unknown(_: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")
    yield b""


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
