"""Shapes, weights and work of a network, before it runs."""

import numpy as np
import onnxruntime
import pytest
from networks import LIGHT, model, sum_and_difference, towers, value
from onnx import TensorProto, helper

from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv_worker.graph.binding import Skeleton
from groupconv_worker.graph.model import read_model

MOST = 2**31


def bound(proto, shapes, most=MOST):
    return Skeleton(read_model(proto.SerializeToString())).bind(shapes, most=most).plan


def test_nodes_of_a_small_network():
    plan = bound(towers(), {"x": (2, 4, 8, 8)})
    conv, relu, pool, flatten = plan.nodes
    assert (conv.name, conv.op, conv.shape, conv.weights) == ("conv", "Conv", (2, 6, 8, 8), 6 * 2 * 9 + 6)
    assert conv.multiply_adds == 2 * 6 * 64 * 2 * 9
    assert (relu.shape, pool.shape, flatten.shape) == ((2, 6, 8, 8), (2, 6, 1, 1), (2, 6))
    assert plan.outputs[0].shape == (2, 6)
    # the input stays; the convolution's output and relu's are alive at once
    assert plan.peak_bytes == 4 * (2 * 4 * 64 + 2 * (2 * 6 * 64))
    assert "conv" in str(plan)


@pytest.mark.parametrize("name", ["bvlc_alexnet", "squeezenet", "shufflenet", "inception_v1"])
def test_shapes_are_those_that_a_run_has(name):
    data = (LIGHT / f"light_{name}.onnx").read_bytes()
    found = read_model(data)
    plan = Skeleton(found).bind({found.inputs[0].name: found.inputs[0].shape}, most=MOST).plan
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {found.inputs[0].name: np.zeros(found.inputs[0].shape, np.float32)})
    assert [info.shape for info in plan.outputs] == [y.shape for y in outputs]
    assert all(node.shape is not None for node in plan.nodes)


def test_alexnet_is_as_large_as_the_paper_says():
    found = read_model((LIGHT / "light_bvlc_alexnet.onnx").read_bytes())
    skeleton = Skeleton(found)
    plan = skeleton.bind({"data_0": (1, 3, 224, 224)}, most=MOST).plan
    assert 60.9e6 < skeleton.weights < 61.1e6  # Krizhevsky et al., 2012: 60 million
    assert skeleton.folded_bytes > 4 * 60e6  # this file computes its weights
    assert 650e6 < plan.multiply_adds < 720e6
    assert plan.peak_bytes < 10e6


def test_a_tensor_over_the_limit_is_named():
    with pytest.raises(ResourceExhaustedError, match=r"model.graph.node\[0\] \(Conv 'conv'\): an output of \[1, 6, 64"):
        bound(towers(), {"x": (1, 4, 64, 64)}, most=6 * 64 * 64 * 4 - 1)


def test_a_constant_over_the_limit_is_named():
    shape = np.array([1 << 16, 1 << 16], np.int64)
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["c"], "huge"),
        helper.make_node("ReduceMax", ["c"], ["m"], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    proto = model(nodes, [value("x", [1])], [value("y", [1])], {"shape": shape})
    with pytest.raises(ResourceExhaustedError, match="huge"):
        bound(proto, {"x": (1,)})


def test_shapes_that_depend_on_values_are_unknown():
    nodes = [helper.make_node("NonZero", ["x"], ["y"], "found")]
    plan = bound(model(nodes, [value("x", ["n"])], [value("y", [1, "m"], TensorProto.INT64)]), {"x": (5,)})
    assert plan.nodes[0].shape is None
    assert plan.outputs[0].shape == (1, "m")


def test_several_outputs():
    plan = bound(sum_and_difference(), {"a": (2, 3), "b": (2, 3)})
    assert [info.shape for info in plan.outputs] == [(2, 3), (2, 3)]


@pytest.mark.parametrize(
    ("channels", "groups", "said"),
    [(5, 1, r"weights for 5 channels in 1 group, got \[4, 4, 3, 3\]"), (4, 3, "a multiple of 3 groups")],
)
def test_weights_that_do_not_fit_are_refused_with_their_node(channels, groups, said):
    conv = helper.make_node("Conv", ["x", "w"], ["y"], "stage2/conv1", group=groups)
    w = {"w": np.ones((4, 4, 3, 3), np.float32)}
    proto = model([conv], [value("x", [1, channels, "h", "w"])], [value("y", [1, 4, "m", "n"])], w)
    skeleton = Skeleton(read_model(proto.SerializeToString()))
    with pytest.raises(
        InvalidArgumentError, match=rf"model.graph.node\[0\] \(Conv 'stage2/conv1'\).input\[1\].*{said}"
    ):
        skeleton.bind({"x": (1, channels, 8, 8)}, most=2**30)
