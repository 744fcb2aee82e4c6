"""Dynamic batching: requests that wait for a worker at the same time run as one, joined along the batch.

A request that finds a worker free runs at once, in its own thread. Under load requests wait in a queue. Threads take
them by priority, then in the order they came, and join each with others for the same layer and shape. Whether that is
faster depends on layer, shape and workers, so it is measured for each (`batching_benefit.py`), and turned off where it
is not.

The gate bounds the queue: each request holds one of the server's threads and its message.
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

from groupconv.convolution.steps import Result
from groupconv.errors import CancelledError, DeadlineExceededError
from groupconv_server.coordinator.batching_benefit import BatchingBenefit
from groupconv_server.coordinator.compiled import CompiledCall
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.resident import ResidentStep
from groupconv_server.coordinator.waiting import QueueEntry, key_of, same_weights
from groupconv_worker.contract import Array
from groupconv_worker.job import Job

log = logging.getLogger(__name__)

JOINED_BYTES = 64 * 2**20
"""Most bytes of inputs in a batch: larger ones keep a worker busy by themselves, and joining them saves nothing."""
Execute = Callable[[CompiledCall, Array, Job | None, Array | None], Result]
"""Runs a call, as `Coordinator.execute` does."""
KEPT = 1024
"""Layers and shapes whose batch sizes and benefit are remembered."""
_LATE = "the deadline passed while the request waited for a worker"


class Batcher:
    """Joins requests before a coordinator runs them. Safe to call from several threads.

    Args:
        coordinator: runs the requests.
        most: requests that are joined at most; with 1, batching is off and `execute` is the coordinator's.
        delay: seconds that a batch which is not full waits for more requests.
        at_once: runs at a time; None is as many as this process computes at a time, or with Ray two for each worker:
            one travels while another computes.
    """

    def __init__(
        self, coordinator: Coordinator, *, most: int = 1, delay: float = 0.0, at_once: int | None = None
    ) -> None:
        self.coordinator, self._most, self._delay, self._at_once = coordinator, most, delay, at_once
        self.execute: Execute = coordinator.execute if most == 1 else self._execute
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._queue: list[QueueEntry] = []
        self._running = self._count = 0
        self._runners = ThreadPoolExecutor(128, thread_name_prefix="batch")  # as many as run at a time, no more
        self._benefits: OrderedDict[tuple[Any, ...], BatchingBenefit] = OrderedDict()
        self._sizes: OrderedDict[tuple[str, int], Counter[int]] = OrderedDict()

    def sizes(self, layer: str, version: int) -> dict[int, int]:
        """Runs of a layer's version by the samples in them; empty where batching is off."""
        with self._lock:
            return dict(sorted(self._sizes.get((layer, version), {}).items()))

    def benefits(self) -> list[str]:
        """For each layer and shape whether batching is on, and what was measured."""
        with self._lock:
            return [str(benefit) for benefit in self._benefits.values()]

    def _execute(self, call: CompiledCall, x: Array, job: Job | None = None, output: Array | None = None) -> Result:
        """Run a request, alone or with others; arguments and errors as of `Coordinator.execute`.

        Args:
            call: compiled for inputs like `x`.
            x: (N, C, *spatial).
            job: its priority decides which request goes first; its deadline and cancellation end the wait, too.
            output: (N, M, *spatial), to be filled; None allocates it.

        Returns:
            The output, and the report of the run, which may have had more samples; its phase "queue" is the wait.
        """
        if not len(x):
            return self.coordinator.execute(call, x, job, output)
        job = job or Job()

        def alone() -> Result:
            return self.coordinator.execute(call, x, job, output)

        with self._lock:
            self._count += 1
            rank = (job.priority or math.inf, self._count)
            entry = QueueEntry(x, call, alone, key_of(x, call), rank, job)
            free = self._running < self._slots() and not self._queue
            if free:
                self._running += 1
            else:
                self._queue.append(entry)
                self._arrived.notify_all()
        if free:
            try:
                return alone()
            finally:
                self._finished(entry)
        start = time.perf_counter()
        self._wait(entry)
        return self._answer(entry, output, time.perf_counter() - start)

    def close(self) -> None:
        """End the threads. No request may come any more."""
        self._runners.shutdown()

    def _wait(self, entry: QueueEntry) -> None:
        """Block until the entry has a result or an error.

        Raises:
            DeadlineExceededError: its deadline passed first.
        """
        left = entry.job.left
        if not entry.woken.acquire(timeout=-1 if left is None else min(left, threading.TIMEOUT_MAX)):
            with self._lock:
                if entry in self._queue:
                    self._queue.remove(entry)
            raise DeadlineExceededError(_LATE)

    def _answer(self, entry: QueueEntry, output: Array | None, waited: float) -> Result:
        if entry.errors:
            raise entry.errors.pop()  # it knows the entry, whose array would wait for the collector
        result = entry.result
        if result is None:  # the joined run failed: alone the request gets its own error, or none
            result = entry.alone()
        elif entry.joined:  # a copy, as a view would keep the whole batch's output in memory
            y = np.empty_like(result.output) if output is None else output
            y[...] = result.output
            result = Result(y, result.report)
        return Result(result.output, replace(result.report, phases={"queue": waited, **result.report.phases}))

    def _slots(self) -> int:
        if self._at_once is not None:
            return self._at_once
        executor = self.coordinator.executor
        return executor.computes_here or 2 * max(1, len(executor.workers()))

    def _finished(self, entry: QueueEntry) -> None:
        """A request that ran in its own thread is done: a thread of the pool runs the queue in its place.

        The callers in the queue do not run it: waking each of them in turn would leave workers idle.
        """
        with self._lock:
            self._record(entry, len(entry.x))
            if self._queue:
                self._runners.submit(self._run_queue)
            else:
                self._running -= 1

    def _run_queue(self) -> None:
        """Run batches from the queue until it is empty, or too many runs are under way."""
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
                head.errors.append(error)
            else:
                log.debug("%d joined requests failed; each runs alone", len(batch), exc_info=True)
        finally:
            with self._lock:
                self._record(head, sum(len(a.x) for a in batch))
            for entry in batch:
                entry.woken.release()

    def _join(self, batch: Sequence[QueueEntry]) -> None:
        """Run requests as one, and give each its part of the output."""
        x, first = np.concatenate([a.x for a in batch]), batch[0].call
        deadlines = [a.job.deadline for a in batch]
        deadline = None if None in deadlines else max(d for d in deadlines if d is not None)
        job = Job(deadline, lambda: not all(a.job.poll() for a in batch))
        call = self.coordinator.compile(x.shape, x.dtype, first.steps, reordering=first.reordering, cut=first.cut)
        self.coordinator.count(len(batch))
        ran = self.coordinator.run(call, x, job=job)
        at = 0
        for entry in batch:
            entry.result, entry.joined = Result(ran.output[at : at + len(entry.x)], ran.report), True
            at += len(entry.x)

    def _gather(self, batch: list[QueueEntry]) -> None:
        """Wait for others to join a batch that is not full."""
        head, until = batch[0], time.monotonic() + self._delay
        with self._lock:
            if self._benefit(head).pays is False:
                return
            while (left := until - time.monotonic()) > 0:
                if len(batch) + sum(a.key == head.key for a in self._queue) >= self._most:
                    break
                self._arrived.wait(left)
            batch[:] = self._with_others(batch, self._most)

    def _next(self) -> list[QueueEntry]:
        """Take a batch from the queue: the first entry by rank, and others that join it. Wake entries that are over."""
        now = time.monotonic()
        for entry in list(self._queue):
            if entry.job.deadline is not None and entry.job.deadline <= now:
                entry.errors.append(DeadlineExceededError(_LATE))
            elif entry.job.poll():
                entry.errors.append(CancelledError("the caller has gone"))
            else:
                continue
            self._queue.remove(entry)
            entry.woken.release()
        if not self._queue:
            return []
        head = min(self._queue, key=lambda a: a.rank)
        self._queue.remove(head)
        return self._with_others([head], self._benefit(head).most(self._most)) if self._queue else [head]

    def _with_others(self, batch: list[QueueEntry], most: int) -> list[QueueEntry]:
        """Add entries of the queue that can join a batch, up to a power of two, so that few sizes are prepared."""
        head = batch[0]
        room = JOINED_BYTES // max(1, head.x.nbytes)
        fit = [a for a in self._queue if a.key == head.key and same_weights(a.call.steps, head.call.steps)]
        fit.sort(key=lambda a: a.rank)
        joined = (batch + fit)[: max(len(batch), min(most, room))]
        joined = joined[: max(len(batch), 1 << (len(joined).bit_length() - 1))]
        for entry in joined[len(batch) :]:
            self._queue.remove(entry)
        return joined

    def _benefit(self, entry: QueueEntry) -> BatchingBenefit:
        benefit = self._benefits.get(entry.key)
        if benefit is None:
            first = entry.call.steps[0]
            name = first.layer if isinstance(first, ResidentStep) else "requests without a layer"
            benefit = self._benefits[entry.key] = BatchingBenefit(
                f"{name} on {list(entry.x.shape[1:])} {entry.x.dtype}"
            )
            while len(self._benefits) > KEPT:
                self._benefits.popitem(last=False)
        return benefit

    def _record(self, entry: QueueEntry, samples: int) -> None:
        """Record a run of so many samples in the benefit, the metrics and the layer's batch sizes."""
        self._benefit(entry).ran(samples, time.monotonic())
        self.coordinator.metrics.batches.observe(samples)
        first = entry.call.steps[0]
        if isinstance(first, ResidentStep):
            self._sizes.setdefault((first.layer, first.version), Counter())[samples] += 1
            while len(self._sizes) > KEPT:
                self._sizes.popitem(last=False)
