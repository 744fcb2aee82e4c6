"""What only values tell: inputs that would end the process in onnxruntime, loops that double what they carry."""

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
from groupconv_worker.graph import safeguards
from groupconv_worker.graph.model import read_model
from groupconv_worker.job import Job

VOLUME = np.ones((1, 2, 4, 3, 3), np.float32)
OPSETS = [helper.make_opsetid("ours", 1), helper.make_opsetid("", 21)]
N = value("n", [1], TensorProto.INT64)
CUT = helper.make_node("Slice", ["x", "from", "n", "axis"], ["cut"])
BOUNDS = {"from": np.array([0]), "axis": np.array([3])}


@pytest.fixture(scope="module")
def networks():
    executor = LocalExecutor(workers=1, threads=1)
    yield Networks(Layers(executor.forget, capacity=2**30), executor, Limits())
    executor.close()


def loaded(networks, proto):
    networks.load("net", proto.SerializeToString())


def run(networks, **inputs):
    with networks.registry.using("net", kind=NetworkVersion) as network:
        return networks.calls.run(network, inputs, (), Job())


def up(weights="w", to="y", **attributes):
    return helper.make_node("ConvTranspose", ["cut", weights], [to], "up", **attributes)


def branches(*nodes, out):
    graph = helper.make_graph(nodes, "branch", [], [value(out, None)])
    yes = helper.make_node("Greater", ["n", "from"], ["yes"])
    chosen = helper.make_node("If", ["always"], ["y"], then_branch=graph, else_branch=graph)
    return [yes, CUT, helper.make_node("Or", ["yes", "true"], ["any"]), _squeezed("any", "always"), chosen]


def _squeezed(x, y):
    return helper.make_node("Squeeze", [x], [y])


WEIGHTS = np.ones((2, 3, 3, 3, 3), np.float32)
FUNCTION = helper.make_function(
    "ours", "f", ["cut", "w"], ["z"], [up(to="z")], [helper.make_opsetid("", 21)]
)  # it does not say how many axes there are
MODELS = {
    "graph": ([CUT, up()], {"w": WEIGHTS}, ()),
    "kernel": ([CUT, up(kernel_shape=[3, 3, 3])], {"w": WEIGHTS}, ()),
    "computed": (
        [CUT, helper.make_node("Reshape", ["flat", "s"], ["w"]), up()],
        {"flat": WEIGHTS.reshape(-1), "s": np.array(WEIGHTS.shape)},
        (),
    ),
    "branch": (branches(up(to="z"), out="z"), {"w": WEIGHTS, "true": np.array([True])}, ()),
    "function": (
        [CUT, helper.make_node("f", ["cut", "w"], ["y"], "called", domain="ours")],
        {"w": WEIGHTS},
        [FUNCTION],
    ),
}


@pytest.mark.parametrize("where", MODELS)
def test_a_transposed_convolution_of_a_volume_whose_height_is_a_value(networks, where):
    nodes, weights, functions = MODELS[where]
    proto = model(nodes, [value("x", list(VOLUME.shape)), N], [value("y", None)], weights | BOUNDS, functions, OPSETS)
    loaded(networks, proto)
    found = run(networks, x=VOLUME, n=np.array([2])).arrays["y"]
    assert found.shape == (1, 3, 6, 4, 5)
    with pytest.raises(
        InvalidArgumentError, match=r"\(ConvTranspose 'up'\)\.input\[0\]: expected elements along each axis"
    ):
        run(networks, x=VOLUME, n=np.array([0]))
    np.testing.assert_array_equal(run(networks, x=VOLUME, n=np.array([2])).arrays["y"], found)


def doubling(**types):
    body = helper.make_graph(
        [
            helper.make_node("Concat", ["v", "v"], ["w"], axis=0),
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["u"], ["t"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("v", None), value("u", None)],
        [value("on", [], TensorProto.BOOL), value("w", None), value("t", None)],
    )
    return [
        helper.make_node("Squeeze", ["n"], ["times"]),
        helper.make_node("Loop", ["times", "", "x", "x"], ["e", "f"], "doubles", body=body),
        helper.make_node("ReduceSum", ["e"], ["y"], keepdims=0),
    ]


def test_a_loop_that_doubles_what_it_carries(networks):
    x = np.ones((1, 1024), np.float32)
    loaded(networks, model(doubling(), [value("x", [1, 1024]), N], [value("y", [])]))
    assert run(networks, x=x, n=np.array([10])).arrays["y"] == 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ResourceExhaustedError, match=r"model\.graph\.node\[1\] \(Loop 'doubles'\): the loop carries more"
    ):
        run(networks, x=x, n=np.array([60]))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 3 * 4 * safeguards.MOST + 2**28  # what went in and what came out of the last turn


def test_models_without_need_are_given_as_they_are():
    for nodes, weights in (
        ([helper.make_node("Relu", ["x"], ["y"])], {}),
        ([helper.make_node("ConvTranspose", ["x", "w"], ["y"])], {"w": np.ones((2, 3, 3, 3), np.float32)}),
    ):
        made = read_model(model(nodes, [value("x", [1, 2, 4, 4])], [value("y", None)], weights).SerializeToString())
        assert safeguards.safeguarded(made) is made.data
