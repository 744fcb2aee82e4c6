"""Calls of the health service, and the threads that answer them and refuse other calls.

Health needs no token, and it must answer while every other thread is busy. So its calls have their own threads, and a
caller can hold one only for a moment: its message must come at once and be small. If the server needs tokens, the
message of a caller without one is not read, because gRPC would take it into memory however large it is. Such a caller
gets the status of the whole server, which is that of every service.
"""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from groupconv.errors import GroupconvError, InvalidArgumentError
from groupconv_server.admission.errors import abort
from groupconv_server.admission.method import kind_of
from groupconv_server.memory.malloc import give_back

READ_SECONDS = 2.0
"""Seconds in which a message must arrive. It travels right behind the call."""
QUIET = 1.0
"""Seconds after which the memory of unread messages is returned to the system."""
READ_BYTES = 4096
"""Size of a message, at most: it has the name of a service."""
READING = 128
"""Calls that wait for their message at a time. If there are more, the oldest is cancelled."""
UNREAD = 8
"""Open calls of Watch with an unread message, for each of which gRPC may hold 16 MiB. The oldest makes room."""
THREADS = 256
"""Threads at most, for calls that are read, watchers and refusals. They start when they are needed."""


class HealthCalls:
    """Makes handlers for calls of the health service.

    Attributes:
        threads: answer these calls, and refuse others, which takes no time.
    """

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="health")
        self._reading: deque[grpc.ServicerContext] = deque()
        self._unread: deque[grpc.ServicerContext] = deque()
        self._giving_back = threading.Lock()

    def handler(self, handler: Any, *, trusted: bool) -> Any:
        """The handler of a call; None for a method that does not exist.

        Args:
            handler: of the health service's method.
            trusted: True if the caller's message is read.
        """
        if handler is None:
            return None
        behavior = getattr(handler, kind_of(handler))
        decode, encode = handler.request_deserializer, handler.response_serializer

        def request(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            if trusted:
                return self._read(requests, context, decode)
            context.add_callback(self._give_back_soon)
            return decode(b"")

        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            return behavior(request(requests, context), context)

        def answers(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            if not trusted:
                _add(self._unread, context, UNREAD)
            try:
                yield from behavior(request(requests, context), context)
            finally:
                with suppress(ValueError):  # it is read, or had to make room
                    self._unread.remove(context)

        run: Any = answers if handler.response_streaming else answer
        run.experimental_thread_pool = self.threads  # gRPC looks for this attribute
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(run, None, encode)
        return grpc.stream_unary_rpc_method_handler(run, None, encode)

    def _give_back_soon(self) -> None:
        """Return the memory of unread messages to the system, at most once in `QUIET` seconds."""
        if self._giving_back.acquire(blocking=False):

            def run() -> None:
                self._giving_back.release()
                give_back()

            timer = threading.Timer(QUIET, run)
            timer.daemon = True
            timer.start()

    def _read(self, requests: Iterator[bytes], context: grpc.ServicerContext, decode: Any) -> Any:
        """The call's message; ends the call if there is none."""
        _add(self._reading, context, READING)
        timer = threading.Timer(READ_SECONDS, context.cancel)
        timer.start()
        try:
            raw = next(requests, None)
        except grpc.RpcError as error:
            error.with_traceback(None)  # the call keeps it, and the traceback all frames of the call
            raw = None
        finally:
            timer.cancel()
            with suppress(ValueError):  # it had to make room
                self._reading.remove(context)
        try:
            return _decoded(raw, decode)
        except GroupconvError as error:
            abort(context, error)


def _add(calls: deque[grpc.ServicerContext], context: grpc.ServicerContext, most: int) -> None:
    """Add a call, and end the oldest if there are more than `most`."""
    calls.append(context)
    while len(calls) > most:
        with suppress(IndexError):  # another thread was faster
            calls.popleft().cancel()


def _decoded(raw: bytes | None, decode: Any) -> Any:
    if raw is None:
        raise InvalidArgumentError("message", f"one request message within {READ_SECONDS} s", "none")
    if len(raw) > READ_BYTES:
        raise InvalidArgumentError("message", f"at most {READ_BYTES} bytes", len(raw))
    try:
        return raw if decode is None else decode(raw)
    except DecodeError:
        raise InvalidArgumentError("message", "a message of the health service", f"{len(raw)} other bytes") from None
