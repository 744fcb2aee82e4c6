"""Bounds what the bodies of HTTP requests hold in memory, and how slowly they may come."""

import asyncio
from datetime import timedelta

from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from google.rpc import error_details_pb2
from protobuf.wkt import Any as AnyDetail
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from groupconv.text import human_bytes

RETRY = 1.0
"""Seconds after which a caller that was refused for want of memory may try again."""


class Bodies:
    """An ASGI application that counts the bodies of another one's requests, from the first byte to the answer's end.

    The gate of the gRPC server counts messages that it has. These have not reached it.

    Args:
        app: the other one.
        limit: bytes that all bodies may hold.
        idle: seconds a caller may send nothing before its body ends.
    """

    def __init__(self, app: ASGIApp, limit: int, idle: float) -> None:
        self._app, self._limit, self._idle = app, limit, idle
        self._held = 0

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
                raise _full(self._limit)
            mine, self._held = mine + size, self._held + size
            complete = not message.get("more_body", False)
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= mine


def _full(limit: int) -> ConnectError:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(timedelta(seconds=RETRY))
    detail = AnyDetail(type_url=f"type.googleapis.com/{retry.DESCRIPTOR.full_name}", value=retry.SerializeToString())
    why = f"requests on the web port may hold {human_bytes(limit)} together; try again later"
    return ConnectError(Code.RESOURCE_EXHAUSTED, why, [ErrorDetail(detail)])
