"""A worker's runtime: shards share its threads, and each is seen by the process that tunes."""

import time

import numpy as np
import pytest

from groupconv import ConvSpec, resolve
from groupconv.convolution.dtypes import types_of
from groupconv_worker.activity import ACTIVITY
from groupconv_worker.contract import Problem
from groupconv_worker.job import Job
from groupconv_worker.resident import ResidentKey, WeightsMissingError
from groupconv_worker.runtime import WorkerRuntime
from groupconv_worker.shard import Stage

X, W = np.ones((1, 4, 12, 12), np.float32), np.ones((4, 4, 3, 3), np.float32)
PROBLEM = Problem(resolve(ConvSpec(), X.shape, W.shape), types_of(X.dtype, W.dtype))
FOREVER = 10**6


@pytest.fixture
def runtime():
    runtime = WorkerRuntime("cpu", 2, 2**20)
    yield runtime
    runtime.engine.close()


def run(runtime, layer=None):
    out = np.empty(PROBLEM.geometry.output_shape, np.float32)
    key = layer and ResidentKey(layer, 1, 0, ())
    job = Job(time.monotonic() + 60)
    with job:
        runtime.run([Stage(PROBLEM, W, key=key)], X, out, job)
    return out


def test_a_new_layer_does_not_wait_until_all_threads_are_free(runtime):
    """Nothing is measured in its first request, so it begins beside a shard that goes on for ever."""
    runtime.budget.STUBBORN = FOREVER
    held = runtime.budget.acquire(among=2)
    assert held == 1
    assert (run(runtime, "edges") == 36).all()
    runtime.budget.release(held)


def test_a_shard_is_counted_while_it_waits_and_runs_and_when_it_fails(runtime, monkeypatch):
    before, seen = ACTIVITY.entered, []
    prepare = runtime.engine.prepare
    monkeypatch.setattr(runtime.engine, "prepare", lambda *a, **k: seen.append(ACTIVITY.inside) or prepare(*a, **k))
    run(runtime)
    assert (seen, ACTIVITY.inside, ACTIVITY.entered) == ([1], 0, before + 1)
    gone = Stage(PROBLEM, np.empty(0, np.float32), key=ResidentKey("gone", 1, 0, ()))
    with pytest.raises(WeightsMissingError):
        runtime.run([gone], X, np.empty(PROBLEM.geometry.output_shape, np.float32), Job())
    assert (ACTIVITY.inside, ACTIVITY.entered) == (0, before + 2)
