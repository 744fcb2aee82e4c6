"""Both executors give the reference's results, keep deadlines and name what they did."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from groupconv import ConvSpec, Step
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.steps import geometries
from groupconv.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    GroupconvError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
)
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.executors import Executor, Task, create_executor
from groupconv_server.planner import Cut
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.engine import why_unavailable
from groupconv_worker.job import Job, Jobs
from groupconv_worker.shard import Stage
from strategies import FLOATS, Case, cases
from waiting import until

PAIRS = tuple((f, f) for f in FLOATS) + (("uint8", "int8"), ("int32", "int32"), ("uint8", "float32"))


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def executor(request: pytest.FixtureRequest):
    if request.param == "ray":
        yield request.getfixturevalue("ray_executor")
        return
    executor = create_executor("local", workers=3, threads=1, engine="reference")
    yield executor
    executor.close()


@settings(max_examples=60)
@given(case=cases(dtypes=PAIRS, max_groups=4))
def test_every_executor_gives_the_unsplit_reference_bit_for_bit(executor: Executor, case: Case):
    outcome = cut_by_samples(Coordinator(executor), case.x, [Step(case.weight, case.bias, case.spec)])
    whole = reference.convolve(case.x, case.weight, case.bias, case.geometry).astype(case.types.output)
    np.testing.assert_array_equal(outcome.output, whole)
    planned = outcome.report.plan.steps[0].shards
    assert [(s.index, s.worker) for s in outcome.report.steps[0]] == [(s.index, s.worker) for s in planned]
    for shard in outcome.report.steps[0]:
        assert shard.attempts == 1
        assert 0 < shard.compute_seconds <= shard.seconds


def cut_by_samples(coordinator: Coordinator, x: np.ndarray, steps: list[Step]):
    """Run with the batch spread over the workers, however little there is to gain."""
    workers = coordinator.executor.workers()
    (g,) = geometries([s.spec for s in steps], x.shape, [s.kernel.shape for s in steps])
    problem = Problem(g, types_of(x.dtype, steps[0].kernel.dtype))
    planned = coordinator.planner.forced((problem,), workers, [(1, Cut(batch=min(len(workers), g.batch)))])
    assert planned is not None
    return coordinator.run_plan(planned, x, coordinator.compile(x.shape, x.dtype, steps))


def test_workers_describe_themselves(executor: Executor):
    for worker, described in zip(executor.workers(), executor.describe(), strict=True):
        assert worker == described.id
        assert described.engine == "reference"
        assert described.node
        assert described.threads == 1


def grouped_request():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 20, 20))
    return x, [Step(rng.standard_normal((8, 4, 3, 3)), None, ConvSpec(groups=2))]


def test_a_deadline_in_the_past_starts_nothing_and_the_next_request_is_served(executor: Executor):
    x, steps = grouped_request()
    coordinator = Coordinator(executor)
    with pytest.raises(DeadlineExceededError):
        coordinator.convolve(x, steps, job=Job(time.monotonic() - 1))
    assert coordinator.convolve(x, steps).output.shape == (2, 8, 18, 18)


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_requests_share_the_threads_of_a_local_worker(engine):
    executor = create_executor("local", workers=1, threads=2, engine=engine)
    coordinator, (x, steps) = Coordinator(executor, inside=lambda: 2), grouped_request()
    met = threading.Barrier(executor.computes_here)
    want = Coordinator(executor).convolve(x, steps).output
    (worker,) = executor._workers.values()
    prepare = worker.runtime.engine.prepare  # called once a run has its threads
    worker.runtime.engine.prepare = lambda *args, **options: (met.wait(60), prepare(*args, **options))[1]

    def request(_):
        return coordinator.convolve(x, steps).output

    assert executor.computes_here == (2 if engine == "cpu" else 1)
    with ThreadPoolExecutor(2) as callers:
        for got in callers.map(request, range(4)):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    assert executor.describe()[0].shards == 5
    executor.close()


LARGE = np.ones((1, 64, 192, 192), np.int32)
HEAVY = [Step(np.ones((64, 64, 61, 61), np.int32), None, ConvSpec(padding=30))]
"""Half a minute of work."""


def processor_seconds(executor: Executor) -> float:
    """Of this process and of those that compute for it."""
    own = sum(os.times()[:2])
    pids = [slot.facts["pid"] for slot in executor.membership.slots] if executor.name == "ray" else []
    stats = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return own + sum(int(s[11]) + int(s[12]) for s in stats) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def computing(request):
    ray = request.param == "ray"
    executor = request.getfixturevalue("ray_executor") if ray else create_executor("local", threads=1, engine="cpu")
    small = [Step(np.ones((1, 1, 3), np.int32))]
    Coordinator(executor).convolve(np.ones((1, 1, 9), np.int32), small)  # whatever is compiled or opened first
    few = [Step(HEAVY[0].kernel[:, :, :3, :3].copy(), None, ConvSpec(padding=1))]
    Coordinator(executor).convolve(LARGE[:, :, :16, :16], few)
    yield executor
    if ray:
        executor._jobs = Jobs()  # others use it, too
    else:
        executor.close()


@pytest.mark.parametrize("how", ["deadline", "gone", "interrupted"])
def test_what_nobody_waits_for_is_not_computed(computing, how):
    coordinator, gone = Coordinator(computing), threading.Event()
    job = Job(time.monotonic() + 0.5 if how == "deadline" else None, lambda: not gone.is_set())
    start, errors = processor_seconds(computing), []

    def run():
        try:
            coordinator.convolve(LARGE, HEAVY, job=job)
        except GroupconvError as error:
            errors.append(type(error))

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: processor_seconds(computing) > start + 0.2)
    {"deadline": lambda: None, "gone": gone.set, "interrupted": computing.interrupt}[how]()
    thread.join(60)
    wanted = {"deadline": DeadlineExceededError, "gone": CancelledError, "interrupted": UnavailableError}
    assert errors == [wanted[how]]
    # the worker is free: another's work is done, and no more than that is computed
    stopped = processor_seconds(computing)
    if how == "interrupted":
        with pytest.raises(UnavailableError):
            coordinator.convolve(np.ones((1, 1, 9), np.int32), [Step(np.ones((1, 1, 3), np.int32))])
    else:
        for _ in range(5):
            coordinator.convolve(np.ones((1, 1, 9), np.int32), [Step(np.ones((1, 1, 3), np.int32))])
    assert processor_seconds(computing) - stopped < 2


def test_short_requests_are_served_beside_a_long_one(computing):
    coordinator, gone, ended = Coordinator(computing), threading.Event(), threading.Event()
    start = processor_seconds(computing)

    def run():
        with pytest.raises(CancelledError):
            coordinator.convolve(LARGE, HEAVY, job=Job(alive=lambda: not gone.is_set()))
        ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: processor_seconds(computing) > start + 0.2)
    for _ in range(10):
        coordinator.convolve(np.ones((1, 1, 9), np.int32), [Step(np.ones((1, 1, 3), np.int32))])
    # all ten in a small part of its time: each would else have waited for its end
    assert processor_seconds(computing) - start < 6
    assert not ended.is_set()
    gone.set()
    thread.join(60)


@pytest.mark.ray
def test_a_killed_ray_worker_costs_latency_only_and_returns(ray_executor):
    x, steps = grouped_request()
    coordinator = Coordinator(ray_executor)
    whole = cut_by_samples(coordinator, x, steps).output
    before = {w.id: w.restarts for w in ray_executor.describe()}
    victim = ray_executor.membership.slots[0]
    os.kill(victim.facts["pid"], signal.SIGKILL)
    outcome = cut_by_samples(coordinator, x, steps)
    np.testing.assert_array_equal(outcome.output, whole)
    limit = time.monotonic() + 60
    while len(ray_executor.workers()) < 2 and time.monotonic() < limit:
        np.testing.assert_array_equal(coordinator.convolve(x, steps).output, whole)
    after = {w.id: w.restarts for w in ray_executor.describe()}
    assert after[victim.id] == before[victim.id] + 1


@pytest.mark.ray
def test_the_worker_s_own_errors_come_through(ray_executor):
    x, steps = grouped_request()
    problem = Problem(resolve(steps[0].spec, x.shape, steps[0].kernel.shape), types_of(x.dtype, x.dtype))
    stage = Stage(problem, steps[0].kernel)
    out = np.empty(problem.geometry.output_shape)
    broken = Task(0, ray_executor.workers()[0], (stage,), x[:, :3], out)
    with pytest.raises(InternalError, match="ValueError"):
        ray_executor.run([broken])


def test_no_worker_is_unavailable_not_a_crash():
    class Empty:
        name = "empty"

        def workers(self):
            return ()

        def wait(self, deadline):
            raise UnavailableError("no worker is there")

    with pytest.raises(UnavailableError, match="no worker"):
        Coordinator(Empty()).convolve(*grouped_request())


def test_executors_refuse_what_they_cannot_be():
    with pytest.raises(InvalidArgumentError, match="executor: expected one of local, ray"):
        create_executor("dask")
    with pytest.raises(InvalidArgumentError, match="ray_address"):
        create_executor("local", ray_address="auto")


@pytest.mark.skipif(not why_unavailable(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("name", ["local", "ray"])
def test_an_engine_that_cannot_run_here_is_refused_at_once(name):
    with pytest.raises(FailedPreconditionError, match="engine cuda: "):
        create_executor(name, workers=1, engine="cuda")
