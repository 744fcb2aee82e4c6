"""One admitted call: reads and decodes its message, runs its method, encodes its answer. Streams are in streams.py.

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
from groupconv_server.admission.method import Method
from groupconv_server.admission.pool import step_aside, wait_for_client
from groupconv_server.telemetry.request import Request

SETTLE = 0.2
"""Seconds in which gRPC reports that a call ended, after it reported that no message will come."""


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
        """Enter the call. Return the argument of the method: its message, or an iterator over its messages."""
        method, ticket = self._method, self._ticket
        self._request.begin(context)
        if not context.add_callback(ticket.leave):  # the call has ended already
            ticket.leave()
            raise ended_early(context, CancelledError("the caller has gone"))
        present.set(ticket)
        if not method.brief:
            step_aside()
        return self._argument(messages, context)

    def _argument(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Any:
        """The one message of the call."""
        method, ticket = self._method, self._ticket
        try:
            raw = wait_for_client(next, messages, None, context=context)
        except grpc.RpcError as error:
            raw = error.with_traceback(None)  # the call keeps it, and the traceback all frames of the call
        if not isinstance(raw, bytes):
            if ticket.ended_within(SETTLE):  # gRPC ended the call, and does not say here why
                why = "message: over the limit of its size, or the caller has gone"
                raise ended_early(context, ResourceExhaustedError(why))
            raise InvalidArgumentError("message", "one request message", "none")
        ticket.hold(len(raw))
        method.series.bytes_in.inc(len(raw))
        if ticket.caller is not None:
            ticket.caller.spend(len(raw))
        return raw if method.decode is None else self._decoded(raw)

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


def deadline_of(context: grpc.ServicerContext) -> float | None:
    """The caller's deadline on the clock of time.monotonic(), or None."""
    left = context.time_remaining()
    # a client without a deadline reads as one centuries away
    return None if left is None or left > LONGEST_TIMEOUT else time.monotonic() + left


def ended_early(context: grpc.ServicerContext, otherwise: GroupconvError) -> GroupconvError:
    """The reason why gRPC ended a call: its deadline passed, or `otherwise`."""
    if context.time_remaining() == 0:
        return DeadlineExceededError("the deadline passed before the request was read")
    return otherwise
