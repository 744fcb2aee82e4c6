"""Networks on a real device: what test_operators.py and test_networks.py show under emulation. `make test-gpu`."""

import numpy as np
import pytest
from device_networks import check_case, check_model, check_threads, small_alexnet, small_resnet, supported_cases
from hypothesis import HealthCheck, given, reject, settings
from worker.graph.drawn import networks

from groupconv_worker.cuda.engine import CudaEngine, why_unavailable
from groupconv_worker.cuda.network.operators import LOWER
from groupconv_worker.graph.graph import UnsupportedNodeError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(why_unavailable()), reason=why_unavailable() or "there is a device"),
]
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.fixture(scope="module")
def engine():
    engine = CudaEngine()
    yield engine
    engine.close()


def image(shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("network", [small_alexnet, small_resnet])
def test_a_network_is_one_graph_that_agrees_with_the_reference(engine, network):
    data, shape = network()
    made = check_model(data, {"x": image(shape)}, engine)
    assert made._pool.idle[0].recorded
    seconds = made.node_seconds({"x": image(shape)})
    assert min(seconds.values()) > 0


def test_a_network_runs_in_several_threads(engine):
    data, shape = small_resnet()
    check_threads(check_model(data, {"x": image(shape)}, engine), shape, threads=4, runs=50)


@pytest.mark.parametrize("op", sorted(LOWER))
def test_the_cases_of_an_operator(engine, op):
    for case in supported_cases().get(op, []):
        try:
            check_case(case, engine)
        except UnsupportedNodeError:
            continue
        except Exception as error:
            raise AssertionError(case.name) from error


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(drawn=networks(blocks=4))
def test_drawn_networks(engine, drawn):
    proto, shape = drawn
    try:
        check_model(proto.SerializeToString(), {"x": image(shape)}, engine)
    except UnsupportedNodeError:
        reject()
