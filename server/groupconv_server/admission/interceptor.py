"""The interceptor before every method: checks the caller's token and admits or refuses the call.

Refusals are cheap: they are made before a message of the call is read, by threads that do no other work.
"""

from collections.abc import Callable
from typing import Any

import grpc

from groupconv.errors import GroupconvError, UnimplementedError
from groupconv_server.access.tokens import Tokens
from groupconv_server.admission.errors import abort
from groupconv_server.admission.gate import Gate
from groupconv_server.admission.health import HealthCalls
from groupconv_server.admission.method import Method
from groupconv_server.admission.streams import KINDS
from groupconv_server.telemetry.request import Request, current
from groupconv_server.telemetry.requests import Requests
from groupconv_server.telemetry.traces import Traces

HEALTH = "/grpc.health."
"""Answered without a token, not counted, and answered until the end: a stopping server says NOT_SERVING."""
REFLECTION = "/grpc.reflection."
"""A stopping server does not wait for its streams, which may be open and want nothing."""
UNKNOWN_METHOD = "unknown"
"""The label of methods that do not exist: their names are the caller's."""

Continuation = Callable[[grpc.HandlerCallDetails], Any]


class Interceptor(grpc.ServerInterceptor):
    """Admits callers who have a token, within the limits of the token and of the server.

    Args:
        gate: the limits of the server.
        requests: counts every request, refused or not.
        traces: makes their spans.
        tokens: who is admitted; None admits everybody.
    """

    def __init__(self, gate: Gate, requests: Requests, traces: Traces, tokens: Tokens | None = None) -> None:
        self._gate, self._requests, self._traces, self._tokens = gate, requests, traces, tokens
        self._health = HealthCalls()
        self._methods: dict[str, Method] = {}

    def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of the call, or one that refuses it."""
        name, metadata = handler_call_details.method, handler_call_details.invocation_metadata
        if name.startswith(HEALTH):
            return self._health.handler(continuation(handler_call_details), trusted=self._trusted(handler_call_details))
        method = self._methods.get(name) or self._method(name, continuation(handler_call_details))
        request = Request(method.name, metadata, method.series, self._traces)
        current.set(request)
        caller = None
        try:
            if self._tokens is not None:
                caller = self._tokens.caller(metadata)
                request.token = caller.name
            ticket = self._gate.enter(caller, brief=method.brief, awaited=method.awaited)
        except GroupconvError as error:
            return self._refusing(error, request)
        return KINDS[method.streams_in, method.streams_out](method, request, ticket)

    def _trusted(self, details: grpc.HandlerCallDetails) -> bool:
        """True if a call of the health service has a token, or needs none."""
        try:
            return self._tokens is None or self._tokens.caller(details.invocation_metadata) is not None
        except GroupconvError:
            return False

    def _method(self, name: str, handler: Any) -> Method:
        """A method that is called for the first time. All that do not exist are one."""
        if handler is None:
            name, handler = UNKNOWN_METHOD, grpc.stream_stream_rpc_method_handler(_unknown)
        series = self._requests.of(name.lstrip("/"))
        awaited = not name.startswith(REFLECTION)
        return self._methods.setdefault(name, Method(name, handler, series, awaited=awaited))

    def _refusing(self, error: GroupconvError, request: Request) -> Any:
        """A handler that ends the call. It takes a stream, so gRPC waits for no message."""

        def run(_: object, context: grpc.ServicerContext) -> None:
            request.begin(context)
            try:
                abort(context, error)
            finally:
                request.end(context, "UNKNOWN", active=context.is_active())

        run.experimental_thread_pool = self._health.threads  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(run)


def _unknown(_: Any, __: grpc.ServicerContext) -> Any:
    raise UnimplementedError("there is no such method")
