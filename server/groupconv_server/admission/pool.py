"""The threads of requests: few at work, others in place of those that wait for their clients.

More threads at work than there are workers, and one that reads and answers meanwhile, gain nothing: they take the
interpreter and the caches from one another. A thread that has ended a request takes the next one without sleeping in
between. A thread that waits for a client, or serves a stream, is not at work, so another one takes its place. Where no
task is begun for a while, one more thread is started.

Tasks of different callers take turns, whoever has more of them. How many requests there are at all is bounded before
they come here (`gate.Gate`), and so is the number of threads that wait.
"""

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from contextvars import Context
from typing import Any

from groupconv.errors import CancelledError
from groupconv_server.admission.queue import FairQueue
from groupconv_server.telemetry.request import Request, current

PATIENCE = 0.02
"""Seconds that a thread may wait for a message, or a request for a thread, before another thread is started."""
TICK = 0.5
"""Seconds between looks for clients that are silent for too long, at most."""
Task = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_this = threading.local()


class RequestPool(Executor):
    """Runs tasks, those of different callers in turns and those of one caller in the order they come.

    Args:
        few: threads at work at a time, as long as they make progress.
        most: threads at work at a time, if they do not.
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
        return len(self._tasks)

    @property
    def threads(self) -> int:
        """Threads there are, at work or not."""
        return len(self._threads)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have `fn` called by the thread that rested last, whose caches are the warmest."""
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
                self._tasks.push(_caller_of(fn, args), task)
                self._late.set()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - as `Executor` has it
        """Begin nothing new; threads end with their tasks and with those that wait."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for thread in idle:
                thread.give(None)
        self._late.set()

    def end_oldest_wait(self) -> bool:
        """End the call whose first message has been waited for longest, to make room; False if there is none."""
        late = time.monotonic() - self._patience
        with self._lock:
            silent = [t for t in self._threads if t.since is not None and t.since < late and t.first]
            oldest = min(silent, key=lambda t: t.since or 0.0, default=None)
            if oldest is None:
                return False
            oldest.first = False  # it makes room once
        oldest.end_call()
        return True

    @property
    def _at_work(self) -> int:
        return len(self._threads) - self._aside

    def _start(self, task: Task) -> None:
        """One more thread; with the lock."""
        thread = _Thread(self)
        self._threads.add(thread)
        self._begun += 1
        threading.Thread(target=self._work, args=(thread, task), name="rpc", daemon=True).start()

    def _start_next(self) -> None:
        """Have a thread at work on the next task; with the lock."""
        task = self._tasks.pop()
        if isinstance(task, _Thread):
            self._return_to_work(task)
        else:
            self._start(task)

    def _return_to_work(self, thread: "_Thread") -> None:
        """A thread whose client has sent its message goes on; with the lock."""
        thread.aside = False
        self._aside -= 1
        self._begun += 1
        thread.give(None)

    def _work(self, thread: "_Thread", task: Task | None) -> None:
        _this.thread = thread
        while task is not None:
            _run(task)
            del task
            task = self._next(thread)

    def _next(self, thread: "_Thread") -> Task | None:
        """What a thread does next; None if it is to end."""
        with self._lock:
            if thread.aside:
                thread.aside = False
                self._aside -= 1
            while self._tasks and self._at_work <= self._few:
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
        """A thread is not at work until its task has ended; another one takes what waits."""
        with self._lock:
            self._put_aside(thread)

    def rejoin(self, thread: "_Thread") -> None:
        """Wait for a turn at work, if the thread was put aside while it waited for its client."""
        with self._lock:
            if not thread.aside:
                return
            if self._idle:  # it takes the place of one that rests, which ends
                other = self._idle.pop()
                self._threads.remove(other)
                other.give(None)
            if self._at_work < self._few and not self._tasks:
                thread.aside = False
                self._aside -= 1
                return
            self._tasks.push(_caller(current.get(), thread.context), thread)
            self._late.set()
        thread.wait()

    def _put_aside(self, thread: "_Thread") -> None:
        if not thread.aside:
            thread.aside = True
            self._aside += 1
            if self._tasks and self._at_work < self._few:
                self._start_next()

    def _watch(self) -> None:
        """See which threads are held up while tasks wait, and which clients are silent for too long."""
        tick = min(TICK, self._idle_limit / 4)
        while not self._closed:
            self._late.wait(tick)
            self._late.clear()
            self._end_silent()
            while self._tasks and not self._closed:
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
            if self._tasks and begun == self._begun and self._at_work < self._most:
                self._start_next()

    def _end_silent(self) -> None:
        """End the calls whose clients were silent for too long."""
        late = time.monotonic() - self._idle_limit
        with self._lock:
            silent = [t for t in self._threads if t.since is not None and t.since < late]
        for thread in silent:
            thread.since, thread.expired = None, True
            thread.end_call()


class _Thread:
    """One thread of the pool.

    Attributes:
        aside: whether it counts as one that is not at work.
        since: when it began to wait for a client, or None; on the clock of time.monotonic().
        first: whether it waits for a call's first message.
        expired: whether its client was silent for too long.
        context: of the call whose message it waits for, as gRPC gives it.
    """

    __slots__ = ("_bell", "_pool", "_task", "aside", "context", "expired", "first", "since")

    def __init__(self, pool: RequestPool) -> None:
        self._pool = pool
        self._bell = threading.Lock()
        self._bell.acquire()
        self._task: Task | None = None
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

    def step_aside(self) -> None:
        self._pool.step_aside(self)

    def rejoin(self) -> None:
        self._pool.rejoin(self)

    def end_call(self) -> None:
        context = self.context
        if context is not None:
            context.cancel()


def step_aside() -> None:
    """Say that the task of this thread will wait more than it works: a stream."""
    thread: _Thread | None = getattr(_this, "thread", None)
    if thread is not None:
        thread.step_aside()


def wait_for_client(function: Callable[..., Any], *args: Any, context: Any = None, first: bool = True) -> Any:
    """What `function` returns, which waits for a client's message.

    If that takes long, another thread takes this one's place. If it takes longer than the pool's limit, the call ends.

    Args:
        function: waits.
        args: for it.
        context: of the call, as gRPC gives it; None if it cannot be ended.
        first: whether it is the call's first message, so that the call may have to make room for others.

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
            thread.rejoin()
        thread.context = None


def _caller_of(fn: Callable[..., Any], args: tuple[Any, ...]) -> Hashable:
    """Whose task gRPC hands over: its token's name, else its connection.

    gRPC gives a function that is bound to the request's context, and the event of the call as its second argument.
    """
    context = getattr(fn, "__self__", None)
    request = context.get(current) if isinstance(context, Context) else None
    return _caller(request, getattr(args[1], "call", None) if len(args) > 1 else None)


def _caller(request: Request | None, call: Any) -> Hashable:
    """The token's name that a request came with, else the connection of a call."""
    if request is not None and request.token:
        return request.token
    return "" if call is None else str(call.peer())


def _run(task: Task) -> None:
    future, fn, args, kwargs = task
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - whoever waits for the future is told
        future.set_exception(error)
    else:
        future.set_result(result)
