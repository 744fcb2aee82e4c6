"""Random networks as programs, in an arena full of NaN, against onnxruntime."""

import numpy as np
import pytest
from compiled_networks import check
from hypothesis import HealthCheck, given, reject, settings
from worker.graph.drawn import networks

from groupconv_worker.graph.graph import UnsupportedNodeError

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def compare(drawn) -> None:
    proto, shape = drawn
    try:
        check(
            proto.SerializeToString(), {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}, 1e-4
        )
    except UnsupportedNodeError:
        reject()


@settings(max_examples=10, deadline=None, suppress_health_check=QUIET)
@given(networks(blocks=2))
def test_some_networks(drawn) -> None:
    compare(drawn)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(networks(blocks=4))
def test_many_networks(drawn) -> None:
    compare(drawn)
