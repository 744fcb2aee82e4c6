"""The awaiting session that runs streams too."""

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc

from groupconv.async_session import AsyncSession, in_threads, is_cancelled
from groupconv.errors import ForeignServerError, ResourceExhaustedError, TlsError, UnavailableError
from groupconv.network_calls import NetworkResult
from groupconv.networks.windows import Window
from groupconv.streaming.attempts import Attempts, may_try_again
from groupconv.streaming.network import NetworkStream
from groupconv.streaming.stream import STREAM, Transfer
from groupconv.transport.channel import LOST, from_aio_error
from groupconv.transport.exchange import Exchange

T = TypeVar("T")


class AsyncStreamSession(AsyncSession):
    """`StreamSession` with `await`."""

    async def _stream(self, transfer: Transfer, timeout: float | None) -> Any:
        self._check_open()
        attempts = Attempts(transfer, timeout)
        with contextlib.closing(transfer):
            while True:
                try:
                    await self._attempt(transfer, attempts.left())
                except (TlsError, ForeignServerError):  # another attempt would fail alike
                    raise
                except UnavailableError as error:
                    await asyncio.sleep(attempts.pause_after(error))
                else:
                    return transfer.filled()

    async def _stream_network(self, stream: NetworkStream, timeout: float | None) -> Any:
        """Run a stream through a network. The source and the outputs are used in threads, one at a time."""
        self._check_open()
        overall = Attempts(stream, timeout)
        pending: deque[tuple[Window, asyncio.Task[NetworkResult]]] = deque()

        async def put(window: Window, answer: asyncio.Task[NetworkResult]) -> None:
            await asyncio.to_thread(stream.put, window, await answer)

        with contextlib.closing(stream):
            plan = await self._persisted(stream.prepare, overall)
            try:
                for window in plan.windows():
                    if len(pending) == plan.in_flight:
                        await put(*pending.popleft())
                    arrays = await asyncio.to_thread(stream.arrays, window)
                    call = functools.partial(stream.call, arrays)
                    pending.append((window, asyncio.create_task(self._persisted(call, overall))))
                for last in pending:
                    await put(*last)
            finally:
                for _, task in pending:
                    task.cancel()
                await asyncio.gather(*(task for _, task in pending), return_exceptions=True)
            return stream.filled()

    async def _persisted(self, call: Callable[[], Exchange[T]], overall: Attempts) -> T:
        """Run an exchange, again after a lost connection or while the server is busy."""
        attempts: Attempts | None = None
        while True:
            try:
                return await self._run_exchange(call(), overall.left(), small=False)
            except (UnavailableError, ResourceExhaustedError) as error:
                if not may_try_again(error):
                    raise
                attempts = attempts or overall.apart()
                await asyncio.sleep(attempts.pause_after(error))

    async def _attempt(self, transfer: Transfer, timeout: float | None) -> None:
        """Run a stream over one connection: one task sends while another receives."""
        begin: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        failed: list[Exception] = []

        async def messages() -> AsyncIterator[bytes]:
            yield await asyncio.to_thread(transfer.header)
            try:
                async for chunk in in_threads(transfer.chunks(await begin)):
                    yield chunk
            except Exception as error:  # noqa: BLE001 - an error of the source, raised below
                failed.append(error)
                call.cancel()

        opened: Any = self._channel.stream_stream(STREAM)
        call = opened(messages(), timeout=timeout, metadata=self._metadata)
        try:
            answers = aiter(call)
            begin.set_result(await asyncio.to_thread(transfer.accepted, await anext(answers)))
            self._connected = True
            async for message in answers:
                await asyncio.to_thread(transfer.take, message)
        except (grpc.RpcError, asyncio.CancelledError) as error:
            if failed:
                raise failed.pop() from None  # this frame knows the list, and the error this frame
            if isinstance(error, grpc.RpcError):
                raise await asyncio.to_thread(self._explained, await from_aio_error(call, error)) from None
            if is_cancelled():
                raise
            raise UnavailableError(LOST) from None
        finally:
            begin.cancel()
            call.cancel()
