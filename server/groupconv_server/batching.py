"""Dynamic batching: requests that wait for a worker at the same time run as one, joined along the batch.

A request that finds a worker free runs at once, in its own thread. Under load those that wait are taken by priority,
then in the order they came, each with all that are like it, by threads that go on for as long as somebody waits.
Whether that is faster depends on layer, shape and workers, so it is measured, for each alike: batching that does not
pay turns itself off.

What waits is bounded by the gate: each request holds one of the server's threads and its message.
"""

import logging
import math
import statistics
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from groupconv.errors import CancelledError, DeadlineExceededError
from groupconv.requests import Result, Step
from groupconv_server.coordinator import Allocate, Coordinator
from groupconv_server.layers import ResidentStep
from groupconv_worker.engines.base import Array

log = logging.getLogger(__name__)

JOINED_BYTES = 64 * 2**20
"""Bytes of inputs that are joined at most: beyond, a worker is busy for long enough with one."""
PROBES = 9
"""Runs of either kind whose median decides."""
MARGIN = 0.97
"""Of the time alone that a sample may take joined."""
EVERY = 64
"""Of so many runs one is of the other kind, for what was measured to stay true."""
KEPT = 1024
"""Layers and shapes that are remembered."""
_LATE = "the deadline passed while the request waited for a worker"


class Gain:
    """Seconds that a sample takes alone and joined, and what follows from it.

    Example:
        >>> gain = Gain("conv2")
        >>> for _ in range(PROBES):
        ...     gain.ran(1, 0.004); gain.ran(8, 0.001)
        >>> gain.pays, gain.most(8)
        (True, 8)
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._alone: deque[float] = deque(maxlen=PROBES)
        self._joined: deque[float] = deque(maxlen=PROBES)
        self._turns = 0
        self.pays: bool | None = None
        """None until both were tried."""

    def most(self, most: int) -> int:
        """Requests to join now, at most."""
        self._turns += 1
        if self.pays is None:
            return 1 if len(self._alone) < PROBES else most
        return most if self.pays != (self._turns % EVERY == 0) else 1

    def ran(self, requests: int, seconds: float) -> None:
        """Note a run of one request, or of several, that took so long for each sample."""
        (self._alone if requests == 1 else self._joined).append(seconds)
        if min(len(self._alone), len(self._joined)) < PROBES:
            return
        alone, joined = statistics.median(self._alone), statistics.median(self._joined)
        pays = joined < MARGIN * alone
        if pays != self.pays:
            self.pays = pays
            log.info("%s", self)

    def __str__(self) -> str:
        if self.pays is None:
            return (
                f"batching of {self._name}: {len(self._alone)} runs alone and {len(self._joined)} joined were timed yet"
            )
        alone, joined = (statistics.median(runs) * 1e3 for runs in (self._alone, self._joined))
        state = "on" if self.pays else "off, as it does not pay"
        return f"batching of {self._name} is {state}: {joined:.3f} ms a sample, alone {alone:.3f}"


@dataclass(eq=False, slots=True)
class _Asked:
    """A request that waits, and what becomes of it.

    Attributes:
        alone: runs it by itself.
        key: equal for requests that may be joined.
        rank: the least goes first.
        alive: whether its caller is still there.
        context: of its thread, for traces.
        woken: locked while it waits.
        result: its answer, or its part of a joined run's; None if there is none.
        joined: whether it is a part.
        seconds: that a sample took in a joined run, told to one of its requests.
        error: why it has no answer.
    """

    x: Array
    steps: Sequence[Step]
    alone: Callable[[], Result]
    key: tuple[Any, ...]
    rank: tuple[float, int]
    deadline: float | None
    alive: Callable[[], bool]
    context: Context = field(default_factory=copy_context)
    woken: threading.Lock = field(default_factory=threading.Lock)
    result: Result | None = None
    joined: bool = False
    seconds: float | None = None
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.woken.acquire()


class Batcher:
    """Stands before a coordinator. Safe to call from several threads.

    Args:
        coordinator: runs what is joined.
        most: requests joined at most; 1 turns batching off, and costs nothing.
        delay: seconds more that a request that had to wait may wait for others to join it.
        at_once: runs at a time; None is one for each worker there is, with Ray two, as one travels while another
            computes.
    """

    def __init__(
        self, coordinator: Coordinator, *, most: int = 1, delay: float = 0.0, at_once: int | None = None
    ) -> None:
        self.coordinator, self._most, self._delay, self._at_once = coordinator, most, delay, at_once
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._queue: list[_Asked] = []
        self._running = self._count = 0
        self._runners = ThreadPoolExecutor(128, thread_name_prefix="batch")  # as many as run at a time, no more
        self._gains: OrderedDict[tuple[Any, ...], Gain] = OrderedDict()
        self._sizes: OrderedDict[tuple[str, int], Counter[int]] = OrderedDict()

    def sizes(self, layer: str, version: int) -> dict[int, int]:
        """Runs of a layer's version by the samples in them; empty where batching is off."""
        with self._lock:
            return dict(sorted(self._sizes.get((layer, version), {}).items()))

    def gains(self) -> list[str]:
        """What was found of each layer and shape, in words."""
        with self._lock:
            return [str(gain) for gain in self._gains.values()]

    def convolve(
        self,
        x: Array,
        steps: Sequence[Step],
        *,
        deadline: float | None = None,
        reordering: bool = False,
        allocate: Allocate = np.empty,
        by_message: bool = True,
        priority: int = 0,
        alive: Callable[[], bool] = lambda: True,
    ) -> Result:
        """Run a request, alone or with others; arguments and errors as of `Coordinator.convolve`.

        Args:
            x: as there.
            steps: likewise.
            deadline: likewise; it ends waiting too.
            reordering: likewise.
            allocate: likewise.
            by_message: likewise.
            priority: 1 goes before 2, and so on; 0 goes after all of them.
            alive: whether the caller is still there; one that has gone while it waited is not run.

        Returns:
            The output, and the report of the run, which may have had more samples; its phase "queue" is the wait.
        """
        alone = partial(
            self.coordinator.convolve,
            x,
            steps,
            deadline=deadline,
            reordering=reordering,
            allocate=allocate,
            by_message=by_message,
        )
        if self._most == 1:
            return alone()
        problems = self.coordinator.problems(x.shape, x.dtype, steps)  # what cannot be meets no others
        if by_message:
            self.coordinator.limits.check_answer(problems[-1])
        with self._lock:
            free = self._running < self._slots() and not self._queue
            if free:
                self._running += 1
            else:
                self._count += 1
                rank = (priority or math.inf, self._count)
                asked = _Asked(x, steps, alone, _key(x, steps, reordering), rank, deadline, alive)
                self._queue.append(asked)
                self._arrived.notify_all()
        if free:
            try:
                return alone()
            finally:
                self._left(steps, len(x))
        start = time.perf_counter()
        self._wait(asked)
        return self._answer(asked, allocate, time.perf_counter() - start)

    def close(self) -> None:
        """Once nobody asks any more."""
        self._runners.shutdown()

    def _wait(self, asked: _Asked) -> None:
        """Until something has become of it.

        Raises:
            DeadlineExceededError: its deadline passed first.
        """
        left = -1.0 if asked.deadline is None else max(0.0, asked.deadline - time.monotonic())
        if not asked.woken.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
            with self._lock:
                if asked in self._queue:
                    self._queue.remove(asked)
            raise DeadlineExceededError(_LATE)

    def _answer(self, asked: _Asked, allocate: Allocate, waited: float) -> Result:
        if asked.error is not None:
            raise asked.error
        result = asked.result
        if result is None:  # the run that it was a part of failed: by itself it has its own error, or none
            result = asked.alone()
        elif asked.joined:
            begun = time.perf_counter()
            y = allocate(result.output.shape, result.output.dtype)
            y[...] = result.output
            result = Result(y, result.report)
            if asked.seconds is not None:
                seconds = asked.seconds + (time.perf_counter() - begun) / len(y)
                with self._lock:
                    self._gain(asked).ran(2, seconds)
        return Result(result.output, replace(result.report, phases={"queue": waited, **result.report.phases}))

    def _slots(self) -> int:
        if self._at_once is not None:
            return self._at_once
        executor = self.coordinator.executor
        return max(1, len(executor.workers())) * (1 if executor.name == "local" else 2)

    def _left(self, steps: Sequence[Step], samples: int) -> None:
        """A run has ended. Who waits is run by a thread that goes on: to wake each in turn would leave workers idle."""
        with self._lock:
            self._note(steps, samples)
            if self._queue:
                self._runners.submit(self._run_those_that_wait)
            else:
                self._running -= 1

    def _run_those_that_wait(self) -> None:
        while True:
            with self._lock:
                batch = self._next() if self._running <= self._slots() else []
                if not batch:
                    self._running -= 1
                    return
            if self._delay and len(batch) < self._most:
                self._gather(batch)
            batch[0].context.copy().run(self._run, batch)

    def _run(self, batch: Sequence[_Asked]) -> None:
        """Run requests as one, and wake them."""
        samples, head = sum(len(a.x) for a in batch), batch[0]
        begun = time.perf_counter()
        try:
            if len(batch) == 1:
                head.result = head.alone()
            else:
                self._join(batch)
        except BaseException as error:
            if len(batch) == 1:
                head.error = error
            else:
                log.debug("%d joined requests failed; each runs alone", len(batch), exc_info=True)
        finally:
            seconds = (time.perf_counter() - begun) / samples
            with self._lock:
                self._note(head.steps, samples)
                if len(batch) > 1:
                    head.seconds = seconds
                elif head.error is None:
                    self._gain(head).ran(1, seconds)
            for asked in batch:
                asked.woken.release()

    def _join(self, batch: Sequence[_Asked]) -> None:
        """Run requests as one, and give each its part."""
        x, steps = np.concatenate([a.x for a in batch]), batch[0].steps
        deadlines = [a.deadline for a in batch]
        deadline = None if None in deadlines else max(d for d in deadlines if d is not None)
        problems = self.coordinator.problems(x.shape, x.dtype, steps)
        self.coordinator.count(len(batch))
        reordering = batch[0].key[2]
        ran = self.coordinator.perform(problems, x, steps, deadline=deadline, reordering=reordering)
        at = 0
        for asked in batch:
            asked.result, asked.joined = Result(ran.output[at : at + len(asked.x)], ran.report), True
            at += len(asked.x)

    def _gather(self, batch: list[_Asked]) -> None:
        """Wait for others to join a batch that is not full."""
        head, until = batch[0], time.monotonic() + self._delay
        with self._lock:
            if self._gain(head).pays is False:
                return
            while (left := until - time.monotonic()) > 0:
                if len(batch) + sum(a.key == head.key for a in self._queue) >= self._most:
                    break
                self._arrived.wait(left)
            batch[:] = self._with_others(batch, self._most)

    def _next(self) -> list[_Asked]:
        """The next to be run, with those that it is joined with; those that need not be run any more are told."""
        now = time.monotonic()
        for asked in list(self._queue):
            if asked.deadline is not None and asked.deadline <= now:
                asked.error = DeadlineExceededError(_LATE)
            elif not asked.alive():
                asked.error = CancelledError("the caller has gone")
            else:
                continue
            self._queue.remove(asked)
            asked.woken.release()
        if not self._queue:
            return []
        head = min(self._queue, key=lambda a: a.rank)
        self._queue.remove(head)
        return self._with_others([head], self._gain(head).most(self._most)) if self._queue else [head]

    def _with_others(self, batch: list[_Asked], most: int) -> list[_Asked]:
        """A batch and those who wait and can join it: a power of two of them, for few sizes have to be prepared."""
        head = batch[0]
        room = JOINED_BYTES // max(1, head.x.nbytes)
        fit = [a for a in self._queue if a.key == head.key and _same(a.steps, head.steps)]
        fit.sort(key=lambda a: a.rank)
        found = (batch + fit)[: max(len(batch), min(most, room))]
        found = found[: max(len(batch), 1 << (len(found).bit_length() - 1))]
        for asked in found[len(batch) :]:
            self._queue.remove(asked)
        return found

    def _gain(self, asked: _Asked) -> Gain:
        gain = self._gains.get(asked.key)
        if gain is None:
            first = asked.steps[0]
            name = first.layer if isinstance(first, ResidentStep) else "requests without a layer"
            gain = self._gains[asked.key] = Gain(f"{name} on {list(asked.x.shape[1:])} {asked.x.dtype}")
            while len(self._gains) > KEPT:
                self._gains.popitem(last=False)
        return gain

    def _note(self, steps: Sequence[Step], samples: int) -> None:
        """Count a run by its size."""
        self.coordinator.metrics.batches.observe(samples)
        first = steps[0]
        if isinstance(first, ResidentStep):
            self._sizes.setdefault((first.layer, first.version), Counter())[samples] += 1
            while len(self._sizes) > KEPT:
                self._sizes.popitem(last=False)


def _key(x: Array, steps: Sequence[Step], reordering: bool) -> tuple[Any, ...]:
    """Equal for requests that can be joined, if their kernels are the same."""
    first = steps[0]
    if isinstance(first, ResidentStep):
        return x.shape[1:], x.dtype, reordering, first.layer, first.version
    return x.shape[1:], x.dtype, reordering, tuple((s.spec, s.kernel.shape, s.kernel.dtype) for s in steps)


def _same(steps: Sequence[Step], others: Sequence[Step]) -> bool:
    """Whether steps of equal keys have the same kernels and biases, to the bit."""
    if steps is others or isinstance(steps[0], ResidentStep):
        return True
    pairs = [(getattr(a, n), getattr(b, n)) for a, b in zip(steps, others, strict=True) for n in ("kernel", "bias")]
    return all(a is b or (a is not None and b is not None and _bits(a) == _bits(b)) for a, b in pairs)


def _bits(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
