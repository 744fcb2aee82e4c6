"""Measuring the workers."""

import numpy as np

from groupconv import ConvSpec, resolve
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


def test_workers_that_cannot_be_measured_get_default_rates():
    from groupconv.errors import UnavailableError

    class Broken:
        def workers(self):
            return ("w0",)

        def run(self, tasks, *, job=None, among=1):
            raise UnavailableError("away")

    assert calibrate(Broken()) == ({}, frozenset(), {}, False)


def test_a_class_whose_kernels_are_compiled_meanwhile_is_not_known_and_not_cut(monkeypatch):
    monkeypatch.setattr("groupconv_server.planner.calibrate.BUDGET", 1e9)  # a busy machine measures all the same

    class Compiling:
        """Two workers that have a better algorithm for depthwise kernels on its way."""

        improving = True

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

    rates, unknown, *_ = calibrate(executor)
    assert set(rates) == set(workers)
    assert [CLASSES[k] for k in unknown] == ["depthwise"]
    statistics.calibrated(dict.fromkeys(rates, SLOW), unknown)
    assert (shards(depthwise), shards(dense)) == (1, 2)

    executor.improving = False
    rates, unknown, *_ = calibrate(executor)
    assert not unknown
    statistics.calibrated(dict.fromkeys(rates, SLOW), unknown)
    assert (shards(depthwise), shards(dense)) == (2, 2)


def test_what_never_can_be_measured_is_judged_by_default_rates():
    statistics = Statistics()
    statistics.calibrated({}, frozenset({0}))
    dense = problem(x=(1, 64, 112, 112), w=(64, 64, 3, 3), padding=1)
    assert not statistics.can_judge([dense])
    statistics.assume_defaults()
    assert statistics.can_judge([dense])
