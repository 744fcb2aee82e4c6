"""One client's channel: what carries the calls of `groupconv.calls` and the streams, blocking and awaiting."""

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

from groupconv.errors import GroupconvError, UnavailableError
from groupconv.memory.shared import Shared
from groupconv.streaming.stream import STREAM, Attempts, Transfer
from groupconv.transport.channel import Metadata, from_aio_error, from_rpc_error
from groupconv.transport.exchange import Done, Exchange, Request, advance
from groupconv.wire.requests import Step

SMALL = 2**20
"""Bytes that are copied in less time than a thread takes to be told."""
T = TypeVar("T")
C = TypeVar("C", grpc.Channel, grpc.aio.Channel)


class _Session(Generic[C]):
    """What both have.

    Attributes:
        target: where the server is.
        timeout: seconds a call may take, unless the call says otherwise; None waits for ever.
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
    """A blocking channel, safe to share between threads; close it, or use it as a context manager."""

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled. Arrays in shared memory stay as they are."""
        if self._shared is not None:
            for ask in self._shared.close():
                with contextlib.suppress(GroupconvError, ValueError):  # the server lets it go by itself in time
                    self._call(self._unary(ask.method), ask.message, 1.0)
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _run_exchange(self, talk: Exchange[T], timeout: float | None = None) -> T:
        """Make the calls that a generator asks for, and give what it returns."""
        try:
            ask = next(talk)
            while True:
                try:
                    answer = self._call(self._unary(ask.method), ask.message, timeout)
                except BaseException as error:  # noqa: BLE001 - the generator's to judge
                    ask = talk.throw(error)
                else:
                    ask = talk.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value

    def _upload(self, method: str, messages: Callable[[], Iterator[bytes]], timeout: float | None) -> bytes:
        """Send a stream of messages for one answer."""
        return self._call(self._channel.stream_unary(method), messages(), timeout)

    def _call(self, method: Any, request: Any, timeout: float | None) -> bytes:
        try:
            seconds = self.timeout if timeout is None else timeout
            answer: bytes = method(request, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        return answer

    def _stream(self, made: Transfer, timeout: float | None) -> Any:
        """Attempts until it is done; only a lost connection is tried again, with growing pauses."""
        attempts = Attempts(made, timeout)
        with contextlib.closing(made):
            while True:
                try:
                    self._attempt(made, attempts.left())
                except UnavailableError as error:
                    time.sleep(attempts.pause_after(error))
                else:
                    return made.filled()

    def _attempt(self, made: Transfer, timeout: float | None) -> None:
        """One connection: gRPC's thread sends while this one receives."""
        begin = threading.Event()
        first: list[int] = []
        failed: list[Exception] = []

        def messages() -> Iterator[bytes]:
            yield made.header()
            begin.wait()
            try:
                if first:
                    yield from made.chunks(first[0])
            except Exception as error:  # noqa: BLE001 - the source's own, raised below
                failed.append(error)
                call.cancel()

        opened: Any = self._channel.stream_stream(STREAM)
        call = opened(messages(), timeout=timeout, metadata=self._metadata)
        try:
            first.append(made.accepted(next(call)))
            begin.set()
            for message in call:
                made.take(message)
        except grpc.RpcError as error:
            if failed:
                raise failed[0] from None
            raise from_rpc_error(error) from None
        finally:
            begin.set()
            call.cancel()


class AsyncSession(_Session[grpc.aio.Channel]):
    """`Session` with `await`. What is large is copied in threads, so that it does not stall the event loop."""

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled. Arrays in shared memory stay as they are."""
        if self._shared is not None:
            for ask in self._shared.close():
                with contextlib.suppress(GroupconvError):  # the server lets it go by itself in time
                    await self._call(ask, 1.0)
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def _run_exchange(self, talk: Exchange[T], timeout: float | None = None, *, small: bool = True) -> T:
        """Make the calls that a generator asks for, and give what it returns; in threads, unless it is small."""

        async def told(answer: bytes | None = None) -> Request | Done:
            return advance(talk, answer) if small else await asyncio.to_thread(advance, talk, answer)

        next_ = await told()
        while isinstance(next_, Request):
            try:
                answer = await self._call(next_, timeout)
            except BaseException as error:  # noqa: BLE001 - the generator's to judge
                next_ = advance(talk, error=error)
            else:
                next_ = await told(answer)
        value: T = next_.value
        return value

    async def _call(self, ask: Request, timeout: float | None) -> bytes:
        try:
            answer: bytes = await self._unary(ask.method)(ask.message, **self._options(timeout))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        return answer

    async def _upload(self, method: str, messages: Callable[[], Iterator[bytes]], timeout: float | None) -> bytes:
        """Send a stream of messages for one answer, again where grpc.aio lost why the server ended it."""
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

    async def _stream(self, made: Transfer, timeout: float | None) -> Any:
        attempts = Attempts(made, timeout)
        with contextlib.closing(made):
            while True:
                try:
                    await self._attempt(made, attempts.left())
                except UnavailableError as error:
                    await asyncio.sleep(attempts.pause_after(error))
                else:
                    return made.filled()

    async def _attempt(self, made: Transfer, timeout: float | None) -> None:
        """One connection: one task sends while another receives."""
        begin: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        failed: list[Exception] = []

        async def messages() -> AsyncIterator[bytes]:
            yield await asyncio.to_thread(made.header)
            try:
                async for chunk in _in_threads(made.chunks(await begin)):
                    yield chunk
            except Exception as error:  # noqa: BLE001 - the source's own, raised below
                failed.append(error)
                call.cancel()

        opened: Any = self._channel.stream_stream(STREAM)
        call = opened(messages(), timeout=timeout, metadata=self._metadata)
        try:
            answers = aiter(call)
            begin.set_result(await asyncio.to_thread(made.accepted, await anext(answers)))
            async for message in answers:
                await asyncio.to_thread(made.take, message)
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
    """Whether so little is copied that telling a thread would cost more; what is no array may be anything."""
    arrays = [a for a in (out, x, *(a for step in steps for a in (step.kernel, step.bias))) if a is not None]
    return all(isinstance(a, np.ndarray) for a in arrays) and sum(a.nbytes for a in arrays) < SMALL
