"""A network whose shapes are all known: tensors, and the nodes that make them.

It is what an ONNX model becomes once a call's input shapes are bound: free axes, shape arithmetic and functions are
gone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from groupconv_worker.contract import Array


class UnsupportedNodeError(ValueError):
    """An engine has no program of its own for a node; the message says why. The network stays with onnxruntime."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """The symbols of one tensor.

    Attributes:
        name: unique in its graph.
        dtype: of its elements.
        shape: of this call.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        size: int = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        return size

    def array(self, candidate: Array | None = None) -> Array:
        """An array for the elements: `given` if it has this dtype and shape and is contiguous, else a new one."""
        fits = candidate is not None and (candidate.shape, candidate.dtype) == (self.shape, self.dtype)
        if candidate is not None and fits and candidate.flags.c_contiguous:
            return candidate
        return np.empty(self.shape, self.dtype)


def output_arrays(outputs: Iterable[Tensor], into: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Arrays to be filled, by the names of the outputs: those of `into` that fit (`Tensor.array`), else new ones."""
    return {tensor.name: tensor.array(None if into is None else into.get(tensor.name)) for tensor in outputs}


@dataclass(frozen=True, slots=True)
class Node:
    """One operator.

    Attributes:
        op: ONNX's name of it, in its default domain.
        inputs, outputs: names of tensors; "" is one that is left out.
        attributes: ints, floats, strings, and tuples of these. What ONNX gives as a constant input (axes, pads,
            scales, …) may be here, under the name of that input.
        name: in the model, for people.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or the value that stands for one that is left out."""
        return self.attributes.get(name, default)


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which each runs after those that make its inputs.

    Attributes:
        inputs, outputs: names, in the model's order.
        nodes: in order.
        tensors: every tensor by name: inputs, constants, and what nodes make.
        constants: the elements of those that do not depend on the inputs.

    Example:
        >>> f32 = np.dtype("float32")
        >>> x, y = (Tensor(name, f32, (1, 3)) for name in "xy")
        >>> graph = Graph(("x",), ("y",), (Node("Relu", ("x",), ("y",)),), {"x": x, "y": y}, {})
        >>> graph.makers["y"].op, graph.tensors["y"].nbytes
        ('Relu', 12)
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    constants: Mapping[str, Array]

    @cached_property
    def makers(self) -> Mapping[str, Node]:
        """The node that makes each tensor; inputs and constants have none."""
        return {name: node for node in self.nodes for name in node.outputs if name}
