"""Whole networks on our own program against onnxruntime, with weights of their own."""

import numpy as np
import onnx
import pytest
from compiled_networks import check
from networks import LIGHT
from onnx import numpy_helper

from groupconv_worker.graph.model import read_model


def drawn(name: str) -> bytes:
    """A network that the onnx package ships, with random weights instead of constants."""
    model, rng = onnx.load(LIGHT / f"light_{name}.onnx"), np.random.default_rng(1)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {
        n.output[0]: numpy_helper.to_array(stored[n.input[0]]) for n in graph.node if n.op_type == "ConstantOfShape"
    }
    kept = [node for node in graph.node if node.op_type not in ("ConstantOfShape", "Softmax")]
    last = next((node for node in graph.node if node.op_type == "Softmax"), None)
    if last is not None:  # of random weights it finds one class alone
        kept = [n for n in kept if n.output[0] != last.input[0]] + [
            _renamed(n, last) for n in kept if n.output[0] == last.input[0]
        ]
    variances = {node.input[4] for node in graph.node if node.op_type == "BatchNormalization"}
    for key, shape in shapes.items():
        fan = max(1, int(np.prod(shape[1:])))
        values = rng.uniform(0.5, 1.5, shape) if key in variances else rng.standard_normal(shape) * np.sqrt(2 / fan)
        graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), key))
    del graph.node[:]
    graph.node.extend(kept)
    data: bytes = model.SerializeToString()
    return data


def _renamed(node: onnx.NodeProto, last: onnx.NodeProto) -> onnx.NodeProto:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.output[0] = last.output[0]
    return made


@pytest.mark.parametrize(
    "name",
    [
        "squeezenet",
        pytest.param("shufflenet", marks=pytest.mark.slow),
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("bvlc_alexnet", marks=pytest.mark.slow),
        pytest.param("inception_v1", marks=pytest.mark.slow),
        pytest.param("densenet121", marks=pytest.mark.slow),
    ],
)
def test_a_network_agrees_with_onnxruntime(name: str) -> None:
    data = drawn(name)
    (info,) = read_model(data).inputs
    x = np.random.default_rng(0).standard_normal(info.shape).astype(np.float32)
    network = check(data, {info.name: x}, tolerance=1e-4)
    assert network.arena_bytes < 30 * 2**20
