"""From a graph back to ONNX: a model of some of its nodes, for a runtime that has operators we do not lower."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from groupconv_worker.contract import Array
from groupconv_worker.graph.attributes import CONSTANT_INPUTS
from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.operators.epilogue import RESIDUAL, activation_node

OPSET, IR = 23, 11
"""The operator set and the IR version of exported models. Runtimes have supported them since May 2025."""
FLOATS = frozenset([("Clip", "min"), ("Clip", "max"), ("Pad", "value")])
"""Attributes that are inputs of the first input's dtype."""
FLOAT32 = frozenset([("Resize", "roi"), ("Resize", "scales"), ("Dropout", "ratio")])
"""Attributes that are inputs of float32; the others are integers."""
GONE = frozenset([("BatchNormalization", "spatial"), ("Dropout", "seed")])
"""Attributes of older operator sets that say what is always so now, or what has no meaning here."""


def export(graph: Graph, nodes: Sequence[Node], inputs: Iterable[str], outputs: Iterable[str]) -> ModelProto:
    """A model that computes some nodes of a graph.

    Args:
        graph: that the nodes are of, in its canonical form or not.
        nodes: in an order in which they can run.
        inputs: names of the tensors that they read and do not make, without constants.
        outputs: names of those that are wanted.

    Example:
        >>> from groupconv_worker.graph.graph import Tensor
        >>> x, y = (Tensor(name, np.dtype("float32"), (2,)) for name in "xy")
        >>> graph = Graph(("x",), ("y",), (Node("Silu", ("x",), ("y",)),), {"x": x, "y": y}, {})
        >>> [node.op_type for node in export(graph, graph.nodes, ["x"], ["y"]).graph.node]
        ['Sigmoid', 'Mul']
    """
    exported = _Exported(graph)
    for node in nodes:
        exported.add(node)
    made = helper.make_graph(
        exported.nodes,
        "fragment",
        [_info(graph, name) for name in inputs],
        [_info(graph, name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in exported.constants.items()],
    )
    return helper.make_model(made, ir_version=IR, opset_imports=[helper.make_opsetid("", OPSET)])


def _info(graph: Graph, name: str) -> Any:
    tensor = graph.tensors[name]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(tensor.dtype), tensor.shape)


class _Exported:
    """The nodes and constants of a model that is being made."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Array] = {}

    def add(self, node: Node) -> None:
        """One node, with its residual and its activation as nodes of their own."""
        attributes = dict(node.attributes)
        activation = attributes.pop("activation") if isinstance(attributes.get("activation"), tuple) else ()
        residual = node.inputs[RESIDUAL] if node.op.startswith("Conv") and len(node.inputs) > RESIDUAL else ""
        inputs = node.inputs[:RESIDUAL] if residual else node.inputs
        steps = 1 + bool(residual) + bool(activation)
        names = [f"{node.outputs[0]}/{i}" for i in range(1, steps)] + [node.outputs[0]]
        self._plain(Node(node.op, inputs, (names[0], *node.outputs[1:]), attributes, node.name))
        if residual:
            self._put("Add", [names[0], residual], [names[1]])
        if activation:
            after = activation_node(activation)
            self._plain(Node(after.op, (names[-2],), (names[-1],), after.attributes, node.name), of=node.outputs[0])

    def _plain(self, node: Node, of: str = "") -> None:
        x, y = node.inputs[0] if node.inputs else "", node.outputs[0]
        shape = self._graph.tensors[of or y].shape if of or y in self._graph.tensors else ()
        match node.op:
            case "Silu":
                self._put("Sigmoid", [x], [f"{y}/sigmoid"])
                self._put("Mul", [x, f"{y}/sigmoid"], [y])
            case "Reshape":
                self._reshape(x, shape, y)
            case "AffineChannel":
                each = (-1, *(1,) * (len(self._graph.tensors[x].shape) - 2))
                factor, summand = (self._graph.constants[name].reshape(each) for name in node.inputs[1:3])
                self._put("Mul", [x, self._constant(f"{y}/factor", factor)], [f"{y}/product"])
                self._put("Add", [f"{y}/product", self._constant(f"{y}/summand", summand)], [y])
            case "ChannelShuffle":
                n, c, *space = self._graph.tensors[x].shape
                groups = node.attributes["groups"]
                self._reshape(x, (n, groups, c // groups, *space), f"{y}/apart")
                perm = [0, 2, 1, *range(3, 3 + len(space))]
                self._put("Transpose", [f"{y}/apart"], [f"{y}/swapped"], perm=perm)
                self._reshape(f"{y}/swapped", (n, c, *space), y)
            case _:
                inputs, attributes = self._as_inputs(node, of)
                self._put(node.op, [self._read(name) for name in inputs], node.outputs, **attributes)

    def _as_inputs(self, node: Node, of: str) -> tuple[list[str], dict[str, Any]]:
        """The inputs and attributes of a node, where what ONNX has as inputs are inputs again."""
        attributes = {n: v for n, v in node.attributes.items() if (node.op, n) not in GONE and v not in ((), None)}
        inputs = list(node.inputs)
        x = self._graph.tensors.get(node.inputs[0] if node.inputs else "", None) or self._graph.tensors[of]
        for position, name in CONSTANT_INPUTS.get(node.op, {}).items():
            if name not in attributes or (node.op == "Resize" and name == "axes"):
                continue
            value = attributes.pop(name)
            if node.op == "TopK" or (name == "axes" and not isinstance(value, tuple)):
                value = np.atleast_1d(value)
            kind: Any = np.int64
            if (node.op, name) in FLOATS:
                kind = x.dtype
            elif (node.op, name) in FLOAT32:
                kind = np.float32
            elif name == "training_mode":
                kind = np.bool_
            inputs += [""] * (position + 1 - len(inputs))
            inputs[position] = self._constant(f"{node.outputs[0]}/{name}", np.array(value, kind))
        if node.op == "Split" and len(inputs) < 2:
            attributes["num_outputs"] = len(node.outputs)
        if node.op == "GroupNormalization":  # before operator set 21 the weights went by group
            channels = x.shape[1]
            for position in (1, 2):
                weights = self._graph.constants.get(inputs[position])
                if weights is not None:
                    each = np.repeat(weights, channels // len(weights))
                    inputs[position] = self._constant(f"{node.outputs[0]}/{position}", each)
        return inputs, attributes

    def _read(self, name: str) -> str:
        if name in self._graph.constants:
            self.constants.setdefault(name, self._graph.constants[name])
        return name

    def _constant(self, name: str, array: Array) -> str:
        self.constants[name] = np.ascontiguousarray(array)
        return name

    def _reshape(self, x: str, shape: Sequence[int], y: str) -> None:
        self._put("Reshape", [self._read(x), self._constant(f"{y}/shape", np.array(shape, np.int64))], [y], allowzero=1)

    def _put(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), **attributes))


def boundary(graph: Graph, nodes: Sequence[Node]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tensors that some nodes read from others, and those that they make for others."""
    produced = {name for node in nodes for name in node.outputs if name}
    inside = {id(node) for node in nodes}
    read = dict.fromkeys(
        n for node in nodes for n in node.inputs if n and n not in produced and n not in graph.constants
    )
    outside = set(_inputs_of(node for node in graph.nodes if id(node) not in inside)) | set(graph.outputs)
    return tuple(read), tuple(name for node in nodes for name in node.outputs if name in outside)


def _inputs_of(nodes: Iterable[Node]) -> Iterator[str]:
    for node in nodes:
        yield from node.inputs
