"""Measuring the workers when a server starts: a handful of small convolutions of each class, run as shards are.

Every worker runs the same convolution at the same time, as it will when a request is cut; then the first one runs it
alone, which tells how much they crowd each other. Two sizes of each class give rate and overhead. A worker that takes
no time for the larger one, as a GPU, gets one that fills it.
"""

import logging
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from groupconv.convolution import cost
from groupconv.convolution.report import ShardReport
from groupconv.errors import GroupconvError, UnavailableError
from groupconv_server.executors.base import Executor
from groupconv_server.executors.task import Task
from groupconv_server.planner.calibration_sizes import COPY, F32, NOTHING, SIZES, Size, bytes_moved, problem_of
from groupconv_server.planner.rates import CLASSES, Rates, median
from groupconv_worker.contract import Array, Problem
from groupconv_worker.shard import Stage

log = logging.getLogger(__name__)

BUDGET = 0.9
"""Seconds that a server takes to measure its workers before it serves."""
COMPILED = 0.25
"""Seconds of a run after the budget beyond which a kernel was being compiled in it, or the machine is too busy."""
FILLED = 2e-4
"""Seconds of the larger dense size, 29 M multiply-adds, below which a worker was not filled by it."""
IN_NOISE = 2e-5
"""Seconds that cannot be told from none. What carries `COPY` faster gets a link by this time, not an infinite one."""
REPEATS = 6
"""Runs of each convolution; the fastest counts."""
NOISE = 1.5
"""Workers whose speeds are within this factor of the median are taken to be alike."""
BUSY_NOISE = 4.0
"""The same of one that joins while others are at work, maybe on the same cores; what requests show corrects it."""


class Calibration(NamedTuple):
    """What was measured.

    Attributes:
        rates: by worker.
        unknown: indices in `CLASSES` of those that could not be measured yet; they keep default rates.
        shards: that each worker ran.
        disturbed: whether measuring ended before its end.
    """

    rates: dict[str, Rates]
    unknown: frozenset[int]
    shards: Mapping[str, int]
    disturbed: bool = False


def calibrate(
    executor: Executor,
    default: Rates | None = None,
    workers: Sequence[str] | None = None,
    like: Sequence[Rates] = (),
    disturbed: Callable[[], bool] = lambda: False,
    budget: float = BUDGET,
    shards: Counter[str] | None = None,
) -> Calibration:
    """Measure workers of an executor.

    Args:
        executor: with at least one worker, idle.
        default: what a worker is taken to be worth where the time is up before it is measured.
        workers: those to measure; None is all.
        like: rates of others that these may be like.
        disturbed: called before each run; once it is True, measuring ends.
        budget: seconds after which nothing is run more than twice; after twice as long, the rest stays unknown.
        shards: counts the shards that each worker gets, from when they are sent; None counts anew.

    Returns:
        Rates by worker, none if the workers do not answer; and the classes that tell nothing yet, as their kernels are
        still being compiled or no time was left. Rates of these are the default's.
    """
    workers = executor.workers() if workers is None else workers
    bench = _Bench(
        executor, default or Rates(), workers, like, disturbed, budget, Counter() if shards is None else shards
    )
    try:
        bench.measure()
    except _DisturbedError:
        return Calibration({}, frozenset(range(len(CLASSES))), bench.shards, disturbed=True)
    except GroupconvError as error:
        level = logging.INFO if isinstance(error, UnavailableError) else logging.WARNING  # lost, or the server stops
        log.log(level, "the workers could not be measured (%s); plans assume default rates", error)
        return Calibration({}, frozenset(), bench.shards)
    for worker, rates in bench.rates.items():
        log.info("worker %s: %s", worker, rates)
    return Calibration(bench.rates, frozenset(bench.unknown), bench.shards)


class _DisturbedError(Exception):
    """A request came while workers were measured: it goes first."""


class _Bench:
    def __init__(
        self,
        executor: Executor,
        default: Rates,
        workers: Sequence[str],
        like: Sequence[Rates],
        disturbed: Callable[[], bool],
        budget: float,
        shards: Counter[str],
    ) -> None:
        self.executor, self.workers, self.like, self.disturbed = executor, workers, like, disturbed
        self.rates = dict.fromkeys(self.workers, default)
        self.budget, self.limit = budget, time.monotonic() + budget
        self.unknown: set[int] = set()
        self.shards = shards
        self._grown: dict[int, _Grown] = {}  # by class, of the first worker, all computing
        self._nothing = dict.fromkeys(self.workers, float("inf"))  # seconds in the engine for almost nothing
        self._unfilled: list[str] = []  # workers that the dense class's larger size does not fill
        self._arrays: dict[Problem, tuple[Array, Array]] = {}

    def measure(self) -> None:
        if not self.workers:
            raise UnavailableError("no worker is there")
        self._reach()
        copied = self._fastest(COPY, self.workers)
        for worker, report in copied.items():
            took = report.compute_seconds
            self._update(worker, memory=bytes_moved(problem_of(*COPY)) / max(took / 2, took - self._nothing[worker]))
        for k, name in enumerate(CLASSES):
            if time.monotonic() > self.limit + self.budget:
                log.info("no time was left to measure %s, which are not cut until they are", ", ".join(CLASSES[k:]))
                self.unknown.update(range(k, len(CLASSES)))
                break
            self._class(k, *SIZES[name])
        self._crowding()
        self._level()

    def _level(self) -> None:
        """Workers that differ by no more than the noise of a short measurement are alike, so shares stay even."""
        middle = median(list(self.like or self.rates.values()))
        noise = BUSY_NOISE if self.like else NOISE
        for worker, rates in self.rates.items():
            ratio = rates.multiply_adds[0] / middle.multiply_adds[0]
            if 1 / noise <= ratio <= noise:
                self.rates[worker] = middle

    def _reach(self) -> None:
        """Latency, the coordinator's own time and the link: what a shard takes beyond its time in the engine."""
        beyond, busy = dict.fromkeys(self.workers, float("inf")), float("inf")
        for _ in range(2 * REPEATS):
            start = time.perf_counter()
            reports = self._run(NOTHING, self.workers)
            busy = min(busy, time.perf_counter() - start)
            for r in reports:
                self._nothing[r.worker] = min(self._nothing[r.worker], r.compute_seconds)
                beyond[r.worker] = min(beyond[r.worker], r.seconds - r.compute_seconds)
        one = min(beyond.values())
        carrying = min(
            r.seconds - r.compute_seconds for _ in range(2 * REPEATS) for r in self._run(COPY, self.workers[:1])
        )
        in_place = self.executor.computes_here > 0  # threads of this process see the arrays of requests
        link = float("inf") if in_place else bytes_moved(problem_of(*COPY)) / max(IN_NOISE, carrying - one)
        for worker, latency in beyond.items():
            each = max(1e-6, (busy - one) / len(self.workers))
            self._update(worker, latency=max(1e-6, latency), dispatch=each, link=link)

    def _class(self, k: int, small: Size, large: Size, filling: Size) -> None:
        """Rate and overhead of a class, from the difference between two sizes."""
        one, two = self._fastest(small, self.workers), self._fastest(large, self.workers)
        if k == 0:
            self._unfilled = [worker for worker, report in two.items() if report.compute_seconds < FILLED]
        complete = min(len(one), len(two)) == len(self.workers)
        if not complete or any(report.improving for report in (*one.values(), *two.values())):
            self.unknown.add(k)
            return
        three = self._fastest(filling, self._unfilled) if self._unfilled else {}
        if len(three) < len(self._unfilled) or any(report.improving for report in three.values()):
            self.unknown.add(k)
            return
        for worker, rates in self.rates.items():
            sizes, more = (filling, three) if worker in three else (large, two)
            few, many = (cost.multiply_adds(problem_of(*s).geometry) for s in (small, sizes))
            moved_few, moved_many = bytes_moved(problem_of(*small)), bytes_moved(problem_of(*sizes))
            quick, slow = one[worker].compute_seconds, more[worker].compute_seconds
            # what fits a cache moves faster than the copy did, so at least half the time counts as computing;
            # what fills a GPU fits none
            least = 0.1 if worker in three else 0.5
            computing = max(least * slow, slow - quick - (moved_many - moved_few) / rates.memory)
            rate = (many - few) / computing
            overhead = max(0.0, one[worker].compute_seconds - few / rate)
            if worker == self.workers[0]:
                self._grown[k] = _Grown(small, sizes, slow - quick)
            self._update(
                worker,
                multiply_adds=_with(rates.multiply_adds, k, rate),
                overhead=_with(rates.overhead, k, min(overhead, one[worker].compute_seconds)),
            )

    def _crowding(self) -> None:
        """How much slower a worker computes while all do, as the median class has it; rates become those of one alone.

        Like the rates it is told from the difference between two sizes: what a shard costs beside its arithmetic is
        Python, and for that the workers of one process wait for each other whatever they compute.
        """
        if len(self.workers) == 1:
            return
        slower = []
        for grown in self._grown.values():
            alone = self._growth(grown, self.workers[:1])
            if alone is not None and alone > 0 and grown.seconds > 0:
                slower.append(math.log(max(1.0, grown.seconds / alone)))
        if not slower:
            return
        factor = math.exp(statistics.median(slower))  # a class whose runs were all disturbed does not count
        for worker, rates in list(self.rates.items()):
            self.rates[worker] = replace(rates.faster(factor), crowding=factor - 1)

    def _growth(self, grown: "_Grown", workers: Sequence[str]) -> float | None:
        """Seconds by which the first of the workers takes longer for the larger size."""
        quick, slow = (self._fastest(size, workers).get(self.workers[0]) for size in (grown.small, grown.large))
        return None if quick is None or slow is None else slow.compute_seconds - quick.compute_seconds

    def _fastest(self, sizes: Size, workers: Sequence[str]) -> Mapping[str, ShardReport]:
        """The fastest report of each worker; none if the time is up and its runs are long."""
        best: dict[str, ShardReport] = {}
        for run in range(REPEATS):
            start = time.monotonic()
            for report in self._run(sizes, workers):
                if report.improving:  # by another algorithm than later requests get
                    return {report.worker: report}
                if report.worker not in best or report.compute_seconds < best[report.worker].compute_seconds:
                    best[report.worker] = report
            now = time.monotonic()
            if now > self.limit and now - start > COMPILED:
                return {}
            if now > self.limit and run > 0:  # the first run finds nothing in the caches
                break
        return best

    def _run(self, sizes: Size, workers: Sequence[str]) -> list[ShardReport]:
        if self.disturbed():
            raise _DisturbedError
        problem = problem_of(*sizes)
        g = problem.geometry
        if problem not in self._arrays:
            some = np.random.default_rng(0).standard_normal(2**16, dtype=F32)
            self._arrays[problem] = np.resize(some, g.input_shape), np.resize(some, g.weight_shape)
        x, w = self._arrays[problem]
        tasks = [
            Task(i, worker, (Stage(problem, w),), x, np.empty(g.output_shape, dtype=F32))
            for i, worker in enumerate(workers)
        ]
        self.shards.update(task.worker for task in tasks)
        ran = [reports[0] for reports in self.executor.run(tasks)]
        if any(report.worker not in self.rates for report in ran):
            raise UnavailableError("a worker was lost while it was measured")
        return ran

    def _update(self, worker: str, **changes: object) -> None:
        if worker in self.rates:
            self.rates[worker] = replace(self.rates[worker], **changes)  # type: ignore[arg-type]


class _Grown(NamedTuple):
    """Two sizes of a class, and the seconds by which the larger one took longer."""

    small: Size
    large: Size
    seconds: float


def _with(values: tuple[float, ...], k: int, value: float) -> tuple[float, ...]:
    return (*values[:k], value, *values[k + 1 :])
