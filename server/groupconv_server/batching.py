"""Dynamic batching: requests that wait for a worker at the same time run as one, joined along the batch.

A request that finds a worker free runs at once. Under load those that wait are taken by priority, then in the order
they came; who is taken leads all waiting requests like its own. Whether that is faster depends on layer, shape and
workers, so it is measured, for each alike: batching that does not pay turns itself off.

What waits is bounded by the gate: each request holds one of the server's threads and its message.
"""

import logging
import math
import statistics
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from groupconv.errors import CancelledError, DeadlineExceededError, GroupconvError
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
        """Note a run of so many requests, that took so long for each sample."""
        (self._alone if requests == 1 else self._joined).append(seconds)
        if min(len(self._alone), len(self._joined)) < PROBES:
            return
        alone, joined = statistics.median(self._alone), statistics.median(self._joined)
        pays = joined < MARGIN * alone
        if pays != self.pays:
            self.pays = pays
            state = "on" if pays else "off, as it does not pay"
            log.info("batching of %s is %s: %.3f ms a sample, alone %.3f", self._name, state, joined * 1e3, alone * 1e3)


@dataclass(eq=False, slots=True)
class _Asked:
    """A request and what becomes of it.

    Attributes:
        key: equal for requests that may be joined.
        rank: the least goes first.
        alive: whether its caller is still there.
        woken: locked while it waits.
        batch: the requests that it is to run, itself first.
        result: its part of what another one has run; None if that failed.
        error: why it is not run.
    """

    x: Array
    steps: Sequence[Step]
    key: tuple[Any, ...]
    rank: tuple[float, int]
    deadline: float | None
    alive: Callable[[], bool]
    woken: threading.Lock = field(default_factory=threading.Lock)
    batch: "list[_Asked]" = field(default_factory=list)
    result: Result | None = None
    error: GroupconvError | None = None

    def __post_init__(self) -> None:
        self.woken.acquire()


class Batcher:
    """Stands before a coordinator. Safe to call from several threads: it has them wait, and lead.

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
        self._gains: OrderedDict[tuple[Any, ...], Gain] = OrderedDict()
        self._sizes: OrderedDict[tuple[str, int], Counter[int]] = OrderedDict()

    def sizes(self, layer: str, version: int) -> dict[int, int]:
        """Runs of a layer's version by the samples in them; empty where batching is off."""
        with self._lock:
            return dict(sorted(self._sizes.get((layer, version), {}).items()))

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
        start = time.perf_counter()
        with self._lock:
            self._count += 1
            rank = (priority or math.inf, self._count)
            asked = _Asked(x, steps, _key(x, steps, reordering), rank, deadline, alive)
            self._queue.append(asked)
            self._arrived.notify_all()
            self._start()
        waited = 0.0
        if not asked.batch:
            self._wait(asked)
            waited = time.perf_counter() - start
        if asked.batch:
            return self._lead(asked, alone, allocate, reordering, waited)
        if asked.error is not None:
            raise asked.error
        if asked.result is None:  # the run that it was a part of failed: by itself it has its own error, or none
            return _after(alone(), waited)
        return _after(_taken(asked.result, allocate), waited)

    def _wait(self, asked: _Asked) -> None:
        """Until it leads, or its part of a run is there.

        Raises:
            DeadlineExceededError: its deadline passed first.
        """
        left = -1.0 if asked.deadline is None else max(0.0, asked.deadline - time.monotonic())
        if asked.woken.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
            return
        with self._lock:
            if asked.batch:  # others count on it
                return
            if asked in self._queue:
                self._queue.remove(asked)
        raise DeadlineExceededError("the deadline passed while the request waited for a worker")

    def _lead(
        self, asked: _Asked, alone: Callable[[], Result], allocate: Allocate, reordering: bool, waited: float
    ) -> Result:
        """Run a batch, hand the worker on, and wake those whose run it was."""
        batch, result = asked.batch, None
        if waited and self._delay:
            self._gather(batch)
        samples = sum(len(a.x) for a in batch)
        begun = time.perf_counter()
        try:
            if len(batch) == 1:
                result = alone()
            else:
                self._join(batch, reordering)
        except Exception:  # whose fault it is, each finds out by itself
            if len(batch) == 1:
                raise
            log.debug("%d joined requests failed; each runs alone", len(batch), exc_info=True)
        finally:
            seconds = time.perf_counter() - begun
            with self._lock:
                self._running -= 1
                self._note(asked, samples)
                self._start()
            for other in batch[1:]:
                other.woken.release()
        if result is None and asked.result is None:
            return _after(alone(), waited)
        begun = time.perf_counter()
        if result is None:
            result = _taken(asked.result, allocate)
        if waited:  # else the others' cores were free
            taking = time.perf_counter() - begun
            with self._lock:
                self._gain(asked).ran(len(batch), seconds / samples + taking / len(asked.x))
        return _after(result, waited)

    def _join(self, batch: Sequence[_Asked], reordering: bool) -> None:
        """Run requests as one, and give each its part."""
        x, steps = np.concatenate([a.x for a in batch]), batch[0].steps
        deadlines = [a.deadline for a in batch]
        deadline = None if None in deadlines else max(d for d in deadlines if d is not None)
        problems = self.coordinator.problems(x.shape, x.dtype, steps)
        self.coordinator.count(len(batch))
        ran = self.coordinator.perform(problems, x, steps, deadline=deadline, reordering=reordering)
        at = 0
        for asked in batch:
            asked.result = Result(ran.output[at : at + len(asked.x)], ran.report)
            at += len(asked.x)

    def _gather(self, batch: list[_Asked]) -> None:
        """Wait for others to join a batch that is not full."""
        head, until = batch[0], time.monotonic() + self._delay
        with self._lock:
            if self._gain(head).pays is False:
                return
            while len(batch) < self._most and (left := until - time.monotonic()) > 0:
                self._arrived.wait(left)
                if len(batch) + sum(a.key == head.key for a in self._queue) >= self._most:
                    break
            batch[:] = self._taken_with(batch, self._most)

    def _start(self) -> None:
        """Give free workers to those who wait; with the lock."""
        executor = self.coordinator.executor
        slots = self._at_once or max(1, len(executor.workers())) * (1 if executor.name == "local" else 2)
        while self._running < slots and (batch := self._next()):
            self._running += 1
            batch[0].batch = batch
            batch[0].woken.release()

    def _next(self) -> list[_Asked]:
        """The next to be run, with those that it is joined with; those that need not be run any more are told."""
        now = time.monotonic()
        for asked in list(self._queue):
            if asked.deadline is not None and asked.deadline <= now:
                asked.error = DeadlineExceededError("the deadline passed while the request waited for a worker")
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
        return self._taken_with([head], self._gain(head).most(self._most)) if self._queue else [head]

    def _taken_with(self, batch: list[_Asked], most: int) -> list[_Asked]:
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

    def _note(self, asked: _Asked, samples: int) -> None:
        """Count a run by its size."""
        self.coordinator.metrics.batches.observe(samples)
        first = asked.steps[0]
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


def _taken(part: Result | None, allocate: Allocate) -> Result:
    """A part of a joined run in an array of the request's own."""
    assert part is not None
    y = allocate(part.output.shape, part.output.dtype)
    y[...] = part.output
    return Result(y, part.report)


def _after(result: Result, waited: float) -> Result:
    """The same, telling of the wait."""
    if not waited:
        return result
    return Result(result.output, replace(result.report, phases={"queue": waited, **result.report.phases}))
