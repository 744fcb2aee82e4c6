"""Networks over three axes of space as programs, in an arena full of NaN, against onnxruntime."""

from typing import Any

import numpy as np
import pytest
from compiled_networks import TEAM, check, model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from worker.graph.operators.test_cases import array, cases, graph_and_inputs

from groupconv_worker.cpu.network.network import CompiledNetwork
from groupconv_worker.cpu.network.planning import SLICES, is_map
from groupconv_worker.graph.graph import Tensor

RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return np.asarray(RNG.standard_normal(shape), np.float32)


def node(op: str, *inputs: str, to: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), [to], **attributes)


@pytest.mark.parametrize(
    ("op", "weight", "attributes"),
    [
        ("Conv", (20, 18, 3, 3, 3), {"pads": [1] * 6}),  # Winograd's
        ("Conv", (18, 1, 3, 3, 3), {"pads": [1] * 6, "group": 18}),
        ("Conv", (8, 9, 2, 3, 1), {"strides": [2, 1, 2], "pads": [0, 1, 0, 1, 2, 0], "group": 2}),
        ("Conv", (20, 18, 3, 1, 1), {"dilations": [2, 1, 1], "pads": [2, 0, 0, 2, 0, 0]}),
        ("Conv", (20, 18, 1, 1, 1), {}),
        ("ConvTranspose", (18, 20, 2, 2, 2), {"strides": [2, 2, 2]}),
        ("ConvTranspose", (18, 5, 3, 3, 3), {"strides": [2, 1, 2], "pads": [1] * 6, "output_padding": [1, 0, 1]}),
    ],
)
@pytest.mark.parametrize("samples", [1, 2])
def test_a_convolution(op: str, weight: tuple[int, ...], attributes: dict[str, Any], samples: int) -> None:
    outputs = weight[1] if op == "ConvTranspose" else weight[0]
    nodes = [node(op, "x", "w", "b", to="c", **attributes), node("LeakyRelu", "c")]
    x = numbers(samples, 18, 5, 6, 7)
    check(model(nodes, {"x": x.shape}, {"w": numbers(*weight), "b": numbers(outputs)}), {"x": x})


@pytest.mark.parametrize(
    "made",
    [
        node("MaxPool", "x", kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
        node("MaxPool", "x", kernel_shape=[3, 2, 3], strides=[2, 1, 2], pads=[1, 0, 1, 1, 1, 0]),
        node("MaxPool", "x", kernel_shape=[2, 2, 2], dilations=[2, 1, 3]),
        node("MaxPool", "x", kernel_shape=[2, 3, 3], strides=[3, 2, 2], ceil_mode=1),
        node("AveragePool", "x", kernel_shape=[3, 3, 2], strides=[2, 1, 2], pads=[1, 1, 0, 1, 1, 1]),
        node("AveragePool", "x", kernel_shape=[3, 3, 2], pads=[1, 0, 0, 2, 1, 1], count_include_pad=1),
        node("AveragePool", "x", kernel_shape=[1, 2, 2], strides=[2, 2, 2]),
        node("GlobalAveragePool", "x"),
        node("GlobalMaxPool", "x"),
        node("ReduceMean", "x", "axes"),
        node("Resize", "x", "", "twice", mode="nearest", nearest_mode="floor"),
        node("Resize", "x", "", "twice", mode="linear", coordinate_transformation_mode="align_corners"),
        node("Concat", "x", "x", axis=1),
        node("Concat", "x", "x", axis=2),
        node("Slice", "x", "one", "three", "two"),
        node("InstanceNormalization", "x", "vector", "vector"),
        node("Mul", "x", "vectors"),
        node("Add", "x", "slices"),
    ],
    ids=lambda made: made.op_type,
)
def test_an_operator_behind_a_convolution_and_alone(made: Any) -> None:
    weights = {
        "axes": np.array([2, 3, 4]),
        "twice": np.array([1, 1, 2, 2, 2], np.float32),
        **{name: np.array([number]) for name, number in (("one", 1), ("two", 2), ("three", 3))},
        "vector": numbers(18),
        "vectors": numbers(18, 1, 1, 1),
    }
    weights = {name: array for name, array in weights.items() if name in made.input}
    x, given = numbers(2, 18, 4, 6, 5), {}
    if "slices" in made.input:
        given["slices"] = numbers(2, 1, 4, 1, 1)
    inputs = {"x": x} | given
    shapes = {name: value.shape for name, value in inputs.items()}
    check(model([made], shapes, weights), inputs)
    conv = node("Conv", "v", "w", to="x", pads=[1] * 6)
    inputs, weights["w"] = {"v": x} | given, numbers(18, 18, 3, 3, 3)
    shapes = {name: value.shape for name, value in inputs.items()}
    check(model([conv, made, node("Relu", "y", to="z")], shapes, weights, ["z"]), inputs)


def test_a_volume_of_many_slices_is_left_to_onnxruntime() -> None:
    """Each slice has stages of its own."""
    shapes = [(1, 4, SLICES + more, 3, 3) for more in (0, 1)]
    assert [is_map(Tensor("x", np.dtype(np.float32), shape)) for shape in shapes] == [True, False]


@st.composite
def volumes(draw: Any) -> tuple[bytes, tuple[int, ...]]:
    """A small network: convolutions, a residual, a pool, a way up, a concatenation."""
    channels = draw(st.sampled_from([3, 16, 20]))
    shape = (draw(st.integers(1, 2)), 2, *(draw(st.integers(2, 3)) * 2 for _ in range(3)))
    kernel = draw(st.sampled_from([(1, 3, 3), (3, 3, 3), (3, 1, 1), (1, 1, 1)]))
    pads = [extent // 2 for extent in kernel] * 2
    groups = draw(st.sampled_from([1, channels]))
    pool = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    act = draw(st.sampled_from(["Relu", "Sigmoid", "Elu", "HardSwish"]))
    ways = {mode: node("Resize", "f", "", "twice", to="g", mode=mode) for mode in ("nearest", "linear")}
    ways["transposed"] = node("ConvTranspose", "f", "up", to="g", strides=[2, 2, 2])
    nodes = [
        node("Conv", "x", "first", to="a", pads=[1] * 6),
        node(act, "a", to="b"),
        node("Conv", "b", "second", to="c", pads=pads, group=groups),
        node("Add", "c", "b", to="d"),
        node(act, "d", to="e"),
        node(pool, "e", to="f", kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
        ways[draw(st.sampled_from([*ways]))],
        node("Concat", "e", "g", to="h", axis=1),
        node("Conv", "h", "last"),
    ]
    weights = {
        "first": numbers(channels, 2, 3, 3, 3) / 7,
        "second": numbers(channels, channels // groups, *kernel) / 9,
        "up": numbers(channels, channels, 2, 2, 2) / 4,
        "twice": np.array([1, 1, 2, 2, 2], np.float32),
        "last": numbers(5, 2 * channels, 1, 1, 1),
    }
    return model(nodes, {"x": shape}, weights), shape


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(volumes())
def test_drawn_networks(drawn: tuple[bytes, tuple[int, ...]]) -> None:
    data, shape = drawn
    check(data, {"x": numbers(*shape)}, 1e-4)


@pytest.mark.slow
def test_the_cases_that_backends_are_tested_with() -> None:
    windows = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"}
    ran = 0
    for case in (case for operator in windows for case in cases().get(operator, ())):
        for inputs, outputs in case.data_sets:
            if array(inputs[0]).ndim != 5 or array(inputs[0]).dtype != np.float32:
                continue
            graph, values = graph_and_inputs(case, inputs)
            constants = {name: values.pop(name) for name in list(values)[1:]}  # as the weights of networks are
            graph = type(graph)(
                graph.inputs[:1], graph.outputs, graph.nodes, graph.tensors, graph.constants | constants
            )
            found = CompiledNetwork(graph, TEAM).run(values)
            for name, wanted in zip(graph.outputs, map(array, outputs), strict=True):
                np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-5, err_msg=case.name)
            ran += 1
    assert ran >= 8
