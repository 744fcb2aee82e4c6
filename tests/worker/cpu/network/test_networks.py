"""Whole networks on our own program against onnxruntime, with weights of their own."""

import time

import numpy as np
import onnx
import pytest
from compiled_networks import check, model
from networks import LIGHT
from onnx import helper, numpy_helper

from groupconv.errors import DeadlineExceededError
from groupconv_worker.cpu.network.network import CompiledNetwork
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.job import Job


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


@pytest.mark.slow
@pytest.mark.parametrize("op", ["AveragePool", "MatMul"])
def test_a_long_stage_ends_soon_after_its_deadline(op: str) -> None:
    """Judged by processor time, of a stage that is one part of the program alone."""
    if op == "MatMul":
        given = {name: np.ones((1, 2048, 2048), np.float32) for name in "ab"}
        data = model([helper.make_node("MatMul", ["a", "b"], ["y"])], {name: x.shape for name, x in given.items()})
    else:
        given = {"x": np.ones((1, 64, 256, 256), np.float32)}
        pool = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[31, 31], pads=[15] * 4)
        data = model([pool], {"x": (1, 64, 256, 256)})
    team = Team(1)
    network = CompiledNetwork(Optimized(read_model(data)).canonical({n: x.shape for n, x in given.items()}), team)
    network.run(given)
    start, begun = time.monotonic(), time.thread_time()
    network.run(given)
    took, used = time.monotonic() - start, time.thread_time() - begun
    begun = time.thread_time()
    with pytest.raises(DeadlineExceededError), Job(time.monotonic() + took / 20):
        network.run(given)
    assert time.thread_time() - begun < 0.5 * used
    team.close()
