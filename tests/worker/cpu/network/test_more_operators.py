"""Operators of a program that move, choose and compare elements, against onnxruntime, in an arena full of NaN."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from compiled_networks import check, compiled, model
from networks import model as any_model
from networks import value
from onnx import TensorProto, helper

RNG = np.random.default_rng(0)
CONV = helper.make_node("Conv", ["x", "w"], ["c"])
W = {"w": RNG.standard_normal((20, 6, 1, 1)).astype(np.float32)}


def numbers(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


def node(op: str, *inputs: str, to: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), [to], **attributes)


def on_arrays_and_maps(nodes: Any, shape: tuple[int, ...], weights: dict[str, Any] | None = None) -> None:
    """Nodes that read `c`: an array, and behind a convolution a map of 20 channels."""
    copied = helper.make_node("Abs", ["x"], ["c"])
    check(model([copied, *nodes], {"x": shape}, weights), {"x": numbers(*shape)})
    if len(shape) == 4:
        x = numbers(shape[0], 6, *shape[2:])
        check(model([CONV, *nodes], {"x": x.shape}, {**W, **(weights or {})}), {"x": x})


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [(0, 0, 1, 2, 0, 0, 3, 0), (1, 2, 0, 0, 0, 1, 2, 2), (0, 0, -1, 2, 0, 0, 1, -2)])
def test_pads(mode: str, pads: tuple[int, ...]) -> None:
    if mode != "constant":  # runtimes do not agree on copies of what was cut
        pads = tuple(max(0, pad) for pad in pads)
    weights = {"p": np.array(pads), "v": np.float32(1.5)}
    inputs = ("c", "p", "v") if mode == "constant" else ("c", "p")
    on_arrays_and_maps([node("Pad", *inputs, mode=mode)], (2, 20, 5, 6), weights)


@pytest.mark.parametrize("channels", [3, 16, 20, 33])
@pytest.mark.parametrize("samples", [1, 2])
def test_maps_with_the_channels_last_between_convolutions(channels: int, samples: int) -> None:
    """As a linear layer of each pixel has them: into an array, and into a map with margins, also when both are read."""
    weights = {"w": numbers(channels, 6, 1, 1), "v": numbers(4, channels, 3, 3), "m": numbers(channels, channels)}
    nodes = [
        CONV,
        node("Transpose", "c", to="t", perm=[0, 2, 3, 1]),
        node("MatMul", "t", "m", to="p"),
        node("Transpose", "p", to="u", perm=[0, 3, 1, 2]),
        node("Add", "u", "c", to="s"),
        node("Conv", "s", "v", pads=[1] * 4),
    ]
    x = numbers(samples, 6, 5, 7)
    check(model(nodes, {"x": x.shape}, weights, ["y", "t", "p", "s"]), {"x": x})
    check(model(nodes[1:], {"c": (samples, channels, 5, 7)}, weights), {"c": numbers(samples, channels, 5, 7)})


@pytest.mark.parametrize("shape", [(3, 2, 5000), (1, 20000), (2, 3, 4, 4100), (12, 9000), (1, 8192)])
def test_long_runs_of_elements_are_cut(shape: tuple[int, ...]) -> None:
    x = numbers(*shape)
    check(model([node("Abs", "x")], {"x": shape}), {"x": x})
    check(model([node("Div", "x", "v")], {"x": shape}, {"v": np.float32(3)}), {"x": x})
    check(model([node("Add", "x", "v")], {"x": shape}, {"v": numbers(*shape[-1:])}), {"x": x})
    if len(shape) > 1:
        v = numbers(*shape[:-1], 1)
        check(model([node("Mul", "v", "x")], {"x": shape, "v": v.shape}), {"x": x, "v": v})


def test_a_logarithm_of_softmax_is_there_where_softmax_is_0() -> None:
    x = np.array([[-300, 200, 199, 0]], np.float32)
    network = check(model([node("LogSoftmax", "x", axis=1)], {"x": x.shape}), {"x": x})
    assert np.isfinite(network.run({"x": x})["y"]).all()


def test_small_results_of_sigmoid_are_right_to_a_part_in_a_million() -> None:
    """onnxruntime's are right to 3e-7 of 1: outputs that are small everywhere differ from its by more than 1e-4."""
    x = np.linspace(-80, 0, 4001, dtype=np.float32)[None]
    data = model([node("Sigmoid", "x")], {"x": x.shape})
    exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert (np.abs(compiled(data, {"x": x.shape}).run({"x": x})["y"] - exact) <= 1e-6 * exact).all()
    theirs = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    assert (np.abs(theirs - exact) <= 3e-7).all()


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_softmax_and_the_largest_over_any_axis(axis: int) -> None:
    for op in ("Softmax", "LogSoftmax"):
        on_arrays_and_maps([node(op, "c", axis=axis)], (2, 20, 5, 6))
    outputs = [value("y", None, TensorProto.INT64)]
    for op, keeps in (("ArgMax", 1), ("ArgMin", 0)):
        shape = [2, 20, 5, 6]
        kept = [1 if a == axis else e for a, e in enumerate(shape) if keeps or a != axis]
        outputs = [value("y", kept, TensorProto.INT64)]
        made = any_model([node(op, "x", axis=axis, keepdims=keeps)], [value("x", shape)], outputs)
        x = RNG.integers(0, 4, shape).astype(np.float32)  # some are equal
        check(made.SerializeToString(), {"x": x}, 0)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (1, 2), (0, 2), (3, 1), (0, 1, 2, 3)])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceSum"])
def test_reductions_over_any_axes(op: str, axes: tuple[int, ...]) -> None:
    for keeps in (0, 1):
        on_arrays_and_maps([node(op, "c", "a", keepdims=keeps)], (2, 20, 5, 6), {"a": np.array(axes)})


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_blocks_of_depth_and_space(mode: str) -> None:
    on_arrays_and_maps([node("DepthToSpace", "c", blocksize=2, mode=mode)], (2, 20, 5, 6))
    on_arrays_and_maps([node("SpaceToDepth", "c", blocksize=2)], (2, 20, 4, 6))


def test_what_moves_elements() -> None:
    weights = {"i": np.array([[2, -1], [0, 2]])}
    on_arrays_and_maps([node("Gather", "c", "i", axis=1)], (2, 20, 5, 6), weights)
    on_arrays_and_maps([node("Gather", "c", "i", axis=3)], (2, 20, 5, 6), weights)
    on_arrays_and_maps([node("Tile", "c", "r")], (2, 20, 5, 6), {"r": np.array([1, 2, 3, 2])})
    on_arrays_and_maps([node("Expand", "c", "s")], (1, 20, 1, 6), {"s": np.array([3, 20, 4, 6])})
    bounds = {
        "b": np.array([-1, 0, 1]),
        "e": np.array([-9, 99, 9]),
        "a": np.array([2, 3, 1]),
        "t": np.array([-2, 4, 3]),
    }
    on_arrays_and_maps([node("Slice", "c", "b", "e", "a", "t")], (2, 20, 5, 6), bounds)
    on_arrays_and_maps([node("Transpose", "c", perm=[4, 2, 0, 3, 1])], (2, 3, 4, 5, 6))


@pytest.mark.parametrize("op", ["Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"])
@pytest.mark.parametrize("shape", [(), (1, 20, 1, 1), (2, 20, 5, 6)])
def test_comparisons_logic_and_choices(op: str, shape: tuple[int, ...]) -> None:
    nodes = [
        node(op, "x", "o", to="a"),
        node("Less", "o", "x", to="b"),
        node("Xor", "a", "b", to="c"),
        node("And", "c", "a", to="d"),
        node("Or", "d", "b", to="e"),
        node("Not", "e", to="f"),
        node("Where", "f", "x", "o", to="g"),
        node("Where", "k", "g", "z"),
    ]
    weights = {"k": RNG.random((20, 1, 6)) < 0.5, "z": np.float32(-3)}
    given = {"x": np.round(numbers(2, 20, 5, 6)), "o": np.asarray(np.round(numbers(*shape)))}
    check(model(nodes, {name: x.shape for name, x in given.items()}, weights), given, 0)


@pytest.mark.parametrize("exponent", [3.0, -2.0, 0.0, 0.3, 1.0])
def test_powers(exponent: float) -> None:
    x = numbers(2, 20, 5, 6) if exponent == round(exponent) else np.abs(numbers(2, 20, 5, 6))
    check(model([node("Pow", "x", "e")], {"x": x.shape}, {"e": np.float32(exponent)}), {"x": x}, 3e-5)
    given = {"x": np.abs(x), "e": numbers(1, 20, 1, 1)}
    check(model([node("Pow", "x", "e")], {n: a.shape for n, a in given.items()}), given, 3e-5)


@pytest.mark.parametrize("op", ["Max", "Min", "Sum"])
def test_operators_of_several_inputs(op: str) -> None:
    given = {"a": numbers(2, 1, 5, 1), "b": numbers(1, 20, 5, 6), "c": numbers(6)}
    check(model([node(op, "a", "b", "c")], {n: a.shape for n, a in given.items()}), given)


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT64, TensorProto.BOOL, TensorProto.DOUBLE])
def test_casts(kind: int) -> None:
    shape = (2, 20, 5, 6)
    nodes = [helper.make_node("Cast", ["x"], ["i"], to=kind), helper.make_node("Cast", ["i"], ["y"], to=1)]
    made = any_model(nodes, [value("x", shape)], [value("y", shape)])
    check(made.SerializeToString(), {"x": RNG.integers(0, 200, shape).astype(np.float32) + np.float32(0.25)}, 0)
    made = any_model(nodes[:1], [value("x", shape)], [value("i", shape, kind)])
    check(made.SerializeToString(), {"x": RNG.integers(0, 200, shape).astype(np.float32)}, 0)


def test_matrices_that_meet_several() -> None:
    given = {"b": numbers(3, 9, 21)}
    check(model([node("MatMul", "w", "b")], {"b": (3, 9, 21)}, {"w": numbers(5, 9)}), given)
    given = {"a": numbers(2, 3, 5, 9), "b": numbers(1, 1, 9, 21)}
    check(model([node("MatMul", "a", "b")], {n: a.shape for n, a in given.items()}), given)
    given = {"a": numbers(5, 9), "b": numbers(2, 3, 9, 21)}
    check(model([node("MatMul", "a", "b")], {n: a.shape for n, a in given.items()}), given)


def test_maps_of_one_axis() -> None:
    """A network of 1-D convolutions, pools and normalization, with residuals and concatenation."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], pads=[2, 2], dilations=[2]),
        helper.make_node("BatchNormalization", ["a", "s", "b1", "m", "v"], ["n"]),
        helper.make_node("PRelu", ["n", "slope"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["d"], pads=[1, 1], group=4),
        helper.make_node("Add", ["r", "d"], ["e"]),
        helper.make_node("Sigmoid", ["e"], ["g"]),
        helper.make_node("Mul", ["e", "g"], ["h"]),
        helper.make_node("MaxPool", ["h"], ["p"], kernel_shape=[3], strides=[2]),
        helper.make_node("ConvTranspose", ["p", "w3"], ["t"], strides=[2], output_padding=[1]),
        helper.make_node("Concat", ["t", "h"], ["u"], axis=2),
        helper.make_node("ReduceMean", ["u"], ["k"], axes=[2]),
        helper.make_node("GlobalAveragePool", ["u"], ["q"]),
        helper.make_node("Add", ["k", "q"], ["y"]),
    ]
    weights = {
        "w1": numbers(20, 5, 3),
        "b1": numbers(20),
        "s": numbers(20),
        "m": numbers(20),
        "v": np.abs(numbers(20)) + 1,
        "slope": numbers(20, 1),
        "w2": numbers(20, 5, 3),
        "w3": numbers(20, 20, 3),
    }
    check(model(nodes, {"x": (2, 5, 31)}, weights, opset=13), {"x": numbers(2, 5, 31)}, 1e-4)


@pytest.mark.parametrize("operand", [(20, 1, 1), (20, 1, 7), (20, 5, 7), (18, 1, 1, 1), (17,)])
def test_an_operand_of_fewer_axes_has_no_samples(operand: tuple[int, ...]) -> None:
    shape = (1, 20, 5, 7) if len(operand) == 3 else (2, 3, 5, operand[0]) if len(operand) == 1 else (1, 18, 20, 5, 7)
    nodes = [helper.make_node("Mul", ["x", "s"], ["y"])]
    check(model(nodes, {"x": shape, "s": operand}), {"x": numbers(*shape), "s": numbers(*operand)})
