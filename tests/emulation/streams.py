"""Streams that do nothing until somebody waits: the work of a stream runs only when a synchronisation needs it.

A real device may run what is queued early or late; this one runs it as late as it may, in the order that the
streams and events demand and no other. A missing event or synchronisation therefore shows as a wrong result.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Self

RUNNING = threading.RLock()  # one device: its work is done by one thread at a time


class Stream:
    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr = 0 if null else id(self)
        self._queue: deque[Callable[[], None]] = deque()
        self._put, self._done = 0, 0

    def enqueue(self, work: Callable[[], None]) -> None:
        with RUNNING:
            self._queue.append(work)
            self._put += 1

    def run_until(self, count: int) -> None:
        with RUNNING:
            while self._done < count:
                self._done += 1
                self._queue.popleft()()

    def synchronize(self) -> None:
        self.run_until(self._put)

    def record(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        self.enqueue(event.run)

    def __enter__(self) -> Self:
        CURRENT.stack.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        CURRENT.stack.pop()


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self._stream, self._count = NULL, 0
        self.time = 0.0

    def record(self, stream: "Stream | None" = None) -> None:
        self._stream = stream or current()
        self._stream.enqueue(self._mark)
        self._count = self._stream._put

    def _mark(self) -> None:
        self.time = time.perf_counter()

    def run(self) -> None:
        self._stream.run_until(self._count)

    synchronize = run


class _Current(threading.local):
    def __init__(self) -> None:
        self.stack = [NULL]


NULL = Stream(null=True)
CURRENT = _Current()


def current() -> Stream:
    return CURRENT.stack[-1]
