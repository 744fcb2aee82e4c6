"""Signals that end a command: it cleans up first, as after an error."""

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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
    came: queue.SimpleQueue[int] = queue.SimpleQueue()  # the queue that a signal's handler may put into
    done: Future[T] = Future()
    stopped = threading.Event()

    def check() -> None:
        if stopped.is_set():
            raise EndedError

    def run() -> None:
        try:
            done.set_result(work(check))
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            done.set_exception(error)
        came.put(0)

    with handled(lambda number, _: came.put(number)):
        threading.Thread(target=run, name="work", daemon=True).start()
        number = came.get()
        if number:
            stopped.set()
            stop()
            _await_end(came, number)
    if not number and not came.empty():
        number = came.get()
    if number:
        raise SystemExit(128 + number)
    return done.result()


@contextmanager
def handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Let `handler` handle the signals that end a command.

    A signal that is ignored, as SIGHUP is under nohup, stays ignored. Only the main thread gets signals.
    """
    main = threading.current_thread() is threading.main_thread()
    found = {s: signal.getsignal(s) for s in ENDING if main and signal.getsignal(s) is not signal.SIG_IGN}
    for number in found:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in found.items():
            signal.signal(number, before)


def _await_end(came: "queue.SimpleQueue[int]", number: int) -> None:
    try:
        again = came.get(timeout=PATIENCE)
    except queue.Empty:
        again = number
    if again:
        os._exit(128 + number)
