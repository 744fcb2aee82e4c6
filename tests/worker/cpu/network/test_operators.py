"""Each operator of a program against onnxruntime, in an arena full of NaN."""

from typing import Any

import numpy as np
import onnx
import pytest
from compiled_networks import check, compiled, model
from onnx import helper

from groupconv_worker.graph.graph import UnsupportedNodeError
from guards import guarded

RNG = np.random.default_rng(0)
CONV = helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1])


def numbers(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


def node(op: str, *inputs: str, to: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), [to], **attributes)


@pytest.mark.parametrize(
    "made",
    [
        node("Relu", "x"),
        node("LeakyRelu", "x", alpha=0.3),
        node("Sigmoid", "x"),
        node("Tanh", "x"),
        node("HardSigmoid", "x", alpha=0.3, beta=0.4),
        node("HardSwish", "x"),
        node("Elu", "x", alpha=0.7),
        node("Celu", "x", alpha=0.7),
        node("Selu", "x"),
        node("Selu", "x", alpha=0.7, gamma=1.3),
        node("Softsign", "x"),
        node("ThresholdedRelu", "x"),
        node("ThresholdedRelu", "x", alpha=-0.3),
        node("Softplus", "x"),
        node("Mish", "x"),
        node("Exp", "x"),
        node("Abs", "x"),
        node("Neg", "x"),
        node("Floor", "x"),
        node("Ceil", "x"),
        node("Round", "x"),
        node("Erf", "x"),
        node("Reciprocal", "x"),
        node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 1], ceil_mode=1),
        node("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 3]),
        node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 1, 2], count_include_pad=1),
        node("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        node("GlobalAveragePool", "x"),
        node("GlobalMaxPool", "x"),
        node("LRN", "x", size=5, alpha=0.1, beta=0.75, bias=1.5),
        node("LRN", "x", size=3),
        node("Softmax", "x", axis=3),
        node("LogSoftmax", "x", axis=3),
        node("LogSoftmax", "x", axis=1),
        node("Transpose", "x", perm=[0, 2, 3, 1]),
        node("Transpose", "x", perm=[3, 1, 2, 0]),
        node("Concat", "x", "x", axis=1),
        node("Concat", "x", "x", axis=2),
        node("Concat", "x", "x", axis=0),
        node("Flatten", "x"),
    ],
    ids=lambda made: made.op_type,
)
@pytest.mark.parametrize("channels", [3, 21])
def test_an_operator_of_one_input(made: Any, channels: int) -> None:
    check(model([made], {"x": (2, channels, 6, 5)}), {"x": 3 * numbers(2, channels, 6, 5)})


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu"])
@pytest.mark.parametrize("shape", [(), (1, 20, 1, 1), (1, 1, 5, 6), (1, 20, 5, 6), (1, 20, 5, 1), (1, 20, 1, 6)])
def test_broadcasting(op: str, shape: tuple[int, ...]) -> None:
    """On maps behind a convolution, and on arrays."""
    x, other = numbers(1, 7, 5, 6), np.asarray(np.abs(numbers(*shape)) + 0.5, np.float32)
    constant = {"w": numbers(20, 7, 1, 1), "b": other}
    if shape in ((), (1, 20, 1, 1)):
        check(model([CONV, node(op, "c", "b")], {"x": x.shape}, constant), {"x": x})
    else:
        given = {"x": x, "b": other}
        weights = {"w": constant["w"]}
        check(model([CONV, node(op, "c", "b")], {n: a.shape for n, a in given.items()}, weights), given)
    given = {"x": numbers(1, 20, 5, 6), "b": other}
    check(model([node(op, "x", "b")], {n: a.shape for n, a in given.items()}), given)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize(
    "shape", [(), (1,), (12, 1, 1), (5, 6), (5, 1), (1, 6), (12, 5, 6), (2, 1, 1, 1), (1, 1, 1, 1)]
)
def test_operands_of_fewer_axes_than_a_map(op: str, shape: tuple[int, ...]) -> None:
    """An input between guard bytes, a tensor of a node, or a constant; the convolution behind shows unused lanes."""
    other, memory = guarded(np.asarray(np.abs(numbers(*shape)) + 0.5, np.float32))
    given = {"x": numbers(2, 7, 5, 6), "b": other}
    weights = {"w": numbers(12, 7, 1, 1), "v": numbers(3, 12, 3, 3), "one": np.float32(1)}
    positive = [CONV, node("Abs", "c", to="p"), node("Add", "p", "one", to="d")]
    behind = helper.make_node("Conv", ["e", "v"], ["y"])
    around = memory.copy()
    for inputs in (("d", "b"), ("b", "d")):
        nodes = [*positive, node(op, *inputs, to="e"), behind]
        check(model(nodes, {n: a.shape for n, a in given.items()}, weights), given)
        check(model(nodes, {"x": given["x"].shape}, weights | {"b": other}), {"x": given["x"]})
        made = [*positive, node("Neg", "b", to="n"), node(op, *(n.replace("b", "n") for n in inputs), to="e"), behind]
        check(model(made, {n: a.shape for n, a in given.items()}, weights), given)
    np.testing.assert_array_equal(memory, around)


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        {"mode": "linear"},
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ],
)
@pytest.mark.parametrize("scales", [(1, 1, 2, 2), (1, 1, 1.5, 0.6)])
def test_resize(attributes: dict[str, Any], scales: tuple[float, ...]) -> None:
    x = numbers(1, 18, 6, 5)
    made = model([node("Resize", "x", "", "s", **attributes)], {"x": x.shape}, {"s": np.array(scales, np.float32)})
    check(made, {"x": x})


@pytest.mark.parametrize("rows", [1, 3, 4, 9])
@pytest.mark.parametrize("transposed", [False, True])
def test_gemm(rows: int, transposed: bool) -> None:
    x, w = numbers(rows, 37), numbers(*((70, 37) if transposed else (37, 70)))
    made = node("Gemm", "x", "w", "b", transB=int(transposed), alpha=0.5, beta=2.0)
    check(model([made], {"x": x.shape}, {"w": w, "b": numbers(70)}), {"x": x})


def test_matmul() -> None:
    check(model([node("MatMul", "x", "w")], {"x": (2, 3, 9)}, {"w": numbers(9, 21)}), {"x": numbers(2, 3, 9)})
    given = {"a": numbers(2, 3, 5, 9), "b": numbers(2, 3, 9, 21)}
    check(model([node("MatMul", "a", "b")], {n: a.shape for n, a in given.items()}), given)


@pytest.mark.parametrize("counts", [(16, 16), (32, 5), (5, 16), (3, 4, 33)])
def test_concatenations_of_maps(counts: tuple[int, ...]) -> None:
    """Whole blocks are made in their places; the others are copied there."""
    nodes = [helper.make_node("Conv", ["x", f"w{i}"], [f"c{i}"]) for i in range(len(counts))]
    nodes += [helper.make_node("Concat", [f"c{i}" for i in range(len(counts))], ["t"], axis=1)]
    nodes += [helper.make_node("Conv", ["t", "v"], ["u"], pads=[1, 1, 1, 1]), node("Add", "u", "c0")]
    weights = {f"w{i}": numbers(count, 6, 1, 1) for i, count in enumerate(counts)}
    weights["v"] = numbers(counts[0], sum(counts), 3, 3)
    check(model(nodes, {"x": (1, 6, 7, 5)}, weights), {"x": numbers(1, 6, 7, 5)})


def test_splits_slices_and_shuffles_of_maps() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Split", ["c", "sizes"], ["a", "b", "d"], axis=1),
        helper.make_node("Slice", ["c", "starts", "ends", "axes"], ["e"]),
        helper.make_node("Concat", ["b", "e", "d", "a"], ["f"], axis=1),
        helper.make_node("Reshape", ["f", "apart"], ["g"]),
        helper.make_node("Transpose", ["g"], ["h"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["h", "whole"], ["i"]),
        helper.make_node("Conv", ["i", "v"], ["y"]),
    ]
    weights = {
        "w": numbers(40, 3, 1, 1),
        "v": numbers(6, 54, 1, 1),
        "sizes": np.array([16, 19, 5]),
        "starts": np.array([3]),
        "ends": np.array([17]),
        "axes": np.array([1]),
        "apart": np.array([1, 6, 9, 5, 4]),
        "whole": np.array([1, 54, 5, 4]),
    }
    check(model(nodes, {"x": (1, 3, 5, 4)}, weights), {"x": numbers(1, 3, 5, 4)})


def test_padding_and_normalization() -> None:
    x = numbers(2, 6, 5, 4)
    pads = {"p": np.array([0, 0, 1, 0, 0, 0, 2, 3])}
    check(model([helper.make_node("Pad", ["x", "p"], ["t"]), node("Relu", "t")], {"x": x.shape}, pads), {"x": x})
    weights = {"s": numbers(6), "b": numbers(6)}
    check(model([node("InstanceNormalization", "x", "s", "b")], {"x": x.shape}, weights), {"x": x}, 1e-4)
    rows = numbers(3, 7, 37)
    weights = {"s": numbers(37), "b": numbers(37)}
    check(model([node("LayerNormalization", "x", "s", "b")], {"x": rows.shape}, weights), {"x": rows}, 1e-4)


@pytest.mark.parametrize(("opset", "count"), [(18, 3), (21, 6)])
def test_groups_are_normalized_with_weights_by_group_or_by_channel(opset: int, count: int) -> None:
    x, weights = numbers(2, 6, 5, 4), {"s": numbers(count), "b": numbers(count)}
    made = onnx.load_from_string(
        model([node("GroupNormalization", "x", "s", "b", num_groups=3)], {"x": x.shape}, weights, opset=opset)
    )
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, x.shape))
    check(made.SerializeToString(), {"x": x}, 1e-4)


def test_the_logarithm() -> None:
    x = np.concatenate([np.abs(numbers(500)) * 10.0**k for k in range(-30, 30, 7)]).astype(np.float32)[None]
    check(model([node("Log", "x")], {"x": x.shape}), {"x": x}, 1e-6)


def test_an_activation_that_no_convolution_has() -> None:
    x = numbers(1, 3, 5, 4)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Softplus", "c")]
    check(model(nodes, {"x": x.shape}, {"w": numbers(18, 3, 3, 3)}), {"x": x})


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str) -> None:
    made = model([node("Gelu", "x", approximate=approximate)], {"x": (1, 30)}, opset=20)
    check(made, {"x": 3 * numbers(1, 30)})


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceSum"])
def test_reductions_without_axes(op: str) -> None:
    x = numbers(2, 3, 4, 5)
    check(model([node(op, "x")], {"x": x.shape}), {"x": x})
    check(model([node(op, "x", "axes")], {"x": x.shape}, {"axes": np.zeros(0, np.int64)}), {"x": x})
    for shape, attributes in ((x.shape, {"noop_with_empty_axes": 1}), ((), {})):
        with pytest.raises(UnsupportedNodeError, match="no axes"):
            compiled(model([node(op, "x", **attributes)], {"x": shape}), {"x": shape})


def test_what_has_no_lowering_is_refused_with_its_node() -> None:
    made = model([helper.make_node("Sin", ["x"], ["y"], name="odd")], {"x": (1, 3)})
    with pytest.raises(UnsupportedNodeError, match="Sin 'odd'"):
        compiled(made, {"x": (1, 3)})
    for op in ("GlobalAveragePool", "GlobalMaxPool"):
        with pytest.raises(UnsupportedNodeError, match=op):
            compiled(model([node(op, "x")], {"x": (2, 3, 7, 6, 5, 2)}), {"x": (2, 3, 7, 6, 5, 2)})
