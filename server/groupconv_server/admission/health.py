"""Calls of the health service, and the threads that answer them and refuse other calls.

Health needs no token, and it must answer while every other thread is busy. So its calls have threads of their own, and
a caller can hold one of them for a moment only: its message must come at once, and be small. Where tokens are asked
for, the message of a caller without one is not read at all, as gRPC would take it into memory however large it is: the
answer is that for the whole server, which is the same for every service.
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
from groupconv_server.admission.call import kind_of
from groupconv_server.admission.errors import abort
from groupconv_server.memory.malloc import give_back

READ_SECONDS = 2.0
"""Seconds in which a message must be there. It travels right behind the call."""
QUIET = 1.0
"""Seconds after which memory of messages that nobody read is given back to the system."""
READ_BYTES = 4096
"""Bytes that a message may have: it holds the name of a service."""
READING = 128
"""Calls whose message is awaited at a time; of more, the oldest is ended."""
UNREAD = 8
"""Open calls of Watch whose message is not read; of more, the oldest is ended. gRPC holds up to 16 MiB for each."""
THREADS = 256
"""Threads at most: for calls that are read, for watchers, and as many for refusals. They start when they are needed."""


class HealthCalls:
    """Makes handlers for calls of the health service.

    Attributes:
        threads: answer these calls; refusals of other calls, which wait for nobody, may use them, too.
    """

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="health")
        self._reading: deque[grpc.ServicerContext] = deque()
        self._unread: deque[grpc.ServicerContext] = deque()
        self._giving_back = threading.Lock()

    def handler(self, handler: Any, *, trusted: bool) -> Any:
        """`handler` as one that takes bytes; None for a method that does not exist.

        Args:
            handler: of the health service's method.
            trusted: whether the caller's message is read.
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
        run.experimental_thread_pool = self.threads  # grpc looks for it
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(run, None, encode)
        return grpc.stream_unary_rpc_method_handler(run, None, encode)

    def _give_back_soon(self) -> None:
        """Give back what gRPC held of messages that nobody read, at most once in `QUIET` seconds."""
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
        except grpc.RpcError:
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
