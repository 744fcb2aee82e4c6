"""A streamed map equals the whole one, bit for bit: random networks, extents and windows."""

import numpy as np
import onnxruntime
import pytest
from fully_convolutional import Builder, image, networks, unet
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import model, value
from onnx import TensorProto

from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv_server.layers.version import NetworkVersion
from groupconv_server.networks.streaming import plan_stream
from groupconv_server.networks.windows import Allowed
from groupconv_worker.graph.model import read_model

LARGE = 2**31


def session(proto):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def planned(proto, shape, window_bytes=0, stream_bytes=LARGE, workers=1, outputs=()):
    network = NetworkVersion("net", 1, 0, read_model(proto.SerializeToString()))
    shapes = {proto.graph.input[0].name: shape}
    return plan_stream(network, shapes, outputs, Allowed(stream_bytes, LARGE, LARGE, workers, workers), window_bytes)


def smallest(proto, shape):
    """The plan with windows that are hardly larger than the smallest ones."""
    with pytest.raises(ResourceExhaustedError, match="the smallest window takes") as refused:
        planned(proto, shape, 1)
    number, unit = str(refused.value).split("takes ")[1].split()[:2]
    size = float(number) * {"B": 1, "KiB": 2**10, "MiB": 2**20}[unit.rstrip(",")]
    return planned(proto, shape, int(size * 1.1) + 1)


def planned_or_smallest(proto, shape, window_bytes):
    try:
        return planned(proto, shape, window_bytes)
    except ResourceExhaustedError:
        return smallest(proto, shape)


def streamed(plan, run, x):
    """The outputs, put together from windows; NaN, or -9 in integers, where nothing was written."""
    names = [info.name for info in plan.outputs]
    nothing = {"f": np.nan, "i": -9}
    outputs = {info.name: np.full(info.shape, nothing[info.dtype.kind], info.dtype) for info in plan.outputs}
    shapes = set()
    for window in plan.windows():
        part = np.ascontiguousarray(x[window.inputs])
        shapes.add(part.shape)
        for name, y in zip(names, run.run(names, {"x": part}), strict=True):
            outputs[name][window.placed[name]] = y[window.taken[name]]
    assert shapes == {plan.window_shape(x.shape)}
    return outputs


def whole(run, x):
    return dict(zip([o.name for o in run.get_outputs()], run.run(None, {"x": x}), strict=True))


def check(proto, shape, window_bytes):
    """Compare with the whole, in windows of at most so many bytes, or the smallest. False where layers do not fit."""
    x, run = image(shape), session(proto)
    try:
        expected = whole(run, x)
    except Exception:  # noqa: BLE001 - a class for each status, none of which is public
        return False
    if any(0 in y.shape for y in expected.values()):
        return False
    try:
        plan = planned_or_smallest(proto, shape, window_bytes)
    except InvalidArgumentError as error:
        # a window of a pool lies in the padding alone, or a window is so small that pytorch_half_pixel differs
        if not any(word in str(error) for word in ("Pool", "Resize", "is not known before")):
            raise
        return False
    for name, y in streamed(plan, run, x).items():
        np.testing.assert_array_equal(y, expected[name])
    return True


DRAWN = (networks(), st.integers(9, 60), st.integers(9, 60), st.integers(1, 2), st.integers(10, 20))


@settings(max_examples=20)
@given(*DRAWN)
def test_any_network_in_any_windows(proto, height, width, batch, log_bytes):
    channels = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    assume(check(proto, (batch, channels, height, width), 2**log_bytes))


@pytest.mark.slow
@settings(max_examples=400)
@given(*DRAWN)
def test_many_networks_in_any_windows(proto, height, width, batch, log_bytes):
    channels = proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    assume(check(proto, (batch, channels, height, width), 2**log_bytes))


@pytest.mark.parametrize(("crop", "shape"), [(False, (1, 2, 104, 88)), (True, (2, 2, 103, 90))])
def test_a_unet_in_many_windows(crop, shape):
    proto = unet(crop=crop)
    plan = planned(proto, shape, 600_000)
    assert plan.count >= 12
    assert [axis.step for axis in plan.axes] == [1, 4, 4]
    assert plan.axes[1].receptive_field == 40
    assert plan.window_bytes <= 600_000
    assert plan.recomputed > 0.5
    x, run = image(shape), session(proto)
    np.testing.assert_array_equal(*(next(iter(y.values())) for y in (streamed(plan, run, x), whole(run, x))))
    assert "receptive field 40, step 4" in str(plan)


def test_large_windows_where_memory_allows():
    plan = planned(unet(), (1, 2, 20_000, 20_000), stream_bytes=3 * 2**28, workers=2)
    assert plan.window_bytes <= 3 * 2**28
    assert plan.in_flight >= 2
    assert plan.recomputed < 0.15
    assert planned(unet(), (1, 2, 96, 96)).count == 1


def test_channels_last_layers_and_outputs_of_other_scales():
    net = Builder(4)
    net.convolve(8, (4, 4), strides=[4, 4])
    net.add("Transpose", perm=[0, 2, 3, 1])
    net.add("MatMul", net.constant(np.eye(8, dtype=np.float32)[::-1].copy()))
    net.add("Transpose", perm=[0, 3, 1, 2])
    coarse = net.add("ReduceSum", net.constant(np.array([1])), keepdims=0)
    net.add("Unsqueeze", net.constant(np.array([1])))
    net.channels = 1
    net.convolve(2, (3, 3), transposed=True, strides=[2, 2], pads=[1, 1, 0, 0])
    fine = net.last
    classes = net.add("ArgMax", axis=1, keepdims=0)
    proto = model(
        net.nodes, net._inputs, [value(coarse, [None] * 3), value(fine, [None] * 4), value(classes, [None] * 3, 7)],
        net.weights,
    )  # fmt: skip
    shape = (2, 4, 70, 83)
    x, run = image(shape), session(proto)
    plan = smallest(proto, shape)
    assert plan.count > 20
    expected = whole(run, x)
    for name, y in streamed(plan, run, x).items():
        np.testing.assert_array_equal(y, expected[name])
    assert [info.name for info in planned(proto, shape, outputs=[classes]).outputs] == [classes]


REFUSED = {
    "GlobalAveragePool": lambda net: net.add("GlobalAveragePool"),
    "InstanceNormalization": lambda net: net.add(
        "InstanceNormalization", *(net.constant(np.ones(2, np.float32)) for _ in range(2))
    ),
    "Softmax": lambda net: net.add("Softmax", axis=3),
    "ReduceMean": lambda net: net.add("ReduceMean", net.constant(np.array([2, 3]))),
    "Reshape": lambda net: net.add("Flatten"),
    "LpNormalization": lambda net: net.add("LpNormalization", axis=2),
    "CumSum": lambda net: net.add("CumSum", net.constant(np.array(2))),
    "Concat": lambda net: net.add("Concat", net.last, axis=2),
    "MaxPool": lambda net: net.nodes.append(_pool_with_positions(net)),
    "Det": lambda net: net.add("Det"),
    "MatMul": lambda net: net.add("MatMul", net.last),
    "Resize": lambda net: net.add("Resize", "", net.constant(np.float32([1, 1, 2, 2])), mode="linear",
                                  coordinate_transformation_mode="align_corners"),
}  # fmt: skip


def _pool_with_positions(net):
    node = type(net.nodes[0])()
    node.CopyFrom(net.nodes[0])
    node.op_type, node.name = "MaxPool", "named"
    del node.attribute[:], node.input[:], node.output[:]
    node.input.append(net.last)
    node.output.extend(["values", "positions"])
    node.attribute.add(name="kernel_shape", type=7, ints=[2, 2])
    net.last = "positions"
    return node


@pytest.mark.parametrize("op", REFUSED)
def test_a_node_that_needs_all_of_the_map_is_named(op):
    net = Builder(2)
    net.convolve(2, (3, 3), pads=[1] * 4)
    REFUSED[op](net)
    name = net.nodes[-1].name
    if op == "MaxPool":
        net.add("Cast", to=TensorProto.FLOAT)
    proto = net.model()
    with pytest.raises(InvalidArgumentError, match=rf"network.node \({op} '{name}.*expected .* a part of axis"):
        planned(proto, (1, 2, 40, 40))


def test_a_constant_of_the_maps_extent_is_named():
    net = Builder(2)
    net.add("Add", net.constant(np.ones((1, 2, 40, 40), np.float32)))
    with pytest.raises(InvalidArgumentError, match=r"node \(Add 'add0'\).*'w0', which has the extent of the whole"):
        planned(net.model(), (1, 2, 40, 40))


def test_fixed_extents_inside_of_a_network_are_named():
    net = Builder(2)
    net.add("Resize", "", "", net.constant(np.array([1, 2, 80, 80])))
    with pytest.raises(InvalidArgumentError, match=r"node \(Resize 'resize0'\)"):
        planned(net.model(), (1, 2, 40, 40), 60_000)


def test_inputs_that_cannot_be_cut():
    with pytest.raises(InvalidArgumentError, match="free axes of space"):
        planned(model([], [value("x", ["N", 3, 8, 8])], [value("x", ["N", 3, 8, 8])]), (1, 3, 8, 8))
    with pytest.raises(InvalidArgumentError, match="axes of space"):
        planned(model([], [value("x", ["N", 3])], [value("x", ["N", 3])]), (1, 3))
    with pytest.raises(InvalidArgumentError, match="expected names of"):
        planned(unet(), (1, 2, 40, 40), outputs=["nothing"])


def test_samples_that_a_node_joins_stay_together():
    net = Builder(2)
    net.convolve(2, (3, 3), pads=[1] * 4)
    net.add("ReduceSum", net.constant(np.array([0])))
    plan = smallest(net.model(), (3, 2, 30, 30))
    assert [axis.axis for axis in plan.axes] == [2, 3]
    x, run = image((3, 2, 30, 30)), session(net.model())
    np.testing.assert_array_equal(streamed(plan, run, x)[net.last], whole(run, x)[net.last])


@pytest.mark.parametrize("shape", [(1, 2, 2**40, 16), (2**31, 2, 16, 16), (1, 2, 2**31, 2**31)])
def test_more_windows_than_a_plan_may_have_are_refused_before_any_is_made(shape):
    """A request of some bytes made the server list windows by the thousand million."""
    net = Builder(2)
    net.convolve(2, (3, 3), pads=[1] * 4)
    with pytest.raises(ResourceExhaustedError, match=r"windows of at most .* would be more than 65536 along an axis"):
        planned(net.model(), shape, 100_000)


@pytest.mark.parametrize("shape", [(0, 2, 40, 40), (1, 2, 0, 40), (1, 2, 40, 0)])
def test_a_map_without_elements_is_refused(shape):
    with pytest.raises(InvalidArgumentError, match=r"inputs\['x'\].shape: expected a map with elements"):
        planned(unet(), shape)
