"""Models as graphs of known shapes."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from networks import LIGHT, model, sum_and_difference, towers, value
from onnx import TensorProto, helper

from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.translation import UnboundGraphError


def optimized(proto, **settings):
    return Optimized(read_model(proto.SerializeToString()), **settings)


def bound(proto, **shapes):
    return optimized(proto).bind(shapes)


def test_free_axes_are_bound_again_and_weights_are_shared():
    network = optimized(towers())
    small, large = (network.bind({"x": (n, 4, size, size)}) for n, size in ((2, 8), (1, 20)))
    assert small.tensors["c"].shape == (2, 6, 8, 8)
    assert large.tensors["c"].shape == (1, 6, 20, 20)
    assert [node.op for node in large.nodes] == ["Conv", "Relu", "GlobalAveragePool", "Reshape"]
    assert large.constants["w"] is small.constants["w"]
    assert not large.constants["w"].flags.writeable
    assert large.nodes[0].attributes == {
        "kernel_shape": (3, 3), "strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 2,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["bvlc_alexnet", "squeezenet", "shufflenet", "resnet50"])
def test_light_networks_have_graphs(name):
    found = read_model((LIGHT / f"light_{name}.onnx").read_bytes())
    graph = Optimized(found).bind({info.name: info.shape for info in found.inputs})
    assert [graph.tensors[n].shape for n in graph.outputs] == [info.shape for info in found.outputs]
    ops = {node.op for node in graph.nodes}
    assert ops.isdisjoint({"ConstantOfShape", "BatchNormalization", "Constant", "Sum", "Dropout", "Flatten"})
    made = {name for node in graph.nodes for name in node.outputs}
    known = {*graph.inputs, *graph.constants}
    for node in graph.nodes:  # each runs after those that make its inputs
        assert {name for name in node.inputs if name} <= known
        known |= set(node.outputs)
    assert set(graph.tensors) == {*graph.inputs, *graph.constants, *made}


def test_shape_arithmetic_vanishes():
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Concat", ["n", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["flat"], "flat"),
        helper.make_node("ConstantOfShape", ["s"], ["ones"], value=helper.make_tensor("v", 1, [1], [1.0])),
        helper.make_node("ReduceSum", ["ones"], ["count"], keepdims=0),
        helper.make_node("Div", ["flat", "count"], ["y"]),
    ]
    weights = {"zero": np.array([0]), "rest": np.array([-1])}
    proto = model(nodes, [value("x", ["N", "C", "W"])], [value("y", ["N", "K"])], weights)
    graph = bound(proto, x=(2, 3, 4))
    assert [(node.op, node.attributes) for node in graph.nodes] == [("Reshape", {}), ("Div", {})]
    assert graph.tensors["y"].shape == (2, 12)
    np.testing.assert_array_equal(graph.constants[graph.nodes[1].inputs[1]], np.float32(24))


def test_constant_inputs_are_attributes():
    nodes = [
        helper.make_node("Clip", ["x", "low", "high"], ["c"]),
        helper.make_node("Slice", ["c", "starts", "ends", "axes"], ["s"]),
        helper.make_node("Pad", ["s", "pads"], ["p"]),
        helper.make_node("ReduceMean", ["p", "axes"], ["y"], keepdims=0),
    ]
    weights = {
        "low": np.float32(0), "high": np.float32(6), "starts": np.array([1]), "ends": np.array([3]),
        "axes": np.array([1]), "pads": np.array([0, 1, 0, 2]),
    }  # fmt: skip
    weights = {name: np.asarray(array) for name, array in weights.items()}
    clip, cut, pad, mean = bound(model(nodes, [value("x", ["N", 4])], [value("y", ["N"])], weights), x=(1, 4)).nodes
    assert (clip.inputs, clip.attributes) == (("x",), {"min": 0.0, "max": 6.0})
    assert cut.attributes == {"starts": (1,), "ends": (3,), "axes": (1,)}
    assert pad.attributes == {"mode": "constant", "pads": (0, 1, 0, 2)}
    assert mean.attributes["axes"] == (1,)


def test_functions_are_inlined():
    nodes = [helper.make_node("Relu", ["a"], ["t"]), helper.make_node("Neg", ["t"], ["b"])]
    function = helper.make_function("own", "Twist", ["a"], ["b"], nodes, [helper.make_opsetid("", 21)])
    proto = model(
        [helper.make_node("Twist", ["x"], ["y"], domain="own")],
        [value("x", [2])],
        [value("y", [2])],
        functions=[function],
        opsets=[helper.make_opsetid("own", 1)],
    )
    assert [node.op for node in bound(proto, x=(2,)).nodes] == ["Relu", "Neg"]


def normalized(layers):
    """Convolutions with batch normalization."""
    rng, nodes, weights, last = np.random.default_rng(0), [], {}, "x"
    for i in range(layers):
        parts = [f"{name}{i}" for name in ("scale", "bias", "mean", "var")]
        weights |= {f"w{i}": rng.standard_normal((8, 8, 3, 3)).astype(np.float32)}
        weights |= {part: rng.random(8).astype(np.float32) + 0.5 for part in parts}
        nodes += [
            helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1] * 4),
            helper.make_node("BatchNormalization", [f"c{i}", *parts], [f"n{i}"]),
            helper.make_node("Relu", [f"n{i}"], [f"r{i}"]),
        ]
        last = f"r{i}"
    return model(nodes, [value("x", [1, 8, 16, 16])], [value(last, [1, 8, 16, 16])], weights).SerializeToString()


def test_several_threads_optimize_at_once():
    """The rules of the optimizer are objects of the process, which hold what they have found in a model."""
    data, before = [normalized(12), towers().SerializeToString()], sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda i: Optimized(read_model(data[i % 2])), range(24)))
    finally:
        sys.setswitchinterval(before)
    shapes = [{"x": (1, 8, 16, 16)}, {"x": (1, 4, 60, 60)}]
    for i, optimized in enumerate(made):
        assert len(optimized.bind(shapes[i % 2]).nodes) == (24, 4)[i % 2]


@pytest.mark.parametrize(
    ("axis", "shape", "ops"), [(1, (2, 5), 1), (1, (1, 5, 1, 1), 1), (1, (2, 5, 3), 3), (-1, (2, 5), 1)]
)
def test_softmax_of_old_operator_sets(axis, shape, ops):
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"], axis=axis)], "g", [value("x", shape)], [value("y", shape)]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    found = bound(proto, x=shape)
    assert len(found.nodes) == ops
    (softmax,) = (node for node in found.nodes if node.op == "Softmax")
    over = found.tensors[softmax.inputs[0]].shape[softmax.attributes["axis"]]
    assert over == np.prod(shape[axis:])


def test_an_output_that_is_an_input_or_a_constant():
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["w"], ["z"])]
    weights = {"w": np.arange(3, dtype=np.float32)}
    graph = bound(model(nodes, [value("x", [2])], [value("y", [2]), value("z", [3])], weights), x=(2,))
    assert graph.outputs == ("y", "z")
    assert all(name in graph.tensors for name in graph.outputs)


def test_several_inputs_and_outputs():
    graph = bound(sum_and_difference(), a=(2, 3), b=(2, 3))
    assert graph.inputs == ("a", "b")
    assert graph.outputs == ("sum", "difference")


def choice():
    branches = [
        helper.make_graph([helper.make_node(op, ["x"], [op])], op, [], [value(op, [2])]) for op in ("Relu", "Neg")
    ]
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["go"], to=TensorProto.BOOL),
        helper.make_node("If", ["go"], ["y"], "choice", then_branch=branches[0], else_branch=branches[1]),
    ]
    return model(nodes, [value("x", [2])], [value("y", [2])])


def foreign():
    node = helper.make_node("Gelu", ["x"], ["y"], "gelu", domain="com.microsoft")
    return model([node], [value("x", [2])], [value("y", [2])], opsets=[helper.make_opsetid("com.microsoft", 1)])


def counted():
    node = helper.make_node("NonZero", ["x"], ["y"], "found")
    return model([node], [value("x", [2])], [value("y", [1, "m"], TensorProto.INT64)])


@pytest.mark.parametrize(
    ("make", "says"), [(choice, "If 'choice'"), (foreign, "com.microsoft"), (counted, "NonZero 'found'")]
)
def test_what_has_no_graph_says_why(make, says):
    with pytest.raises(UnboundGraphError, match=says):
        bound(make(), x=(2,))


def test_a_resize_to_lengths_that_are_rounded_has_no_canonical_form():
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], "odd")
    for scale, fits in ((2, True), (0.5, True), (0.6, False)):
        scales = {"scales": np.array([1, 1, 1, scale], np.float32)}
        proto = model([node], [value("x", [1, 1, 4, 4])], [value("y", [1, 1, 4, "w"])], scales)
        if fits:
            assert optimized(proto).canonical({"x": (1, 1, 4, 4)}).tensors["y"].shape[3] == 4 * scale
        else:
            with pytest.raises(UnboundGraphError, match=r"Resize 'odd': 4 elements times 0\.6 are no whole"):
                optimized(proto).canonical({"x": (1, 1, 4, 4)})


def test_old_operator_sets_have_no_graph():
    proto = towers()
    proto.opset_import[0].version = 6
    with pytest.raises(UnboundGraphError, match="operator set 6"):
        optimized(proto)


def test_constants_are_folded_up_to_a_number_of_bytes():
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["c"], "large"),
        helper.make_node("ReduceSum", ["c"], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]
    proto = model(nodes, [value("x", [1])], [value("y", [1])], {"shape": np.array([2048, 2049])})
    assert len(optimized(proto).bind({"x": (1,)}).nodes) == 1
    kept = optimized(proto, folded_bytes=2**20).bind({"x": (1,)})
    assert [node.op for node in kept.nodes] == ["ConstantOfShape", "ReduceSum", "Add"]


def test_a_huge_constant_is_not_computed():
    nodes = [
        helper.make_node("Expand", ["one", "shape"], ["c"], "huge"),
        helper.make_node("ReduceMax", ["c"], ["m"], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    weights = {"one": np.ones(1, np.float32), "shape": np.array([1 << 20, 1 << 20])}
    graph = bound(model(nodes, [value("x", [1])], [value("y", [1])], weights), x=(1,))
    assert graph.tensors[graph.nodes[0].outputs[0]].shape == (1 << 20, 1 << 20)


def test_a_reshape_to_another_number_of_elements_has_no_graph():
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], "wrong")
    proto = model([node], [value("x", [6])], [value("y", [4])], {"shape": np.array([5, 7])})
    with pytest.raises(UnboundGraphError, match="Reshape 'wrong': 6 elements cannot have the shape"):
        bound(proto, x=(6,))
