"""The gate every request passes: it counts those inside, and closes when the server stops.

grpc's own `stop` closes connections as soon as the last answer is handed to the transport; a client that is slow to
read may then see a reset in place of its answer. So the gate is closed first, connections staying open: new requests
are UNAVAILABLE, and `stop` is called once those inside have ended.
"""

import threading
from collections.abc import Callable
from typing import Any

import grpc

OPEN_TO_ALL = ("/grpc.health.", "/grpc.reflection.")
"""Services that are answered to the end: health says NOT_SERVING by itself."""


class Gate(grpc.ServerInterceptor):
    """Lets requests in until it is closed, and knows when the last one has left."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    def close(self, timeout: float) -> bool:
        """Let no more requests in and wait for those inside; True if all have left within `timeout` seconds."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: self._inside == 0, timeout)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Put the gate in front of a method."""
        handler = continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(OPEN_TO_ALL):
            return handler
        kind = kind_of(handler)
        method = getattr(handler, kind)

        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            if not self._enter(context):
                context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping; another one may answer")
            return method(request, context)

        return handler._replace(**{kind: guarded})

    def _enter(self, context: grpc.ServicerContext) -> bool:
        with self._changed:
            if self._closed:
                return False
            self._inside += 1
        if not context.add_callback(self._leave):  # it has ended already
            self._leave()
        return True

    def _leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()


def kind_of(handler: Any) -> str:
    """The attribute of a handler that holds its method, as "stream_unary"."""
    sides = (
        "stream" if streaming else "unary" for streaming in (handler.request_streaming, handler.response_streaming)
    )
    return "_".join(sides)
