"""The thread pool of requests: few threads at work, others in place of those that wait for their clients.

One thread for each worker, and one more that reads and answers meanwhile, are enough. More would only compete for the
interpreter and the caches. A thread that ends a request takes the next one without sleeping in between. A thread that
waits for a client, or serves a stream, does not count as at work, so another one takes its place. If no task begins for
a while, one more thread starts.

Callers are served round robin. The gate bounds the number of requests before they come here, and so of threads too.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from groupconv.errors import CancelledError
from groupconv_server.admission.queue import FairQueue, caller_of, caller_of_task
from groupconv_server.telemetry.request import current

PATIENCE = 0.02
"""Seconds that a thread may wait for a message, or a request for a thread, before another thread starts."""
TICK = 0.5
"""Seconds between looks for silent clients, at most."""
Task = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_this = threading.local()


class RequestPool(Executor):
    """Runs tasks: callers in turns, and the tasks of one caller in their order.

    Args:
        few: threads at work while they make progress.
        most: threads at work if they do not.
        patience: see `PATIENCE`.
        idle: seconds that a client may be silent while a thread waits for its message.

    Example:
        >>> pool = RequestPool(1, 2)
        >>> pool.submit(pow, 2, 10).result()
        1024
        >>> pool.shutdown()
    """

    def __init__(self, few: int, most: int, patience: float = PATIENCE, idle: float = 300.0) -> None:
        self._few, self._most, self._patience, self._idle_limit = min(few, most), most, patience, idle
        self._lock = threading.Lock()
        self._idle: list[_Thread] = []
        self._threads: set[_Thread] = set()
        self._tasks: FairQueue[Task | _Thread] = FairQueue()
        self._aside = self._begun = 0
        self._closed = False
        self._late = threading.Event()
        threading.Thread(target=self._watch, name="rpc watch", daemon=True).start()

    @property
    def waiting(self) -> int:
        """Tasks that wait for a thread."""
        return self._tasks.count

    @property
    def threads(self) -> int:
        """Threads, at work or not."""
        return len(self._threads)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have `fn` called, by the thread that became idle last: its caches are the warmest."""
        future: Future[Any] = Future()
        task = future, fn, args, kwargs
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is shut down")
            if self._idle:
                self._begun += 1
                self._idle.pop().give(task)
            elif self._at_work < self._few:
                self._start(task)
            else:
                self._tasks.push(caller_of_task(fn, args), task)
                self._late.set()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - as `Executor` has it
        """Accept no more tasks. Threads end once no task is left."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for thread in idle:
                thread.give(None)
        self._late.set()

    def end_oldest_wait(self) -> bool:
        """Make room: cancel the call that is silent for longest since it came; False if there is none."""
        late = time.monotonic() - self._patience
        with self._lock:
            silent = [t for t in self._threads if t.since is not None and t.since < late and t.first]
            oldest = min(silent, key=lambda t: t.since or 0.0, default=None)
            if oldest is None:
                return False
            oldest.first = False  # a call makes room once
        oldest.end_call()
        return True

    @property
    def _at_work(self) -> int:
        return len(self._threads) - self._aside

    def _start(self, task: Task) -> None:
        """Start one more thread. The caller holds the lock."""
        thread = _Thread(self, task)
        self._threads.add(thread)
        self._begun += 1
        threading.Thread(target=self._work, args=(thread,), name="rpc", daemon=True).start()

    def _start_next(self) -> None:
        """Put a thread to work on the next task. The caller holds the lock."""
        task = self._tasks.pop()
        if isinstance(task, _Thread):
            self._return_to_work(task)
        else:
            self._start(task)

    def _return_to_work(self, thread: "_Thread") -> None:
        """Let a thread go on whose client has sent its message. The caller holds the lock."""
        thread.aside = False
        self._aside -= 1
        self._begun += 1
        thread.give(None)

    def _work(self, thread: "_Thread") -> None:
        _this.thread, task = thread, thread.wait()  # an argument would stay until the thread ends
        while task is not None:
            _run(task)
            del task
            task = self._next(thread)

    def _next(self, thread: "_Thread") -> Task | None:
        """The next task of a thread; None if it is to end."""
        with self._lock:
            if thread.aside:
                thread.aside = False
                self._aside -= 1
            while self._tasks.count and self._at_work <= self._few:
                task = self._tasks.pop()
                if not isinstance(task, _Thread):
                    self._begun += 1
                    return task
                self._return_to_work(task)
            if self._at_work > self._few or self._closed:
                self._threads.remove(thread)
                return None
            self._idle.append(thread)
        return thread.wait()

    def step_aside(self, thread: "_Thread") -> None:
        """Count a thread as not at work until its task ends, and let another one take the next task."""
        with self._lock:
            self._put_aside(thread)

    def rejoin(self, thread: "_Thread") -> None:
        """Wait to be at work again, if the thread was put aside while it waited for its client."""
        with self._lock:
            if not thread.aside:
                return
            if self._idle:  # the thread replaces an idle one, which ends
                other = self._idle.pop()
                self._threads.remove(other)
                other.give(None)
            if self._at_work < self._few and not self._tasks.count:
                thread.aside = False
                self._aside -= 1
                return
            self._tasks.push(caller_of(current.get(), thread.context), thread)
            self._late.set()
        thread.wait()

    def _put_aside(self, thread: "_Thread") -> None:
        if not thread.aside:
            thread.aside = True
            self._aside += 1
            if self._tasks.count and self._at_work < self._few:
                self._start_next()

    def _watch(self) -> None:
        """Find threads that are held up while tasks wait, and clients that are silent for too long."""
        tick = min(TICK, self._idle_limit / 4)
        while not self._closed:
            self._late.wait(tick)
            self._late.clear()
            self._end_silent()
            while self._tasks.count and not self._closed:
                begun = self._begun
                time.sleep(self._patience)
                self._relieve(begun)
                self._end_silent()

    def _relieve(self, begun: int) -> None:
        late = time.monotonic() - self._patience
        with self._lock:
            for thread in list(self._threads):
                if thread.since is not None and thread.since < late:
                    self._put_aside(thread)
            if self._tasks.count and begun == self._begun and self._at_work < self._most:
                self._start_next()

    def _end_silent(self) -> None:
        """Cancel the calls whose clients were silent for too long."""
        late = time.monotonic() - self._idle_limit
        with self._lock:
            silent = [t for t in self._threads if t.since is not None and t.since < late]
        for thread in silent:
            thread.since, thread.expired = None, True
            thread.end_call()


class _Thread:
    """One thread of the pool.

    Attributes:
        aside: True if it does not count as at work.
        since: when it began to wait for a client, on the clock of time.monotonic(), or None.
        first: True if it waits for a call's first message.
        expired: True if its client was silent for too long.
        context: gRPC's context of the call whose message it waits for.
    """

    __slots__ = ("_bell", "_task", "aside", "context", "expired", "first", "pool", "since")

    def __init__(self, pool: RequestPool, task: Task) -> None:
        self.pool = pool
        self._bell = threading.Lock()
        self._task: Task | None = task
        self.aside = self.first = self.expired = False
        self.since: float | None = None
        self.context: Any = None

    def give(self, task: Task | None) -> None:
        self._task = task
        self._bell.release()

    def wait(self) -> Task | None:
        self._bell.acquire()
        task, self._task = self._task, None
        return task

    def end_call(self) -> None:
        if (context := self.context) is not None:
            context.cancel()


def step_aside() -> None:
    """Count this thread as not at work until its task ends: a stream waits more than it works."""
    thread: _Thread | None = getattr(_this, "thread", None)
    if thread is not None:
        thread.pool.step_aside(thread)


def wait_for_client(function: Callable[..., Any], *args: Any, context: Any = None, first: bool = True) -> Any:
    """Call a function that waits for a client's message.

    If that takes long, another thread takes this one's place. If it takes longer than the pool's limit, the call ends.

    Args:
        function: waits for the message and returns it.
        args: of the function.
        context: gRPC's context of the call; None if it cannot be ended.
        first: True for the call's first message. While that is awaited, the call may have to make room for others.

    Raises:
        CancelledError: the client was silent for too long.
    """
    thread: _Thread | None = getattr(_this, "thread", None)
    if thread is None:
        return function(*args)
    streams = thread.aside
    thread.context, thread.first, thread.expired = context, first, False
    thread.since = time.monotonic()
    try:
        return function(*args)
    finally:
        thread.since = None
        if thread.expired:
            raise CancelledError("the client sent nothing for longer than --stream-idle allows")
        if not streams and thread.aside:
            thread.pool.rejoin(thread)
        thread.context = None


def _run(task: Task) -> None:
    future, fn, args, kwargs = task
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - the future passes it on
        future.set_exception(error)
    else:
        future.set_result(result)
