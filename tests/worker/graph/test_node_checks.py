"""Attributes that do not fit their operator, its weights or its input are named; what onnxruntime runs passes."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import model, value
from onnx import AttributeProto, helper

from groupconv.errors import InvalidArgumentError
from groupconv_worker.graph.binding import Skeleton
from groupconv_worker.graph.model import read_model
from groupconv_worker.graph.sessions import make_session

HUGE = 2**62
RULES = "NOTSET, SAME_UPPER, SAME_LOWER, VALID"
RANGE = r"expected an integer from {} to 2147483647, got {}"


def with_node(op, x=(1, 4, 8, 8), w=(4, 4, 3, 3), free=False, **attributes):
    """A Relu, then the node."""
    weights = {"w": np.ones(w, np.float32)} if "Conv" in op else {}
    node = helper.make_node(op, ["r", *weights], ["y"], "odd", **attributes)
    shape = ["n", 4, *(f"d{i}" for i in x[2:])] if free else x
    out = value("y", [f"o{i}" for i in range(len(x))])
    return model([helper.make_node("Relu", ["x"], ["r"]), node], [value("x", shape)], [out], weights)


def bound(proto, x=(1, 4, 8, 8)):
    return Skeleton(read_model(proto.SerializeToString())).bind({"x": x}, most=2**30)


def refused(proto, op, said, x=(1, 4, 8, 8)):
    with pytest.raises(InvalidArgumentError) as error:
        bound(proto, x)
    assert str(error.value) == f"model.graph.node[1] ({op} 'odd').{said}"


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"group": 0}, f"group: {RANGE.format(1, 0)}"),
        ({"group": -1}, f"group: {RANGE.format(1, -1)}"),
        ({"pads": [1, HUGE, 1, 1]}, f"pads[1]: {RANGE.format(0, HUGE)}"),
        ({"pads": [1, 1, 1, -1]}, f"pads[3]: {RANGE.format(0, -1)}"),
        ({"strides": [HUGE, 1]}, f"strides[0]: {RANGE.format(1, HUGE)}"),
        ({"strides": [1, 0]}, f"strides[1]: {RANGE.format(1, 0)}"),
        ({"dilations": [1, -2]}, f"dilations[1]: {RANGE.format(1, -2)}"),
        ({"kernel_shape": [3, -3]}, f"kernel_shape[1]: {RANGE.format(1, -3)}"),
        ({"pads": [1, 1]}, "pads: expected 4 integers for weights of 2 axes of space, got [1, 1]"),
        ({"strides": [2]}, "strides: expected 2 integers for weights of 2 axes of space, got [2]"),
        ({"dilations": [1, 1, 1]}, "dilations: expected 2 integers for weights of 2 axes of space, got [1, 1, 1]"),
        ({"pads": [0] * 2000}, "pads: expected at most 1024 integers, got 2000"),
        ({"kernel_shape": [5, 5]}, "kernel_shape: expected [3, 3], as the weights have, got [5, 5]"),
        ({"auto_pad": "LEFT"}, f"auto_pad: expected one of {RULES}, got 'LEFT'"),
        ({"auto_pad": "VALID", "pads": [0] * 4}, "auto_pad: expected NOTSET, as the node has pads, got 'VALID'"),
    ],
)
def test_the_attribute_is_named_whether_the_shapes_are_known(op, attributes, said):
    refused(with_node(op, **attributes), op, said)
    refused(with_node(op, free=True, **attributes), op, said)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_pools(op):
    refused(with_node(op, kernel_shape=[3, HUGE]), op, f"kernel_shape[1]: {RANGE.format(1, HUGE)}")
    refused(with_node(op, kernel_shape=[3, 3], auto_pad="LEFT"), op, f"auto_pad: expected one of {RULES}, got 'LEFT'")
    bound(with_node(op, kernel_shape=[3, 3], auto_pad="SAME_LOWER"))
    said = "pads[3]: expected less than 2, as the kernel has, got 2"
    refused(with_node(op, kernel_shape=[3, 2], pads=[2, 1, 2, 2]), op, said)
    bound(with_node(op, kernel_shape=[3, 2], pads=[2, 1, 2, 1]))


def test_positions_and_global_pools():
    wrong = with_node("MaxPool", kernel_shape=[3, 3], storage_order=2)
    refused(wrong, "MaxPool", "storage_order: expected 0 (by rows) or 1 (by columns), got 2")
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        refused(with_node(op, (1, 4)), op, "input[0]: expected axes of space behind two others, got [1, 4]", (1, 4))


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"output_padding": [-1, 0]}, f"output_padding[0]: {RANGE.format(0, -1)}"),
        ({"output_padding": [1, 2], "strides": [2, 2]}, "output_padding[1]: expected less than the stride, 2, got 2"),
        ({"output_padding": [0, 1], "dilations": [3, 3]}, "output_padding[1]: expected less than the stride, 1, got 1"),
        ({"output_shape": [9, 0]}, f"output_shape[1]: {RANGE.format(1, 0)}"),
        ({"output_shape": [18, 19], "strides": [2, 2]}, "output_shape[1]: expected at most 18 of 8 elements, got 19"),
    ],
)
def test_outputs_of_transposed_convolutions(attributes, said):
    refused(with_node("ConvTranspose", free=True, **attributes), "ConvTranspose", said)


@pytest.mark.parametrize(
    ("perm", "said"),
    [
        ([0, 0, 1, 2], "perm: expected each axis from 0 to 3 once, got [0, 0, 1, 2]"),
        ([-1, 0, 1, 2], "perm: expected each axis from 0 to 3 once, got [-1, 0, 1, 2]"),
        ([1, 0], "perm: expected 4 axes, as the input has, got [1, 0]"),
        (list(range(10**7)), "perm: expected at most 1024 integers, got 10000000"),
    ],
)
def test_orders_of_axes(perm, said):
    refused(with_node("Transpose", perm=perm), "Transpose", said)


@pytest.mark.parametrize(
    ("op", "x", "attributes", "said"),
    [
        ("Conv", (1, 4, 2, 8), {}, "at least 3 elements along axis 2, as the kernel covers 3 and 0 are padded"),
        ("Conv", (1, 4, 0, 8), {}, "at least 3 elements along axis 2, as the kernel covers 3 and 0 are padded"),
        (
            "Conv",
            (1, 4, 8, 8),
            {"dilations": [1, 5], "pads": [0, 1, 0, 1]},
            "at least 9 elements along axis 3, as the kernel covers 11 and 2 are padded",
        ),
        ("Conv", (1, 4, 8, 0), {"auto_pad": "SAME_UPPER"}, "at least 1 elements along axis 3, with SAME_UPPER"),
        ("ConvTranspose", (1, 4, 1, 8), {"pads": [2, 0, 1, 0]}, "at least 2 elements along axis 2, as 3 are cut off"),
    ],
)
def test_inputs_that_are_too_small_are_named_at_the_call(op, x, attributes, said):
    refused(with_node(op, free=True, **attributes), op, f"input[0]: expected {said}, got {list(x)}", x)
    bound(with_node(op, free=True, **attributes), (1, 4, 11, 11))


def test_extents_that_a_file_calls_negative_are_free():
    proto = with_node("Conv")
    for dim, extent in zip(proto.graph.input[0].type.tensor_type.shape.dim, (-1, 4, -1, 0), strict=True):
        dim.dim_value = extent
    assert bound(proto, (2, 4, 9, 8)).outputs[0].shape == (2, 4, 7, 6)


def test_outputs_of_negative_extents():
    proto = with_node("MaxPool", free=True, kernel_shape=[9, 9])
    with pytest.raises(InvalidArgumentError) as error:
        bound(proto, (1, 4, 1, 9))
    assert str(error.value) == (
        "model.graph.node[1] (MaxPool 'odd'): expected inputs whose output has extents from 0, got [1, 4, -7, 1]"
    )


def test_empty_volumes_do_not_end_the_process():
    proto, x = with_node("ConvTranspose", (1, 4, 0, 3, 3), (4, 4, 3, 3, 3), free=True), (1, 4, 0, 3, 3)
    said = f"elements along each axis, without which onnxruntime ends the process, got {list(x)}"
    refused(proto, "ConvTranspose", f"input[0]: expected {said}", x)
    bound(proto, (0, 4, 0, 3, 3))
    bound(proto, (1, 4, 1, 3, 3))


def test_attributes_that_a_function_s_caller_gives_are_left_to_the_runtime():
    node = helper.make_node("Conv", ["a", "b"], ["c"], "inner")
    node.attribute.append(AttributeProto(name="strides", type=AttributeProto.INTS, ref_attr_name="step"))
    opsets = [helper.make_opsetid("ours", 1), helper.make_opsetid("", 21)]
    function = helper.make_function("ours", "f", ["a", "b"], ["c"], [node], opsets, ["step"])
    outer = helper.make_node("f", ["x", "w"], ["y"], domain="ours", step=[2, 2])
    x, y, w = value("x", [1, 4, 8, 8]), value("y", ["n", "c", "h", "w"]), {"w": np.ones((4, 4, 3, 3), np.float32)}
    bound(model([outer], [x], [y], w, [function], [opsets[0]]))
    node.attribute.append(helper.make_attribute("group", 0))
    function = helper.make_function("ours", "f", ["a", "b"], ["c"], [node], opsets, ["step"])
    with pytest.raises(InvalidArgumentError, match=r"model.functions\[0\].node\[0\] \(Conv 'inner'\).group"):
        bound(model([outer], [x], [y], w, [function], [opsets[0]]))


@st.composite
def windows(draw):
    """A convolution or pool of one to three axes, most of them legal, and its input's shape."""
    op, rank = draw(st.sampled_from(["Conv", "ConvTranspose", "MaxPool", "AveragePool"])), draw(st.integers(1, 3))

    def integers(least, most, count=rank):
        return draw(st.lists(st.integers(least, most), min_size=count, max_size=count))

    groups = draw(st.sampled_from([1, 2, 4]))
    pool = "Pool" in op
    attributes = {"kernel_shape": integers(1, 5), "ceil_mode": draw(st.integers(0, 1))} if pool else {"group": groups}
    attributes |= {"strides": integers(1, 3), "dilations": integers(1, 3)}
    auto = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", ""]))
    attributes |= {"auto_pad": auto} if draw(st.booleans()) else {"pads": integers(0, 3, 2 * rank)}
    if op == "ConvTranspose" and draw(st.booleans()):
        attributes["output_padding"] = integers(0, 3)
    if op == "ConvTranspose" and draw(st.integers(0, 3)) == 0:
        attributes["output_shape"] = integers(1, 24)
    return op, (draw(st.integers(0, 2)), 4, *integers(0, 6)), (4, 4 // groups, *integers(1, 4)), attributes


@settings(max_examples=150, deadline=None)
@given(windows())
def test_what_onnxruntime_runs_is_not_refused(drawn):
    op, x, w, attributes = drawn
    proto = with_node(op, x, w, free=True, **attributes)
    try:
        bound(proto, x)
    except InvalidArgumentError as error:
        assume("ends the process" not in str(error))
        with pytest.raises(Exception):  # noqa: B017, PT011 - a class for each status, none of which is public
            make_session(proto.SerializeToString(), 1).run(None, {"x": np.ones(x, np.float32)})
