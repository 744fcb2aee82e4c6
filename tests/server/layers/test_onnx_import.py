"""Convolutions of ONNX files, compared with onnxruntime on models built here."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
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


def model(nodes, weights=(), inputs=("x",), outputs=("y",)):
    def value(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    tensors = [numpy_helper.from_array(array, name) for name, array in dict(weights).items()]
    graph = helper.make_graph(list(nodes), "test", list(map(value, inputs)), list(map(value, outputs)), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def read(tmp_path, made):
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    return read_onnx(path)


def by_onnxruntime(made, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@st.composite
def convolutions(draw):
    """A Conv or ConvTranspose with any attributes: (operator, attributes, x, kernel, bias)."""
    rank, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    operator = draw(st.sampled_from(["Conv", "ConvTranspose"]))

    def each(low, high):
        return [draw(st.integers(low, high)) for _ in range(rank)]

    kernel, said = each(1, 4), {}
    if draw(st.booleans()):
        said["kernel_shape"] = kernel
    if groups > 1 or draw(st.booleans()):
        said["group"] = groups
    if draw(st.booleans()):
        said["strides"] = each(1, 3)
    if draw(st.booleans()):
        said["dilations"] = each(1, 3)
    auto = draw(st.sampled_from([None, "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto is not None:
        said["auto_pad"] = auto
    if auto in (None, "NOTSET") and draw(st.booleans()):
        said["pads"] = each(0, 2) + each(0, 2)
    if operator == "ConvTranspose" and draw(st.booleans()):
        strides, dilations = said.get("strides", [1] * rank), said.get("dilations", [1] * rank)
        said["output_padding"] = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True)]
    channels, filters = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    shape = (channels, filters // groups) if operator == "ConvTranspose" else (filters, channels // groups)
    bias = f32(filters) if draw(st.booleans()) else None
    return operator, said, f32(draw(st.integers(1, 2)), channels, *each(1, 9)), f32(*shape, *kernel), bias


@settings(max_examples=150)
@given(drawn=convolutions())
def test_a_layer_computes_what_onnxruntime_does(tmp_path_factory, coordinator, drawn):
    operator, said, x, kernel, bias = drawn
    weights = {"w": kernel} | ({} if bias is None else {"b": bias})
    made = model([helper.make_node(operator, ["x", *weights], ["y"], name="c", **said)], weights)
    (found,) = read(tmp_path_factory.mktemp("onnx"), made)
    try:
        want = by_onnxruntime(made, x)
    except Exception:  # noqa: BLE001 - the kernel is larger than the input, or onnxruntime has no such kernel
        assume(False)
    assume(want.size)
    assume("shorter than the stride" not in found.reason)
    assert found.step is not None, found.reason
    got = coordinator.convolve(x, [found.step]).output
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_names_constants_and_what_cannot_be_a_layer(tmp_path):
    w = f32(2, 1, 3)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="/features/0.conv:Conv"),
        helper.make_node("Conv", ["a", "w2"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="twice"),
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(f32(2, 2, 1))),
        helper.make_node("Identity", ["k"], ["l"]),
        helper.make_node("Conv", ["c", "l", ""], ["d"], name="twice"),
        helper.make_node("Relu", ["w2"], ["computed"]),
        helper.make_node("Conv", ["d", "computed"], ["e"], name="computed"),
        helper.make_node("ConvTranspose", ["e", "w2"], ["f"], name="sized", output_shape=[9]),
        helper.make_node("Conv", ["f", "w2"], ["g"], name="lies", kernel_shape=[5]),
        helper.make_node("Conv", ["g", "w2"], ["y"], name="cropped", pads=[-1, 0]),
    ]
    found = {f.name: f for f in read(tmp_path, model(nodes, {"w": w, "w2": f32(2, 2, 3)}))}
    assert list(found) == ["features/0.conv_Conv", "b", "twice", "twice-2", "computed", "sized", "lies", "cropped"]
    assert [name for name, f in found.items() if f.step is None] == ["computed", "sized", "lies", "cropped"]
    assert "a constant of the file" in found["computed"].reason
    assert "output_shape" in found["sized"].reason
    assert "kernel_shape: expected [3], got [5]" in found["lies"].reason
    assert "padding" in found["cropped"].reason
    np.testing.assert_array_equal(found["features/0.conv_Conv"].step.kernel, w)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_weights_keep_their_dtype(tmp_path, kind):
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    made = model([helper.make_node("Conv", ["x", "w"], ["y"], name="c")], {"w": f32(1, 1, 3).astype(dtype)})
    (found,) = read(tmp_path, made)
    assert found.step.kernel.dtype == dtype


def test_convolutions_in_branches_are_found(tmp_path):
    branch = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["inner"], name="within")], "then", [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    found = read(tmp_path, model(nodes, {"w": f32(1, 1, 3)}))
    assert [f.name for f in found] == ["within", "within-2"]
    assert all(f.step is not None for f in found)


def test_a_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff not a model")
    with pytest.raises(InvalidArgumentError, match="an ONNX model"):
        read_onnx(path)
