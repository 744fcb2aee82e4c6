"""Random networks on the reference, as they are and in canonical form, against onnxruntime."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings

from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.operators.table import run_reference

from .drawn import networks

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def check(drawn):
    proto, shape = drawn
    data = proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    x = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    (wanted,) = session.run(None, x)
    optimized = Optimized(read_model(data))
    tolerance = 1e-4 * max(1.0, float(np.abs(wanted).max()))
    for graph in (optimized.bind({"x": shape}), optimized.canonical({"x": shape})):
        found = run_reference(graph, x)["y"]
        assert found.shape == wanted.shape == graph.tensors["y"].shape
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=tolerance)


@settings(max_examples=15, deadline=None, suppress_health_check=QUIET)
@given(networks(blocks=2))
def test_some_networks(drawn):
    check(drawn)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(networks(blocks=4))
def test_many_networks(drawn):
    check(drawn)
