"""Forwards calls from the web port to the gRPC server of this process.

Every rule (tokens, limits, queue, deadlines, audit, metrics, traces) stays where it is, in the gRPC server: a call from
a browser is a call like any other. It travels over a Unix socket in a folder that only this user can enter. The address
of the browser is sent along, and the gRPC server believes it on that socket alone.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from anyio import CapacityLimiter, to_thread
from connectrpc.code import Code
from connectrpc.errors import ConnectError, ErrorDetail
from google.rpc import status_pb2
from grpc import aio
from protobuf.wkt import Any as AnyDetail

from groupconv.errors import UnauthenticatedError
from groupconv.session import LONGEST_TIMEOUT
from groupconv_server.access.tokens import Tokens
from groupconv_server.telemetry.request import ID_KEY, PEER_KEY

FORWARDED = frozenset({"authorization", ID_KEY, "traceparent", "tracestate", "baggage"})
"""Headers of a request that become its metadata. A browser adds others, which the server does not read."""
STATUS_KEY = "grpc-status-details-bin"
THREADS = 2
"""Messages in JSON that are parsed or written at a time: each may take a hundred times its size for a moment."""
Headers = Mapping[str, str]
T = TypeVar("T")


class Gateway:
    """A channel to the gRPC server. Use it in one event loop, as an async context manager.

    Args:
        target: the server's socket, as gRPC names it.
        limit: bytes of a message, at most.
        tokens: who is admitted; None admits everybody.
    """

    def __init__(self, target: str, limit: int, tokens: Tokens | None) -> None:
        self._tokens = tokens
        self._beside = CapacityLimiter(THREADS)
        self._channel = aio.insecure_channel(
            target,
            options=[
                ("grpc.max_send_message_length", limit),
                ("grpc.max_receive_message_length", limit),
                ("grpc.enable_retries", 0),  # the caller tries again, not this process
            ],
        )

    async def call(
        self, method: str, message: bytes, headers: Headers, peer: str, timeout: float | None = None
    ) -> tuple[bytes, str]:
        """Call a unary method.

        Args:
            method: its path, `/package.Service/Method`.
            message: the request, encoded.
            headers: of the HTTP request, with lower-case names.
            peer: address of the caller, `host:port`.
            timeout: seconds; None has none.

        Returns:
            The answer, encoded, and the request's id.

        Raises:
            ConnectError: the call's status, with its details.
        """
        metadata = [(key, value) for key, value in headers.items() if key in FORWARDED]
        metadata.append((PEER_KEY, f"web:{peer}"))
        multi: aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        if timeout is not None:  # gRPC takes one beyond its clock for one that has passed
            timeout = min(timeout, LONGEST_TIMEOUT)
        call = multi(message, timeout=timeout, metadata=metadata)
        try:
            answer = await call
        except aio.AioRpcError as error:
            raise connect_error(error) from None
        trailers = dict(await call.trailing_metadata() or ())
        return answer, str(trailers.get(ID_KEY, ""))

    async def beside(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function that takes long, such as a parser, in a thread: other connections go on."""
        return await to_thread.run_sync(function, *args, limiter=self._beside)

    async def refuse_without_token(self, method: str, headers: Headers, peer: str) -> None:
        """Refuse a caller without a token before its message is read.

        The refusal comes from the gRPC server, which counts and audits it. It gets the call without its message.

        Raises:
            ConnectError: the refusal.
        """
        if self._tokens is None:
            return
        try:
            self._tokens.caller(headers.items())
        except UnauthenticatedError:
            await self.call(method, b"", headers, peer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._channel.close()


def connect_error(error: aio.AioRpcError) -> ConnectError:
    """The same status as connectrpc has it."""
    details = []
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_KEY and isinstance(value, bytes):
            packed = status_pb2.Status.FromString(value).details
            details = [ErrorDetail(AnyDetail(type_url=d.type_url, value=d.value)) for d in packed]
    return ConnectError(code_of(error.code()), error.details() or "", details)


def code_of(status: grpc.StatusCode) -> Code:
    """connectrpc's code of a status.

    Example:
        >>> code_of(grpc.StatusCode.CANCELLED), code_of(grpc.StatusCode.NOT_FOUND)
        (<Code.CANCELED: 'canceled'>, <Code.NOT_FOUND: 'not_found'>)
    """
    return Code.CANCELED if status is grpc.StatusCode.CANCELLED else Code[status.name]
