"""Weights of an ONNX file that are computed from constants, sparse, or in functions."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from groupconv.errors import InvalidArgumentError
from groupconv_server.coordinator.coordinator import Coordinator
from groupconv_server.executors import create_executor
from groupconv_server.layers.onnx_import import read_onnx

RNG = np.random.default_rng(11)


@pytest.fixture(scope="module")
def coordinator():
    executor = create_executor("local", workers=1, threads=1, engine="reference")
    yield Coordinator(executor)
    executor.close()


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def model(nodes, weights=(), inputs=("x",), outputs=("y",), functions=(), opset=17):
    def value(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    tensors = [numpy_helper.from_array(array, name) for name, array in dict(weights).items()]
    graph = helper.make_graph(list(nodes), "test", list(map(value, inputs)), list(map(value, outputs)), tensors)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in ("mine", "com.microsoft"))]
    return helper.make_model(graph, opset_imports=imports, ir_version=9, functions=list(functions))


def read(tmp_path, made, **options):
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    return read_onnx(path, **options)


def by_onnxruntime(made, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def conv(weights="w", name="c", y="y", **attributes):
    return helper.make_node("Conv", ["x", *weights.split()], [y], name=name, **attributes)


W = f32(4, 2, 3, 3)
Q = np.clip(np.rint(W / 0.02), -128, 127).astype(np.int8)
QUANTIZED = {"q": Q, "s": np.float32(0.02), "z": np.int8(3)}


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([helper.make_node("Cast", ["h"], ["w"], to=TensorProto.FLOAT)], {"h": W.astype(np.float16)}),
        ([helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"])], QUANTIZED),
        (
            [
                helper.make_node("DequantizeLinear", ["q", "s", "z"], ["t"]),
                helper.make_node("Transpose", ["t"], ["w"], perm=[0, 1, 3, 2]),
            ],
            QUANTIZED,
        ),
        ([helper.make_node("Unsqueeze", ["f", "axes"], ["w"])], {"f": W[:, 0], "axes": np.array([1])}),
        (
            [
                helper.make_node("Constant", [], ["b"], value_floats=[1.0, 2.0, 3.0, 4.0]),
                helper.make_node("Identity", ["h"], ["w"]),
            ],
            {"h": W},
        ),
        ([helper.make_node("Mul", ["h", "g"], ["w"])], {"h": W, "g": f32(4, 1, 1, 1)}),  # a weight norm
    ],
    ids=["cast", "dequantize", "dequantize and transpose", "unsqueeze", "value_floats", "scaled"],
)
def test_what_is_computed_from_constants_is_constant(tmp_path, coordinator, nodes, constants, opset):
    bias = " b" if any("b" in node.output for node in nodes) else ""
    made = model([*nodes, conv("w" + bias)], constants, opset=opset)
    (found,) = read(tmp_path, made)
    assert found.step is not None, found.reason
    x = f32(1, found.step.kernel.shape[1], 8, 9)
    want = by_onnxruntime(made, x)
    np.testing.assert_allclose(coordinator.convolve(x, [found.step]).output, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize("by_node", [False, True])
def test_sparse_weights_are_made_dense(tmp_path, coordinates, by_node):
    values = np.where(np.abs(W) > 1, W, 0)
    at = np.argwhere(values) if coordinates else np.flatnonzero(values)
    tensors = [numpy_helper.from_array(values[values != 0], "w"), numpy_helper.from_array(at, "i")]
    sparse = helper.make_sparse_tensor(*tensors, W.shape)
    nodes = [helper.make_node("Constant", [], ["w"], sparse_value=sparse)] if by_node else []
    made = model([*nodes, conv()])
    if not by_node:
        made.graph.sparse_initializer.append(sparse)
    (found,) = read(tmp_path, made)
    np.testing.assert_array_equal(found.step.kernel, values)


def test_a_sparse_tensor_that_would_fill_the_memory_is_refused(tmp_path):
    tensors = [numpy_helper.from_array(f32(1), "w"), numpy_helper.from_array(np.array([0]), "i")]
    made = model([conv()])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(*tensors, [2**20, 2**20, 3, 3]))
    with pytest.raises(InvalidArgumentError, match=r"sparse tensor w: expected at most 2 GiB"):
        read(tmp_path, made)


def block(name, domain="mine", opset=17, weight=W, inner=None):
    nodes = [helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(weight))]
    nodes += [helper.make_node("Conv", ["a", "k"], ["b"], name="inner")]
    if inner:
        nodes[1].output[0] = "t"
        nodes += [helper.make_node(inner, ["t"], ["b"], domain=domain)]
    return helper.make_function(domain, name, ["a"], ["b"], nodes, [helper.make_opsetid("", opset), helper.make_opsetid(domain, 1)])  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("opset", [17, 18])
def test_functions_are_inlined(tmp_path, opset):
    """Also nested ones, those that are called twice, and those of another opset than the model's."""
    square = f32(4, 4, 1, 1)
    functions = [block("Outer", opset=opset, inner="Inner"), block("Inner", opset=opset, weight=square)]
    calls = [helper.make_node("Outer", ["x"], ["t"], domain="mine"), helper.make_node("Inner", ["t"], ["y"], domain="mine")]  # fmt: skip  # noqa: E501
    found = read(tmp_path, model(calls, functions=functions))
    assert len({f.name for f in found}) == 3
    assert all("inner" in f.name for f in found)
    for f, want in zip(found, (W, square, square), strict=True):
        np.testing.assert_array_equal(f.step.kernel, want)


def test_functions_that_nobody_calls_or_that_call_themselves_are_named(tmp_path):
    functions = [block("Unused"), block("Endless", inner="Endless")]
    nodes = [helper.make_node("Endless", ["x"], ["t"], domain="mine"), conv()]
    found = read(tmp_path, model(nodes, {"w": W}, functions=functions))
    assert [f.step is not None for f in found] == [True, False, False]
    for f, name in zip(found[1:], ("Unused", "Endless"), strict=True):
        assert f.reason == f"function: mine.{name} is not called, or cannot be inlined"


def test_weights_that_are_inputs_with_a_default_are_constants(tmp_path):
    (found,) = read(tmp_path, model([conv()], {"w": W}, inputs=("x", "w")))
    np.testing.assert_array_equal(found.step.kernel, W)


def test_weights_that_depend_on_themselves_are_named(tmp_path):
    circle = [helper.make_node("Identity", ["w"], ["v"]), helper.make_node("Identity", ["v"], ["w"])]
    (found,) = read(tmp_path, model([*circle, conv()]))
    assert found.step is None
    assert "a constant of the file" in found.reason
