"""Streams that do nothing until somebody waits: the work of a stream runs only when a synchronisation needs it.

A real device may run what is queued early or late; this one runs it as late as it may, in the order that the
streams and events demand and no other. A missing event or synchronisation therefore shows as a wrong result.

What is captured does not run. A graph knows the addresses its work was given and no more: before it runs, each must
lie in memory that is still allocated, and it holds on to none.

A stream that waits for a value lets other threads do the device's work meanwhile. Nothing else can make it go on: whose
stream is to write the value must be waited for by another thread, or the host writes it.
"""

import bisect
import ctypes
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Self

RUNNING = threading.Condition(threading.RLock())  # one device: its work is done by one thread at a time
GLANCE = 0.001  # seconds between two looks at a word, which the host may write at any time


class Stream:
    null: "Stream"
    _by_ptr: ClassVar["weakref.WeakValueDictionary[int, Stream]"] = weakref.WeakValueDictionary()

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr, self._device = 0 if null else id(self), None if null else current_device()
        self._by_ptr[self.ptr] = self
        self._queue: deque[Callable[[], None]] = deque()
        self._put, self._done, self._finished = 0, 0, 0
        self._runs_in: int | None = None  # the thread that runs its work
        self._graph: Graph | None = None

    @classmethod
    def at(cls, ptr: int) -> "Stream":
        return cls._by_ptr[ptr]

    def enqueue(self, work: Callable[[], None], *addresses: int) -> None:
        """`addresses` are of the memory that `work` reads and writes: a captured one may use no other."""
        assert self._device in (None, current_device()), "a stream of another device"
        with RUNNING:
            if self._graph is not None:
                assert addresses, "this cannot be captured"
                self._graph.work.append((work, addresses))
                return
            self.append(work)

    def append(self, work: Callable[[], None]) -> None:
        """Behind what is queued, whichever device is the current one: memory is freed by the garbage collector."""
        with RUNNING:
            self._queue.append(work)
            self._put += 1

    def begin_capture(self) -> None:
        assert self.ptr, "cannot capture on the default (legacy) stream"
        self._graph = Graph()

    def end_capture(self) -> "Graph":
        graph, self._graph = self._graph, None
        assert graph is not None
        return graph

    def is_capturing(self) -> bool:
        return self._graph is not None

    def run_until(self, count: int) -> None:
        mine = threading.get_ident()
        with RUNNING:
            while True:
                if self._runs_in not in (None, mine):  # another thread, which waits for a value
                    if self._finished >= count:
                        return
                    RUNNING.wait()
                    continue
                if self._done >= count:
                    return
                outer, self._runs_in = self._runs_in, mine
                try:
                    self._done += 1
                    self._queue.popleft()()
                finally:
                    self._finished += 1
                    self._runs_in = outer
                    RUNNING.notify_all()

    def synchronize(self) -> None:
        assert self._graph is None, "a stream that captures cannot be waited for"
        self.run_until(self._put)

    def record(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        self.enqueue(event.run)

    def wait_value(self, address: int, value: int) -> None:
        """What is put here later runs once the word at an address is at least `value`."""
        word = ctypes.c_int64.from_address(address)

        def wait() -> None:
            while word.value < value:
                RUNNING.wait(GLANCE)

        self._enqueue_value(address, wait)

    def write_value(self, address: int, value: int) -> None:
        word = ctypes.c_int64.from_address(address)
        self._enqueue_value(address, lambda: setattr(word, "value", value))

    def _enqueue_value(self, address: int, work: Callable[[], None]) -> None:
        assert allocated(address, 8), "not on the device, and not page-locked"
        assert self._graph is None, "a captured value would be that of every run"
        self.enqueue(work)

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


class Graph:
    def __init__(self) -> None:
        self.work: list[tuple[Callable[[], None], tuple[int, ...]]] = []

    def upload(self, stream: Stream) -> None:
        pass

    def launch(self, stream: Stream) -> None:
        with RUNNING:  # as one: what other threads launch on the stream comes before or after all of it
            for work, addresses in self.work:
                stream.enqueue(partial(self._run, work, addresses), *addresses)

    @staticmethod
    def _run(work: Callable[[], None], addresses: tuple[int, ...]) -> None:
        for address in addresses:
            assert allocated(address), "the graph names memory that was freed"
        work()


def current_device() -> int:
    return CURRENT.devices[-1]


ALLOCATED: list[tuple[int, int]] = []
"""(first, last) address of everything on the device and of pinned memory, in order."""


def allocate(address: int, size: int) -> None:
    with RUNNING:
        bisect.insort(ALLOCATED, (address, address + size - 1))


def free(address: int, size: int) -> None:
    with RUNNING:
        ALLOCATED.remove((address, address + size - 1))


def allocated(address: int, size: int = 1) -> bool:
    at = bisect.bisect(ALLOCATED, (address, sys.maxsize))
    return at > 0 and address + size - 1 <= ALLOCATED[at - 1][1]


class _Current(threading.local):
    def __init__(self) -> None:
        self.stack, self.devices = [NULL], [0]


NULL = Stream.null = Stream(null=True)
CURRENT = _Current()


def current() -> Stream:
    return CURRENT.stack[-1]
