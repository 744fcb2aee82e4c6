"""A session that runs streams too. `async_session` has the awaiting one."""

import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import grpc

from groupconv.errors import ForeignServerError, ResourceExhaustedError, TlsError, UnavailableError
from groupconv.network_calls import NetworkResult
from groupconv.networks.windows import Window
from groupconv.session import Session
from groupconv.streaming.attempts import Attempts, may_try_again
from groupconv.streaming.network import NetworkStream
from groupconv.streaming.stream import STREAM, Transfer
from groupconv.transport.channel import from_rpc_error
from groupconv.transport.exchange import Exchange

T = TypeVar("T")


class StreamSession(Session):
    """A blocking session with streams: feature maps larger than a message."""

    def _stream(self, transfer: Transfer, timeout: float | None) -> Any:
        """Run a stream to its end. After a lost connection it resumes, with growing pauses."""
        self._check_open()
        attempts = Attempts(transfer, timeout)
        with contextlib.closing(transfer):
            while True:
                try:
                    self._attempt(transfer, attempts.left())
                except (TlsError, ForeignServerError):  # another attempt would fail alike
                    raise
                except UnavailableError as error:
                    time.sleep(attempts.pause_after(error))
                else:
                    return transfer.filled()

    def _stream_network(self, stream: NetworkStream, timeout: float | None) -> Any:
        """Run a stream through a network: this thread reads and writes, others wait for the calls of windows."""
        self._check_open()
        overall = Attempts(stream, timeout)
        stopped = threading.Event()
        with contextlib.closing(stream):
            plan = self._persisted(stream.prepare, overall, stopped)
            with ThreadPoolExecutor(plan.in_flight) as pool:
                pending: deque[tuple[Window, Future[NetworkResult]]] = deque()
                try:
                    for window in plan.windows():
                        if len(pending) == plan.in_flight:
                            stream.put_oldest(pending)
                        call = functools.partial(stream.call, stream.arrays(window))
                        pending.append((window, pool.submit(self._persisted, call, overall, stopped)))
                    while pending:
                        stream.put_oldest(pending)
                finally:
                    stopped.set()
                    pool.shutdown(wait=False, cancel_futures=True)
            return stream.filled()

    def _persisted(self, call: Callable[[], Exchange[T]], overall: Attempts, stopped: threading.Event) -> T:
        """Run an exchange, again after a lost connection or while the server is busy."""
        attempts: Attempts | None = None
        while True:
            try:
                return self._run_exchange(call(), overall.left())
            except (UnavailableError, ResourceExhaustedError) as error:
                if not may_try_again(error):
                    raise
                attempts = attempts or overall.apart()
                if stopped.wait(attempts.pause_after(error)):
                    raise

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
            self._connected = True
            begin.set()
            for message in call:
                transfer.take(message)
        except grpc.RpcError as error:
            error.with_traceback(None)  # it is the call, which this frame knows: it would wait for the collector
            if failed:
                raise failed.pop() from None
            raise self._explained(from_rpc_error(error)) from None
        finally:
            begin.set()
            call.cancel()
