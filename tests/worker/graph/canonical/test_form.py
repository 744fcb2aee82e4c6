"""Each rewrite: what it makes of a graph, and that the graph computes the same before and after."""

import math

import numpy as np
import pytest

from groupconv_worker.graph.canonical.form import canonical
from groupconv_worker.graph.graph import Graph, Node, Tensor
from groupconv_worker.graph.operators.table import run_node, run_reference

F32 = np.dtype("float32")
RNG = np.random.default_rng(0)
WINDOW = {"kernel_shape": (3, 3), "strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1}
POINT = {**WINDOW, "kernel_shape": (1, 1), "pads": (0,) * 4}


def array(*shape):
    return RNG.standard_normal(shape).astype(F32)


def number(value):
    return np.array(value, F32)


def graph_of(x, nodes, shapes=None, **constants):
    """A graph whose other shapes are those that its nodes make; the last node makes the output.

    Args:
        x: shape of the input "x".
        nodes: (operator, inputs, output, attributes).
        shapes: of outputs that only their shape tells.
        constants: arrays by name.
    """
    known = {"x": Tensor("x", F32, x)} | {name: Tensor(name, a.dtype, a.shape) for name, a in constants.items()}
    values = {"x": array(*x).astype(np.float64)} | {name: a.astype(np.float64) for name, a in constants.items()}
    made = []
    for op, inputs, output, *attributes in nodes:
        node = Node(op, tuple(inputs.split()), (output,), attributes[0] if attributes else {}, output)
        shape = (shapes or {}).get(output) or guess(node, values)
        known[output] = Tensor(output, F32, shape)
        values |= run_node(Graph(("x",), (output,), (node,), known, {}), node, values)
        known[output] = Tensor(output, F32, values[output].shape)
        made.append(node)
    return Graph(("x",), (made[-1].outputs[0],), tuple(made), known, constants)


def guess(node, values):
    """The output's shape, where a definition asks for it: windows of stride 1 that keep the map."""
    x = values[node.inputs[0]].shape
    if node.op == "Conv":
        pads, kernel = node.attributes["pads"], node.attributes["kernel_shape"]
        return (
            x[0],
            len(values[node.inputs[1]]),
            *(n + pads[i] + pads[i + 2] - kernel[i] + 1 for i, n in enumerate(x[2:])),
        )
    if node.op == "ConvTranspose":
        kernel, strides = node.attributes["kernel_shape"], node.attributes["strides"]
        m = values[node.inputs[1]].shape[1] * node.attributes["group"]
        return (x[0], m, *((n - 1) * s + k for n, s, k in zip(x[2:], strides, kernel, strict=True)))
    return x


def rewritten(graph):
    """The canonical graph, which computes the same."""
    found = canonical(graph)
    x = {"x": array(*graph.tensors["x"].shape)}
    (before,), (after,) = run_reference(graph, x).values(), run_reference(found, x).values()
    np.testing.assert_allclose(after, before, rtol=2e-5, atol=2e-6)
    assert after.shape == found.tensors[found.outputs[0]].shape
    assert set(found.tensors) >= {*found.inputs, *found.outputs, *found.constants}
    return found


def ops(graph):
    return [node.op for node in graph.nodes]


C = (1, 4, 5, 6)
SHIFTED = [("Add", "x three", "a"), ("Clip", "a", "b", {"min": 0.0, "max": 6.0})]
"""Where hard sigmoid and hard swish begin."""
ERROR = [("Div", "x root", "a"), ("Erf", "a", "b")]
"""Where Gelu begins."""


def test_identities_vanish_but_not_outputs_that_are_inputs():
    graph = graph_of(C, [("Identity", "x", "a"), ("Relu", "a", "b"), ("Identity", "b", "y")])
    assert ops(rewritten(graph)) == ["Relu"]
    assert rewritten(graph).outputs == ("y",)
    assert ops(rewritten(graph_of(C, [("Identity", "x", "y")]))) == ["Identity"]


def test_what_moves_nothing_vanishes():
    nodes = [
        ("Reshape", "x", "a"), ("Slice", "a", "b", {"starts": (0,), "ends": (99,), "axes": (1,)}),
        ("Pad", "b", "c", {"pads": (0,) * 8}), ("Concat", "c", "d", {"axis": 1}), ("Relu", "d", "y"),
    ]  # fmt: skip
    assert ops(rewritten(graph_of(C, nodes))) == ["Relu"]
    backwards = [("Slice", "x", "y", {"starts": (-1,), "ends": (-99,), "axes": (1,), "steps": (-1,)})]
    assert ops(rewritten(graph_of(C, backwards))) == ["Slice"]


def test_transposes():
    short = [("Transpose", "x", "a", {"perm": (0, 3, 2, 1)}), ("Reshape", "a", "y")]
    assert ops(rewritten(graph_of((1, 1, 5, 1), short, {"y": (5,)}))) == ["Reshape"]
    twice = [("Transpose", "x", "a", {"perm": (0, 2, 3, 1)}), ("Transpose", "a", "y", {"perm": (0, 2, 3, 1)})]
    (node,) = rewritten(graph_of(C, twice)).nodes
    assert node.attributes == {"perm": (0, 3, 1, 2)}
    back = [
        ("Transpose", "x", "a", {"perm": (0, 2, 3, 1)}),
        ("Transpose", "a", "b", {"perm": (0, 3, 1, 2)}),
        ("Relu", "b", "y"),
    ]
    assert ops(rewritten(graph_of(C, back))) == ["Relu"]


def test_channel_shuffle():
    nodes = [("Reshape", "x", "a"), ("Transpose", "a", "b", {"perm": (0, 2, 1, 3, 4)}), ("Reshape", "b", "y")]
    (node,) = rewritten(graph_of((2, 6, 4, 5), nodes, {"a": (2, 3, 2, 4, 5), "y": (2, 6, 4, 5)})).nodes
    assert (node.op, node.attributes) == ("ChannelShuffle", {"groups": 3})
    other = rewritten(graph_of((2, 6, 4, 5), nodes, {"a": (2, 3, 2, 4, 5), "y": (2, 12, 10)}))
    assert ops(other) == ["Reshape", "Transpose", "Reshape"]


def test_zeros_around_a_map_are_padding():
    nodes = [("Pad", "x", "a", {"pads": (0, 0, 1, 2, 0, 0, 0, 1)}), ("Conv", "a w", "y", POINT)]
    (node,) = rewritten(graph_of(C, nodes, w=array(3, 4, 1, 1))).nodes
    assert node.attributes["pads"] == (1, 2, 0, 1)
    for attributes in (
        {"pads": (0, 0, 1, 1, 0, 0, 1, 1), "value": 2.0},
        {"pads": (0, 0, 1, 1, 0, 0, 1, 1), "mode": "edge"},
    ):
        kept = graph_of(C, [("Pad", "x", "a", attributes), ("Conv", "a w", "y", POINT)], w=array(3, 4, 1, 1))
        assert ops(rewritten(kept)) == ["Pad", "Conv"]


def test_pads_of_some_axes():
    nodes = [("Pad", "x", "a", {"pads": (2, 1), "axes": (-1,)}), ("Conv", "a w", "y", POINT)]
    (node,) = rewritten(graph_of(C, nodes, w=array(3, 4, 1, 1))).nodes
    assert node.attributes["pads"] == (0, 2, 0, 1)


@pytest.mark.parametrize(
    ("nodes", "op", "attributes"),
    [
        ([("Max", "x zero", "y")], "Relu", {}),
        ([("Clip", "x", "y", {"min": 0.0})], "Relu", {}),
        ([("Relu", "x", "a"), ("Min", "a six", "y")], "Clip", {"min": 0.0, "max": 6.0}),
        ([("Clip", "x", "a", {"min": 1.0}), ("Clip", "a", "y", {"max": 0.5})], "Clip", {"min": 0.5, "max": 0.5}),
        ([("Pow", "x two", "y")], "Mul", {}),
        ([("Sigmoid", "x", "a"), ("Mul", "a x", "y")], "Silu", {}),
        ([("Swish", "x", "y")], "Silu", {}),
        ([("Softplus", "x", "a"), ("Tanh", "a", "b"), ("Mul", "x b", "y")], "Mish", {}),
        (
            [("Mul", "x slope", "a"), ("Add", "a half", "b"), ("Clip", "b", "y", {"min": 0.0, "max": 1.0})],
            "HardSigmoid", {"alpha": pytest.approx(0.3), "beta": 0.5},
        ),
        (
            [*SHIFTED, ("Div", "b six", "y")],
            "HardSigmoid", {"alpha": pytest.approx(1 / 6), "beta": 0.5},
        ),
        (
            [*SHIFTED, ("Mul", "x b", "c"), ("Div", "c six", "y")],
            "HardSwish", {},
        ),
        (
            [*SHIFTED, ("Div", "b six", "c"), ("Mul", "c x", "y")],
            "HardSwish", {},
        ),
        ([("HardSigmoid", "x", "a", {"alpha": 1 / 6, "beta": 0.5}), ("Mul", "x a", "y")], "HardSwish", {}),
        (
            [*ERROR, ("Add", "b one", "c"), ("Mul", "x c", "d"), ("Mul", "d half", "y")],
            "Gelu", {"approximate": "none"},
        ),
        (
            [("Mul", "x half", "h"), *ERROR, ("Add", "one b", "c"), ("Mul", "h c", "y")],
            "Gelu", {"approximate": "none"},
        ),
    ],
)  # fmt: skip
def test_activations_written_as_several_nodes(nodes, op, attributes):
    numbers = {"zero": 0, "six": 6, "two": 2, "three": 3, "half": 0.5, "one": 1, "root": math.sqrt(2), "slope": 0.3}
    used = {name: number(v) for name, v in numbers.items() if any(name in node[1].split() for node in nodes)}
    (node,) = rewritten(graph_of(C, nodes, **used)).nodes
    assert (node.op, dict(node.attributes)) == (op, attributes)


@pytest.mark.parametrize(
    "nodes",
    [
        [("Sigmoid", "x", "a"), ("Mul", "a a", "y")],
        [
            ("Add", "x three", "a"),
            ("Clip", "a", "b", {"min": 0.0, "max": 5.0}),
            ("Mul", "x b", "c"),
            ("Div", "c six", "y"),
        ],
        [("Relu", "x", "r"), ("Sigmoid", "r", "a"), ("Mul", "x a", "y")],
        [("Mul", "x x", "s"), ("Mul", "s s", "y")],
    ],
)
def test_what_only_looks_like_an_activation_stays(nodes):
    used = {name: number(v) for name, v in {"three": 3, "six": 6}.items() if any(name in n[1].split() for n in nodes)}
    found = rewritten(graph_of(C, nodes, **used))
    assert {"Silu", "HardSwish"}.isdisjoint(ops(found))


def test_layer_normalization():
    nodes = [
        ("ReduceMean", "x", "m", {"axes": (-1,)}), ("Sub", "x m", "d"), ("Pow", "d two", "q"),
        ("ReduceMean", "q", "v", {"axes": (2,)}), ("Add", "v eps", "e"), ("Sqrt", "e", "r"), ("Div", "d r", "n"),
        ("Mul", "n scale", "t"), ("Add", "t shift", "y"),
    ]  # fmt: skip
    given = {"two": number(2), "eps": number(1e-5), "scale": array(8), "shift": array(8)}
    (node,) = rewritten(graph_of((2, 3, 8), nodes, **given)).nodes
    assert (node.op, node.attributes["axis"], len(node.inputs)) == ("LayerNormalization", 2, 3)
    assert node.attributes["epsilon"] == pytest.approx(1e-5)
    (node,) = rewritten(graph_of((2, 3, 8), nodes[:7], two=given["two"], eps=given["eps"])).nodes
    assert (node.op, len(node.inputs)) == ("LayerNormalization", 2)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_sums_and_products_go_into_weights(group, bias):
    attributes = {**WINDOW, "group": group}
    nodes = [("Conv", "x w b" if bias else "x w", "a", attributes), ("Mul", "a s", "c"), ("Add", "c t", "y")]
    given = {"w": array(6, 4 // group, 3, 3), "s": array(6, 1, 1), "t": number(2)} | ({"b": array(6)} if bias else {})
    (node,) = rewritten(graph_of(C, nodes, **given)).nodes
    assert (node.op, len(node.inputs)) == ("Conv", 3)


@pytest.mark.parametrize("group", [1, 2])
def test_products_go_into_transposed_weights(group):
    attributes = {**WINDOW, "group": group, "strides": (2, 2), "pads": (0,) * 4, "output_padding": (0, 0)}
    nodes = [("ConvTranspose", "x w", "a", attributes), ("Sub", "a t", "c"), ("Div", "c s", "y")]
    given = {"w": array(4, 6 // group, 3, 3), "s": array(1, 6, 1, 1), "t": array(6, 1, 1)}
    assert ops(rewritten(graph_of(C, nodes, **given))) == ["ConvTranspose"]


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_sums_and_products_go_into_the_convolutions_behind(group, bias):
    conv = "n w b" if bias else "n w"
    nodes = [
        ("Relu", "x", "r"), ("Mul", "r s", "m"), ("Add", "m t", "n"),
        ("Conv", conv, "a", {**POINT, "group": group}), ("Conv", "n v", "c", POINT), ("Sub", "a c", "y"),
    ]  # fmt: skip
    given = {"w": array(6, 4 // group, 1, 1), "v": array(6, 4, 1, 1), "s": array(4, 1, 1), "t": number(0.3)}
    given |= {"b": array(6)} if bias else {}
    assert ops(rewritten(graph_of(C, nodes, **given))) == ["Relu", "Conv", "Conv", "Sub"]


def test_sums_before_padding_stay():
    nodes = [("Relu", "x", "r"), ("Mul", "r s", "m"), ("Add", "m t", "n"), ("Conv", "n w", "y", WINDOW)]
    given = {"w": array(6, 4, 3, 3), "s": array(4, 1, 1), "t": array(4, 1, 1)}
    assert ops(rewritten(graph_of(C, nodes, **given))) == ["Relu", "AffineChannel", "Conv"]
    scaled = [*nodes[:2], ("Conv", "m w", "y", WINDOW)]
    assert ops(rewritten(graph_of(C, scaled, w=given["w"], s=given["s"]))) == ["Relu", "Conv"]


def test_what_differs_within_a_channel_stays():
    nodes = [("Conv", "x w", "a", WINDOW), ("Mul", "a s", "y")]
    assert ops(rewritten(graph_of(C, nodes, w=array(6, 4, 3, 3), s=array(1, 6)))) == ["Conv", "Mul"]


def test_batch_normalization_and_what_follows_is_one_affine_node():
    nodes = [
        ("BatchNormalization", "x g b m v", "a", {"epsilon": 1e-3}),
        ("Mul", "a s", "c"),
        ("Add", "c t", "d"),
        ("Relu", "d", "y"),
    ]
    given = {name: array(4) for name in "gbm"} | {"v": array(4) ** 2, "s": array(4, 1, 1), "t": array(1, 4, 1, 1)}
    (node,) = rewritten(graph_of(C, nodes, **given)).nodes
    assert (node.op, node.attributes["activation"]) == ("AffineChannel", ("Relu",))
    nodes = [("Conv", "x w", "a", WINDOW), ("BatchNormalization", "a g b m v", "y")]
    assert ops(rewritten(graph_of(C, nodes, w=array(4, 4, 3, 3), **{n: given[n] for n in "gbmv"}))) == ["Conv"]


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_a_product_with_a_constant_matrix_is_a_gemm(shape):
    nodes = [("MatMul", "x w", "a"), ("Add", "b a", "c"), ("Relu", "c", "y")]
    found = rewritten(graph_of(shape, nodes, w=array(4, 7), b=array(7)))
    (node,) = (node for node in found.nodes if node.op == "Gemm")
    assert len(node.inputs) == 3
    assert ops(found) == (["Gemm"] if len(shape) == 2 else ["Reshape", "Gemm", "Reshape", "Relu"])


def test_global_pools():
    for attributes in ({"axes": (2, 3), "keepdims": 1}, {"axes": (-1, -2), "keepdims": 0}):
        found = rewritten(graph_of(C, [("ReduceMean", "x", "y", attributes)]))
        assert ops(found)[0] == "GlobalAveragePool"
    window = {"kernel_shape": (5, 6), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
    assert ops(rewritten(graph_of(C, [("AveragePool", "x", "y", window)], {"y": (1, 4, 1, 1)}))) == [
        "GlobalAveragePool"
    ]


def test_residual_and_activation_belong_to_the_convolution_before():
    nodes = [("Conv", "x w", "a", WINDOW), ("Add", "x a", "b"), ("Relu", "b", "y")]
    (node,) = rewritten(graph_of(C, nodes, w=array(4, 4, 3, 3))).nodes
    assert node.inputs[2:] == ("", "x")
    assert node.attributes["activation"] == ("Relu",)


def test_of_two_convolutions_the_last_one_gets_the_sum():
    nodes = [("Conv", "x w", "a", WINDOW), ("Conv", "x v", "b", WINDOW), ("Add", "a b", "c"), ("LeakyRelu", "c", "y")]
    first, last = rewritten(graph_of(C, nodes, w=array(4, 4, 3, 3), v=array(4, 4, 3, 3))).nodes
    assert (len(first.inputs), last.inputs[3]) == (2, first.outputs[0])
    assert last.attributes["activation"] == ("LeakyRelu", 0.01)


def test_a_convolution_that_others_read_keeps_its_output():
    nodes = [("Conv", "x w", "a", WINDOW), ("Relu", "a", "b"), ("Add", "a b", "y")]
    found = rewritten(graph_of(C, nodes, w=array(4, 4, 3, 3)))
    assert ops(found) == ["Conv", "Relu", "Add"]
    nodes = [("Conv", "x w", "a", WINDOW), ("Add", "a a", "y")]
    assert ops(rewritten(graph_of(C, nodes, w=array(4, 4, 3, 3)))) == ["Conv", "Add"]


def test_constants_are_shared_by_graphs_of_one_model():
    memo, constants = {}, {"w": array(6, 4, 3, 3), "s": array(6, 1, 1)}
    nodes = [("Conv", "x w", "a", WINDOW), ("Mul", "a s", "y")]
    small, large = (canonical(graph_of((1, 4, n, n), nodes, **constants), memo) for n in (5, 9))
    (one,), (other,) = small.nodes, large.nodes
    assert small.constants[one.inputs[1]] is large.constants[other.inputs[1]]
    assert small.constants[one.inputs[2]] is large.constants[other.inputs[2]]
