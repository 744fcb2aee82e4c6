"""One call behind the door: noted, counted in and out, its messages decoded in the request's own thread.

It is the handler that gRPC is given. Every kind of call is taken as a stream of requests: gRPC then calls the method
always, so that who came in leaves, even where the caller has gone while it waited for a thread.
"""

import threading
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from groupconv.errors import (
    CancelledError,
    DeadlineExceededError,
    GroupconvError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from groupconv_server.access.rates import Allowance
from groupconv_server.admission.errors import fail
from groupconv_server.admission.gate import Ticket, present
from groupconv_server.admission.observer import ObservedRequest
from groupconv_server.admission.pool import step_aside, wait_for_client
from groupconv_server.telemetry.requests import MethodSeries

SETTLE = 0.2
"""Seconds in which gRPC tells of a call that it ended; it tells first that no message will come."""


class Method:
    """What a method's calls share.

    Attributes:
        name: full, as it is called.
        handler: of the method; `behavior` is its function.
        series: where its calls are counted, if they are.
        awaited: whether a server that stops waits for its calls.
        brief: whether it takes one message and gives one.
    """

    def __init__(self, name: str, handler: Any, series: MethodSeries | None, *, awaited: bool) -> None:
        self.name, self.handler, self.series, self.awaited = name, handler, series, awaited
        self.behavior: Any = getattr(handler, kind_of(handler))
        self.decode, self.encode = handler.request_deserializer, handler.response_serializer
        self.brief = not (handler.request_streaming or handler.response_streaming)
        self.kind: type[Call] = StreamingCall if handler.response_streaming else UnaryCall


class Call(grpc.RpcMethodHandler):  # type: ignore[type-arg] # its stub is generic, it is not
    """A call of a method, as gRPC's handler of it; what it does not set is a class attribute.

    Args:
        method: that is called.
        watch: notes it; None notes nothing.
        caller: whose call it is, if that is asked.
        ticket: its place inside, if it has one.
    """

    __slots__ = ("_caller", "_method", "_over", "_ticket", "_watch")
    request_streaming, request_deserializer = True, None
    response_streaming = False
    response_serializer: Any = None
    unary_unary: Any = None
    unary_stream: Any = None
    stream_unary: Any = None
    stream_stream: Any = None

    def __init__(
        self, method: Method, watch: ObservedRequest | None, caller: Allowance | None, ticket: Ticket | None
    ) -> None:
        self._method, self._watch, self._caller, self._ticket = method, watch, caller, ticket
        self._over = threading.Lock()  # held until gRPC says that the call has ended; an Event costs ten times as much
        self._over.acquire()

    def _begin(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        """What the method is given."""
        if self._watch is not None:
            self._watch.begin(context)
        try:
            return self._request(requests, context)
        except Exception as error:  # noqa: BLE001 - all become statuses
            fail(context, self._method.name, error)

    def _request(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        if not context.add_callback(self._ended):  # it has ended already
            self._ended()
            raise _ended_early(context, CancelledError("the caller has gone"))
        present.set(self._ticket)
        if not self._method.brief:
            step_aside()
        if self._method.handler.request_streaming:
            return self._messages(requests, context)
        return self._message(requests, context)

    def encoded(self, answer: Any) -> bytes:
        """An answer on the wire."""
        encode = self._method.encode
        raw: bytes = answer if encode is None else encode(answer)
        if self._watch is not None:
            self._watch.bytes_out += len(raw)
        if self._caller is not None:
            self._caller.spend(len(raw))
        return raw

    def _ended(self) -> None:
        if self._ticket is not None:
            self._ticket.leave()
        if self._caller is not None:
            self._caller.leave()
        self._over.release()

    def ended_within(self, seconds: float) -> bool:
        """Wait until gRPC says that the call has ended; False if it does not within `seconds`."""
        if ended := self._over.acquire(timeout=seconds):
            self._over.release()
        return ended

    def _message(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        try:
            raw = wait_for_client(next, requests, None, context=context)
        except grpc.RpcError:
            raw = None
        if raw is None:
            if self.ended_within(SETTLE):  # gRPC ended the call, and does not say here why
                why = "message: over the limit of its size, or the caller has gone"
                raise _ended_early(context, ResourceExhaustedError(why))
            raise InvalidArgumentError("message", "one request message", "none")
        if self._ticket is not None:
            self._ticket.hold(len(raw))
        self._received(len(raw))
        return self._decoded(raw)

    def _messages(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        first = True
        while (raw := _next(requests, context, first=first)) is not None:
            first = False
            if self._ticket is not None:
                self._ticket.renew(len(raw))
            if debt := self._received(len(raw)):
                self.ended_within(debt)  # flow control holds the sender back meanwhile
            yield self._decoded(raw)

    def _received(self, nbytes: int) -> float:
        """Count a message; the seconds of debt that its caller is in."""
        if self._watch is not None:
            self._watch.bytes_in += nbytes
        return 0.0 if self._caller is None else self._caller.spend(nbytes)

    def _decoded(self, raw: bytes) -> Any:
        decode = self._method.decode
        if decode is None:
            return raw
        try:
            return decode(raw)
        except DecodeError:
            wanted = f"a message of {self._method.name}"
            raise InvalidArgumentError("message", wanted, f"{len(raw)} other bytes") from None


class UnaryCall(Call):
    """Of a method that returns its answer."""

    __slots__ = ()

    def stream_unary(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        """Run it."""
        try:
            answer = self.encoded(self._method.behavior(self._begin(requests, context), context))
        except BaseException:
            if self._watch is not None:
                self._watch.end(context, "UNKNOWN", active=context.is_active())
            raise
        if self._watch is not None:
            self._watch.end(context, "OK", active=self._over.locked())
        if self._ticket is not None:
            self._ticket.offer(context)
        return answer


class StreamingCall(Call):
    """Of a method that yields its answers."""

    __slots__ = ()
    response_streaming = True
    response_serializer = Call.encoded

    def stream_stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        """Run it."""
        status = "UNKNOWN"
        try:
            for answer in self._method.behavior(self._begin(requests, context), context):
                if self._ticket is not None:
                    self._ticket.offer(context)
                yield answer
                if self._ticket is not None:
                    self._ticket.taken()
            status = "OK"
            if self._ticket is not None:
                self._ticket.offer(context)  # the status, behind answers that the client may not have read
        finally:
            if self._watch is not None:
                self._watch.end(context, status, active=context.is_active())


def _next(requests: Iterator[bytes], context: grpc.ServicerContext, *, first: bool) -> bytes | None:
    """The next message; None after the last."""
    try:
        found: bytes | None = wait_for_client(next, requests, None, context=context, first=first)
    except grpc.RpcError:  # gRPC's word for it, which says no more
        raise _ended_early(context, CancelledError("the caller has gone")) from None
    return found


def _ended_early(context: grpc.ServicerContext, otherwise: GroupconvError) -> GroupconvError:
    """Why gRPC has ended a call: its deadline passed, or something else."""
    if context.time_remaining() == 0:
        return DeadlineExceededError("the deadline passed before the request was read")
    return otherwise


def kind_of(handler: Any) -> str:
    """The attribute of a handler that holds its method, as "stream_unary"."""
    sides = (
        "stream" if streaming else "unary" for streaming in (handler.request_streaming, handler.response_streaming)
    )
    return "_".join(sides)
