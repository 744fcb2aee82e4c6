"""Models that are broken, or too large, are refused with the place that is at fault."""

import contextlib
import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import LIGHT, model, sum_and_difference, towers, value
from onnx import TensorProto, helper, numpy_helper

from groupconv.errors import InvalidArgumentError
from groupconv_worker.graph.checks import DEPTH, MOST_NODES
from groupconv_worker.graph.model import read_model

X, Y = value("x", [1, 4]), value("y", [1, 4])


def relu(x, y, name=""):
    return helper.make_node("Relu", [x], [y], name)


def refused(proto):
    with pytest.raises(InvalidArgumentError) as error:
        read_model(proto.SerializeToString())
    return str(error.value)


def test_what_a_model_says_of_itself():
    found = read_model(towers().SerializeToString())
    assert [str(i) for i in found.inputs] == ["x: float32 (N, 4, size, size)"]
    assert [str(o) for o in found.outputs] == ["y: float32 (N, 6)"]
    assert found.nodes == 4
    two = read_model(sum_and_difference().SerializeToString())
    assert [i.name for i in two.inputs] == ["a", "b"]
    assert two.inputs[0].shape == ("rows", None)


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem)
def test_networks_of_the_onnx_package_are_read(path):
    found = read_model(path.read_bytes())
    assert found.nodes > 30
    assert all(isinstance(extent, int) for extent in found.inputs[0].shape)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x07", towers().SerializeToString()[:100]])
def test_other_bytes(data):
    with pytest.raises(InvalidArgumentError, match="model: expected an ONNX model"):
        read_model(data)


def test_a_circle():
    text = refused(model([relu("b", "a", "first"), relu("a", "b", "second"), relu("b", "y")], [X], [Y]))
    assert text == "model.graph.node[0] (Relu 'first'): expected a graph without circles, got 'a node in a circle'"


def test_nodes_may_stand_in_any_order():
    found = read_model(model([relu("a", "y", "last"), relu("x", "a", "first")], [X], [Y]).SerializeToString())
    assert [node.name for node in found.proto.graph.node] == ["first", "last"]
    assert found.positions == (1, 0)


def test_a_missing_initializer():
    text = refused(model([helper.make_node("Conv", ["x", "w"], ["y"], "stage2/conv1")], [X], [Y]))
    assert text.startswith("model.graph.node[0] (Conv 'stage2/conv1').input[1]: expected an input, an initializer")


def test_a_value_that_is_made_twice():
    assert ".output: expected names of its own" in refused(model([relu("x", "y"), relu("x", "y")], [X], [Y]))


def test_an_output_that_nothing_makes():
    assert refused(model([relu("x", "z")], [X], [Y])).startswith("model.graph.output: expected the output of a node")


@pytest.mark.parametrize("inside", ["initializer", "attribute", "branch"])
def test_external_data(inside):
    outside = numpy_helper.from_array(np.ones((1, 4), np.float32), "w")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="/etc/passwd")
    add = helper.make_node("Add", ["x", "w"], ["y"], "add")
    if inside == "initializer":
        proto = model([add], [X], [Y])
        proto.graph.initializer.append(outside)
    elif inside == "attribute":
        proto = model([helper.make_node("Constant", [], ["w"], "c", value=outside), add], [X], [Y])
    else:
        branch = helper.make_graph([relu("w", "y")], "branch", [], [Y], [outside])
        choice = helper.make_node("If", ["yes"], ["y"], "if", then_branch=branch, else_branch=branch)
        proto = model([choice], [X], [Y], {"yes": np.array(True)})
    text = refused(proto)
    assert "expected a tensor inside the file" in text
    assert "onnx.save(onnx.load(" in text


def test_a_function_that_calls_itself():
    ours = helper.make_opsetid("ours", 1)
    inner = helper.make_node("again", ["a"], ["b"], "inner", domain="ours")
    function = helper.make_function("ours", "again", ["a"], ["b"], [inner], [ours])
    outer = helper.make_node("again", ["x"], ["y"], "outer", domain="ours")
    assert "functions that do not call themselves" in refused(model([outer], [X], [Y], None, [function], [ours]))


def test_functions_count_as_often_as_they_are_called():
    ours, functions = helper.make_opsetid("ours", 1), []
    for i in range(10):  # each calls the one before eight times: 8¹⁰ nodes
        names = ["a", *(f"v{k}" for k in range(7)), "b"]
        op, domain = (f"f{i - 1}", "ours") if i else ("Relu", "")
        nodes = [helper.make_node(op, [p], [q], domain=domain) for p, q in itertools.pairwise(names)]
        functions.append(
            helper.make_function("ours", f"f{i}", ["a"], ["b"], nodes, [ours, helper.make_opsetid("", 21)])
        )
    outer = helper.make_node("f9", ["x"], ["y"], domain="ours")
    assert f"at most {MOST_NODES} nodes" in refused(model([outer], [X], [Y], None, functions, [ours]))


def test_a_million_nodes():
    proto = model([relu("x", "y")], [X], [Y])
    del proto.graph.node[:]
    proto.graph.node.extend(relu(f"v{i}", f"v{i + 1}") for i in range(MOST_NODES + 1))
    assert f"at most {MOST_NODES} nodes" in refused(proto)


def test_depth():
    graph = leaf = helper.make_graph([relu("x", "y")], "g", [], [Y])
    for _ in range(DEPTH + 1):
        choice = helper.make_node("If", ["yes"], ["y"], then_branch=graph, else_branch=leaf)
        graph = helper.make_graph([choice], "g", [], [Y])
    assert f"at most {DEPTH} graphs" in refused(model(graph.node, [X], [Y], {"yes": np.array(True)}))


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (value("x", [1, 4], TensorProto.STRING), "elements of float16"),
        (value("x", [1] * 9), "at most 8 axes"),
        (helper.make_tensor_value_info("x", TensorProto.FLOAT, None), "a shape"),
        (helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None), "a tensor"),
    ],
)
def test_inputs_that_do_not_travel(given_, expected):
    assert expected in refused(model([relu("x", "y")], [given_], [Y]))


def test_operators_of_the_future_are_refused():
    proto = model([relu("x", "y")], [X], [Y])
    proto.opset_import[0].version = 999
    assert "model.opset_import: expected a version of ONNX's operators up to" in refused(proto)


@given(st.data())
@settings(max_examples=200)
def test_broken_bytes_are_refused_or_read(data):
    raw = bytearray(data.draw(st.sampled_from(MODELS)))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InvalidArgumentError):
        read_model(bytes(raw))


MODELS = [p.SerializeToString() for p in (towers(), sum_and_difference(), onnx.load(LIGHT / "light_bvlc_alexnet.onnx"))]


@pytest.mark.parametrize("kind", ["initializer", "input", "constant"])
def test_extents_that_no_tensor_has_are_refused_before_they_become_axes(kind):
    """ONNX's shape inference makes an axis of each: such a model of a kilobyte took all memory."""
    count, y = 2**31, helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes, inputs, stored = [helper.make_node("ConstantOfShape", ["shape"], ["y"])], [], []
    few = TensorProto(name="shape", data_type=TensorProto.INT64, dims=[count], raw_data=bytes(16))
    if kind == "input":
        inputs = [helper.make_tensor_value_info("shape", TensorProto.INT64, [count])]
    elif kind == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["shape"], value=few))
    else:
        stored = [few]
    model = helper.make_model(helper.make_graph(nodes, "g", inputs, [y], stored))
    with pytest.raises(InvalidArgumentError, match=r"1024 elements|bytes hold, got '2147483648 elements'"):
        read_model(model.SerializeToString())
