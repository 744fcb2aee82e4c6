"""Convolutions of ONNX files as layers, against onnxruntime."""

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
from groupconv_server.layers.names import check_name
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
        helper.make_node("ReduceSum", ["d"], ["sum"]),
        helper.make_node("Mul", ["w2", "sum"], ["computed"]),
        helper.make_node("Conv", ["d", "computed"], ["e"], name="computed"),
        helper.make_node("ConvTranspose", ["e", "w2"], ["f"], name="sized", output_shape=[9]),
        helper.make_node("Conv", ["f", "w2"], ["g"], name="lies", kernel_shape=[5]),
        helper.make_node("Conv", ["g", "w2"], ["y"], name="cropped", pads=[-1, 0]),
    ]
    found = {f.name: f for f in read(tmp_path, model(nodes, {"w": w, "w2": f32(2, 2, 3)}))}
    assert list(found) == ["features/0.conv_Conv", "b", "twice", "twice-2", "computed", "sized", "lies", "cropped"]
    assert [name for name, f in found.items() if f.step is None] == ["computed", "sized", "lies", "cropped"]
    assert "a constant of the file, got 'computed, computed by Mul'" in found["computed"].reason
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


def conv(weights="w", name="c", y="y", **attributes):
    return helper.make_node("Conv", ["x", *weights.split()], [y], name=name, **attributes)


W = f32(4, 2, 3, 3)
Q = np.clip(np.rint(W / 0.02), -128, 127).astype(np.int8)


def block(name, domain="mine", opset=17, weight=W, inner=None):
    nodes = [helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(weight))]
    nodes += [helper.make_node("Conv", ["a", "k"], ["b"], name="inner")]
    if inner:
        nodes[1].output[0] = "t"
        nodes += [helper.make_node(inner, ["t"], ["b"], domain=domain)]
    return helper.make_function(domain, name, ["a"], ["b"], nodes, [helper.make_opsetid("", opset), helper.make_opsetid(domain, 1)])  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    ("operator", "domain", "count"),
    [
        ("QLinearConv", "", 8),
        ("ConvInteger", "", 2),
        ("DeformConv", "", 3),
        ("FusedConv", "com.microsoft", 2),
        ("NhwcConv", "com.microsoft", 2),
        ("MyConv2d", "mine", 2),
    ],
)
def test_every_operator_that_convolves_is_named(tmp_path, operator, domain, count):
    node = helper.make_node(operator, ["x", *["w"] * (count - 1)], ["t"], name="other", domain=domain)
    cast = helper.make_node("Cast", ["t"], ["x2"], to=TensorProto.FLOAT)
    found = read(tmp_path, model([node, cast, conv()], {"w": W}))
    assert [(f.name, f.step is None) for f in found] == [("other", True), ("c", False)]
    assert f"operator: expected Conv or ConvTranspose, got {domain}{'.' * bool(domain)}{operator}" in found[0].reason


MALFORMED = {
    "strides": [[1], [0, 1], [1.0, 2.0], 2, "1", [1, 1, 1]],
    "dilations": [[], [2, -1], "1"],
    "pads": [[1, 1], [1, 1, 1], [-1, 0, 0, 0], [0.5] * 4],
    "group": [0, 3, "two", [1], 1.0],
    "auto_pad": ["SAME", 3, b"\xff"],
    "kernel_shape": [[5, 5], [3], "3"],
    "colour": ["red"],
}


@pytest.mark.parametrize(("attribute", "value"), [(k, v) for k, values in MALFORMED.items() for v in values])
def test_a_malformed_attribute_is_named_with_its_node_and_the_others_are_loaded(tmp_path, attribute, value):
    nodes = [conv(name="wrong"), conv(name="right", y="z")]
    if value == []:
        nodes[0].attribute.append(onnx.AttributeProto(name=attribute, type=onnx.AttributeProto.INTS))
    else:
        nodes[0].attribute.append(helper.make_attribute(attribute, value))
    wrong, right = read(tmp_path, model(nodes, {"w": W}))
    assert (wrong.name, wrong.step, right.step is None) == ("wrong", None, False)
    named = {"strides": "stride", "dilations": "dilation", "pads": "pad", "group": "group"}.get(attribute, attribute)
    assert named in wrong.reason


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.sampled_from(["a//..", "a/", "a" * 260])


@settings(max_examples=60)
@given(names=st.lists(NAMES, max_size=5), prefix=st.sampled_from(["", "net", "n" * 250]))
def test_names_are_legal_and_differ(tmp_path_factory, names, prefix):
    nodes = [helper.make_node("Conv", ["x", "w"], [f"y{i}"], name=name) for i, name in enumerate(names)]
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    onnx.save(model(nodes, {"w": W}), path)
    found = read_onnx(path, prefix)
    assert len({f.name for f in found}) == len(names)
    for f in found:
        assert check_name(f.name).startswith(prefix[:250])
        assert f.step is not None


def test_a_batch_normalization_becomes_part_of_the_weights(tmp_path, coordinator):
    weights = {"w": W, "b": f32(4)} | {k: f32(4) for k in ("scale", "offset", "mean")} | {"variance": f32(4) ** 2}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["t"], name="c", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["t", "scale", "offset", "mean", "variance"], ["y"], epsilon=1e-3),
    ]
    made = model(nodes, weights)
    (plain,), (folded,) = read(tmp_path, made), read(tmp_path, made, fold_batch_norm=True)
    np.testing.assert_array_equal(plain.step.kernel, W)
    assert (folded.name, folded.step is None) == ("c", False)
    x = f32(2, 2, 6, 7)
    got = coordinator.convolve(x, [folded.step]).output
    np.testing.assert_allclose(got, by_onnxruntime(made, x), rtol=1e-3, atol=1e-3)


@settings(max_examples=150)
@given(data=st.data())
def test_a_broken_file_is_refused_or_read_but_never_a_defect(tmp_path_factory, data):
    weights = {"q": Q, "s": np.float32(0.02), "z": np.int8(0), "w2": f32(4, 3, 2, 2)}
    nodes = [
        helper.make_node("Block", ["x"], ["a"], domain="mine", name="blk"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["b"], name="c", pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["b", "w2"], ["y"], name="d", auto_pad="SAME_UPPER"),
    ]
    raw = bytearray(model(nodes, weights, functions=[block("Block")]).SerializeToString())
    structure = [i for i in range(len(raw)) if i < 700 or i > len(raw) - 200]  # most of the rest are weights
    for at in data.draw(st.lists(st.sampled_from(structure), min_size=1, max_size=3)):
        raw[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    path.write_bytes(raw)
    try:
        found = read_onnx(path, fold_batch_norm=data.draw(st.booleans()))
    except InvalidArgumentError:
        return
    assert all(f.step is not None or f.reason for f in found)


@pytest.mark.parametrize(("operator", "fits"), [("Conv", 4), ("ConvTranspose", 6)])
def test_a_bias_has_an_element_for_each_output_channel(tmp_path, operator, fits):
    node = helper.make_node(operator, ["x", "w", "b"], ["y"], name="c", group=2)
    for length in (fits, 3):
        (found,) = read(tmp_path, model([node], {"w": f32(4, 3, 2, 2), "b": f32(length)}))
        assert (found.step is not None) == (length == fits)
        assert length == fits or found.reason == f"bias: expected [{fits}], one for each output channel, got [3]"


@pytest.mark.parametrize("extent", [-1, -4, 0])
def test_weights_of_an_extent_below_1_are_refused(tmp_path, extent):
    made = model([helper.make_node("Conv", ["x", "w"], ["y"], name="c")], {"w": f32(4, 2, 3, 3)})
    made.graph.initializer[0].dims[0] = extent
    (found,) = read(tmp_path, made)
    assert found.reason == f"kernel: expected extents of at least 1 of w, got [{extent}, 2, 3, 3]"
