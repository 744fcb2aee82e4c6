"""The awaiting session."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
import numpy as np

from groupconv.errors import ForeignServerError, GroupconvError, TlsError, UnavailableError
from groupconv.session import BaseSession
from groupconv.transport.channel import LOST, from_aio_error, from_rpc_error
from groupconv.transport.exchange import Done, Exchange, Request, advance

SMALL = 2**20
"""Bytes that take less time to copy than to hand to another thread."""
T = TypeVar("T")


class AsyncSession(BaseSession[grpc.aio.Channel]):
    """`Session` with `await`. Large arrays are copied in other threads, so the event loop does not stall."""

    async def close(self) -> None:
        """Close the channel and cancel calls in flight. Arrays in shared memory stay valid."""
        if self._shared is not None:
            for request in self._shared.close():
                with contextlib.suppress(GroupconvError):  # the server releases the memory later by itself
                    await self._call(request, 1.0)
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def _run_exchange(self, exchange: Exchange[T], timeout: float | None = None, *, small: bool = True) -> T:
        """Send the requests of an exchange and return its value. Unless `small`, it runs in other threads."""

        async def advanced(answer: bytes | None = None) -> Request | Done:
            return advance(exchange, answer) if small else await asyncio.to_thread(advance, exchange, answer)

        step = await advanced()
        while isinstance(step, Request):
            try:
                answer = await self._call(step, timeout)
            except BaseException as error:  # noqa: BLE001 - the exchange handles it
                step = advance(exchange, error=error)
            else:
                step = await advanced(answer)
        value: T = step.value
        return value

    async def _call(self, request: Request, timeout: float | None) -> bytes:
        self._check_open()
        try:
            answer: bytes = await self._unary(request.method)(request.message, **self._options(timeout))
        except grpc.RpcError as error:
            raise await asyncio.to_thread(self._explained, from_rpc_error(error)) from None
        self._connected = True
        return answer

    async def _upload(self, method: str, messages: Callable[[], Iterator[bytes]], timeout: float | None) -> bytes:
        """Send a stream of messages and return the one answer. Tries again if grpc.aio lost the server's status."""
        self._check_open()
        failed: list[GroupconvError] = []  # a name would keep the error, and the error this frame
        for pause in (0.0, 0.1, 0.2, 0.4, 0.8):
            await asyncio.sleep(pause)
            opened: Any = self._connection.bound(self._channel.stream_unary, method)
            call = opened(in_threads(messages()), **self._options(timeout))
            try:
                answer: bytes = await call
            except grpc.RpcError as error:
                failed[:] = [await asyncio.to_thread(self._explained, await from_aio_error(call, error))]
                if isinstance(failed[0], TlsError | ForeignServerError) or not isinstance(failed[0], UnavailableError):
                    break
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                failed[:] = [UnavailableError(LOST)]
            else:
                self._connected = True
                return answer
        raise failed.pop()


def is_cancelled() -> bool:
    """Whether the task was cancelled by its owner. grpc.aio also cancels a call that ends while a message is sent."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def in_threads(messages: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The messages; each is made in another thread."""
    while (message := await asyncio.to_thread(next, messages, None)) is not None:
        yield message


def small(*arguments: Any) -> bool:
    """Whether the arguments, None apart, are NumPy arrays of less than `SMALL` bytes together: no thread is needed."""
    arrays = [a for a in arguments if a is not None]
    return all(isinstance(a, np.ndarray) for a in arrays) and sum(a.nbytes for a in arrays) < SMALL
