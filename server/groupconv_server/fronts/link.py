"""Calls in both directions between two processes of this server, over a pair of sockets. Descriptors travel along.

Messages are pickled, so both ends must be processes of this server. Nothing that a client sent is unpickled: it travels
as bytes or as arrays.
"""

import itertools
import logging
import pickle
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Self

from groupconv.errors import GroupconvError, UnavailableError

log = logging.getLogger(__name__)

Handler = Callable[..., Any]
THREADS = 16
"""Calls of the other end that run at a time."""
_HEADER = struct.Struct("!Q")
_CALL, _ANSWER, _ERROR, _BEAT = range(4)


class Link:
    """One end of a connection between two processes. Safe to use from several threads.

    Args:
        end: a connected Unix-domain stream socket.
        handlers: what the other end may call, by name. A descriptor that came with a call is their argument `handle`;
            they close it.
        lost: called once when the other process has gone, in the thread that reads.

    Attributes:
        heard: how often something has come from the other process.

    Example:
        >>> here, there = socket.socketpair()
        >>> with Link(here, {}) as link, Link(there, {"add": lambda a, b: a + b}):
        ...     link.call("add", 2, 3)
        5
    """

    def __init__(
        self, end: socket.socket, handlers: Mapping[str, Handler], lost: Callable[[], None] = lambda: None
    ) -> None:
        self._end, self.handlers, self.lost = end, dict(handlers), lost
        self._ids, self._sending = itertools.count(), threading.Lock()
        self._waiting: dict[int, Future[Any]] = {}
        self._over, self._lock = False, threading.Lock()
        self.heard = 0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="link")
        self._reader = threading.Thread(target=self._read, name="link", daemon=True)
        self._reader.start()

    @property
    def over(self) -> bool:
        """Whether the other process has gone."""
        return self._over

    def start(self, name: str, *arguments: Any, handle: int | None = None) -> "Future[Any]":
        """Begin a call; the future has its answer.

        Args:
            name: of the other end's handler.
            arguments: of it.
            handle: a descriptor that the other end gets a duplicate of.
        """
        answer: Future[Any] = Future()
        with self._lock:
            if self._over:
                answer.set_exception(_gone())
                return answer
            number = next(self._ids)
            self._waiting[number] = answer
        try:
            self._send((_CALL, number, name, arguments), handle)
        except OSError:
            self._end_calls()
        return answer

    def call(self, name: str, *arguments: Any, handle: int | None = None) -> Any:
        """Call a handler of the other end and wait for its answer.

        Raises:
            UnavailableError: the other process has gone.
            Exception: what the handler raised.
        """
        return self.start(name, *arguments, handle=handle).result()

    def beat(self) -> None:
        """Show the other process that this one runs."""
        with suppress(OSError):  # it has gone
            self._send((_BEAT, 0))

    def close(self) -> None:
        """End the connection. Calls that wait for answers raise UnavailableError."""
        try:
            self._end.shutdown(socket.SHUT_RDWR)
        except OSError:
            log.debug("the other process has closed the link already")
        if threading.current_thread() is not self._reader:
            self._reader.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, message: tuple[Any, ...], handle: int | None = None) -> None:
        data = pickle.dumps(message)
        header = _HEADER.pack(len(data))
        with self._sending:
            socket.send_fds(self._end, [header], [] if handle is None else [handle])
            self._end.sendall(data)

    def _read(self) -> None:
        try:
            while True:
                header, handles, _, _ = socket.recv_fds(self._end, _HEADER.size, 1)
                if not header:
                    break
                header += self._received(_HEADER.size - len(header))
                kind, number, *rest = pickle.loads(self._received(_HEADER.unpack(header)[0]))  # noqa: S301 - our own
                if kind == _BEAT:
                    continue
                if kind == _CALL:
                    self._threads.submit(self._run, number, rest[0], rest[1], *handles)
                    continue
                with self._lock:
                    answer = self._waiting.pop(number, None)
                if answer is None:
                    continue  # a later call could not be sent, which has ended all
                if kind == _ANSWER:
                    answer.set_result(rest[0])
                else:
                    answer.set_exception(rest[0])
        except OSError:
            log.debug("a link has ended", exc_info=True)
        self._end_calls()
        self._threads.shutdown(wait=False)
        self._end.close()
        self.lost()

    def _received(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = self._end.recv_into(view)
            if not got:
                raise ConnectionResetError
            self.heard += 1
            view = view[got:]
        return data

    def _run(self, number: int, name: str, arguments: tuple[Any, ...], handle: int | None = None) -> None:
        more = {} if handle is None else {"handle": handle}
        message: tuple[Any, ...]
        try:
            message = _ANSWER, number, self.handlers[name](*arguments, **more)
        except GroupconvError as error:
            message = _ERROR, number, error
        except Exception as error:
            log.exception("a call of %s from another process failed", name)
            message = _ERROR, number, RuntimeError(f"{name}: {type(error).__name__}: {error}")
        try:
            self._send(message)
        except OSError:
            log.debug("nobody waits for the answer of %s", name)
        except Exception as error:  # the answer cannot be pickled; without one the other process would wait for ever
            log.exception("the answer of %s cannot be sent to another process", name)
            with suppress(OSError):
                self._send((_ERROR, number, RuntimeError(f"{name}: {type(error).__name__}: {error}")))

    def _end_calls(self) -> None:
        with self._lock:
            self._over, waiting = True, list(self._waiting.values())
            self._waiting.clear()
        for answer in waiting:
            answer.set_exception(_gone())


def _gone() -> UnavailableError:
    return UnavailableError("a process of this server has gone; try again")
