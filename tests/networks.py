"""Small models in ONNX that tests load."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.partition.cut import Cut, even

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
"""Networks that the onnx package ships, with constant weights."""


def value(name: str, shape: Sequence[int | str | None], dtype: int = TensorProto.FLOAT) -> Any:
    """An input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    weights: dict[str, np.ndarray] | None = None,
    functions: Sequence[Any] = (),
    opsets: Sequence[Any] = (),
) -> ModelProto:
    """A model of opset 21."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    imports = [helper.make_opsetid("", 21), *opsets]
    return helper.make_model(graph, ir_version=10, opset_imports=imports, functions=functions)


def towers(groups: int = 2, size: int | str | None = "size") -> ModelProto:
    """A grouped convolution, relu, and a global mean: (N, 4, size, size) -> (N, 6)."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((6, 4 // groups, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(6).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", group=groups, pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["y"], "flatten"),
    ]
    return model(nodes, [value("x", ["N", 4, size, size])], [value("y", ["N", 6])], weights)


def pixels_to_means(dtype: int = TensorProto.UINT8) -> ModelProto:
    """Pixels that become floats from 0 to 1, two filters, and their means: (N, 3, H, W) -> (N, 2)."""
    weights = {
        "unit": np.array(1 / 255, np.float32),
        "w": np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "unit"], ["scaled"], "scaled"),
        helper.make_node("Conv", ["scaled", "w"], ["filtered"], "filtered"),
        helper.make_node("ReduceMean", ["filtered"], ["means"], "means", axes=[2, 3], keepdims=0),
    ]
    inputs, outputs = [value("image", ["N", 3, "H", "W"], dtype)], [value("means", ["N", 2])]
    made = model(nodes, inputs, outputs, weights)
    made.opset_import[0].version = 17  # of axes as an attribute
    return made


def sum_and_difference() -> ModelProto:
    """Two inputs, two outputs: a + b and a - b, of any extents."""
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    shape = ["rows", None]
    return model(nodes, [value("a", shape), value("b", shape)], [value("sum", shape), value("difference", shape)])


def constant() -> ModelProto:
    """No input, and 1, 2, 3."""
    weights = {"w": np.array([1, 2, 3], np.float32)}
    return model([helper.make_node("Identity", ["w"], ["y"])], [], [value("y", [3])], weights)


def endless() -> ModelProto:
    """A loop that does not end by itself within a test: x is doubled and halved 10¹⁰ times."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "state"], ["twice"]),
            helper.make_node("Mul", ["twice", "half"], ["next"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", [4])],
        [value("on", [], TensorProto.BOOL), value("next", [4])],
        [numpy_helper.from_array(np.array(0.5, np.float32), "half")],
    )
    weights = {"times": np.array(10**10, np.int64), "true": np.array(True)}
    return model(
        [helper.make_node("Loop", ["times", "true", "x"], ["y"], body=body)],
        [value("x", [4])],
        [value("y", [4])],
        weights,
    )


def mixed_cuts(graph: Graph, workers: int) -> dict[str, Cut]:
    """Maps by rows, what is too short for it by channels."""
    cuts = {}
    for name in graph.makers:
        shape = graph.tensors[name].shape
        axis = 2 if shape[2:3] >= (workers,) else 1
        cuts[name] = Cut.along(shape, axis, even(shape[axis], workers))
    return cuts
