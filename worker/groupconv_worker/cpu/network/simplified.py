"""A graph in fewer kinds of nodes, before it is lowered: maps of one axis have height 1, and sums have two terms."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.graph.graph import Graph, Node, Tensor

TWIN = "/height 1"
"""Behind the name of a tensor (N, C, W), the name of the same as (N, C, 1, W)."""
WINDOWS = frozenset(["Conv", "ConvTranspose", "MaxPool", "AveragePool"])
BEGIN = WINDOWS | {"GlobalAveragePool", "GlobalMaxPool"}
"""Operators that are done with height 1."""
FOLLOW = frozenset(
    ["AffineChannel", "BatchNormalization", "Relu", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish", "Sigmoid", "Silu",
     "Tanh", "Elu", "Selu", "Gelu", "Mish", "Softplus", "Softsign", "ThresholdedRelu",
     "Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu"]
)  # fmt: skip
"""Operators that are, too, where an input is."""
CHAINS = {"Max": "Max", "Min": "Min", "Sum": "Add"}
"""Operators of several inputs that become chains."""
ONE_AXIS: dict[str, Any] = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0}
"""Attributes of windows, and what the axis before has."""


def simplified(graph: Graph) -> Graph:
    """The graph with 1-D windows as 2-D ones, and operators of more than two inputs as several.

    Example:
        >>> f32 = np.dtype("float32")
        >>> tensors = {"x": Tensor("x", f32, (1, 2, 9)), "y": Tensor("y", f32, (1, 2, 7))}
        >>> pool = {"kernel_shape": (3,), "strides": (1,), "dilations": (1,), "pads": (0, 0)}
        >>> made = simplified(Graph(("x",), ("y",), (Node("MaxPool", ("x",), ("y",), pool),), tensors, {}))
        >>> [(node.op, made.tensors[node.outputs[0]].shape) for node in made.nodes]
        [('Reshape', (1, 2, 1, 9)), ('MaxPool', (1, 2, 1, 7)), ('Reshape', (1, 2, 7))]
    """
    builder = _Simplified(graph)
    for node in graph.nodes:
        for one in builder.pairs(node):
            builder.add(one)
    for name in graph.outputs:
        builder.plain(name)
    return Graph(graph.inputs, graph.outputs, tuple(builder.nodes), builder.tensors, builder.constants)


class _Simplified:
    """A graph that is being made.

    Attributes:
        nodes, tensors, constants: of it.
    """

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = dict(graph.tensors)
        self.constants: dict[str, Array] = dict(graph.constants)
        self._twins: set[str] = set()
        self._there = {*graph.inputs, *graph.constants}

    def pairs(self, node: Node) -> Iterator[Node]:
        """A node, or a chain of nodes of two inputs each."""
        if node.op not in CHAINS or len(node.inputs) <= 2:
            yield node
            return
        first = node.inputs[0]
        shape = self.tensors[first].shape
        for i, name in enumerate(node.inputs[1:], start=1):
            last = i == len(node.inputs) - 1
            shape = np.broadcast_shapes(shape, self.tensors[name].shape)
            output = node.outputs[0] if last else f"{node.outputs[0]}/{i}"
            if not last:
                self.tensors[output] = Tensor(output, self.tensors[node.outputs[0]].dtype, shape)
            yield Node(CHAINS[node.op], (first, name), (output,), {}, node.name)
            first = output

    def add(self, node: Node) -> None:
        """A node, with height 1 if it is one for that."""
        x = self.tensors.get(node.inputs[0]) if node.inputs else None
        begins = node.op in BEGIN and x is not None and len(x.shape) == 3
        follows = node.op in FOLLOW and any(name in self._twins for name in node.inputs) and self._fits(node)
        if (not begins and not follows) or len([name for name in node.outputs if name]) > 1:
            for name in node.inputs:
                self.plain(name)
            self.nodes.append(node)
            self._there.update(node.outputs)
            return
        inputs = tuple(self._twin(node, i, name) for i, name in enumerate(node.inputs))
        attributes = dict(node.attributes)
        if node.op in WINDOWS:
            attributes |= {name: (one, *attributes[name]) for name, one in ONE_AXIS.items() if name in attributes}
            low, high = attributes["pads"]
            attributes["pads"] = (0, low, 0, high)
        y = node.outputs[0]
        self._twins.add(y)
        self._tall(y)
        self.nodes.append(replace(node, inputs=inputs, outputs=(y + TWIN,), attributes=attributes))

    def plain(self, name: str) -> None:
        """Have a tensor in its own shape, too."""
        if name in self._twins and name not in self._there:
            self._there.add(name)
            self.nodes.append(Node("Reshape", (name + TWIN,), (name,), {}, name))

    def _fits(self, node: Node) -> bool:
        """Whether all inputs of an operator of each element are of float32, maps or constants."""
        out = self.tensors[node.outputs[0]]
        tensors = [self.tensors[name] for name in node.inputs if name]
        return len(out.shape) == 3 and all(t.dtype == np.float32 and len(t.shape) <= 3 for t in tensors)

    def _tall(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        shape = (*tensor.shape[:-1], 1, *tensor.shape[-1:])
        twin = self.tensors[name + TWIN] = Tensor(name + TWIN, tensor.dtype, shape)
        return twin

    def _twin(self, node: Node, position: int, name: str) -> str:
        """An input with height 1: the weights of windows and everything that has the axis."""
        if not name or not self.tensors[name].shape:
            return name
        vectors = node.op in (*WINDOWS, "AffineChannel", "BatchNormalization") and len(self.tensors[name].shape) == 1
        if vectors and position:
            return name
        if name in self._twins:
            return name + TWIN
        tall = self._tall(name)
        if name in self.constants:
            self.constants[name + TWIN] = self.constants[name].reshape(tall.shape)
        elif name + TWIN not in self._there:
            self._there.add(name + TWIN)
            self.nodes.append(Node("Reshape", (name,), (name + TWIN,), {}, name))
        return name + TWIN
