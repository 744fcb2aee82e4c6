"""One admitted call: reads and decodes its messages, runs its method, encodes its answers.

gRPC is given every kind of method as one that takes a stream of messages. Then it calls the handler even if the caller
has gone while the call waited for a thread, so every call that was admitted also leaves. Messages are decoded in the
request's own thread: gRPC would do it in the one thread that serves all connections.
"""

import time
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
from groupconv.session import LONGEST_TIMEOUT
from groupconv_server.admission.errors import fail
from groupconv_server.admission.gate import Ticket, present
from groupconv_server.admission.pool import step_aside, wait_for_client
from groupconv_server.telemetry.request import Request
from groupconv_server.telemetry.requests import MethodSeries

SETTLE = 0.2
"""Seconds in which gRPC reports that a call ended, after it reported that no message will come."""


class Method:
    """What the calls of one method share.

    Args:
        name: full name of the method.
        handler: of the method, as gRPC made it.
        series: counts its calls.
        awaited: False if a stopping server does not wait for its calls.

    Attributes:
        behavior: the method's function.
        decode, encode: of its messages; None for a method that takes or returns bytes.
        streams_in: True if it takes a stream of messages.
        brief: True if it takes one message and returns one.
        kind: the class of its calls.
    """

    def __init__(self, name: str, handler: Any, series: MethodSeries, *, awaited: bool) -> None:
        self.name, self.series, self.awaited = name, series, awaited
        self.behavior: Any = getattr(handler, kind_of(handler))
        self.decode, self.encode = handler.request_deserializer, handler.response_serializer
        self.streams_in = handler.request_streaming
        self.brief = not (handler.request_streaming or handler.response_streaming)
        self.kind: type[Call] = StreamingCall if handler.response_streaming else UnaryCall


class Call(grpc.RpcMethodHandler):  # type: ignore[type-arg] # its stub is generic, it is not
    """One call, as gRPC's handler of it. The class attributes are those of a handler.

    Args:
        method: that is called.
        request: its record.
        ticket: its admission.
    """

    __slots__ = ("_method", "_request", "_ticket")
    request_streaming, request_deserializer = True, None
    response_streaming = False
    response_serializer: Any = None
    unary_unary: Any = None
    unary_stream: Any = None
    stream_unary: Any = None
    stream_stream: Any = None

    def __init__(self, method: Method, request: Request, ticket: Ticket) -> None:
        self._method, self._request, self._ticket = method, request, ticket

    def _read(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        """The argument of the method: its message, or an iterator over its messages."""
        method, ticket = self._method, self._ticket
        self._request.begin(context)
        if not context.add_callback(ticket.leave):  # the call has ended already
            ticket.leave()
            raise _ended_early(context, CancelledError("the caller has gone"))
        present.set(ticket)
        if not method.brief:
            step_aside()
        if method.streams_in:
            return self._messages(messages, context)
        try:
            raw = wait_for_client(next, messages, None, context=context)
        except grpc.RpcError as error:
            raw = error.with_traceback(None)  # the call keeps it, and the traceback all frames of the call
        if not isinstance(raw, bytes):
            if ticket.ended_within(SETTLE):  # gRPC ended the call, and does not say here why
                why = "message: over the limit of its size, or the caller has gone"
                raise _ended_early(context, ResourceExhaustedError(why))
            raise InvalidArgumentError("message", "one request message", "none")
        ticket.hold(len(raw))
        method.series.bytes_in.inc(len(raw))
        if ticket.caller is not None:
            ticket.caller.spend(len(raw))
        return raw if method.decode is None else self._decoded(raw)

    def _messages(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        ticket, first = self._ticket, True
        while (raw := _next(messages, context, first=first)) is not None:
            first = False
            ticket.renew(len(raw))
            self._method.series.bytes_in.inc(len(raw))
            if ticket.caller is not None and (debt := ticket.caller.spend(len(raw))):
                ticket.ended_within(debt)  # meanwhile flow control holds the sender back
            yield raw if self._method.decode is None else self._decoded(raw)

    def _decoded(self, raw: bytes) -> Any:
        try:
            return self._method.decode(raw)
        except DecodeError:
            wanted = f"a message of {self._method.name}"
            raise InvalidArgumentError("message", wanted, f"{len(raw)} other bytes") from None

    def encoded(self, answer: Any) -> bytes:
        """An answer as bytes, counted."""
        encode = self._method.encode
        raw: bytes = answer if encode is None else encode(answer)
        self._method.series.bytes_out.inc(len(raw))
        if self._ticket.caller is not None:
            self._ticket.caller.spend(len(raw))
        return raw


class UnaryCall(Call):
    """A call of a method that returns its answer."""

    __slots__ = ()

    def stream_unary(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        """Run it."""
        method, request, ticket = self._method, self._request, self._ticket
        try:
            try:
                answer = self.encoded(method.behavior(self._read(messages, context), context))
            except Exception as error:  # noqa: BLE001 - every exception becomes a status
                fail(context, method.name, error)
        except BaseException:
            request.end(context, "UNKNOWN", active=context.is_active())
            raise
        request.end(context, "OK", active=not ticket.ended)
        ticket.offer(context)
        return answer


class StreamingCall(Call):
    """A call of a method that yields its answers."""

    __slots__ = ()
    response_streaming = True
    response_serializer = Call.encoded

    def stream_stream(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        """Run it."""
        status, ticket = "UNKNOWN", self._ticket
        try:
            yield from self._answers(messages, context)
            status = "OK"
            ticket.offer(context)  # the status, behind answers that the client may not have read
        finally:
            self._request.end(context, status, active=context.is_active())

    def _answers(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        method, ticket = self._method, self._ticket
        try:
            for answer in method.behavior(self._read(messages, context), context):
                ticket.offer(context)
                yield answer
                ticket.taken()
        except Exception as error:  # noqa: BLE001 - every exception becomes a status
            fail(context, method.name, error)


def deadline_of(context: grpc.ServicerContext) -> float | None:
    """The caller's deadline on the clock of time.monotonic(), or None."""
    left = context.time_remaining()
    # a client without a deadline reads as one centuries away
    return None if left is None or left > LONGEST_TIMEOUT else time.monotonic() + left


def kind_of(handler: Any) -> str:
    """The attribute of a handler that holds its method, as "stream_unary"."""
    sides = (
        "stream" if streaming else "unary" for streaming in (handler.request_streaming, handler.response_streaming)
    )
    return "_".join(sides)


def _next(messages: Iterator[bytes], context: grpc.ServicerContext, *, first: bool) -> bytes | None:
    """The next message; None after the last."""
    try:
        found: bytes | None = wait_for_client(next, messages, None, context=context, first=first)
    except grpc.RpcError as error:  # all that gRPC reports is that the call has ended
        error.with_traceback(None)  # the call keeps it, and the traceback all frames of the call: arrays would stay
        raise _ended_early(context, CancelledError("the caller has gone")) from None
    return found


def _ended_early(context: grpc.ServicerContext, otherwise: GroupconvError) -> GroupconvError:
    """The reason why gRPC ended a call: its deadline passed, or `otherwise`."""
    if context.time_remaining() == 0:
        return DeadlineExceededError("the deadline passed before the request was read")
    return otherwise
