"""Sessions give what onnxruntime gives, and end when their caller does."""

import time

import numpy as np
import onnxruntime
import pytest
from networks import LIGHT, endless, model, sum_and_difference, towers, value
from onnx import TensorProto, helper

from groupconv.errors import CancelledError, DeadlineExceededError, InvalidArgumentError, ResourceExhaustedError
from groupconv_worker.budget import ThreadBudget
from groupconv_worker.graph.model import read_model
from groupconv_worker.job import Job
from groupconv_worker.networks.runner import ModelMissingError, NetworkCall, NetworkRunner
from groupconv_worker.networks.session import NetworkSession


def session_of(proto):
    return NetworkSession(read_model(proto.SerializeToString()), threads=1)


@pytest.mark.parametrize("name", ["shufflenet", "squeezenet"])
def test_outputs_are_those_of_onnxruntime(name):
    found = read_model((LIGHT / f"light_{name}.onnx").read_bytes())
    x = np.random.default_rng(0).standard_normal(found.inputs[0].shape).astype(np.float32)
    ours = NetworkSession(found, threads=1).run({found.inputs[0].name: x}, [found.outputs[0].name], Job())
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    theirs = onnxruntime.InferenceSession(found.data, options, providers=["CPUExecutionProvider"])
    (expected,) = theirs.run(None, {found.inputs[0].name: x})
    np.testing.assert_array_equal(ours[found.outputs[0].name], expected)


def test_outputs_are_written_where_they_should_be():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    into = np.full((4, 3), np.nan, np.float32)
    outputs = session_of(sum_and_difference()).run({"a": a, "b": b}, ["difference", "sum"], Job(), {"sum": into[1:3]})
    np.testing.assert_array_equal(into[1:3], a + b)
    assert np.isnan(into[[0, 3]]).all()
    assert outputs["sum"].base is into
    np.testing.assert_array_equal(outputs["difference"], a - b)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int16", "int32", "int64", "uint64", "bool"])
def test_dtypes(dtype):
    array = np.array([[0, 1, 1]], dtype)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    proto = model(
        [helper.make_node("Identity", ["x"], ["y"])], [value("x", [1, "n"], kind)], [value("y", [1, "n"], kind)]
    )
    y = session_of(proto).run({"x": array}, ["y"], Job())["y"]
    assert y.dtype == array.dtype
    np.testing.assert_array_equal(y, array)


def test_a_deadline_ends_a_loop():
    session = session_of(endless())
    with pytest.raises(DeadlineExceededError):
        session.run({"x": np.ones(4, np.float32)}, ["y"], Job(deadline=time.monotonic() + 0.2))


def test_a_caller_who_has_gone_ends_a_loop():
    begun = time.monotonic()
    with pytest.raises(CancelledError):
        session_of(endless()).run({"x": np.ones(4, np.float32)}, ["y"], Job(alive=lambda: time.monotonic() < begun + 1))


def test_an_unknown_operator_is_named():
    proto = model([helper.make_node("Frobnicate", ["x"], ["y"], "odd")], [value("x", [1])], [value("y", [1])])
    with pytest.raises(InvalidArgumentError, match="Frobnicate"):
        session_of(proto)


def test_wrong_types_are_refused():
    nodes = [helper.make_node("Add", ["x", "i"], ["y"], "mixed")]
    proto = model(nodes, [value("x", [1]), value("i", [1], TensorProto.INT64)], [value("y", [1])])
    with pytest.raises(InvalidArgumentError, match="mixed"):
        session_of(proto)


def test_memory_that_a_value_asks_for_is_bounded():
    nodes = [helper.make_node("Range", ["zero", "n", "one"], ["y"], "range")]
    weights = {"zero": np.array(0, np.int64), "one": np.array(1, np.int64)}
    proto = model(nodes, [value("n", [], TensorProto.INT64)], [value("y", ["n"], TensorProto.INT64)], weights)
    session = session_of(proto)
    with pytest.raises(ResourceExhaustedError):
        session.run({"n": np.array(10**12)}, ["y"], Job())
    assert session.run({"n": np.array(3)}, ["y"], Job())["y"].tolist() == [0, 1, 2]


def test_a_runner_keeps_a_session_until_it_is_forgotten():
    runner, calls = NetworkRunner(ThreadBudget(1), 1), []
    call = NetworkCall("t", 1, {"x": np.ones((1, 4, 5, 5), np.float32)}, ("y",))

    def load():
        calls.append(1)
        return read_model(towers().SerializeToString())

    def missing():
        raise ModelMissingError

    first = runner.run(call, load, Job())
    again = runner.run(call, missing, Job())
    np.testing.assert_array_equal(first.outputs["y"], again.outputs["y"])
    runner.forget("t", 1)
    with pytest.raises(ModelMissingError):
        runner.run(call, missing, Job())
    assert calls == [1]


def test_a_runner_waits_no_longer_than_the_deadline():
    budget = ThreadBudget(1)
    budget.STUBBORN = 1000
    budget.acquire()
    runner = NetworkRunner(budget, 1)
    call = NetworkCall("t", 1, {"x": np.ones((1, 4, 5, 5), np.float32)}, ("y",))
    with pytest.raises(DeadlineExceededError):
        runner.run(call, lambda: read_model(towers().SerializeToString()), Job(deadline=time.monotonic() - 1))


X = value("x", [1, 4, 8, 8])
Y = value("y", [1, 4, 6, 6])
W = {"w": np.ones((4, 4, 3, 3), np.float32)}


@pytest.mark.parametrize(
    ("node", "inputs", "opsets"),
    [
        (helper.make_node("Frobnicate", ["x"], ["y"], "odd"), [X], ()),
        (helper.make_node("Thing", ["x"], ["y"], domain="com.acme"), [X], [helper.make_opsetid("com.acme", 1)]),
        (helper.make_node("Conv", ["x", "w"], ["y"], "odd"), [value("x", [1, 4, 8, 8], TensorProto.INT32)], ()),
        (helper.make_node("Conv", ["x", "w"], ["y"], "odd", strides=[1, 2, 3]), [X], ()),
    ],
    ids=["operator", "domain", "type", "attribute"],
)
def test_what_the_runtime_refuses_is_named(node, inputs, opsets):
    nodes = [helper.make_node("Relu", ["w"], ["unused"], "fine"), node]
    made = read_model(model(nodes, inputs, [Y], W, opsets=opsets).SerializeToString())
    name = node.name or "y"
    with pytest.raises(InvalidArgumentError, match=rf"^model.graph.node\[1\] \({node.op_type} '{name}'\): expected"):
        NetworkSession(made, threads=1)
