"""What stands before every method: whose call it is, whether there is room for it, and its messages off the wire.

Refusals cost next to nothing: they are made before a message of the call is read, by threads that do no other work.
The door takes every message as bytes and decodes it in the request's own thread: gRPC would do it in the one thread
that serves all connections, and would call what is no message an internal error.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from groupconv.errors import CancelledError, GroupconvError, InvalidArgumentError, ResourceExhaustedError
from groupconv_server.access.rates import Allowance
from groupconv_server.access.tokens import Tokens
from groupconv_server.servicers.errors import abort, statuses
from groupconv_server.servicers.gate import Gate, Visit
from groupconv_server.telemetry.request import current

HEALTH = "/grpc.health."
"""Answered without a token, and to the end: it says NOT_SERVING by itself."""
REFLECTION = "/grpc.reflection."
"""Not waited for when the server stops: its streams may stay open for ever."""
SETTLE = 0.2
"""Seconds in which gRPC tells of a call that it ended; it tells first that no message will come."""


class Door(grpc.ServerInterceptor):
    """Lets in who has a token, within the limits of the token and of the server.

    Args:
        gate: the limits of the server.
        tokens: who may come in; None is everybody.
    """

    def __init__(self, gate: Gate, tokens: Tokens | None = None) -> None:
        self._gate, self._tokens = gate, tokens
        self._aside = ThreadPoolExecutor(2, thread_name_prefix="aside")  # never busy with anything that takes long

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method behind the door, or what refuses the call."""
        method = handler_call_details.method
        if method.startswith(HEALTH):
            return self._beside(continuation(handler_call_details))
        caller = None
        with contextlib.ExitStack() as ended:
            try:
                if self._tokens is not None:
                    caller = self._tokens.caller(handler_call_details.invocation_metadata)
                    if request := current.get():
                        request.token = caller.name
                    caller.enter()
                    ended.callback(caller.leave)
                visit = None if method.startswith(REFLECTION) else self._gate.enter()
            except GroupconvError as error:
                return self._refusing(error)
            if visit is not None:
                ended.callback(visit.leave)
            handler = continuation(handler_call_details)
            return None if handler is None else _Passage(method, handler, caller, visit, ended.pop_all()).handler()

    def _beside(self, handler: Any) -> Any:
        """The handler, run by the threads that are always free."""
        if handler is None:
            return None
        kind = kind_of(handler)
        method = getattr(handler, kind)

        @functools.wraps(method)
        def run(*arguments: Any, **keywords: Any) -> Any:
            return method(*arguments, **keywords)

        run.experimental_thread_pool = self._aside  # type: ignore[attr-defined]  # grpc looks for it
        return handler._replace(**{kind: run})

    def _refusing(self, error: GroupconvError) -> Any:
        """A handler that ends the call; as it takes a stream, no message is waited for."""

        def run(_: object, context: grpc.ServicerContext) -> None:
            abort(context, error)

        run.experimental_thread_pool = self._aside  # type: ignore[attr-defined]
        return grpc.stream_unary_rpc_method_handler(run)


class _Passage:
    """One call on its way through the door.

    Every kind of call is taken as a stream of requests: gRPC then calls the method always, so that who came in leaves,
    even where the caller has gone while it waited for a thread.
    """

    def __init__(
        self, method: str, handler: Any, caller: Allowance | None, visit: Visit | None, end: contextlib.ExitStack
    ) -> None:
        self._method, self._handler, self._caller, self._visit, self._end = method, handler, caller, visit, end
        self._call = getattr(handler, kind_of(handler))
        self._over = threading.Event()

    def handler(self) -> Any:
        """The method as grpc calls it."""
        h = self._handler
        if h.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream, None, self._encoder(h.response_serializer))
        return grpc.stream_unary_rpc_method_handler(self._unary, None, self._encoder(h.response_serializer))

    def _unary(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        with statuses(context, self._method):
            argument = self._begin(requests, context)
        return self._call(argument, context)

    def _stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        with statuses(context, self._method):
            argument = self._begin(requests, context)
        yield from self._call(argument, context)

    def _begin(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        if not context.add_callback(self._ended):  # it has ended already
            self._ended()
            raise CancelledError("the caller has gone")
        return self._messages(requests) if self._handler.request_streaming else self._message(requests)

    def _ended(self) -> None:
        self._over.set()
        self._end.close()

    def _message(self, requests: Iterator[bytes]) -> Any:
        try:
            raw = next(requests, None)
        except grpc.RpcError:
            raw = None
        if raw is None:
            if self._over.wait(SETTLE):  # gRPC ended the call, and does not say here why
                raise ResourceExhaustedError("message: over the limit of its size, or the caller has gone")
            raise InvalidArgumentError("message", "one request message", "none")
        if self._visit is not None:
            self._visit.hold(len(raw))
        self._spend(len(raw))
        return self._decoded(raw)

    def _messages(self, requests: Iterator[bytes]) -> Iterator[Any]:
        for raw in requests:
            if debt := self._spend(len(raw)):
                self._over.wait(debt)  # flow control holds the sender back meanwhile
            yield self._decoded(raw)

    def _decoded(self, raw: bytes) -> Any:
        decode = self._handler.request_deserializer
        if decode is None:
            return raw
        try:
            return decode(raw)
        except DecodeError:
            raise InvalidArgumentError("message", f"a message of {self._method}", f"{len(raw)} other bytes") from None

    def _encoder(self, encode: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
        def encoded(answer: Any) -> bytes:
            raw: bytes = answer if encode is None else encode(answer)
            self._spend(len(raw))
            return raw

        return encoded

    def _spend(self, nbytes: int) -> float:
        return 0.0 if self._caller is None else self._caller.spend(nbytes)


def kind_of(handler: Any) -> str:
    """The attribute of a handler that holds its method, as "stream_unary"."""
    sides = (
        "stream" if streaming else "unary" for streaming in (handler.request_streaming, handler.response_streaming)
    )
    return "_".join(sides)
