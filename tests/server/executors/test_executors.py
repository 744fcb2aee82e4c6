"""Both executors give the reference's results, keep deadlines and name what they did."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings

from groupconv import ConvSpec, Step
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    UnavailableError,
)
from groupconv.wire.requests import geometries
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.coordinator.resident import resident_steps
from groupconv_server.executors import Executor, Task, create_executor
from groupconv_server.executors.base import wanted
from groupconv_server.planner import Cut
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.engine import why_unavailable
from groupconv_worker.shard import Stage
from strategies import FLOATS, Case, cases

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
    return coordinator.run(planned, x, steps)


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
        coordinator.convolve(x, steps, deadline=time.monotonic() - 1)
    assert coordinator.convolve(x, steps).output.shape == (2, 8, 18, 18)


@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_requests_share_the_threads_of_a_local_worker(engine):
    executor = create_executor("local", workers=1, threads=2, engine=engine)
    coordinator, (x, steps) = Coordinator(executor, inside=lambda: 2), grouped_request()
    met = threading.Barrier(executor.computes_here)
    want = Coordinator(executor).convolve(x, steps).output

    def request(_):
        wanted.set(lambda: met.wait(60) >= 0)  # asked when it is the shard's turn
        return coordinator.convolve(x, steps).output

    assert executor.computes_here == (2 if engine == "cpu" else 1)
    with ThreadPoolExecutor(2) as callers:
        for got in callers.map(request, range(4)):
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    assert executor.describe()[0].shards == 5
    executor.close()


def test_what_is_to_be_tuned_waits_for_all_threads():
    executor = create_executor("local", workers=1, threads=2, engine="cpu")
    coordinator, (x, steps) = Coordinator(executor, inside=lambda: 2), grouped_request()
    resident = resident_steps("layer", 1, steps)
    inside, go = threading.Event(), threading.Event()

    def held():
        wanted.set(lambda: inside.set() or go.wait(60))
        coordinator.convolve(x, steps)

    first = threading.Thread(target=held)
    first.start()
    assert inside.wait(60)
    coordinator.convolve(x, steps)  # on the other thread
    with pytest.raises(DeadlineExceededError):
        coordinator.convolve(x, resident, deadline=time.monotonic() + 0.05)
    go.set()
    first.join(60)
    coordinator.convolve(x, resident)
    executor.close()


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
        ray_executor.run([broken], deadline=None)


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
