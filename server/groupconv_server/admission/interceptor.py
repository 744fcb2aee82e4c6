"""The interceptor before every method: whose call it is, whether there is room for it, and its messages off the wire.

Refusals cost next to nothing: they are made before a message of the call is read, by threads that do no other work.
Every message is taken as bytes and decoded in the request's own thread: gRPC would do it in the one thread that serves
all connections, and would call what is no message an internal error.
"""

from collections.abc import Callable
from typing import Any

import grpc

from groupconv.errors import GroupconvError
from groupconv_server.access.tokens import Tokens
from groupconv_server.admission.call import Method
from groupconv_server.admission.errors import abort
from groupconv_server.admission.gate import Gate
from groupconv_server.admission.health import HealthCalls
from groupconv_server.admission.observer import UNKNOWN_METHOD, ObservedRequest, Observer

HEALTH = "/grpc.health."
"""Answered without a token, and to the end: it says NOT_SERVING by itself. It is not noted."""
REFLECTION = "/grpc.reflection."
"""A server that stops does not wait for its streams, which may be open and want nothing."""

Continuation = Callable[[grpc.HandlerCallDetails], Any]


class Interceptor(grpc.ServerInterceptor):
    """Lets in who has a token, within the limits of the token and of the server.

    Args:
        gate: the limits of the server.
        tokens: who may come in; None is everybody.
        observer: notes who comes, refused or not; None notes nobody.
    """

    def __init__(self, gate: Gate, tokens: Tokens | None = None, observer: Observer | None = None) -> None:
        self._gate, self._tokens, self._observer = gate, tokens, observer
        self._health = HealthCalls()
        self._methods: dict[str, Method] = {}

    def intercept_service(self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The method, or what refuses the call."""
        name = handler_call_details.method
        if name.startswith(HEALTH):
            return self._health.handler(continuation(handler_call_details), trusted=self._trusted(handler_call_details))
        method = self._methods.get(name) or self._method(name, continuation(handler_call_details))
        watch = None
        if self._observer is not None and method.series is not None:
            watch = self._observer.arrived(method.name, method.series, handler_call_details.invocation_metadata)
        caller = None
        try:
            if self._tokens is not None:
                found = self._tokens.caller(handler_call_details.invocation_metadata)
                if watch is not None:
                    watch.token = found.name
                found.enter()
                caller = found
            ticket = self._gate.enter(brief=method.brief, awaited=method.awaited)
        except GroupconvError as error:
            if caller is not None:
                caller.leave()
            return self._refusing(error, watch)
        return method.kind(method, watch, caller, ticket)

    def _trusted(self, details: grpc.HandlerCallDetails) -> bool:
        """Whether a call of the health service comes with a token, where one is asked for."""
        try:
            return self._tokens is None or self._tokens.caller(details.invocation_metadata) is not None
        except GroupconvError:
            return False

    def _method(self, name: str, handler: Any) -> Method:
        """A method that is called for the first time; those that do not exist are one."""
        if handler is None:
            name, handler = UNKNOWN_METHOD, grpc.stream_stream_rpc_method_handler(_unknown)
        series = None if self._observer is None else self._observer.series(name)
        awaited = not name.startswith(REFLECTION)
        return self._methods.setdefault(name, Method(name, handler, series, awaited=awaited))

    def _refusing(self, error: GroupconvError, watch: ObservedRequest | None) -> Any:
        """A handler that ends the call; as it takes a stream, no message is waited for."""

        def run(_: object, context: grpc.ServicerContext) -> None:
            if watch is None:
                abort(context, error)
            watch.begin(context)
            try:
                abort(context, error)
            finally:
                watch.end(context, "UNKNOWN", active=context.is_active())

        run.experimental_thread_pool = self._health.threads  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(run)


def _unknown(_: Any, context: grpc.ServicerContext) -> Any:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")
