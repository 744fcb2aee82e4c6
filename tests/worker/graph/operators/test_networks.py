"""Whole networks in canonical form on the reference, against onnxruntime."""

import numpy as np
import onnxruntime
import pytest
from networks import LIGHT

from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.operators.table import run_reference


def by_onnxruntime(data, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return dict(zip([info.name for info in session.get_outputs()], session.run(None, inputs), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_light_networks(path):
    data = path.read_bytes()
    model = read_model(data)
    rng = np.random.default_rng(0)
    inputs = {info.name: rng.random(info.shape, np.float32) for info in model.inputs}
    graph = Optimized(model).canonical({name: x.shape for name, x in inputs.items()})
    found = run_reference(graph, inputs)
    for name, wanted in by_onnxruntime(data, inputs).items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-6)
