"""Dynamic batching: requests that wait for a worker at the same time run as one, joined along the batch.

A request that finds a worker free runs at once, in its own thread. Under load those that wait are taken by priority,
then in the order they came, each with all that are like it, by threads that go on for as long as somebody waits.
Whether that is faster depends on layer, shape and workers, so it is measured, for each alike (`gain`): batching that
does not pay turns itself off.

What waits is bounded by the gate: each request holds one of the server's threads and its message.
"""

import logging
import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from groupconv.errors import CancelledError, DeadlineExceededError
from groupconv.wire.requests import Result, Step
from groupconv_server.coordinator.batching_gain import BatchingGain
from groupconv_server.coordinator.coordinator import Allocate, Coordinator
from groupconv_server.coordinator.resident import ResidentStep
from groupconv_server.coordinator.waiting import QueueEntry, key_of, same
from groupconv_worker.contract import Array
from groupconv_worker.job import Job

log = logging.getLogger(__name__)

JOINED_BYTES = 64 * 2**20
"""Bytes of inputs that are joined at most: beyond, a worker is busy for long enough with one."""
KEPT = 1024
"""Layers and shapes that are remembered."""
_LATE = "the deadline passed while the request waited for a worker"


class Batcher:
    """Stands before a coordinator. Safe to call from several threads.

    Args:
        coordinator: runs what is joined.
        most: requests joined at most; 1 turns batching off, and costs nothing.
        delay: seconds more that a request that had to wait may wait for others to join it.
        at_once: runs at a time; None is as many as this process computes at a time, or with Ray two for each worker
            there is, as one travels while another computes.
    """

    def __init__(
        self, coordinator: Coordinator, *, most: int = 1, delay: float = 0.0, at_once: int | None = None
    ) -> None:
        self.coordinator, self._most, self._delay, self._at_once = coordinator, most, delay, at_once
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._queue: list[QueueEntry] = []
        self._running = self._count = 0
        self._runners = ThreadPoolExecutor(128, thread_name_prefix="batch")  # as many as run at a time, no more
        self._gains: OrderedDict[tuple[Any, ...], BatchingGain] = OrderedDict()
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
            deadline: on the clock of time.monotonic(); it ends waiting too.
            reordering: likewise.
            allocate: likewise.
            by_message: likewise.
            priority: 1 goes before 2, and so on; 0 goes after all of them.
            alive: whether the caller is still there; what runs for one that has gone ends.

        Returns:
            The output, and the report of the run, which may have had more samples; its phase "queue" is the wait.
        """
        job = Job(deadline, alive)

        def alone() -> Result:
            return self.coordinator.convolve(
                x, steps, job=job, reordering=reordering, allocate=allocate, by_message=by_message
            )

        if self._most == 1 or not x.shape[:1] or not x.shape[0]:
            return alone()
        problems = self.coordinator.problems.of(x.shape, x.dtype, steps)  # what cannot be meets no others
        if by_message:
            self.coordinator.limits.check_answer(problems[-1])
        with self._lock:
            self._count += 1
            rank = (priority or math.inf, self._count)
            asked = QueueEntry(x, steps, alone, key_of(x, steps, reordering), rank, job)
            free = self._running < self._slots() and not self._queue
            if free:
                self._running += 1
            else:
                self._queue.append(asked)
                self._arrived.notify_all()
        if free:
            try:
                return alone()
            finally:
                self._left(asked)
        start = time.perf_counter()
        self._wait(asked)
        return self._answer(asked, allocate, time.perf_counter() - start)

    def close(self) -> None:
        """Once nobody asks any more."""
        self._runners.shutdown()

    def _wait(self, asked: QueueEntry) -> None:
        """Until something has become of it.

        Raises:
            DeadlineExceededError: its deadline passed first.
        """
        left = asked.job.left
        if not asked.woken.acquire(timeout=-1 if left is None else min(left, threading.TIMEOUT_MAX)):
            with self._lock:
                if asked in self._queue:
                    self._queue.remove(asked)
            raise DeadlineExceededError(_LATE)

    def _answer(self, asked: QueueEntry, allocate: Allocate, waited: float) -> Result:
        if asked.error is not None:
            raise asked.error
        result = asked.result
        if result is None:  # the run that it was a part of failed: by itself it has its own error, or none
            result = asked.alone()
        elif asked.joined:
            y = allocate(result.output.shape, result.output.dtype)
            y[...] = result.output
            result = Result(y, result.report)
        return Result(result.output, replace(result.report, phases={"queue": waited, **result.report.phases}))

    def _slots(self) -> int:
        if self._at_once is not None:
            return self._at_once
        executor = self.coordinator.executor
        return executor.computes_here or 2 * max(1, len(executor.workers()))

    def _left(self, asked: QueueEntry) -> None:
        """A run has ended. Who waits is run by a thread that goes on: to wake each in turn would leave workers idle."""
        with self._lock:
            self._note(asked, len(asked.x))
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

    def _run(self, batch: Sequence[QueueEntry]) -> None:
        """Run requests as one, and wake them."""
        head = batch[0]
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
            with self._lock:
                self._note(head, sum(len(a.x) for a in batch))
            for asked in batch:
                asked.woken.release()

    def _join(self, batch: Sequence[QueueEntry]) -> None:
        """Run requests as one, and give each its part."""
        x, steps = np.concatenate([a.x for a in batch]), batch[0].steps
        deadlines = [a.job.deadline for a in batch]
        deadline = None if None in deadlines else max(d for d in deadlines if d is not None)
        job = Job(deadline, lambda: not all(a.job.look() for a in batch))
        problems = self.coordinator.problems.of(x.shape, x.dtype, steps)
        self.coordinator.count(len(batch))
        reordering = batch[0].key[2]
        ran = self.coordinator.perform(problems, x, steps, job=job, reordering=reordering)
        at = 0
        for asked in batch:
            asked.result, asked.joined = Result(ran.output[at : at + len(asked.x)], ran.report), True
            at += len(asked.x)

    def _gather(self, batch: list[QueueEntry]) -> None:
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

    def _next(self) -> list[QueueEntry]:
        """The next to be run, with those that it is joined with; those that need not be run any more are told."""
        now = time.monotonic()
        for asked in list(self._queue):
            if asked.job.deadline is not None and asked.job.deadline <= now:
                asked.error = DeadlineExceededError(_LATE)
            elif asked.job.look():
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

    def _with_others(self, batch: list[QueueEntry], most: int) -> list[QueueEntry]:
        """A batch and those who wait and can join it: a power of two of them, for few sizes have to be prepared."""
        head = batch[0]
        room = JOINED_BYTES // max(1, head.x.nbytes)
        fit = [a for a in self._queue if a.key == head.key and same(a.steps, head.steps)]
        fit.sort(key=lambda a: a.rank)
        found = (batch + fit)[: max(len(batch), min(most, room))]
        found = found[: max(len(batch), 1 << (len(found).bit_length() - 1))]
        for asked in found[len(batch) :]:
            self._queue.remove(asked)
        return found

    def _gain(self, asked: QueueEntry) -> BatchingGain:
        gain = self._gains.get(asked.key)
        if gain is None:
            first = asked.steps[0]
            name = first.layer if isinstance(first, ResidentStep) else "requests without a layer"
            gain = self._gains[asked.key] = BatchingGain(f"{name} on {list(asked.x.shape[1:])} {asked.x.dtype}")
            while len(self._gains) > KEPT:
                self._gains.popitem(last=False)
        return gain

    def _note(self, asked: QueueEntry, samples: int) -> None:
        """Count a run by its size."""
        self._gain(asked).ran(samples, time.monotonic())
        self.coordinator.metrics.batches.observe(samples)
        first = asked.steps[0]
        if isinstance(first, ResidentStep):
            self._sizes.setdefault((first.layer, first.version), Counter())[samples] += 1
            while len(self._sizes) > KEPT:
                self._sizes.popitem(last=False)
