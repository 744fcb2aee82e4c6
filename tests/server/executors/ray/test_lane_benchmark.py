"""Up to which size shards go by a lane, whatever the moment in which it was measured."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import ray

from groupconv_server.executors.lanes.lane import LARGEST
from groupconv_server.executors.ray import lane_benchmark
from groupconv_server.executors.ray.lane_benchmark import LEAST, measure_limit


class Lane:
    """A lane whose echo takes so many seconds, or for which there is no memory."""

    def __init__(self, seconds):
        self.seconds = seconds

    def take(self):
        return self

    def drop(self, connection):
        assert connection is self

    def echo(self, x, out):
        if self.seconds is None:
            raise MemoryError
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        out[...] = x


ACTOR = SimpleNamespace(echo=SimpleNamespace(remote=lambda x: x))
"""A worker that Ray reaches in two milliseconds."""


@pytest.fixture(autouse=True)
def through_ray(monkeypatch):
    def get(x, timeout):
        assert timeout > 0
        end = time.perf_counter() + 2e-3
        while time.perf_counter() < end:
            pass
        return np.array(x)

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(lane_benchmark, "SIZES", (2**8, 2**10))


@pytest.mark.parametrize(("seconds", "limit"), [(0.0, LARGEST), (0.02, LEAST), (None, LEAST)])
def test_small_shards_go_by_the_lane_also_where_it_looked_slow(seconds, limit):
    assert measure_limit(Lane(seconds), ACTOR) == limit
