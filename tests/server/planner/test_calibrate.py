"""Measuring the workers."""

import logging
import math

import numpy as np
import pytest

from groupconv import ConvSpec, resolve
from groupconv.convolution import cost
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.report import ShardReport
from groupconv_server.executors import create_executor
from groupconv_server.planner import Planner, Rates, Statistics
from groupconv_server.planner.calibrate import calibrate
from groupconv_server.planner.rates import CLASSES, class_of
from groupconv_worker.contract import Problem

F32 = np.dtype("float32")
SLOW = Rates(multiply_adds=(1e6,) * 5, overhead=(1e-6,) * 5, latency=1e-6, dispatch=1e-6)


def problem(*, x, w, **spec) -> Problem:
    return Problem(resolve(ConvSpec(**spec), x, w), types_of(F32, F32))


def test_calibration_measures_every_worker_in_little_time():
    executor = create_executor("local", workers=2, threads=1, engine="cpu")
    try:
        rates, _, shards, _ = calibrate(executor)
        assert shards == {worker.id: worker.shards for worker in executor.describe()}
    finally:
        executor.close()
    assert set(rates) == {"local-0", "local-1"}
    for r in rates.values():
        assert min(r.multiply_adds) > 1e6
        assert min(r.memory, r.link) > 1e6
        assert 0 < r.latency < 1
        assert min(r.overhead) >= 0


def test_no_worker_is_no_rate(caplog):
    class Nobody:
        def workers(self):
            return ()

    with caplog.at_level(logging.INFO):
        found = calibrate(Nobody())
    assert (found.rates, found.disturbed) == ({}, False)
    assert "no worker is there" in caplog.text


def test_workers_that_cannot_be_measured_get_default_rates():
    from groupconv.errors import UnavailableError

    class Broken:
        computes_here = 0

        def workers(self):
            return ("w0",)

        def run(self, tasks, *, job=None, among=1):
            raise UnavailableError("away")

    assert calibrate(Broken()) == ({}, frozenset(), {"w0": 1}, False)


def test_a_class_whose_kernels_are_compiled_meanwhile_is_not_known_and_not_cut():

    class Compiling:
        """Two workers that have a better algorithm for depthwise kernels on its way."""

        improving = True
        computes_here = 0

        def workers(self):
            return ("w0", "w1")

        def run(self, tasks, *, job=None, among=1):
            problems = [task.stages[0].problem for task in tasks]
            improving = [self.improving and class_of(p.geometry) == 3 and p.geometry.kernel == (3, 3) for p in problems]
            return [
                (ShardReport(task.index, task.worker, "gemm", 2e-4, 1e-4, improving=later),)
                for task, later in zip(tasks, improving, strict=True)
            ]

    executor, statistics = Compiling(), Statistics()
    depthwise = problem(x=(1, 64, 112, 112), w=(64, 1, 3, 3), padding=1, groups=64)
    dense = problem(x=(1, 64, 112, 112), w=(64, 64, 3, 3), padding=1)
    planner, workers = Planner(statistics), executor.workers()

    def shards(*problems):
        return max(len(chain.workers) for chain in planner.plan(problems, workers))

    rates, unknown, *_ = calibrate(executor, budget=math.inf)
    assert set(rates) == set(workers)
    assert [CLASSES[k] for k in unknown] == ["depthwise"]
    statistics.calibrated(dict.fromkeys(rates, SLOW), unknown)
    assert (shards(depthwise), shards(dense)) == (1, 2)

    executor.improving = False
    rates, unknown, *_ = calibrate(executor, budget=math.inf)
    assert not unknown
    statistics.calibrated(dict.fromkeys(rates, SLOW), unknown)
    assert (shards(depthwise), shards(dense)) == (2, 2)


class Simulated:
    """Workers that take as long as their rates say; their link carries what shards weigh."""

    computes_here = 0

    def __init__(self, rates, workers=2):
        self.rates, self.ran = rates, []
        self._names = tuple(f"w{i}" for i in range(workers))

    def workers(self):
        return self._names

    def run(self, tasks, *, job=None, among=1):
        found = []
        for task in tasks:
            problem = task.stages[0].problem
            compute = self.rates.compute_seconds(problem)
            moved = cost.bytes_in(problem.geometry, problem.types) + cost.bytes_out(problem.geometry, problem.types)
            carried = self.rates.latency + moved / self.rates.link
            self.ran.append(problem)
            found.append((ShardReport(task.index, task.worker, "any", compute + carried, compute),))
        return found


@pytest.mark.parametrize("link", [13e9, float("inf")])
def test_a_gpu_is_measured_with_work_that_fills_it(link):
    gpu = Rates((2e13, 2e13, 1e13, 2e12, 5e12), (5e-5,) * 5, memory=2.5e10, link=link, latency=2e-4)
    executor = Simulated(gpu)
    rates, unknown, *_ = calibrate(executor, budget=math.inf)
    assert not unknown
    assert max(cost.multiply_adds(p.geometry) for p in executor.ran) > 10**9
    for found in rates.values():
        assert found.link < float("inf")  # it carries something, at whatever speed
        assert found.link == pytest.approx(link, rel=0.01) or link == float("inf")
        assert 0.5 * gpu.memory < found.memory <= gpu.memory
        for p in executor.ran:  # where copies hide what is computed, only the sum can be known
            assert found.compute_seconds(p) == pytest.approx(gpu.compute_seconds(p), rel=0.25)


def test_a_core_is_not_given_the_work_of_a_gpu():
    executor = Simulated(Rates())
    calibrate(executor, budget=math.inf)
    assert max(cost.multiply_adds(p.geometry) for p in executor.ran) < 10**8


def test_what_there_was_no_time_to_measure_is_not_cut():
    rates, unknown, *_ = calibrate(Simulated(Rates()), budget=0.0)
    assert unknown == frozenset(range(len(CLASSES)))
    statistics = Statistics()
    statistics.calibrated(dict.fromkeys(rates, SLOW), unknown)
    dense = problem(x=(1, 64, 112, 112), w=(64, 64, 3, 3), padding=1)
    (chain,) = Planner(statistics).plan((dense,), tuple(rates))
    assert len(chain.workers) == 1
