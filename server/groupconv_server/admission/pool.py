"""The threads of requests: as few as can be busy, and more while some of these are held up.

More threads at work than there are workers, and one that reads and answers meanwhile, gain nothing: they take the
interpreter and the caches from one another, and hand over by falling asleep and being woken, where one of few finds its
next request waiting. But a thread that waits for a client, or serves a stream, is not at work, so another one takes its
place; and where nothing is begun for a while, one more tries.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

PATIENCE = 0.02
"""Seconds that a thread may wait for a message, or a request for a thread, before another thread is started."""
Task = tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_this = threading.local()


class RequestPool(Executor):
    """Runs tasks in the order they come.

    Args:
        few: threads at work at a time, as long as these get on.
        most: threads there may be.
        patience: see `PATIENCE`.

    Example:
        >>> crew = RequestPool(1, 2)
        >>> crew.submit(pow, 2, 10).result()
        1024
        >>> crew.shutdown()
    """

    def __init__(self, few: int, most: int, patience: float = PATIENCE) -> None:
        self._few, self._most, self._patience = min(few, most), most, patience
        self._lock = threading.Lock()
        self._idle: list[_Hand] = []
        self._hands: set[_Hand] = set()
        self._tasks: deque[Task] = deque()
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
        return len(self._hands)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have `fn` called by the thread that rested last, whose caches are the warmest."""
        future: Future[Any] = Future()
        task = future, fn, args, kwargs
        with self._lock:
            if self._closed:
                raise RuntimeError("the crew has gone home")
            if self._idle:
                self._begun += 1
                self._idle.pop().give(task)
            elif self._at_work < self._few:
                self._start(task)
            else:
                self._tasks.append(task)
                self._late.set()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - as `Executor` has it
        """Begin nothing new; threads end with what they are at, and what waits."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for hand in idle:
                hand.give(None)
        self._late.set()

    @property
    def _at_work(self) -> int:
        return len(self._hands) - self._aside

    def _start(self, task: Task) -> None:
        """One more thread, unless there may be no more; with the lock."""
        if len(self._hands) >= self._most:
            self._tasks.appendleft(task)
            return
        hand = _Hand(self)
        self._hands.add(hand)
        self._begun += 1
        threading.Thread(target=self._work, args=(hand, task), name="rpc", daemon=True).start()

    def _work(self, hand: "_Hand", task: Task | None) -> None:
        _this.hand = hand
        while task is not None:
            _run(task)
            del task
            task = self._next(hand)

    def _next(self, hand: "_Hand") -> Task | None:
        """What a thread does next; None if it is to end."""
        with self._lock:
            if hand.aside:
                hand.aside = False
                self._aside -= 1
            if self._at_work > self._few or (self._closed and not self._tasks):
                self._hands.remove(hand)
                return None
            if self._tasks:
                self._begun += 1
                return self._tasks.popleft()
            self._idle.append(hand)
        return hand.wait()

    def step_aside(self, hand: "_Hand") -> None:
        """A thread is not at work until its task has ended; another one takes what waits."""
        with self._lock:
            self._put_aside(hand)

    def _put_aside(self, hand: "_Hand") -> None:
        if not hand.aside:
            hand.aside = True
            self._aside += 1
            if self._tasks and self._at_work < self._few:
                self._start(self._tasks.popleft())

    def _watch(self) -> None:
        """While tasks wait, see who is held up."""
        while not self._closed:
            self._late.wait()
            self._late.clear()
            while self._tasks and not self._closed:
                begun = self._begun
                time.sleep(self._patience)
                self._relieve(begun)

    def _relieve(self, begun: int) -> None:
        late = time.monotonic() - self._patience
        with self._lock:
            for hand in list(self._hands):
                if hand.since is not None and hand.since < late:
                    self._put_aside(hand)
            if self._tasks and begun == self._begun:
                self._start(self._tasks.popleft())


class _Hand:
    """One thread.

    Attributes:
        aside: whether it counts as one that is not at work.
        since: when it began to wait for a client, or None; on the clock of time.monotonic().
    """

    __slots__ = ("_bell", "_crew", "_task", "aside", "since")

    def __init__(self, crew: RequestPool) -> None:
        self._crew = crew
        self._bell = threading.Lock()
        self._bell.acquire()
        self._task: Task | None = None
        self.aside = False
        self.since: float | None = None

    def give(self, task: Task | None) -> None:
        self._task = task
        self._bell.release()

    def wait(self) -> Task | None:
        self._bell.acquire()
        task, self._task = self._task, None
        return task

    def step_aside(self) -> None:
        self._crew.step_aside(self)


def step_aside() -> None:
    """Say that the task of this thread will wait more than it works: a stream."""
    hand: _Hand | None = getattr(_this, "hand", None)
    if hand is not None:
        hand.step_aside()


def waiting_for_client(function: Callable[..., Any], *args: Any) -> Any:
    """What `function` returns, which waits for a client: if that takes long, another thread takes this one's place."""
    hand: _Hand | None = getattr(_this, "hand", None)
    if hand is None:
        return function(*args)
    hand.since = time.monotonic()
    try:
        return function(*args)
    finally:
        hand.since = None


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
