"""The times of a model's nodes in onnxruntime: one for each, or the node that it is fused into."""

import numpy as np
import onnx
import pytest
from compiled_networks import model
from networks import LIGHT
from onnx import helper

from groupconv.errors import CancelledError, ResourceExhaustedError
from groupconv_worker.graph.model import read_model
from groupconv_worker.job import Job
from groupconv_worker.networks.session import NetworkSession

X = np.random.default_rng(0).standard_normal((1, 16, 24, 24)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((16, 16, 3, 3)).astype(np.float32)
NODES = [
    helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
    helper.make_node("Relu", ["a"], ["b"]),
    helper.make_node("Conv", ["b", "w"], ["c"], pads=[1] * 4),
    helper.make_node("Add", ["c", "x"], ["d"]),
    helper.make_node("Relu", ["d"], ["e"]),
    helper.make_node("Sqrt", ["w"], ["unused"]),
    helper.make_node("Sinh", ["e"], ["y"]),
]


def test_each_node_has_a_time_or_is_fused_into_one_that_has():
    session = NetworkSession(read_model(model(NODES, {"x": X.shape}, {"w": W})), 1)
    times = session.node_times({"x": X}, ["y"], Job())
    assert set(times.seconds) | set(times.fused) == {"a", "b", "c", "d", "e", "y"}
    assert min(times.seconds.values()) >= 0
    assert times.fused["b"] == "a"
    assert {"a", "c", "y"} <= set(times.seconds)


@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet", "light_bvlc_alexnet", "light_inception_v2"])
def test_all_nodes_of_known_networks_are_accounted_for(name):
    """Those that are neither timed nor fused depend on constants alone."""
    found = read_model((LIGHT / f"{name}.onnx").read_bytes())
    session = NetworkSession(found, 1)
    (info,) = found.inputs
    inputs = {info.name: np.zeros([e if isinstance(e, int) else 1 for e in info.shape], np.float32)}
    times = session.node_times(inputs, [found.outputs[0].name], Job())
    nodes = found.proto.graph.node
    constant = {tensor.name for tensor in found.proto.graph.initializer}
    for node in nodes:
        if all(not n or n in constant for n in node.input):
            constant.update(node.output)
    wanted = {node.output[0] for node in nodes} - constant
    assert set(times.seconds) | set(times.fused) >= wanted
    assert set(times.fused.values()) <= set(times.seconds)
    ops = {node.output[0]: node.op_type for node in nodes}
    spent: dict[str, float] = {}
    for output, seconds in times.seconds.items():
        spent[ops[output]] = spent.get(ops[output], 0.0) + seconds
    assert "Relu" not in spent or spent["Conv"] > spent["Relu"]


def test_files_are_removed_and_a_caller_who_has_gone_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    session = NetworkSession(read_model(model(NODES, {"x": X.shape}, {"w": W})), 1)
    session.node_times({"x": X}, ["y"], Job())
    over = Job()
    over.stop(CancelledError("the caller has gone"))
    with pytest.raises(CancelledError):
        session.node_times({"x": X}, ["y"], over)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(ResourceExhaustedError, match="room for files"):
        session.node_times({"x": X}, ["y"], Job())


def test_times_of_a_loop_are_those_of_the_whole_loop():
    body = helper.make_graph(
        [helper.make_node("Sinh", ["in"], ["out"]), helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("in", onnx.TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None),
        ],
    )
    nodes = [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)]
    made = onnx.load_from_string(model(nodes, {"x": (2, 3)}, {"n": np.array(3)}))
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, None]))
    session = NetworkSession(read_model(made.SerializeToString()), 1)
    times = session.node_times({"x": np.zeros((2, 3), np.float32)}, ["y"], Job())
    assert set(times.seconds) == {"y"}
    assert times.fused == {}
