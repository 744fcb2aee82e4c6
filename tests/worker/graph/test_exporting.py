"""Canonical graphs that are made into ONNX again compute what the model did."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from worker.graph.drawn import networks

from groupconv_worker.graph.exporting import export
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def run(data: bytes, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def compare(drawn) -> None:
    proto, shape = drawn
    data = proto.SerializeToString()
    graph = Optimized(read_model(data)).canonical({"x": shape})
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    want = run(data, x)
    got = run(export(graph, graph.nodes, graph.inputs, graph.outputs).SerializeToString(), x)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * max(float(np.abs(want).max(initial=0)), 1e-30))


@settings(max_examples=15, deadline=None, suppress_health_check=QUIET)
@given(networks(blocks=2))
def test_some_networks(drawn) -> None:
    compare(drawn)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(networks(blocks=4))
def test_many_networks(drawn) -> None:
    compare(drawn)
