"""Small files that ask for huge tensors: refused with the node's name, before their memory is paid for."""

import resource

import numpy as np
import pytest
from networks import model, value
from onnx import TensorProto, helper

from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv_server.coordinator.limits import Limits
from groupconv_server.executors.local import LocalExecutor
from groupconv_server.layers.registry import Layers
from groupconv_server.layers.version import NetworkVersion
from groupconv_server.networks.networks import Networks
from groupconv_worker.job import Job

X, Y = value("x", [1, 3, 4, 4]), value("y", ["n", "c", "h", "w"])
MAP = np.ones((1, 3, 4, 4), np.float32)
HUGE = [1 << 10, 1 << 10, 1 << 10, 1 << 10]
GROWTH = 2**29
"""Bytes that the process may grow by. Each of the tensors would take many times as much."""


@pytest.fixture(scope="module")
def networks():
    executor = LocalExecutor(workers=1, threads=1)
    yield Networks(Layers(executor.forget, capacity=2**30), executor, Limits())
    executor.close()


def run(networks, **inputs):
    with networks.registry.using("bomb", kind=NetworkVersion) as network:
        networks.calls.run(network, inputs, (), Job())


def node(op, inputs, output="y", **attributes):
    return helper.make_node(op, inputs, [output], "bomb", **attributes)


def summed(*nodes):
    """Nodes whose last output, `e`, is summed and added to the input, so that the answer is small."""
    nodes = (*nodes, helper.make_node("ReduceSum", ["e"], ["sum"], keepdims=0))
    return [*nodes, helper.make_node("Cast", ["sum"], ["s"], to=1), helper.make_node("Add", ["x", "s"], ["y"])]


def whole(*extents):
    return np.array(extents, np.int64)


def branch(name):
    made = helper.make_node("ConstantOfShape", ["shape"], ["z"], "inner")
    return helper.make_graph([made], name, [], [helper.make_empty_tensor_value_info("z")])


def grown(action):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    action()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


SCALES = np.array([1, 1, 1e9, 1e9], np.float32)
ENDS = {"from": np.array(0), "by": np.array(1)}
CLASSES = {"i": whole(1, 2, 3), "v": np.array([0, 1], np.float32)}


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("Reshape", ["x", "shape"])], {"shape": whole(*HUGE)}),
        ([node("Resize", ["x", "", "scales"])], {"scales": SCALES}),
        (summed(node("ConstantOfShape", ["shape"], "e")), {"shape": whole(*HUGE)}),
        (summed(node("Expand", ["x", "shape"], "e")), {"shape": whole(1 << 30, 1, 3, 4, 4)}),
        (summed(node("Tile", ["x", "times"], "e")), {"times": whole(1 << 10, 1, 1 << 10, 1 << 10)}),
        (summed(node("Range", ["from", "to", "by"], "e")), ENDS | {"to": np.array(1 << 40)}),
        (summed(node("OneHot", ["i", "depth", "v"], "e")), CLASSES | {"depth": np.array(1 << 40)}),
        (summed(node("RandomUniform", [], "e", shape=HUGE)), {}),
        (summed(node("HannWindow", ["size"], "e")), {"size": np.array(1 << 40)}),
        ([node("Pad", ["x", "pads"])], {"pads": whole(0, 0, 1 << 20, 1 << 20, 0, 0, 0, 0)}),
        ([node("AveragePool", ["x"], kernel_shape=[(1 << 20) + 1] * 2, pads=[1 << 20] * 4)], {}),
        ([node("ConvTranspose", ["x", "w"], strides=[1 << 16] * 2)], {"w": np.ones((3, 1, 3, 3), np.float32)}),
    ],
    ids=lambda given: given[0].op_type if isinstance(given, list) else "",
)
def test_what_a_file_makes_huge_is_refused_as_it_is_loaded(networks, nodes, weights):
    proto = model(nodes, [X], [Y], weights)

    def load():
        with pytest.raises(ResourceExhaustedError, match=rf"\({nodes[0].op_type} 'bomb'\): an output of"):
            networks.load("bomb", proto.SerializeToString())

    assert grown(load) < GROWTH


@pytest.mark.parametrize(
    ("nodes", "weights", "given"),
    [
        ([node("Resize", ["x", "", "at"])], {}, np.array([1, 1, 1e5, 1e5], np.float32)),
        ([node("Resize", ["x", "", "at"])], {}, SCALES),
        ([node("Resize", ["x", "", "at"])], {}, np.array([1, 1, np.nan, -1], np.float32)),
        (summed(node("ConstantOfShape", ["at"], "e")), {}, whole(*HUGE)),
        (summed(node("Expand", ["x", "at"], "e")), {}, whole(1 << 30, 1, 3, 4, 4)),
        (summed(node("Tile", ["x", "at"], "e")), {}, whole(1 << 10, 1, 1 << 10, 1 << 10)),
        (summed(node("Range", ["from", "at", "by"], "e")), ENDS, np.array(1 << 40)),
        (summed(node("OneHot", ["i", "at", "v"], "e")), CLASSES, np.array(1 << 40)),
        ([node("Pad", ["x", "at"])], {}, whole(0, 0, 1 << 20, 1 << 20, 0, 0, 0, 0)),
        ([node("Reshape", ["x", "at"])], {}, whole(*HUGE)),
    ],
    ids=lambda given: given[0].op_type if isinstance(given, list) else "",
)
def test_what_an_input_makes_huge_is_refused_by_the_call(networks, nodes, weights, given):
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    proto = model(nodes, [X, value("at", given.shape, kinds[given.dtype])], [Y], weights)
    networks.load("bomb", proto.SerializeToString())

    def call():
        with pytest.raises((ResourceExhaustedError, InvalidArgumentError), match="bomb"):
            run(networks, x=MAP, at=given)

    assert grown(call) < GROWTH


def test_bodies_and_functions_are_held_to_the_same(networks):
    opsets = [helper.make_opsetid("ours", 1), helper.make_opsetid("", 21)]
    inside = [
        helper.make_node("Constant", [], ["shape"], value=helper.make_tensor("s", TensorProto.INT64, [4], HUGE)),
        helper.make_node("ConstantOfShape", ["shape"], ["z"], "inner"),
        helper.make_node("ReduceSum", ["z"], ["sum"], keepdims=0),
        helper.make_node("Add", ["a", "sum"], ["b"]),
    ]
    function = helper.make_function("ours", "f", ["a"], ["b"], inside, opsets)
    chosen = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["yes"], to=TensorProto.BOOL),
        node("If", ["yes"], "e", then_branch=branch("then"), else_branch=branch("else")),
    ]
    called = helper.make_node("f", ["x"], ["y"], domain="ours")

    def refused():
        with pytest.raises(ResourceExhaustedError, match=r"bomb|inner"):
            run(networks, x=MAP)

    for proto in (
        model(summed(*chosen), [X], [Y], {"shape": whole(*HUGE)}),
        model([called], [X], [Y], None, [function], opsets[:1]),
    ):
        networks.load("bomb", proto.SerializeToString())
        assert grown(refused) < GROWTH
