"""A session: a channel to the server that runs exchanges and uploads. `async_session` has the awaiting one."""

import contextlib
import functools
import numbers
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
import grpc.aio

from groupconv.errors import (
    ForeignServerError,
    GroupconvError,
    InvalidArgumentError,
    UnavailableError,
    UnimplementedError,
    Words,
)
from groupconv.memory.shared import Shared
from groupconv.transport.channel import Connection, from_rpc_error
from groupconv.transport.diagnosis import diagnose
from groupconv.transport.exchange import Exchange

T = TypeVar("T")
C = TypeVar("C", grpc.Channel, grpc.aio.Channel)


class BaseSession(Generic[C]):
    """What `Session` and `AsyncSession` share.

    Attributes:
        target: address of the server.
        timeout: seconds that a call may take, unless the call sets its own; None waits forever.
    """

    def __init__(
        self,
        channel: C,
        connection: Connection,
        *,
        timeout: float | None,
        shared: Shared | None = None,
    ) -> None:
        check_timeout(timeout)
        self._shared, self._connection = shared, connection
        self._channel: C = channel
        self.target, self.timeout = connection.target, timeout
        self._metadata = connection.metadata
        self._closed = False
        self._connected = False  # whether the server has answered
        self._unary: Callable[[str], Any] = functools.cache(functools.partial(connection.bound, channel.unary_unary))

    def __repr__(self) -> str:
        security = "TLS" if self._connection.encrypted else "no TLS"
        token = ", with a token" if self._connection.token else ""
        shared = ", shared memory" if self._shared is not None else ""
        state = "closed" if self._closed else f"{security}{token}{shared}, timeout {self.timeout} s"
        return f"<{type(self).__module__.removesuffix('.client')}.Client of {self.target}: {state}>"

    def _check_open(self) -> None:
        """Raise InvalidArgumentError if the client is closed."""
        if self._closed:
            raise InvalidArgumentError("client", "an open client", Words("a closed one"))

    def _explained(self, error: GroupconvError) -> GroupconvError:
        """The error of a call, with the cause if there was never a connection to a groupconv server."""
        if self._connected or self._closed or error.request_id:
            return error
        if isinstance(error, UnimplementedError):
            return ForeignServerError(self.target, f"the server there is not groupconv ({error}); give another address")
        return (diagnose(self._connection) or error) if isinstance(error, UnavailableError) else error

    def _seconds(self, timeout: float | None) -> float | None:
        if timeout is None:
            return self.timeout
        check_timeout(timeout)
        return timeout

    def _options(self, timeout: float | None) -> dict[str, Any]:
        return {"timeout": self._seconds(timeout), "metadata": self._metadata}


LONGEST_TIMEOUT = 10**8
"""Most seconds of a timeout: more overflow gRPC's clock."""


def check_timeout(timeout: Any) -> None:
    """Raise InvalidArgumentError if a timeout is neither a number of seconds nor None.

    gRPC takes infinity, too, for a deadline that has passed.
    """
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, numbers.Real):
        raise InvalidArgumentError("timeout", "a number of seconds, or None", timeout)
    if not timeout <= LONGEST_TIMEOUT:
        raise InvalidArgumentError("timeout", f"at most {LONGEST_TIMEOUT} seconds, or None", timeout)


class Session(BaseSession[grpc.Channel]):
    """A blocking session, safe to share between threads. Close it, or use it as a context manager."""

    def close(self) -> None:
        """Close the channel and cancel calls in flight. Arrays in shared memory stay valid."""
        if self._shared is not None:
            for request in self._shared.close():
                with contextlib.suppress(GroupconvError, ValueError):  # the server releases the memory later by itself
                    self._call(self._unary(request.method), request.message, 1.0)
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _run_exchange(self, exchange: Exchange[T], timeout: float | None = None) -> T:
        """Send the requests of an exchange and return its value."""
        try:
            request = next(exchange)
            while True:
                try:
                    answer = self._call(self._unary(request.method), request.message, timeout)
                except BaseException as error:  # noqa: BLE001 - the exchange handles it
                    request = exchange.throw(error)
                else:
                    request = exchange.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value

    def _upload(self, method: str, messages: Callable[[], Iterator[bytes]], timeout: float | None) -> bytes:
        """Send a stream of messages and return the one answer."""
        self._check_open()
        return self._call(self._connection.bound(self._channel.stream_unary, method), messages(), timeout)

    def _call(self, method: Any, request: Any, timeout: float | None) -> bytes:
        self._check_open()
        try:
            answer: bytes = method(request, timeout=self._seconds(timeout), metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._explained(from_rpc_error(error)) from None
        self._connected = True
        return answer
