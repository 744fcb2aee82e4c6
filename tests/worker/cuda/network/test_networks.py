"""Whole networks on the emulated device against the float64 reference: one recorded graph in one arena."""

import gc
import weakref

import numpy as np
import pytest
from compiled_networks import model
from device_networks import Builder, check_model, check_threads, small_alexnet, small_resnet
from hypothesis import HealthCheck, given, reject, settings
from networks import model as networks_model
from onnx import TensorProto, helper
from worker.graph.drawn import networks

from emulation import emulated_engine, needs_compiler
from groupconv.errors import ResourceExhaustedError
from groupconv_worker.cuda.network.network import DeviceNetwork, planned
from groupconv_worker.graph.graph import UnsupportedNodeError
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model

pytestmark = needs_compiler
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.fixture(scope="module")
def engine():
    with emulated_engine() as engine:
        yield engine


def image(shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bound(made):
    data, shape = made
    return Optimized(read_model(data)).canonical({"x": shape})


@pytest.mark.parametrize("network", [small_alexnet, small_resnet])
def test_a_network_is_one_graph_that_agrees_with_the_reference(engine, network):
    data, shape = network()
    made = check_model(data, {"x": image(shape)}, engine)
    assert made._pool.idle[0].recorded
    assert len(made._pool.idle) == 1


def test_a_network_runs_in_several_threads(engine):
    data, shape = small_resnet()
    check_threads(DeviceNetwork(bound((data, shape)), engine), shape, threads=2, runs=3)


def test_tensors_share_the_arena(engine):
    graph = bound(small_resnet())
    made = DeviceNetwork(graph, engine)
    tensors = sum(tensor.nbytes for name, tensor in graph.tensors.items() if name not in graph.constants)
    assert made.arena_bytes < tensors / 2
    assert made.nbytes >= made.arena_bytes + sum(array.nbytes for array in graph.constants.values())


def test_the_weights_on_the_host_are_let_go(engine):
    graph = bound(small_resnet())
    held = weakref.ref(graph)
    made = DeviceNetwork(graph, engine)
    del graph
    gc.collect()
    assert held() is None
    assert made.run({"x": image((1, 3, 32, 32))})["y"].shape == (1, 10)


def test_operators_of_each_element_are_one_launch(engine):
    b = Builder()
    x = b.node("Mul", [b.node("Exp", [b.node("Neg", ["x"])]), b.weight(1, 3, 1)])
    x = b.node("Sub", ["x", b.node("Tanh", [x])])
    made = check_model(b.model(x, (2, 3, 5)), {"x": image((2, 3, 5))}, engine)
    assert made.launches == 1


def test_what_two_nodes_read_is_written(engine):
    b = Builder()
    shared = b.node("Exp", ["x"])
    check_model(b.model(b.node("Add", [b.node("Neg", [shared]), shared]), (4, 7)), {"x": image((4, 7))}, engine)


def test_what_a_node_reads_twice_is_written(engine):
    b = Builder()
    twice = b.node("Exp", ["x"])
    check_model(b.model(b.node("Mul", [twice, twice]), (4, 7)), {"x": image((4, 7))}, engine)


def test_outputs_that_are_inputs_constants_and_views(engine):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["flat"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Identity", ["w"], ["known"]),
    ]
    weights = {"shape": np.array([-1]), "w": np.arange(3, dtype=np.float32)}
    data = model(nodes, {"x": (2, 3)}, weights, outputs=("a", "flat", "same", "known"))
    x = image((2, 3))
    network = check_model(data, {"x": x}, engine)
    into = np.empty(6, np.float32)
    assert network.run({"x": x}, {"flat": into})["flat"] is into
    np.testing.assert_array_equal(into, np.maximum(x, 0).reshape(-1))


def test_channels_are_shuffled(engine):
    b = Builder()
    b.weights |= {"split": np.array([1, 2, 3, 4, 4]), "whole": np.array([1, 6, 4, 4])}
    x = b.node("Transpose", [b.node("Reshape", ["x", "split"])], perm=[0, 2, 1, 3, 4])
    check_model(b.model(b.node("Reshape", [x, "whole"]), (1, 6, 4, 4)), {"x": image((1, 6, 4, 4))}, engine)


def test_elements_are_chosen_by_a_condition(engine):
    b = Builder()
    condition = b.node("Not", [b.node("Less", ["x", b.node("Abs", [b.weight(4)])])])
    y = b.node("Where", [condition, b.node("Mul", ["x", b.node("Sigmoid", ["x"])]), b.weight(3, 1)])
    check_model(b.model(y, (2, 3, 4)), {"x": image((2, 3, 4))}, engine)


def test_an_image_of_bytes_is_cast_and_normalized(engine):
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "scale"], ["m"]),
        helper.make_node("Add", ["m", "shift"], ["y"]),
        helper.make_node("Cast", ["y"], ["z"], to=TensorProto.INT32),
    ]
    drawn = np.random.default_rng(0)
    weights = {name: drawn.standard_normal((3, 1, 1)).astype(np.float32) for name in ("scale", "shift")}
    data = networks_model(
        nodes,
        [value("x", TensorProto.UINT8, (1, 3, 5, 4))],
        [value("y", TensorProto.FLOAT, (1, 3, 5, 4)), value("z", TensorProto.INT32, (1, 3, 5, 4))],
        weights,
    ).SerializeToString()
    check_model(data, {"x": drawn.integers(0, 256, (1, 3, 5, 4), np.uint8)}, engine)


def test_seconds_are_of_the_nodes(engine):
    graph = bound(small_resnet())
    network = DeviceNetwork(graph, engine)
    seconds = network.node_seconds({"x": image((1, 3, 32, 32))})
    assert set(seconds) <= {node.outputs[0] for node in graph.nodes}
    assert len(seconds) >= sum(node.op == "Conv" for node in graph.nodes)


def test_a_network_without_room_for_its_graph_runs_launch_by_launch():
    data, shape = small_resnet()
    with emulated_engine(graph_memory=0) as engine:
        made = check_model(data, {"x": image(shape)}, engine)
        assert not made._pool.idle[0].recorded


def test_a_network_that_does_not_fit_is_refused_before_it_takes_memory():
    plan = planned(bound(small_resnet()))
    needed = plan.weight_bytes + plan.placed()[1]
    with emulated_engine(memory_limit=needed - 1) as engine:
        before = engine.gpu.pool.used_bytes()
        with pytest.raises(ResourceExhaustedError, match=r"cuda\.memory_limit: the network needs .* are left"):
            DeviceNetwork(bound(small_resnet()), engine)
        assert engine.gpu.pool.peak == before


def test_what_has_no_kernel_is_named():
    loop = model([helper.make_node("CumSum", ["x", "axis"], ["y"], "sums")], {"x": (2, 3)}, {"axis": np.array(1)})
    with pytest.raises(UnsupportedNodeError, match="CumSum 'sums' does not run on the GPU: no kernel of ours"):
        planned(Optimized(read_model(loop)).canonical({"x": (2, 3)}))


def check_drawn(drawn, engine):
    proto, shape = drawn
    try:
        check_model(proto.SerializeToString(), {"x": image(shape)}, engine)
    except UnsupportedNodeError:
        reject()


@settings(max_examples=6, deadline=None, suppress_health_check=QUIET)
@given(drawn=networks(blocks=2))
def test_some_drawn_networks(engine, drawn):
    check_drawn(drawn, engine)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(drawn=networks(blocks=4))
def test_many_drawn_networks(engine, drawn):
    check_drawn(drawn, engine)
