"""Sessions: a channel to the server that runs exchanges, uploads and streams, blocking and awaiting."""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc
import grpc.aio
import numpy as np

from groupconv.convolution.steps import Step
from groupconv.errors import GroupconvError, UnavailableError
from groupconv.memory.shared import Shared
from groupconv.streaming.attempts import Attempts
from groupconv.streaming.stream import STREAM, Transfer
from groupconv.transport.channel import Metadata, from_aio_error, from_rpc_error
from groupconv.transport.exchange import Done, Exchange, Request, advance

SMALL = 2**20
"""Bytes that take less time to copy than to hand to another thread."""
T = TypeVar("T")
C = TypeVar("C", grpc.Channel, grpc.aio.Channel)


class _Session(Generic[C]):
    """What `Session` and `AsyncSession` share.

    Attributes:
        target: address of the server.
        timeout: seconds that a call may take, unless the call sets its own; None waits forever.
    """

    def __init__(
        self,
        channel: C,
        *,
        target: str,
        timeout: float | None,
        metadata: Metadata = (),
        shared: Shared | None = None,
    ) -> None:
        self._shared = shared
        self.target, self.timeout = target, timeout
        self._metadata = metadata
        self._channel: C = channel
        self._unary: Callable[[str], Any] = functools.cache(channel.unary_unary)  # no serializers: bytes in, bytes out

    def _seconds(self, timeout: float | None) -> float | None:
        return self.timeout if timeout is None else timeout

    def _options(self, timeout: float | None) -> dict[str, Any]:
        return {"timeout": self._seconds(timeout), "metadata": self._metadata}


class Session(_Session[grpc.Channel]):
    """A blocking session, safe to share between threads. Close it, or use it as a context manager."""

    def close(self) -> None:
        """Close the channel and cancel calls in flight. Arrays in shared memory stay valid."""
        if self._shared is not None:
            for request in self._shared.close():
                with contextlib.suppress(GroupconvError, ValueError):  # the server releases the memory later by itself
                    self._call(self._unary(request.method), request.message, 1.0)
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
        return self._call(self._channel.stream_unary(method), messages(), timeout)

    def _call(self, method: Any, request: Any, timeout: float | None) -> bytes:
        try:
            seconds = self.timeout if timeout is None else timeout
            answer: bytes = method(request, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        return answer

    def _stream(self, transfer: Transfer, timeout: float | None) -> Any:
        """Run a stream to its end. After a lost connection it resumes, with growing pauses."""
        attempts = Attempts(transfer, timeout)
        with contextlib.closing(transfer):
            while True:
                try:
                    self._attempt(transfer, attempts.left())
                except UnavailableError as error:
                    time.sleep(attempts.pause_after(error))
                else:
                    return transfer.filled()

    def _attempt(self, transfer: Transfer, timeout: float | None) -> None:
        """Run a stream over one connection: a thread of gRPC sends while this one receives."""
        begin = threading.Event()
        first: list[int] = []
        failed: list[Exception] = []

        def messages() -> Iterator[bytes]:
            yield transfer.header()
            begin.wait()
            try:
                if first:
                    yield from transfer.chunks(first[0])
            except Exception as error:  # noqa: BLE001 - an error of the source, raised below
                failed.append(error)
                call.cancel()

        opened: Any = self._channel.stream_stream(STREAM)
        call = opened(messages(), timeout=timeout, metadata=self._metadata)
        try:
            first.append(transfer.accepted(next(call)))
            begin.set()
            for message in call:
                transfer.take(message)
        except grpc.RpcError as error:
            if failed:
                raise failed[0] from None
            raise from_rpc_error(error) from None
        finally:
            begin.set()
            call.cancel()


class AsyncSession(_Session[grpc.aio.Channel]):
    """`Session` with `await`. Large arrays are copied in other threads, so the event loop does not stall."""

    async def close(self) -> None:
        """Close the channel and cancel calls in flight. Arrays in shared memory stay valid."""
        if self._shared is not None:
            for request in self._shared.close():
                with contextlib.suppress(GroupconvError):  # the server releases the memory later by itself
                    await self._call(request, 1.0)
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
        try:
            answer: bytes = await self._unary(request.method)(request.message, **self._options(timeout))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        return answer

    async def _upload(self, method: str, messages: Callable[[], Iterator[bytes]], timeout: float | None) -> bytes:
        """Send a stream of messages and return the one answer. Tries again if grpc.aio lost the server's status."""
        failed: UnavailableError
        for pause in (0.0, 0.1, 0.2, 0.4, 0.8):
            await asyncio.sleep(pause)
            opened: Any = self._channel.stream_unary(method)
            call = opened(_in_threads(messages()), **self._options(timeout))
            try:
                answer: bytes = await call
            except grpc.RpcError as error:
                found = await from_aio_error(call, error)
                if not isinstance(found, UnavailableError):
                    raise found from None
                failed = found
            else:
                return answer
        raise failed

    async def _stream(self, transfer: Transfer, timeout: float | None) -> Any:
        attempts = Attempts(transfer, timeout)
        with contextlib.closing(transfer):
            while True:
                try:
                    await self._attempt(transfer, attempts.left())
                except UnavailableError as error:
                    await asyncio.sleep(attempts.pause_after(error))
                else:
                    return transfer.filled()

    async def _attempt(self, transfer: Transfer, timeout: float | None) -> None:
        """Run a stream over one connection: one task sends while another receives."""
        begin: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        failed: list[Exception] = []

        async def messages() -> AsyncIterator[bytes]:
            yield await asyncio.to_thread(transfer.header)
            try:
                async for chunk in _in_threads(transfer.chunks(await begin)):
                    yield chunk
            except Exception as error:  # noqa: BLE001 - an error of the source, raised below
                failed.append(error)
                call.cancel()

        opened: Any = self._channel.stream_stream(STREAM)
        call = opened(messages(), timeout=timeout, metadata=self._metadata)
        try:
            answers = aiter(call)
            begin.set_result(await asyncio.to_thread(transfer.accepted, await anext(answers)))
            async for message in answers:
                await asyncio.to_thread(transfer.take, message)
        except (grpc.RpcError, asyncio.CancelledError) as error:
            if failed:
                raise failed[0] from None
            if isinstance(error, grpc.RpcError):
                raise await from_aio_error(call, error) from None
            raise
        finally:
            begin.cancel()
            call.cancel()


async def _in_threads(messages: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (message := await asyncio.to_thread(next, messages, None)) is not None:
        yield message


def small(out: Any, x: Any, steps: Sequence[Step] = ()) -> bool:
    """Whether all arguments are NumPy arrays of less than `SMALL` bytes together, which need no other thread."""
    arrays = [a for a in (out, x, *(a for step in steps for a in (step.kernel, step.bias))) if a is not None]
    return all(isinstance(a, np.ndarray) for a in arrays) and sum(a.nbytes for a in arrays) < SMALL
