"""Bounds what the bodies of HTTP requests and answers hold in memory, and how slowly they may come and go."""

import asyncio
import logging
from datetime import timedelta

from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from google.rpc import error_details_pb2
from protobuf.wkt import Any as AnyDetail
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from groupconv.text import human_bytes
from groupconv_server.admission.gate import READ_RATE, READ_SECONDS

log = logging.getLogger(__name__)

PIECE = 2**16
"""Bytes of an answer that are written at a time. What is written is not counted, and each connection may have two."""
RETRY = 1.0
"""Seconds after which a caller that was refused for want of memory may try again."""


class Bodies:
    """An ASGI application that counts the bodies of another one's requests and answers, until the answer is read.

    The gate of the gRPC server counts messages that it has. These have not reached it, or have left it.

    Args:
        app: the other one.
        limit: bytes that all bodies may hold.
        idle: seconds a caller may send nothing before its body ends, and read nothing before its answer ends.
    """

    def __init__(self, app: ASGIApp, limit: int, idle: float) -> None:
        self._app, self._limit, self._idle = app, limit, idle
        self._held = 0
        self._unread: dict[asyncio.Timeout, float] = {}  # the answers, and when others may have their memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the other application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        mine, complete = 0, False

        async def counted() -> Message:
            nonlocal mine, complete
            if complete:  # what comes now is that the caller has gone
                return await receive()
            try:
                async with asyncio.timeout(self._idle):
                    message = await receive()
            except TimeoutError:
                why = f"nothing of the request's body came for {self._idle:g} s"
                raise ConnectError(Code.DEADLINE_EXCEEDED, why) from None
            size = len(message.get("body", b""))
            if self._held + size > self._limit:
                self._end_late_answers()
                raise _full(self._limit)
            mine, self._held = mine + size, self._held + size
            complete = not message.get("more_body", False)
            return message

        async def in_pieces(message: Message) -> None:
            nonlocal mine
            body = message.get("body", b"")
            if len(body) <= PIECE:
                await send(message)
                return
            mine, self._held = mine + len(body), self._held + len(body)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(self._idle) as left:
                self._unread[left] = loop.time() + READ_SECONDS + len(body) / READ_RATE
                try:
                    for start in range(0, len(body), PIECE):
                        more = start + PIECE < len(body) or message.get("more_body", False)
                        await send({**message, "body": body[start : start + PIECE], "more_body": more})
                        if not left.expired():
                            left.reschedule(loop.time() + self._idle)
                finally:
                    del self._unread[left]

        try:
            await self._app(scope, counted, in_pieces)
        except TimeoutError:
            log.info("web port: an answer was not read in time, its connection ends")
        finally:
            self._held -= mine

    def _end_late_answers(self) -> None:
        """End the answers that their callers had time to read, and have not read."""
        now = asyncio.get_running_loop().time()
        for left, until in self._unread.items():
            if until < now and not left.expired():
                left.reschedule(now)


def _full(limit: int) -> ConnectError:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(timedelta(seconds=RETRY))
    detail = AnyDetail(type_url=f"type.googleapis.com/{retry.DESCRIPTOR.full_name}", value=retry.SerializeToString())
    why = f"requests on the web port may hold {human_bytes(limit)} together; try again later"
    return ConnectError(Code.RESOURCE_EXHAUSTED, why, [ErrorDetail(detail)])
