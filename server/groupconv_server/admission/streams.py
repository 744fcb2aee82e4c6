"""Calls with streams: of messages, of answers, or of both."""

from collections.abc import Iterator
from typing import Any

import grpc

from groupconv.errors import CancelledError
from groupconv_server.admission.call import Call, UnaryCall, ended_early
from groupconv_server.admission.errors import fail
from groupconv_server.admission.pool import wait_for_client


class _MessageStream(Call):
    """A call whose argument is an iterator over its messages."""

    __slots__ = ()

    def _argument(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
        ticket, first = self._ticket, True
        while (raw := _next(messages, context, first=first)) is not None:
            first = False
            ticket.renew(len(raw))
            self._method.series.bytes_in.inc(len(raw))
            if ticket.caller is not None and (debt := ticket.caller.spend(len(raw))):
                ticket.ended_within(debt)  # meanwhile flow control holds the sender back
            yield raw if self._method.decode is None else self._decoded(raw)


class UploadCall(_MessageStream, UnaryCall):
    """A call of a method that takes a stream of messages and returns its answer."""

    __slots__ = ()


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


class ExchangeCall(_MessageStream, StreamingCall):
    """A call of a method that takes a stream of messages and yields its answers."""

    __slots__ = ()


KINDS: dict[tuple[bool, bool], type[Call]] = {
    (False, False): UnaryCall,
    (True, False): UploadCall,
    (False, True): StreamingCall,
    (True, True): ExchangeCall,
}
"""The class of a method's calls, by whether it takes a stream of messages and whether it returns one."""


def _next(messages: Iterator[bytes], context: grpc.ServicerContext, *, first: bool) -> bytes | None:
    """The next message; None after the last."""
    try:
        message: bytes | None = wait_for_client(next, messages, None, context=context, first=first)
    except grpc.RpcError as error:  # all that gRPC reports is that the call has ended
        error.with_traceback(None)  # the call keeps it, and the traceback all frames of the call: arrays would stay
        raise ended_early(context, CancelledError("the caller has gone")) from None
    return message
