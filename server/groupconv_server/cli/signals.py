"""Signals that end a command: it cleans up first, as after an error."""

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
OVER = 0
"""The number that says that the work is over, where others say which signal came."""
PATIENCE = 10.0
"""Seconds that the work has to end after a signal. A command that is killed leaves no more behind than a late one."""

T = TypeVar("T")


class EndedError(Exception):
    """A signal has come."""


def ended_by_signals(work: Callable[[Callable[[], None]], T], stop: Callable[[], object]) -> T:
    """Run `work`; a signal ends it by an error, and the command with the exit code of shells, 128 and the number.

    The work runs in a thread of its own, because Python raises what a signal's handler raises between any two steps of
    the main thread: within `with lock:` the lock would stay taken, and cleaning up would wait for it forever. A second
    signal ends the process at once, and so does work that does not end in time.

    Args:
        work: returns the result. It cleans up after any error, and calls what it is given before it replaces a file:
            that raises EndedError once a signal has come, in case `stop` was too late to make it fail.
        stop: makes the work fail soon; it is called from another thread, as closing the client can be.

    Raises:
        SystemExit: a signal came.
        Exception: the work failed, with its own error.

    Example:
        >>> ended_by_signals(lambda check: 6 * 7, stop=lambda: None)
        42
    """
    done: Future[T] = Future()
    stopped = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def check() -> None:
        if stopped.is_set():
            raise EndedError

    def run() -> None:
        try:
            done.set_result(work(check))
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            done.set_exception(error)
        os.write(writer, bytes([OVER]))

    thread = threading.Thread(target=run, name="work", daemon=True)
    try:
        with handled(lambda *_: None, wakeup=writer):
            thread.start()
            number = _read(reader, None)
            if number:
                stopped.set()
                stop()
                if _read(reader, PATIENCE) != OVER:
                    os._exit(128 + number)
            thread.join()
        number = number or _read(reader, 0) or OVER
    finally:
        os.close(reader)
        os.close(writer)
    if number:
        raise SystemExit(128 + number)
    return done.result()


def _read(reader: int, seconds: float | None) -> int | None:
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    return os.read(reader, 1)[0] if poll.poll(None if seconds is None else 1000 * seconds) else None


@contextmanager
def handled(handler: Callable[[int, Any], None], wakeup: int = -1) -> Iterator[None]:
    """Let `handler` handle the signals that end a command.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored. Only the main thread gets signals.

    Args:
        handler: runs in the main thread, between two steps of Python. A signal that comes just before that thread goes
            to sleep does not wake it.
        wakeup: the end of a pipe; each signal's number is written to it as one byte, at once and in any thread.
    """
    main = threading.current_thread() is threading.main_thread()
    handlers = {s: signal.getsignal(s) for s in ENDING if main and signal.getsignal(s) is not signal.SIG_IGN}
    before = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False) if main else -1
    for number in handlers:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in handlers.items():
            signal.signal(number, old)
        if main:
            signal.set_wakeup_fd(before)
