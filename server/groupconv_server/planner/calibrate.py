"""Measuring the workers when a server starts: a handful of small convolutions of each class, run as shards are.

Every worker runs the same convolution at the same time, as it will when a request is cut; then the first one runs it
alone, which tells how much they crowd each other. Two sizes of each class give rate and overhead.
"""

import itertools
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
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.report import ShardReport
from groupconv.convolution.spec import ConvSpec
from groupconv.errors import GroupconvError, UnavailableError
from groupconv_server.executors.base import Executor
from groupconv_server.executors.task import Task
from groupconv_server.planner.rates import CLASSES, Rates
from groupconv_worker.contract import Problem
from groupconv_worker.shard import Stage

log = logging.getLogger(__name__)

BUDGET = 0.9
"""Seconds after which what is not measured yet keeps its default."""
REPEATS = 6
"""Runs of each convolution; the fastest counts."""
NOISE = 1.5
"""Workers whose speeds are within this factor of the median are taken to be alike."""
BUSY_NOISE = 4.0
"""The same of one that joins while others are at work, maybe on the same cores; what requests show corrects it."""
F32 = np.dtype("float32")

# (input, kernel, spec): a small and a large one of each class
_SIZES: dict[str, list[tuple[tuple[int, ...], tuple[int, ...], ConvSpec]]] = {
    "dense": [((1, c, hw, hw), (c, c, 3, 3), ConvSpec(padding=1)) for c, hw in ((16, 8), (64, 28))],
    "pointwise": [((1, c, hw, hw), (c, c, 1, 1), ConvSpec()) for c, hw in ((32, 8), (128, 28))],
    "grouped": [((1, c, hw, hw), (c, 4, 3, 3), ConvSpec(padding=1, groups=c // 4)) for c, hw in ((16, 8), (128, 28))],
    "depthwise": [((1, c, hw, hw), (c, 1, 3, 3), ConvSpec(padding=1, groups=c)) for c, hw in ((8, 8), (64, 56))],
    "transposed": [
        ((1, c, hw, hw), (c, c // 2, 2, 2), ConvSpec(stride=2, transposed=True)) for c, hw in ((16, 8), (64, 28))
    ],
}
_COPY = ((1, 64, 112, 112), (64, 1, 1, 1), ConvSpec(groups=64))
_NOTHING = ((1, 1, 1), (1, 1, 1), ConvSpec())


class Calibration(NamedTuple):
    """What was measured.

    Attributes:
        rates: by worker.
        unknown: indices in `CLASSES` of those that could not be measured yet.
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
) -> Calibration:
    """Measure workers of an executor.

    Args:
        executor: with at least one worker, idle.
        default: what a worker is taken to be worth where the time is up before it is measured.
        workers: those to measure; None is all.
        like: rates of others that these may be like.
        disturbed: called before each run; once it is True, measuring ends.

    Returns:
        Rates by worker, none if the workers do not answer; and the classes whose kernels are still being compiled, so
        that what was measured tells nothing of how fast they will be. Rates of these are the default's.
    """
    workers = executor.workers() if workers is None else workers
    bench = _Bench(executor, default or Rates(), workers, like, disturbed)
    try:
        bench.measure()
    except _DisturbedError:
        return Calibration({}, frozenset(range(len(CLASSES))), bench.shards, disturbed=True)
    except GroupconvError as error:
        log.warning("the workers could not be measured (%s); plans assume default rates", error)
        return Calibration({}, frozenset(), bench.shards)
    for worker, rates in bench.rates.items():
        log.info("worker %s: %s", worker, rates)
    return Calibration(bench.rates, frozenset(bench.unknown), bench.shards)


def problems() -> list[Problem]:
    """What is measured, for who compiles ahead of it."""
    return [_problem(*sizes) for sizes in (_COPY, _NOTHING, *itertools.chain(*_SIZES.values()))]


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
    ) -> None:
        self.executor, self.workers, self.like, self.disturbed = executor, workers, like, disturbed
        self.rates = dict.fromkeys(self.workers, default)
        self.limit = time.monotonic() + BUDGET
        self.unknown: set[int] = set()
        self.shards: Counter[str] = Counter()
        self._grown: dict[int, float] = {}  # by class: what the first worker's larger size took more, all computing

    def measure(self) -> None:
        self._reach()
        copied = self._fastest(_COPY, self.workers)
        for worker, report in copied.items():
            self._update(worker, memory=_bytes(_problem(*_COPY)) / report.compute_seconds)
        for k, name in enumerate(CLASSES):
            if time.monotonic() > self.limit:
                log.info("no time was left to measure %s, which keep a default", ", ".join(CLASSES[k:]))
                break
            self._class(k, *_SIZES[name])
        self._crowding()
        self._level()

    def _level(self) -> None:
        """Workers that differ by no more than the noise of a short measurement are alike, so shares stay even."""
        median = _median(list(self.like or self.rates.values()))
        noise = BUSY_NOISE if self.like else NOISE
        for worker, rates in self.rates.items():
            ratio = rates.multiply_adds[0] / median.multiply_adds[0]
            if 1 / noise <= ratio <= noise:
                self.rates[worker] = median

    def _reach(self) -> None:
        """Latency, the coordinator's own time and the link: what a shard takes beyond its time in the engine."""
        beyond, busy = dict.fromkeys(self.workers, float("inf")), float("inf")
        for _ in range(2 * REPEATS):
            start = time.perf_counter()
            reports = self._run(_NOTHING, self.workers)
            busy = min(busy, time.perf_counter() - start)
            for r in reports:
                beyond[r.worker] = min(beyond[r.worker], r.seconds - r.compute_seconds)
        one = min(beyond.values())
        carrying = min(
            r.seconds - r.compute_seconds for _ in range(2 * REPEATS) for r in self._run(_COPY, self.workers[:1])
        )
        # where arrays are seen in place, carrying them is within the noise of a call
        moved = _bytes(_problem(*_COPY))
        link = moved / (carrying - one) if carrying > 4 * one + 2e-4 else float("inf")
        for worker, latency in beyond.items():
            each = max(1e-6, (busy - one) / len(self.workers))
            self._update(worker, latency=max(1e-6, latency), dispatch=each, link=link)

    def _class(self, k: int, small: "_Sizes", large: "_Sizes") -> None:
        """Rate and overhead of a class, from the difference between two sizes."""
        one, two = self._fastest(small, self.workers), self._fastest(large, self.workers)
        if any(report.improving for report in (*one.values(), *two.values())):
            self.unknown.add(k)
            return
        few, many = (cost.multiply_adds(_problem(*s).geometry) for s in (small, large))
        moved_few, moved_many = _bytes(_problem(*small)), _bytes(_problem(*large))
        for worker, rates in self.rates.items():
            if worker not in one or worker not in two:
                continue
            quick, slow = one[worker].compute_seconds, two[worker].compute_seconds
            # what fits a cache moves faster than the copy did, so at least half the time counts as computing
            computing = max(0.5 * slow, slow - quick - (moved_many - moved_few) / rates.memory)
            rate = (many - few) / computing
            overhead = max(0.0, one[worker].compute_seconds - few / rate)
            if worker == self.workers[0]:
                self._grown[k] = slow - quick
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
        for k, together in self._grown.items():
            alone = self._growth(k, self.workers[:1])
            if alone is not None and alone > 0 and together > 0:
                slower.append(math.log(max(1.0, together / alone)))
        if not slower:
            return
        factor = math.exp(statistics.median(slower))  # a class whose runs were all disturbed does not count
        for worker, rates in list(self.rates.items()):
            self.rates[worker] = replace(rates.faster(factor), crowding=factor - 1)

    def _growth(self, k: int, workers: Sequence[str]) -> float | None:
        """Seconds by which the first of the workers takes longer for a class's larger size."""
        quick, slow = (self._fastest(sizes, workers).get(self.workers[0]) for sizes in _SIZES[CLASSES[k]])
        return None if quick is None or slow is None else slow.compute_seconds - quick.compute_seconds

    def _fastest(self, sizes: "_Sizes", workers: Sequence[str]) -> Mapping[str, ShardReport]:
        best: dict[str, ShardReport] = {}
        for run in range(REPEATS):
            first = run == 0
            for report in self._run(sizes, workers):
                if report.improving:  # by another algorithm than later requests get
                    return {report.worker: report}
                if report.worker not in best or report.compute_seconds < best[report.worker].compute_seconds:
                    best[report.worker] = report
            if time.monotonic() > self.limit:
                return {} if first else best  # the first run finds nothing in the caches
        return best

    def _run(self, sizes: "_Sizes", workers: Sequence[str]) -> list[ShardReport]:
        if self.disturbed():
            raise _DisturbedError
        problem = _problem(*sizes)
        g = problem.geometry
        rng = np.random.default_rng(0)
        x, w = (rng.standard_normal(shape, dtype=np.float32) for shape in (g.input_shape, g.weight_shape))
        tasks = [
            Task(i, worker, (Stage(problem, w),), x, np.empty(g.output_shape, dtype=F32))
            for i, worker in enumerate(workers)
        ]
        ran = [reports[0] for reports in self.executor.run(tasks)]
        self.shards.update(report.worker for report in ran)
        if any(report.worker not in self.rates for report in ran):
            raise UnavailableError("a worker was lost while it was measured")
        return ran

    def _update(self, worker: str, **changes: object) -> None:
        if worker in self.rates:
            self.rates[worker] = replace(self.rates[worker], **changes)  # type: ignore[arg-type]


_Sizes = tuple[tuple[int, ...], tuple[int, ...], ConvSpec]


def _problem(x: tuple[int, ...], w: tuple[int, ...], spec: ConvSpec) -> Problem:
    return Problem(resolve(spec, x, w), types_of(F32, F32))


def _bytes(problem: Problem) -> int:
    return cost.bytes_in(problem.geometry, problem.types) + cost.bytes_out(problem.geometry, problem.types)


def _median(rates: Sequence[Rates]) -> Rates:
    """Each number's median over the workers."""
    numbers = {
        name: float(np.median([getattr(r, name) for r in rates]))
        for name in ("memory", "link", "latency", "dispatch", "crowding")
    }
    lists = {
        name: tuple(float(m) for m in np.median([getattr(r, name) for r in rates], axis=0))
        for name in ("multiply_adds", "overhead")
    }
    return Rates(**lists, **numbers)  # type: ignore[arg-type]


def _with(values: tuple[float, ...], k: int, value: float) -> tuple[float, ...]:
    return (*values[:k], value, *values[k + 1 :])
