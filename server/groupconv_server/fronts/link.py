"""Calls in both directions between two processes of this server, over a pair of sockets. Descriptors travel along.

Messages are pickled, so both ends must be processes of this server. Nothing that a client sent is unpickled: it travels
as bytes or as arrays.
"""

import itertools
import logging
import os
import pickle
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Self

from groupconv.errors import GroupconvError, UnavailableError

log = logging.getLogger(__name__)

Handler = Callable[..., Any]
THREADS = 16
"""Calls of the other end that run at a time."""
_HEADER = struct.Struct("!Q")
_CALL, _ANSWER, _ERROR, _BEAT = range(4)
_Message = tuple[bytes, int | None]
"""A pickled message, and a duplicate of the descriptor that goes with it."""


class Link:
    """One end of a connection between two processes. Safe to use from several threads.

    Args:
        end: a connected Unix-domain stream socket.
        handlers: what the other end may call, by name. A descriptor that came with a call is their argument `handle`;
            they close it.
        lost: called once when the other process has gone, in the thread that reads.

    A thread of its own sends, so that nobody waits for a process that reads nothing, because it is stopped or hangs.

    Attributes:
        missed: looks since something came from the other process.

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
        self._ids, self._unsent = itertools.count(), SimpleQueue[_Message | None]()
        self._waiting: dict[int, Future[Any]] = {}
        self._over, self._lock = False, threading.Lock()
        self.missed = self._heard = self._seen = 0
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="link")
        self._writer = threading.Thread(target=self._write, name="link sender", daemon=True)
        self._writer.start()
        self._reader = threading.Thread(target=self._read, name="link", daemon=True)
        self._reader.start()

    @property
    def over(self) -> bool:
        """Whether the other process has gone."""
        return self._over

    @property
    def unsent(self) -> bool:
        """Whether something waits to be sent: the other process reads nothing now."""
        return not self._unsent.empty()

    def start(self, name: str, *arguments: Any, handle: int | None = None) -> "Future[Any]":
        """Begin a call; the future has its answer.

        Args:
            name: of the other end's handler.
            arguments: of it.
            handle: a descriptor that the other end gets a duplicate of.
        """
        answer: Future[Any] = Future()
        number = next(self._ids)
        data = pickle.dumps((_CALL, number, name, arguments))
        with self._lock:
            if self._over:
                answer.set_exception(_gone())
                return answer
            self._waiting[number] = answer
            self._unsent.put((data, None if handle is None else os.dup(handle)))
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
        if not self.unsent:
            self._send((_BEAT, 0))

    def look(self) -> int:
        """Look for a sign of life since the last look; returns `missed`, which stays 0 until there was a first one."""
        self.missed = 0 if self._heard != self._seen or not self._heard else self.missed + 1
        self._seen = self._heard
        return self.missed

    def fail(self, error: Exception) -> None:
        """End the calls that wait for answers with an error. The other process may answer them later, in vain."""
        with self._lock:
            waiting = list(self._waiting.values())
            self._waiting.clear()
        for answer in waiting:
            answer.set_exception(error)

    def close(self) -> None:
        """End the connection. Calls that wait for answers raise UnavailableError."""
        self._shut()
        if threading.current_thread() is not self._reader:
            self._reader.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, message: tuple[Any, ...]) -> None:
        self._unsent.put((pickle.dumps(message), None))

    def _write(self) -> None:
        try:
            while (message := self._unsent.get()) is not None:
                data, handle = message
                try:
                    socket.send_fds(self._end, [_HEADER.pack(len(data))], [] if handle is None else [handle])
                    self._end.sendall(data)
                finally:
                    if handle is not None:
                        os.close(handle)
        except OSError:
            log.debug("the other process has gone", exc_info=True)
        self._end_calls()  # from here on none is added
        while not self._unsent.empty():
            left = self._unsent.get()
            if left is not None and left[1] is not None:
                os.close(left[1])

    def _shut(self) -> None:
        try:
            self._end.shutdown(socket.SHUT_RDWR)
        except OSError:
            log.debug("the other process has closed the link already")

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
        self._shut()  # nothing is sent any more, also if the other process reads nothing
        self._unsent.put(None)
        self._writer.join()
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
            self._heard += 1
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
        except Exception as error:  # the answer cannot be pickled; without one the other process would wait for ever
            log.exception("the answer of %s cannot be sent to another process", name)
            self._send((_ERROR, number, RuntimeError(f"{name}: {type(error).__name__}: {error}")))

    def _end_calls(self) -> None:
        with self._lock:
            self._over = True
        self.fail(_gone())


def _gone() -> UnavailableError:
    return UnavailableError("a process of this server has gone; try again")
