"""Refuses HTTP requests whose headers no part of the web port can read, before anything else sees them."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from groupconv_server.telemetry.request import ID_KEY

READ = frozenset(
    {
        b"authorization",
        b"baggage",
        b"connect-protocol-version",
        b"connect-timeout-ms",
        b"content-type",
        b"grpc-timeout",
        b"inference-header-content-length",
        b"traceparent",
        b"tracestate",
        ID_KEY.encode(),
    }
)
"""Headers that the web port reads. Others, such as the cookies of other servers of this host, may hold any bytes."""
PRINTABLE = bytes(range(0x20, 0x7F))


class Headers:
    """An ASGI application that checks the headers of another one's requests.

    Args:
        app: the other one. It gets no header with other characters than printable ASCII.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the other application, or refuse the request."""
        if scope["type"] == "http" and (why := _problem(scope["headers"])):
            # a proxy may have understood the request otherwise: what follows on this connection is not read
            refusal = JSONResponse({"code": "invalid_argument", "message": why}, 400, {"Connection": "close"})
            await refusal(scope, receive, send)
            return
        if scope["type"] == "http":
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if _printable(value)]}
        await self._app(scope, receive, send)


def _problem(headers: list[tuple[bytes, bytes]]) -> str:
    """What is wrong with the headers; empty if nothing is."""
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in headers}:
        return "transfer-encoding: expected none beside content-length, got both"
    for name, value in headers:
        if name in READ and not _printable(value):
            return f"{name.decode()}: expected printable ASCII, got {value[:80]!r}"
    return ""


def _printable(value: bytes) -> bool:
    return not value.translate(None, PRINTABLE)
